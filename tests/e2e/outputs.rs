//! What a file run writes, where it refuses to, and what it says about it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::{Process, finish, pelton};
use crate::scene::{Scene, alerts};

fn run(pipeline: &str, input: &str, output: &str, more: &[&str]) -> Command {
    let mut command = pelton(&["run", pipeline, "--input", input, "--output-dir", output]);
    command.args(more);
    command
}

fn event(number: u64) -> String {
    json!({ "user": format!("u{}", number % 7), "ts": 1_767_225_600_000_u64 + number, "act": "behave" }).to_string()
}

fn events(count: u64) -> String {
    (1..=count).map(|number| event(number) + "\n").collect()
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// A pipeline that forwards everything, its input, its output folder.
fn echo(scene: &Scene, text: &str) -> [String; 3] {
    [scene.single("echo", "echo", ""), scene.write("input.jsonl", text), scene.arg("out")]
}

#[test]
fn nothing_that_is_there_is_lost_unasked() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &events(9));
    // The input lies in the output folder under the name of an output, or is a hard link to one.
    std::fs::create_dir(scene.path("out")).unwrap();
    std::fs::hard_link(&input, scene.path("out/seen.jsonl")).unwrap();
    for more in [&[][..], &["--fresh"]] {
        for input in [input.clone(), scene.arg("out/seen.jsonl")] {
            finish(&mut run(&pipeline, &input, &out, more)).code(2).says(&["seen.jsonl` is the input `", "hint:"]);
        }
    }
    assert_eq!(scene.read("input.jsonl"), events(9).as_bytes());
    std::fs::remove_file(scene.path("out/seen.jsonl")).unwrap();
    // A foreign file, refused until it is asked for.
    scene.write("out/dlq.jsonl", "mine\n");
    scene.write("out/mine.jsonl", "mine\n");
    finish(&mut run(&pipeline, &input, &out, &[])).code(2).says(&["dlq.jsonl` (5 bytes)", "--fresh"]);
    assert_eq!(scene.read("out/dlq.jsonl"), b"mine\n");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2, "a refused run leaves nothing behind");
    finish(&mut run(&pipeline, &input, &out, &["--fresh"])).code(0).says(&["deleted, to start over", "events=9"]);
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
    assert_eq!(scene.read("out/mine.jsonl"), b"mine\n");
    // Results whose state is gone, as the hint of old said.
    std::fs::rename(scene.path("out/.state"), scene.path("state")).unwrap();
    finish(&mut run(&pipeline, &input, &out, &[])).code(2).says(&["without the state", "seen.jsonl` ("]);
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
    // With it they are whole; and begun anew, they come out once.
    let state = ["--state-dir", &scene.arg("state")];
    finish(&mut run(&pipeline, &input, &out, &state)).code(0).says(&["all of this input is done"]);
    finish(&mut run(&pipeline, &input, &out, &[&state[..], &["--fresh"]].concat())).code(0).says(&["events=9"]);
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
    // What others add to them stays, and is told.
    let with_more = [events(9).as_str(), "mine\n"].concat();
    scene.write("out/seen.jsonl", &with_more);
    finish(&mut run(&pipeline, &input, &out, &state)).code(0).says(&["seen.jsonl bytes=5", "holds more than the run"]);
    assert_eq!(scene.read("out/seen.jsonl"), with_more.as_bytes());
}

#[test]
fn a_run_that_died_before_its_first_commit_is_taken_up() {
    if !cfg!(debug_assertions) {
        return;
    }
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &events(9));
    for moment in ["files.before:1", "apply.before:1", "apply.after:1", "files.after:2"] {
        let said = finish(run(&pipeline, &input, &out, &[]).env("PELTON_FAILPOINT", moment));
        assert_eq!(said.status.code(), None, "{moment}: {said:?}");
    }
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes(), "it died with rows that are not committed");
    finish(&mut run(&pipeline, &input, &out, &[])).code(0).says(&["events=9"]);
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
}

