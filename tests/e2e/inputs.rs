//! What `--input` takes: several files, packed ones, and pipes that live.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, finish, pelton, until};
use crate::scene::{Scene, module};

/// Some time in 2023: neither too far behind nor ahead.
const PAST: u128 = 1_700_000_000_000;

/// `run` over these inputs.
fn run(scene: &Scene, pipeline: &str, inputs: &[&str]) -> Command {
    let mut command = pelton(&["run", pipeline, "--output-dir", &scene.arg("out")]);
    command.args(inputs.iter().flat_map(|input| ["--input", input]));
    command
}

fn rows(scene: &Scene, name: &str) -> Vec<Value> {
    let bytes = std::fs::read(scene.path(&format!("out/{name}.jsonl"))).unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a line of JSON")).collect()
}

fn event(user: &str, ts: u128) -> String {
    format!("{{\"user\":\"{user}\",\"ts\":{ts}}}\n")
}

fn now() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970").as_millis()
}

/// Counts per second and user; silence of 100 ms lets windows fire.
fn counting(scene: &Scene) -> String {
    let text = format!(
        "name = \"t\"\n[source]\nstream = \"IN\"\nsubject = \"in\"\nkey = \"user\"\ntime = {{ field = \"ts\", unit = \"ms\" }}\n\
         watermark = {{ delay = \"0s\", idle_timeout = \"100ms\", max_future = \"0s\" }}\n[source.create]\n[[stage]]\nname = \"s\"\n\
         module = \"{}\"\nwindow = {{ kind = \"tumbling\", size = \"1s\" }}\n[output.out]\n",
        module("count_rule").display()
    );
    scene.write("t.toml", text)
}

#[test]
fn files_folders_and_patterns_are_one_input() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    std::fs::create_dir(scene.path("logs")).unwrap();
    scene.write("logs/2.jsonl", format!("{}no json\n", event("c", PAST + 3)));
    scene.write("logs/1.jsonl", event("b", PAST + 2));
    let first = scene.write("first.jsonl", event("a", PAST + 1));
    let (folder, pattern) = (scene.arg("logs"), scene.arg("*st.jsonl"));
    finish(&mut run(&scene, &pipeline, &[&pattern, &folder])).code(0).says(&["done", "events=4"]);
    let users: Vec<Value> = rows(&scene, "seen").into_iter().map(|row| row["user"].clone()).collect();
    assert_eq!(users, ["a", "b", "c"]);
    let dead = rows(&scene, "dlq");
    assert_eq!((dead.len(), &dead[0]["line"], &dead[0]["sequence"]), (1, &Value::from(2), &Value::from(4)));
    assert!(dead[0]["file"].as_str().is_some_and(|file| file.ends_with("logs/2.jsonl")), "{dead:?}");
    // Expanded by the shell, and another list for the same state.
    finish(&mut run(&scene, &pipeline, &[&first])).code(2).says(&["the state belongs to inputs", "is gone"]);
    finish(&mut run(&scene, &pipeline, &[&first, &first])).code(2).says(&["named twice"]);
    scene.write("logs/3.jsonl", event("d", PAST + 4));
    finish(&mut run(&scene, &pipeline, &[&pattern, &folder])).code(3).says(&["3.jsonl` came after", "hint:"]);
}

#[test]
fn a_folder_is_not_input_and_output() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    std::fs::create_dir(scene.path("out")).unwrap();
    scene.write("out/in.jsonl", event("a", PAST + 1));
    finish(&mut run(&scene, &pipeline, &[&scene.arg("out")])).code(2).says(&["both --input and --output", "hint:"]);
    finish(&mut run(&scene, &pipeline, &[&scene.arg("out/in.jsonl")])).code(0);
    assert_eq!(rows(&scene, "seen").len(), 1);
}

#[test]
fn another_format_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    let good = scene.write("good.jsonl", event("a", PAST + 1));
    for (bytes, expected) in
        [(&b"user,ts\na,1\n"[..], "is CSV"), (b"[\n{},\n{}\n]\n", "jq -c '.[]'"), (b"\xfe\xff\0{\0}", "iconv")]
    {
        let bad = scene.write("bad", bytes);
        finish(&mut run(&scene, &pipeline, &[&good, &bad])).code(2).says(&[expected, "hint:"]);
        assert!(!scene.path("out/seen.jsonl").exists(), "{expected}");
    }
}

