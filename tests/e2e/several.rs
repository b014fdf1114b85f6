//! Several pipelines in one process: what ends one of them leaves the others at work.

use crate::availability::get;
use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::Scene;

fn events(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|idx| format!(r#"{{"user":"u{}","ts":{}}}"#, idx % 5, 1_767_225_600_000 + idx as i64))
}

#[test]
fn one_that_halts_leaves_the_other_at_work() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let good = scene.single("good", "echo", "");
    let bad = scene.single("bad", "halts", "");
    for pipeline in [&good, &bad] {
        broker.up(pipeline);
    }
    let state = scene.arg("state");
    let both = ["run", &bad, &good, "--state-dir", &state, "--listen", "off"];
    let mut host = Process::start(&mut broker.pelton(&both));
    broker.publish("bad", events(5).map(|event| event.replace(r#""ts""#, r#""act":"misbehave","ts""#)));
    host.wait_for("halted: going on could corrupt results");
    broker.publish("good", events(300));
    let context = broker.watcher();
    until("the other pipeline's events", || (broker.committed(&context, "good") == Some(300)).then_some(()));
    host.signal("TERM");
    host.wait().code(3).says(&["bad, partition 0: module-halt"]);
    Dump::read(&broker, "good").assert_chain(300);
    // Each has its own state, under its name, and goes on from there alone.
    broker.publish("good", events(50));
    let alone = scene.arg("state/good");
    finish(&mut broker.catch_up(&good, &alone)).code(0);
    Dump::read(&broker, "good").assert_chain(350);
    assert!(scene.path("state/bad/p0").exists());
}

/// One whose stage is not what it was, and one whose streams are not there, do not keep the third from its work.
#[test]
fn what_keeps_one_from_starting_does_not_keep_the_others() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipelines = ["changed", "missing", "good"].map(|name| scene.single(name, "echo", ""));
    let [changed, missing, good] = &pipelines;
    let state = scene.arg("state");
    let run = |pipelines: &[&String]| {
        let more = ["--state-dir", &state, "--listen", "off", "--exit-when-caught-up", "--wait", "0s"];
        let pipelines: Vec<&str> = pipelines.iter().map(|name| name.as_str()).collect();
        finish(&mut broker.pelton(&[&["run"], &pipelines[..], &more].concat()))
    };
    for (pipeline, subject) in [(changed, "changed"), (good, "good")] {
        broker.up(pipeline);
        broker.publish(subject, events(20));
    }
    run(&[changed, good]).code(0);
    broker.publish("good", events(30));
    let text = std::fs::read_to_string(changed).expect("written above");
    scene.write("changed.toml", text.replace("key = \"user\"", "key = { header = \"User\" }"));
    let said = run(&[changed, missing, good]);
    assert!(said.stderr.contains("not started; the others are"), "{}", said.stderr);
    assert_ne!(said.status.code(), Some(0));
    Dump::read(&broker, "good").assert_chain(50);
    Dump::read(&broker, "changed").assert_chain(20);
    // While the third is at work, whoever asks after their health hears of the two.
    let live = ["run", changed, missing, good, "--state-dir", &state, "--listen", "127.0.0.1:0", "--wait", "0s"];
    let mut host = Process::start(&mut broker.pelton(&live));
    host.wait_until_running();
    let (head, body) = get(&host, "/healthz");
    assert!(head.contains("503"), "{head}\n{body}");
    let health: serde_json::Value = serde_json::from_str(&body).expect("health is JSON");
    let partitions = health["partitions"].as_array().expect("a list");
    let status_of =
        |name: &str| &partitions.iter().find(|one| one["pipeline"] == name).expect("all are shown")["status"];
    assert_eq!([status_of("changed"), status_of("missing")], ["halted", "halted"], "{body}");
    assert_ne!(status_of("good"), "halted", "{body}");
    host.signal("TERM");
    assert_ne!(host.wait().status.code(), Some(0));
}

#[test]
fn two_catch_up_side_by_side_and_what_cannot_be_is_refused() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let (one, two) = (scene.single("one", "echo", ""), scene.single("two", "echo", ""));
    for (pipeline, subject, count) in [(&one, "one", 400), (&two, "two", 30)] {
        broker.up(pipeline);
        broker.publish(subject, events(count));
    }
    let state = scene.arg("state");
    let run = |pipelines: &[&str]| {
        let more = ["--state-dir", &state, "--listen", "off", "--exit-when-caught-up"];
        finish(&mut broker.pelton(&[&["run"], pipelines, &more].concat()))
    };
    run(&[&one, &two]).code(0);
    Dump::read(&broker, "one").assert_chain(400);
    Dump::read(&broker, "two").assert_chain(30);
    run(&[&one, &one]).code(2).says(&["two pipelines have the name `one`"]);
    let input = scene.write("in.jsonl", events(3).collect::<Vec<_>>().join("\n"));
    let out = scene.arg("out");
    finish(&mut pelton(&["run", &one, &two, "--input", &input, "--output-dir", &out]))
        .code(2)
        .says(&["a run over files takes one pipeline"]);
}