#[test]
fn a_changed_pipeline_is_refused_until_asked_for() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &events(9));
    finish(&mut run(&pipeline, &input, &out, &[])).code(0);
    let text = std::fs::read_to_string(&pipeline).unwrap();
    for (from, to, says) in [
        ("key = \"user\"", "key = \"act\"", "changed: [source] key"),
        ("echo.wasm", "passes.wasm", "changed: module of stage `guest`"),
        ("[output.seen]", "[output.found]", "changed: [output.found], [output.seen]"),
    ] {
        let module = text.split('"').find(|word| word.ends_with("echo.wasm")).unwrap();
        if to == "passes.wasm" {
            // Other bytes, the same behaviour: a custom section more.
            let mut bytes = std::fs::read(module).unwrap();
            bytes.extend_from_slice(b"\0\x03\x01x!");
            let other = scene.write("passes.wasm", bytes);
            std::fs::write(&pipeline, text.replace(module, &other)).unwrap();
        } else {
            std::fs::write(&pipeline, text.replace(from, to)).unwrap();
        }
        finish(&mut run(&pipeline, &input, &out, &[])).code(2).says(&[says, "--fresh"]);
        assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
    }
    // The last change again, asked for: what the earlier pipeline left under its own names goes as well.
    finish(&mut run(&pipeline, &input, &out, &["--fresh"])).code(0).says(&["deleted, to start over"]);
    assert_eq!(scene.read("out/found.jsonl"), events(9).as_bytes());
    assert!(!scene.path("out/seen.jsonl").exists());
    // Comments and white space are no change; the form of the rows is one.
    let text = std::fs::read_to_string(&pipeline).unwrap().replace("[output", "# here\n\n[output");
    std::fs::write(&pipeline, text).unwrap();
    finish(&mut run(&pipeline, &input, &out, &[])).code(0).says(&["all of this input is done"]);
    finish(&mut run(&pipeline, &input, &out, &["--envelope"])).code(2).says(&["changed: --envelope"]);
}

#[test]
fn stdout_has_rows_and_keeps_nothing() {
    let scene = Scene::new();
    let [pipeline, input, _] = echo(&scene, &format!("{}no JSON\n", events(9)));
    for _ in 0..2 {
        let said = finish(run(&pipeline, &input, "-", &[]).current_dir(scene.path(""))).code(0).says(&["dead=1"]);
        assert_eq!(said.stdout, events(9), "only the output's rows, and all of them each time");
    }
    let said = finish(&mut run(&pipeline, &input, "-", &["--envelope"])).code(0);
    let found = rows(&said.stdout);
    let told: Vec<&str> = found.iter().map(|row| row["output"].as_str().unwrap()).collect();
    assert_eq!(told, [vec!["seen"; 9], vec!["dlq"]].concat());
    assert_eq!(found[9]["payload"], "no JSON");
    assert!(!scene.path("-").exists(), "a folder of this name");
    finish(&mut run(&pipeline, &input, "-", &["--state-dir", &scene.arg("s")])).code(2).says(&["keeps no state"]);
    // Stdout leads into the input.
    let mut command = run(&pipeline, &input, "-", &[]);
    let append = std::fs::File::options().append(true).open(&input).unwrap();
    let output = command.stdout(append).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scene.read("input.jsonl"), format!("{}no JSON\n", events(9)).as_bytes());
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let scene = Scene::new();
    let [pipeline, _, _] = echo(&scene, "");
    // A pipe that has no end: only the reader can end this.
    let mut source = Command::new("yes").arg(event(1)).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = run(&pipeline, "-", "-", &[]);
    command.stdin(source.stdout.take().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!((line, said.contains("error")), (event(1) + "\n", false), "{said}");
    drop((source.kill(), source.wait()));
}

