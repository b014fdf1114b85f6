//! A run over files that is given the ledger of a live run gives what that gave: time moves on behind the same events.

use std::fmt::Write as _;
use std::path::Path;

use pelton_engine::epoch::Ledger;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::{Dice, Scene, module};

const START: i64 = 1_767_225_600_000;
const ROUNDS: i64 = 6;
const EVENTS: i64 = 40;
const OUTPUTS: [&str; 3] = ["moments", "counts", "means"];

/// Windows that silence closes, and a reducer beside them.
fn pipeline(scene: &Scene) -> String {
    let mut text = "name = \"silent\"\n[source]\nstream = \"IN\"\nsubject = \"in\"\nkey = \"k\"\n\
                    time = { field = \"ts\", unit = \"ms\" }\n\
                    watermark = { delay = \"20ms\", idle_timeout = \"100ms\" }\n[source.create]\n\
                    [limits]\nepoch_max_events = 15\n"
        .to_owned();
    let window = "window = { kind = \"tumbling\", size = \"150ms\" }\n";
    for (stage, guest, window) in
        [("moments", "count_rule", window), ("counts", "running_count", ""), ("means", "mean_fold", window)]
    {
        let module = module(guest);
        let module = module.display();
        write!(text, "[[stage]]\nname = \"{stage}\"\nfrom = \"source\"\nmodule = \"{module}\"\n{window}[output.{stage}]\nfrom = \"{stage}\"\n")
            .expect("text");
    }
    scene.write("silent.toml", text)
}

/// Events of a round: in between time moves on further than theirs, so some come too late.
fn round(number: i64, dice: &mut Dice) -> Vec<String> {
    let event = |idx: i64| {
        let at = START + number * 300 + idx * 5 - dice.below(10) as i64;
        format!(r#"{{"k":"k{}","ts":{at},"ms_played":{}}}"#, dice.below(5), dice.below(9000))
    };
    (0..EVENTS).map(event).collect()
}

#[test]
fn a_file_run_with_the_ledger_gives_what_the_live_run_gave() {
    let scene = Scene::new();
    let broker = Broker::start();
    let pipeline = pipeline(&scene);
    broker.up(&pipeline);
    let host = || {
        Process::start(&mut broker.pelton(&["run", &pipeline, "--state-dir", &scene.arg("live"), "--listen", "off"]))
    };
    let (mut process, mut dice, mut all) = (host(), Dice::new(5), Vec::new());
    for number in 0..ROUNDS {
        let events = round(number, &mut dice);
        broker.publish("in", events.iter().cloned());
        all.extend(events);
        if number % 2 == 1 {
            process.kill();
            broker.evict("silent");
            process = host();
        }
        // Until silence has closed a window behind the last event.
        until("time that moves on", || {
            let is_behind_all =
                |record: &Ledger| record.position.sequence == all.len() as u64 && !record.clock.is_empty();
            Dump::read(&broker, "silent").ledger.iter().any(is_behind_all).then_some(())
        });
    }
    process.signal("TERM");
    process.wait().code(0);
    let live = Dump::read(&broker, "silent");
    let idle = live.ledger.iter().filter(|record| !record.clock.is_empty()).count();
    assert!(idle as i64 >= ROUNDS, "{idle} of {} epochs", live.ledger.len());

    let ledger = finish(&mut broker.pelton(&["tail", &pipeline, "--ledger", "--no-follow"])).code(0).stdout;
    assert_eq!(ledger.lines().count(), live.ledger.len());
    let ledger_file = scene.write("ledger.jsonl", &ledger);
    let input = scene.write("in.jsonl", all.join("\n") + "\n");
    let over_files = |input: &str, clock: Option<&str>, out: &str| {
        let mut command = pelton(&["run", &pipeline, "--input", input, "--output-dir", &scene.arg(out)]);
        command.args(clock.into_iter().flat_map(|clock| ["--clock", clock]));
        command
    };
    let written = |out: &str, name: &str| {
        let text = std::fs::read_to_string(scene.path(out).join(format!("{name}.jsonl"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // The end of the input closes what is open, live or not: up to there all is the same.
    let is_as_live = |out: &str| {
        let late = live.payloads("late.");
        let as_live = |name: &str| {
            let (live, now) = (live.payloads(&format!("out.{name}")), written(out, name));
            assert!(live.len() > 20, "{name} gives something");
            now.len() >= live.len() && now[..live.len()] == live[..]
        };
        OUTPUTS.into_iter().all(as_live) && written(out, "late").len() == late.len()
    };
    assert!(!live.payloads("late.").is_empty(), "some events come after time has moved on");
    finish(&mut over_files(&input, None, "without")).code(0);
    assert!(!is_as_live("without"), "without the ledger it is another run");
    let mut cut = over_files(&input, Some(&ledger_file), "cut");
    if cfg!(debug_assertions) {
        cut.env("PELTON_TEST_EPOCH_EVENTS", "7");
        for moment in ["files.after:3", "apply.after:9", "apply.before:4"] {
            let said = finish(
                over_files(&input, Some(&ledger_file), "cut")
                    .env("PELTON_TEST_EPOCH_EVENTS", "7")
                    .env("PELTON_FAILPOINT", moment),
            );
            assert_eq!(said.status.code(), None, "{moment}: {said:?}");
        }
    }
    finish(&mut cut).code(0);
    finish(&mut over_files(&input, Some(&ledger_file), "whole")).code(0);
    for out in ["whole", "cut"] {
        assert!(is_as_live(out), "{out}");
    }
    assert_eq!(written("cut", "means"), written("whole", "means"));

    refused(&scene, &ledger, &all, over_files);
}

/// What is no ledger of this input.
fn refused(
    scene: &Scene,
    ledger: &str,
    all: &[String],
    over_files: impl Fn(&str, Option<&str>, &str) -> std::process::Command,
) {
    let input = scene.arg("in.jsonl");
    let lines: Vec<&str> = ledger.lines().collect();
    let mut went_back: serde_json::Value = serde_json::from_str(lines[lines.len() - 1]).expect("JSON");
    went_back["position"]["sequence"] = 0.into();
    for (text, said) in [
        (String::new(), "it has no record"),
        (lines[1..].join("\n"), "it begins with epoch 2"),
        (lines[..2].join("\n") + "\nno JSON\n", "line 3: "),
        (lines[0].replace("\"version\":1", "\"version\":9"), "a newer version of Pelton wrote ledger format 9"),
        ([&lines[..1], &lines[2..]].concat().join("\n"), "line 2 has epoch 3, expected 2"),
        (lines[..lines.len() - 1].join("\n") + "\n" + &went_back.to_string(), "event 0 comes after a later one"),
        (lines[0].replace("\"lost\":0", "\"lost\":3"), "line 1: 3 events had expired"),
    ] {
        let clock = scene.write("bad.jsonl", &text);
        finish(&mut over_files(&input, Some(&clock), "bad")).code(2).says(&["(--clock)", said]);
        assert!(!Path::new(&scene.arg("bad")).exists(), "nothing is left behind");
    }
    let short = scene.write("short.jsonl", all[..60].join("\n") + "\n");
    finish(&mut over_files(&short, Some(&scene.arg("ledger.jsonl")), "short"))
        .code(2)
        .says(&["the input ends with event 60, but in the ledger time moves on behind event"]);
    finish(&mut over_files(&input, None, "whole")).code(2).says(&["changed: --clock"]);
}