/// Each line is written at the time that it tells; silence lets its window fire; a kill and the same lines again.
#[test]
fn a_named_pipe_lives() {
    let scene = Scene::new();
    let pipeline = counting(&scene);
    let pipe = scene.arg("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let mut process = Process::start(&mut run(&scene, &pipeline, &[&pipe]));
    let open = || std::fs::File::options().write(true).open(&pipe).expect("a reader is there");
    let mut writer = open();
    let mut sent = String::new();
    for count in 1..=2 {
        // Later than the beginning of the run: no event may be ahead of its arrival.
        std::thread::sleep(Duration::from_millis(20));
        let line = event("a", now());
        writer.write_all(line.as_bytes()).unwrap();
        sent.push_str(&line);
        until("a window that fires in silence", || (rows(&scene, "out").len() == count).then_some(()));
    }
    process.kill();
    drop(writer);
    let mut second = Process::start(&mut run(&scene, &pipeline, &[&pipe]));
    let mut writer = open();
    writer.write_all(sent.as_bytes()).unwrap();
    writer.write_all(event("b", now()).as_bytes()).unwrap();
    // A writer that ends, however it ends, is the end of the input.
    drop(writer);
    until("the end", || second.ended());
    second.wait().code(0).says(&["done"]);
    let users: Vec<Value> = rows(&scene, "out").into_iter().map(|row| row["key"].clone()).collect();
    assert_eq!((users.len(), rows(&scene, "dlq").len()), (3, 0), "{users:?}");
}

#[test]
fn other_lines_through_a_pipe_are_noticed() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    let mut first = Process::start(run(&scene, &pipeline, &["/dev/stdin"]).stdin(Stdio::piped()));
    let mut pipe = first.stdin();
    // When the rows of the second epoch are there, the first one is committed.
    let mut sent = String::new();
    for count in [3, 4] {
        let more = event("a", PAST + 1).repeat(count - sent.lines().count());
        pipe.write_all(more.as_bytes()).unwrap();
        sent.push_str(&more);
        until("rows", || (rows(&scene, "seen").len() == count).then_some(()));
    }
    first.kill();
    drop(pipe);
    let mut second = Process::start(run(&scene, &pipeline, &["-"]).stdin(Stdio::piped()));
    second.stdin().write_all(event("b", PAST + 1).repeat(5).as_bytes()).unwrap();
    second.wait().code(3).says(&["other lines were sent"]);
    let mut third = Process::start(run(&scene, &pipeline, &["-"]).stdin(Stdio::piped()));
    third.stdin().write_all(format!("{sent}{}", event("b", PAST + 1)).as_bytes()).unwrap();
    third.wait().code(0);
    assert_eq!(rows(&scene, "seen").len(), 5);
}

/// The files are there after the damage, too: what was whole is committed, and a whole copy goes on.
#[test]
fn a_gzip_file_that_was_cut_short_halts_and_goes_on_when_it_is_whole() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    let lines: String = (0..5000).map(|idx| event("a", 1_700_000_000_000 + idx)).collect();
    let plain = scene.write("plays.jsonl", &lines);
    let packed = Command::new("gzip").args(["-c", &plain]).output().expect("gzip runs").stdout;
    let cut = scene.write("plays.gz", &packed[..packed.len() - 4]);
    finish(&mut run(&scene, &pipeline, &[&cut])).code(3).says(&["plays.gz is damaged", "hint:"]);
    let before = rows(&scene, "seen").len();
    assert!(before > 0, "what is whole is read");
    finish(&mut run(&scene, &pipeline, &[&cut])).code(3).says(&["plays.gz is damaged"]);
    scene.write("plays.gz", &packed);
    finish(&mut run(&scene, &pipeline, &[&cut])).code(0).says(&["done"]);
    assert_eq!(rows(&scene, "seen").len(), 5000);
}