#[test]
fn rows_of_windows_say_where_they_come_from() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    let truth = scene.plays(&pipeline, 20_000, 21);
    let input = scene.arg("plays.jsonl");
    finish(&mut run(&pipeline, &input, &scene.arg("bare"), &[])).code(0);
    finish(&mut run(&pipeline, &input, &scene.arg("out"), &["--envelope"])).code(0);
    let text = String::from_utf8(scene.read("out/alerts.jsonl")).unwrap();
    let payloads: Vec<String> = rows(&text).iter().map(|row| row["payload"].to_string()).collect();
    assert_eq!(alerts(payloads.iter().map(String::as_bytes)), truth.alerts(true));
    // The payload is what stands in the file without envelope, byte for byte.
    let bare = String::from_utf8(scene.read("bare/alerts.jsonl")).unwrap();
    for (line, payload) in text.lines().zip(bare.lines()) {
        assert!(line.ends_with(&format!(",\"payload\":{payload}}}")), "{line}\n{payload}");
        let row: Value = serde_json::from_str(line).unwrap();
        let said = &row["payload"];
        assert_eq!((&row["output"], &row["key"]), (&json!("alerts"), &said["user"]));
        assert_eq!(row["window"], json!({ "start": said["window_start"], "end": said["window_end"] }));
        assert_eq!(row["pane_index"], said["pane_index"]);
        let end: Vec<String> = ["window_start", "window_end", "pane_index"].map(|name| said[name].to_string()).into();
        assert_eq!(row["id"].as_str().unwrap().split('/').skip(4).take(3).collect::<Vec<_>>(), end);
        assert_eq!(row.get("replaces").is_some(), row["pane_index"] != 0, "{line}");
    }
    assert!(text.contains("\"replaces\""), "no correction among the rows");
}

#[test]
fn an_input_of_another_kind_is_no_success() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, "hello\nworld\n\n");
    let expected = ["all 3 events were refused: json-syntax 3", "JSON lines"];
    finish(&mut run(&pipeline, &input, &out, &[])).code(5).says(&expected);
    assert_eq!(scene.read("out/dlq.jsonl").iter().filter(|byte| **byte == b'\n').count(), 3, "and yet it is kept");
    // Asked again, it is as little a success.
    finish(&mut run(&pipeline, &input, &out, &[])).code(5).says(&expected);
    let keyless = scene.write("keyless.jsonl", "{\"ts\":1767225600000}\n".repeat(20) + &event(1));
    let said = finish(&mut run(&pipeline, &keyless, &scene.arg("most"), &[])).code(0);
    said.says(&["WARN", "nearly all events were refused", "key-missing 20", "`/user`"]);
    // Nothing at all is no refusal.
    let empty = scene.write("empty.jsonl", "");
    finish(&mut run(&pipeline, &empty, &scene.arg("empty"), &[])).code(0).says(&["events=0"]);
}

#[test]
fn totals_are_those_of_the_whole_run_and_progress_is_told() {
    if !cfg!(debug_assertions) {
        return;
    }
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &format!("{}no JSON\n", events(3000)));
    let command = || {
        let mut command = run(&pipeline, &input, &out, &[]);
        command.env("PELTON_TEST_EPOCH_EVENTS", "1000").env("PELTON_TEST_LINE_MILLIS", "0");
        command
    };
    let said = finish(command().env("PELTON_FAILPOINT", "apply.before:4"));
    assert_eq!(said.status.code(), None, "{said:?}");
    let said = finish(&mut command()).code(0).says(&["running", "of_bytes=", "events=3001", "dead=1", "seen 3000"]);
    let resumed = said.stderr.split("in_this_process=").nth(1).and_then(|rest| rest.split(' ').next());
    let resumed: u64 = resumed.expect("it was resumed").parse().unwrap();
    assert!((1..3001).contains(&resumed), "{}", said.stderr);
}

