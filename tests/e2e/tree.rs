//! Several stages with state side by side: over a file, and from a broker by hosts that are killed, each gives what it
//! gives alone.

use std::fmt::Write as _;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::{Dice, Scene, module};

const START: i64 = 1_767_225_600_000;
const EVENTS: u64 = 6000;
/// Name, module, window, output.
const STAGES: [(&str, &str, &str); 4] = [
    ("hours", "count_rule", "window = { kind = \"tumbling\", size = \"1h\" }\n"),
    ("quarters", "count_rule", "window = { kind = \"sliding\", size = \"1h\", slide = \"15m\" }\n"),
    ("means", "mean_fold", "window = { kind = \"tumbling\", size = \"30m\" }\n"),
    ("counts", "running_count", ""),
];

/// Events of a few keys, in order of time; none is late.
fn events() -> Vec<String> {
    let mut dice = Dice::new(11);
    let event = |idx: u64| {
        let (key, at) = (dice.below(7), START + idx as i64 * 4000);
        format!(r#"{{"k":"k{key}","ts":{at},"ms_played":{}}}"#, dice.below(90_000))
    };
    (0..EVENTS).map(event).collect()
}

fn pipeline(scene: &Scene, name: &str, stages: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "name = \"{name}\"\n[source]\nstream = \"IN\"\nsubject = \"in\"\nkey = \"k\"\n\
         time = {{ field = \"ts\", unit = \"ms\" }}\nwatermark = {{ delay = \"1s\" }}\n[source.create]\n\
         [limits]\nepoch_max_events = 50\n\
         [[stage]]\nname = \"pass\"\nmodule = \"{}\"\n",
        module("echo").display()
    );
    for (stage, guest, window) in stages {
        let module = module(guest);
        write!(
            text,
            "[[stage]]\nname = \"{stage}\"\nfrom = \"pass\"\nmodule = \"{}\"\n{window}[output.{stage}]\nfrom = \"{stage}\"\n",
            module.display()
        )
        .expect("text");
    }
    scene.write(&format!("{name}.toml"), text)
}

fn over_the_file(scene: &Scene, pipeline: &str, out: &str) {
    finish(&mut pelton(&["run", pipeline, "--input", &scene.arg("in.jsonl"), "--output-dir", &scene.arg(out)])).code(0);
}

#[test]
fn stages_side_by_side_are_each_as_alone_and_survive_kills() {
    let scene = Scene::new();
    let events = events();
    scene.write("in.jsonl", events.join("\n") + "\n");
    let tree = pipeline(&scene, "tree", &STAGES);
    over_the_file(&scene, &tree, "tree");
    for stage in STAGES {
        let (name, ..) = stage;
        over_the_file(&scene, &pipeline(&scene, name, &[stage]), name);
        let (together, alone) = (format!("tree/{name}.jsonl"), format!("{name}/{name}.jsonl"));
        assert!(scene.read(&alone).len() > 1000, "{name} gives something");
        assert!(scene.read(&together) == scene.read(&alone), "{name}: another result beside others than alone");
    }

    // From a broker the end of the input is not the end of time: the calm run is what the others are compared with.
    let broker = Broker::start();
    broker.up(&tree);
    broker.publish("in", events.into_iter());
    let host = |state: &str| {
        let mut command = broker.catch_up(&tree, &scene.arg(state));
        command.env("PELTON_TEST_SNAPSHOT_EPOCHS", "7");
        command
    };
    finish(&mut host("calm")).code(0);
    let calm = Dump::read(&broker, "tree");
    calm.assert_chain(EVENTS);
    let sections: Vec<&str> =
        calm.markers.last().expect("an epoch").sections.iter().map(|section| section.name.as_str()).collect();
    assert_eq!(sections, ["core", "hours", "quarters", "means", "counts"]);
    finish(&mut broker.pelton(&["down", &tree, "--yes"])).code(0);
    broker.up(&tree);
    let context = broker.watcher();
    let mut kills = 0;
    for round in 1..=4 {
        let mut process = Process::start(&mut host("killed"));
        let wanted = round * EVENTS / 5;
        until("progress", || (broker.committed(&context, "tree").unwrap_or(0) >= wanted).then_some(()));
        kills += u64::from(process.kill());
        broker.evict("tree");
        if round == 2 {
            std::fs::remove_dir_all(scene.path("killed")).expect("it was there");
        }
    }
    assert!(kills > 1, "{kills} kills");
    finish(&mut host("killed")).code(0);
    let disturbed = Dump::read(&broker, "tree");
    disturbed.assert_chain(EVENTS);
    calm.assert_same(&disturbed);
}

/// Another order of stages, or one more, is another list of sections: the difference is told, and nothing is touched.
#[test]
fn other_stages_over_an_old_state_are_refused() {
    let scene = Scene::new();
    let broker = Broker::start();
    let before = pipeline(&scene, "tree", &STAGES[..2]);
    broker.up(&before);
    broker.publish("in", events().into_iter().take(200));
    let run_in = |state: &str, pipeline: &str| finish(&mut broker.catch_up(pipeline, &scene.arg(state)));
    let run = |pipeline: &str| run_in("one", pipeline);
    run(&before).code(0);
    finish(&mut pelton(&["validate", &before, "--server", broker.url()])).code(0);
    let held = broker.held("PELTON_tree");
    let text = std::fs::read_to_string(&before).expect("written above");
    let of_stages = |file: &str, stages: &[(&str, &str, &str)]| {
        let written = std::fs::read_to_string(pipeline(&scene, "tree", stages)).expect("written");
        scene.write(file, written)
    };
    let cases = [
        (of_stages("swapped.toml", &[STAGES[1], STAGES[0]]), "and is now `core`, `quarters`"),
        (of_stages("more.toml", &STAGES[..3]), "`means` (window-fold) is new"),
        (of_stages("less.toml", &STAGES[..1]), "`quarters` (window-rule) is gone"),
        (
            scene.write(
                "stream.toml",
                text.replace("\"IN\"", "\"OTHER\"").replace("subject = \"in\"", "subject = \"other\""),
            ),
            "`OTHER`",
        ),
        (scene.write("key.toml", text.replace("key = \"k\"", "key = { header = \"K\" }")), "by key `field /k`"),
    ];
    broker.up(&scene.arg("stream.toml"));
    for (pipeline, said) in cases {
        run(&pipeline).code(3).says(&[said, "nothing was touched"]);
        assert_eq!(broker.held("PELTON_tree"), held, "nothing is written");
        finish(&mut pelton(&["validate", &pipeline])).code(0);
        finish(&mut pelton(&["validate", &pipeline, "--server", broker.url()])).code(3).says(&[said]);
    }

    // Fewer partitions over the same input.
    let two = text.replace("name = \"tree\"", "name = \"two\"").replace("\"IN\"", "\"TWO\"");
    let two = two.replace("subject = \"in\"", "subject = \"two.{partition}\"\npartitions = 2");
    let one = two.replace("two.{partition}\"\npartitions = 2", "two.0\"").replace("[source.create]\n", "");
    let (two, one) = (scene.write("two.toml", two), scene.write("one.toml", one));
    broker.up(&two);
    broker.publish("two.0", events().into_iter().take(20));
    run_in("two", &two).code(0);
    run_in("two", &one).code(3).says(&["partition 0 of 2, this is partition 0 of 1"]);
}
