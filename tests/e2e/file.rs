//! Runs over a file: right results, and the same bytes after any number of kills.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, finish, pelton, until};
use crate::scene::{Dice, Scene, alerts};

const EVENTS: u64 = 60_000;
const FILES: [&str; 3] = ["alerts.jsonl", "dlq.jsonl", "late.jsonl"];
/// Random kills of the second part, at least.
const RANDOM_KILLS: usize = 10;
/// Moments of a file run, and how often they pass before the blow.
const MOMENTS: [&str; 12] = [
    "load.before:1",
    "files.before:1",
    "files.after:1",
    "apply.before:1",
    "apply.after:1",
    "sync.before:1",
    "files.after:2",
    "compact.before:1",
    "compact.after:1",
    "apply.before:2",
    "apply.after:2",
    "sync.before:2",
];

/// `run` with small epochs, so that there is something to kill between.
fn run(scene: &Scene, pipeline: &str, input: &str, output: &str) -> Command {
    let mut command = pelton(&["run", pipeline, "--input", input, "--output-dir", &scene.arg(output)]);
    command.env("PELTON_TEST_EPOCH_EVENTS", "1000").env("PELTON_TEST_COMPACT_BYTES", "100000");
    command
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Records without what depends on the clock of the run or the name of the input.
fn timeless(bytes: &[u8]) -> Vec<Value> {
    let strip = |line: &[u8]| {
        let mut value: Value = serde_json::from_slice(line).expect("a line of JSON");
        let row = value.as_object_mut().expect("an object");
        row.remove("timestamp");
        row.remove("stream");
        row.remove("file");
        // How far a time is from the clock.
        if row.get("code").and_then(Value::as_str).is_some_and(|code| code.starts_with("time-")) {
            row.remove("message");
        }
        value
    };
    lines(bytes).map(strip).collect()
}

#[test]
fn results_are_the_truth_and_are_made_once() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    let truth = scene.plays(&pipeline, EVENTS, 11);
    let input = scene.arg("plays.jsonl");
    finish(&mut run(&scene, &pipeline, &input, "out")).code(0).says(&["done", "events=60000"]);
    let found = FILES.map(|name| scene.read(&format!("out/{name}")));
    assert_eq!(alerts(lines(&found[0])), truth.alerts(true));
    assert_eq!(lines(&found[1]).count() as u64, truth.bad_records());
    assert_eq!(lines(&found[2]).count() as u64, truth.late_events);
    // Again: nothing to do, nothing changes.
    finish(&mut run(&scene, &pipeline, &input, "out")).code(0).says(&["all of this input is done"]);
    assert_eq!(found, FILES.map(|name| scene.read(&format!("out/{name}"))));
    // Somebody cut an output.
    scene.write("out/alerts.jsonl", &found[0][..found[0].len() / 2]);
    finish(&mut run(&scene, &pipeline, &input, "out")).code(3).says(&["alerts.jsonl has", "committed to it"]);
}

#[test]
fn kills_leave_no_trace() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    scene.plays(&pipeline, EVENTS, 12);
    let input = scene.arg("plays.jsonl");
    // All runs share their first epoch, and with it the moment at which the input was first seen.
    if cfg!(debug_assertions) {
        assert!(die_at(&mut run(&scene, &pipeline, &input, "base"), "files.before:2"));
    }
    copy(&scene.path("base"), &scene.path("calm"));
    finish(&mut run(&scene, &pipeline, &input, "calm")).code(0);
    let calm = FILES.map(|name| scene.read(&format!("calm/{name}")));
    let compare = |output: &str| {
        for (name, calm) in FILES.iter().zip(&calm) {
            assert!(*calm == scene.read(&format!("{output}/{name}")), "{output}/{name} differs");
        }
    };
    let mut named = 0;
    for (idx, moments) in MOMENTS.chunks(3).enumerate().filter(|_| cfg!(debug_assertions)) {
        let output = format!("named-{idx}");
        copy(&scene.path("base"), &scene.path(&output));
        for moment in moments {
            assert!(die_at(&mut run(&scene, &pipeline, &input, &output), moment), "{moment} did not come");
            named += 1;
        }
        finish(&mut run(&scene, &pipeline, &input, &output)).code(0);
        compare(&output);
    }
    let mut dice = Dice::new(12);
    let (mut random, mut round) = (0, 0);
    while random < RANDOM_KILLS {
        let output = format!("random-{round}");
        copy(&scene.path("base"), &scene.path(&output));
        random += kill_at_random(&mut dice, || run(&scene, &pipeline, &input, &output));
        compare(&output);
        round += 1;
    }
    println!("file run: {named} kills at named moments, {random} at random ones, files equal");
}