#[test]
fn a_disk_that_fills_between_two_outputs_loses_nothing() {
    let scene = Scene::new();
    let long = "x".repeat(4000);
    let text: String = (1..=1500).map(|n| if n % 3 == 0 { format!("{long}\n") } else { event(n) + "\n" }).collect();
    let [pipeline, input, out] = echo(&scene, &text);
    // Files of at most 1 MiB: `dlq.jsonl` does not fit, `seen.jsonl` before it does.
    let mut limited = Command::new("sh");
    let program = pelton(&[]);
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"]).arg(program.get_program());
    limited.args(run(&pipeline, &input, &out, &[]).get_args()).stdin(Stdio::null());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    finish(&mut limited).code(4).says(&["dlq.jsonl", "run the same command again"]);
    assert!(!scene.read("out/seen.jsonl").is_empty(), "the output before it was not written");
    finish(&mut run(&pipeline, &input, &out, &[])).code(0).says(&["events=1500"]);
    let seen: String = (1..=1500).filter(|n| n % 3 != 0).map(|n| event(n) + "\n").collect();
    assert_eq!(String::from_utf8(scene.read("out/seen.jsonl")).unwrap(), seen);
    let dead = rows(&String::from_utf8(scene.read("out/dlq.jsonl")).unwrap());
    assert_eq!(dead.iter().map(|row| row["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), {
        (1..=500).map(|n| 3 * n).collect::<Vec<u64>>()
    });
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &events(9));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = run(&pipeline, &input, &out, &["--log", "debug"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(String::from_utf8(scene.read("out/seen.jsonl")).unwrap(), events(9));
}

#[test]
fn the_largest_events_that_a_pipeline_may_allow_come_through() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, "");
    let large = |number: u64| event(number).replacen('{', &format!("{{\"pad\":\"{}\",", "x".repeat(40 << 20)), 1);
    let text: String = (1..=3).map(|number| large(number) + "\n").collect();
    scene.write("input.jsonl", &text);
    let limits =
        "[limits]\nmax_payload = \"64MiB\"\nreply_bytes = \"64MiB\"\nmemory = \"512MiB\"\ncall_timeout = \"60s\"\n";
    let plan = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, plan + limits).unwrap();
    finish(&mut run(&pipeline, &input, &out, &[])).code(0).says(&["events=3", "dead=0"]);
    assert!(scene.read("out/seen.jsonl") == text.as_bytes(), "they are not what went in");
}

#[test]
fn folders_that_cannot_be_written_or_vanish_are_the_environment() {
    let scene = Scene::new();
    let [pipeline, input, out] = echo(&scene, &events(9));
    let file = scene.write("file", "");
    finish(&mut run(&pipeline, &input, &file, &[])).code(2).says(&["is a file, not a folder"]);
    finish(&mut run(&pipeline, &input, "/proc/none", &[])).code(4).says(&["/proc/none"]);
    // Root may write anywhere: then there is nothing to see.
    std::fs::create_dir(scene.path("sealed")).unwrap();
    std::fs::set_permissions(scene.path("sealed"), std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(scene.path("sealed/probe"), "").is_err() {
        finish(&mut run(&pipeline, &input, &scene.arg("sealed"), &[])).code(4).says(&["sealed", "permission"]);
    }
    // The folder goes away while a pipe is open; the state lies elsewhere.
    let state = scene.arg("state");
    let mut process = Process::start(run(&pipeline, "-", &out, &["--state-dir", &state]).stdin(Stdio::piped()));
    let mut pipe = process.stdin();
    let send = |pipe: &mut std::process::ChildStdin| std::io::Write::write_all(pipe, events(9).as_bytes()).unwrap();
    // Rows of a second epoch in the file mean that the first one is committed.
    for epoch in 1..=2 {
        send(&mut pipe);
        let wanted = epoch * events(9).len() as u64;
        crate::process::until("the rows of an epoch", || {
            std::fs::metadata(scene.path("out/seen.jsonl")).is_ok_and(|meta| meta.len() >= wanted).then_some(())
        });
    }
    std::fs::remove_dir_all(&out).unwrap();
    send(&mut pipe);
    drop(pipe);
    process.wait().code(4).says(&["out/", "run the same command again"]);
    // What was committed is gone with the folder, and that is said rather than passed over.
    let mut again = Process::start(run(&pipeline, "-", &out, &["--state-dir", &state]).stdin(Stdio::piped()));
    drop(again.stdin());
    again.wait().code(3).says(&["is gone, but", "--fresh"]);
}