/// Starts a run that is to die at a named moment; whether it did, rather than end.
fn die_at(command: &mut Command, moment: &str) -> bool {
    let said = finish(command.env("PELTON_FAILPOINT", moment));
    match said.status.signal() {
        // abort()
        Some(6) => true,
        None if said.status.success() => false,
        _ => panic!("{moment}: {said:?}"),
    }
}

/// Kills and starts again until a run ends by itself; how many kills that were.
fn kill_at_random(dice: &mut Dice, command: impl Fn() -> Command) -> usize {
    for kills in 0.. {
        let mut process = Process::start(&mut command());
        // Longer from life to life, so that even a slow machine gets to the end.
        let moment = Duration::from_millis(dice.below(300 + 60 * kills));
        // Not a wait for something: the moment of the blow.
        std::thread::sleep(moment);
        if !process.kill() {
            process.wait().code(0);
            return kills as usize;
        }
    }
    unreachable!("counting does not end")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary folder is writable");
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[test]
fn a_pipe_stopped_by_ctrl_c_goes_on_when_it_is_sent_again() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    scene.plays(&pipeline, 20_000, 13);
    let plays = scene.read("plays.jsonl");
    finish(&mut run(&scene, &pipeline, &scene.arg("plays.jsonl"), "file")).code(0);
    let mut first = Process::start(run(&scene, &pipeline, "-", "pipe").stdin(Stdio::piped()));
    let mut pipe = first.stdin();
    pipe.write_all(&plays[..plays.len() / 2]).unwrap();
    pipe.flush().unwrap();
    // The pipe stays open: an epoch is committed because it grows old.
    until("a commit of a half-full pipe", || {
        std::fs::metadata(scene.path("pipe/late.jsonl")).is_ok_and(|meta| meta.len() > 0).then_some(())
    });
    first.signal("INT");
    let asked = std::time::Instant::now();
    first.wait().code(0).says(&["run the same command again"]);
    assert!(asked.elapsed() < Duration::from_secs(4), "Ctrl-C took {:?}", asked.elapsed());
    drop(pipe);
    // A pipe that holds less than was consumed.
    let mut short = Process::start(run(&scene, &pipeline, "-", "pipe").stdin(Stdio::piped()));
    drop(short.stdin());
    short.wait().code(4).says(&["stdin ends after 0 bytes"]);
    let mut second = Process::start(run(&scene, &pipeline, "-", "pipe").stdin(Stdio::piped()));
    second.stdin().write_all(&plays).unwrap();
    second.wait().code(0);
    for name in FILES {
        let (file, pipe) = (scene.read(&format!("file/{name}")), scene.read(&format!("pipe/{name}")));
        assert_eq!(timeless(&file), timeless(&pipe), "{name}");
    }
}

#[test]
fn a_changed_input_is_refused() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    scene.plays(&pipeline, 20_000, 14);
    let input = scene.arg("plays.jsonl");
    let plays = scene.read("plays.jsonl");
    // Cut behind a whole line.
    let half = plays[..plays.len() / 2].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    scene.write("plays.jsonl", &plays[..half]);
    let mut process = Process::start(&mut run(&scene, &pipeline, &input, "out"));
    // What a later epoch adds to a file comes after the commit of the one before.
    let mut lengths = std::collections::BTreeSet::new();
    until("the first commit", || {
        let is_done = process.ended().inspect(|status| assert!(status.success(), "{}", process.stderr())).is_some();
        lengths.insert(std::fs::metadata(scene.path("out/late.jsonl")).map_or(0, |meta| meta.len()));
        (is_done || lengths.len() > 2).then_some(())
    });
    process.kill();
    // Every byte of every event is another one, and yet the file is as long.
    let other: Vec<u8> = plays.iter().map(|byte| if *byte == b'a' { b'b' } else { *byte }).collect();
    scene.write("plays.jsonl", other);
    finish(&mut run(&scene, &pipeline, &input, "out")).code(3).says(&["the file was changed", "hint:"]);
    // The true length is told, whichever that is.
    scene.write("plays.jsonl", "");
    finish(&mut run(&scene, &pipeline, &input, "out")).code(3).says(&["ends after 0 bytes", "hint:"]);
    // As it was, it goes on.
    scene.write("plays.jsonl", &plays[..half]);
    finish(&mut run(&scene, &pipeline, &input, "out")).code(0);
    // Its end has closed all windows: what is appended later must not be passed over in silence.
    scene.write("plays.jsonl", &plays);
    finish(&mut run(&scene, &pipeline, &input, "out")).code(3).says(&["has grown to", "hint:"]);
    scene.write("other.jsonl", &plays);
    let other = scene.arg("other.jsonl");
    finish(&mut run(&scene, &pipeline, &other, "out")).code(2).says(&["the state belongs to input"]);
}
