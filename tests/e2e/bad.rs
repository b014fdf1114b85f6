//! What goes wrong before and while a pipeline runs: refused with all that is wrong, or halted with the evidence.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::{Scene, module, root};

#[test]
fn every_problem_of_a_pipeline_file_is_told_at_once() {
    let scene = Scene::new();
    let text = std::fs::read_to_string(root().join("tests/cases/plan/many-at-once.toml")).unwrap();
    let expected = std::fs::read_to_string(root().join("tests/cases/plan/many-at-once.err")).unwrap();
    let pipeline = scene.write("pipeline.toml", text);
    let expected = expected.replace("pipeline.toml:", &format!("{pipeline}:"));
    for verb in ["validate", "run", "up", "status"] {
        let said = finish(&mut pelton(&[verb, &pipeline])).code(2);
        assert!(said.stderr.contains(expected.trim()), "{verb}: {}", said.stderr);
        assert_eq!(said.stdout, "", "{verb}: nothing but data goes to stdout");
    }
    finish(&mut pelton(&["validate", &scene.arg("none.toml")])).code(2).says(&["none.toml", "error:"]);
}

#[test]
fn modules_that_are_none_are_refused_before_anything_runs() {
    let scene = Scene::new();
    let fraud = std::fs::read(module("fraud")).unwrap();
    // A component that imports an empty instance of this name.
    let wasi = b"\0asm\x0d\0\x01\0\x07\x03\x01\x42\0\x0a\x1f\x01\0\x1awasi:cli/environment@0.2.3\x05\0";
    let cases: [(&str, Option<&[u8]>, &str); 7] = [
        ("missing", None, "no such file"),
        ("empty", Some(b""), "the file is empty"),
        ("text", Some(b"This is not wasm, whatever its name says."), "` is refused: "),
        ("truncated", Some(&fraud[..fraud.len() / 2]), "` is refused: "),
        ("core", Some(b"\0asm\x01\0\0\0"), "component"),
        ("wasi", Some(wasi), "wasi:cli/environment@0.2.3"),
        ("elf", Some(b"\x7fELF\x02\x01\x01\0"), "` is refused: "),
    ];
    for (name, bytes, why) in cases {
        let path = scene.path(&format!("{name}.wasm"));
        if let Some(bytes) = bytes {
            scene.write(&format!("{name}.wasm"), bytes);
        }
        let pipeline = scene.single(name, "echo", "");
        let text = std::fs::read_to_string(&pipeline).unwrap();
        let text = text.replace(module("echo").to_str().unwrap(), path.to_str().unwrap());
        std::fs::write(&pipeline, text).unwrap();
        let at = format!("{name}.toml:11:10: E02");
        let said = finish(&mut pelton(&["validate", &pipeline])).code(2).says(&[&at]);
        assert!(said.stderr.to_lowercase().contains(why), "{name}: {}", said.stderr);
        let said = finish(&mut pelton(&["validate", &pipeline, "--json"])).code(2);
        let said: Value = serde_json::from_str(&said.stdout).expect("JSON on stdout");
        assert_eq!(
            (said["problems"][0]["line"].as_u64(), said["problems"][0]["column"].as_u64()),
            (Some(11), Some(10))
        );
        let input = scene.write("input.jsonl", "{}\n");
        let out = scene.arg("out");
        finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output-dir", &out])).code(2).says(&[&at]);
        assert!(!scene.path("out").exists(), "{name}: refused, and yet there is output");
    }
}

/// Every variable that stands for an argument of some command.
const VARIABLES: [&str; 19] = [
    "NATS_URL",
    "NATS_CONTEXT",
    "NATS_CREDS",
    "NATS_NKEY",
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_TOKEN",
    "NATS_CA",
    "NATS_CERT",
    "NATS_KEY",
    "NATS_JS_DOMAIN",
    "NATS_INBOX_PREFIX",
    "NATS_MONITOR",
    "PELTON_LOG",
    "PELTON_LOG_FORMAT",
    "PELTON_STATE_DIR",
    "PELTON_LISTEN",
    "PELTON_LISTEN_TOKEN",
    "PELTON_HOLDER",
];

#[test]
fn variables_without_a_value_are_not_set_and_wrong_ones_are_named() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    let (input, out) = (scene.write("input.jsonl", "{}\n"), scene.arg("out"));
    let run = ["run", &pipeline, "--input", &input, "--output-dir", &out];
    // Its only event is bad; the broker is not there.
    for (args, code) in [(&run[..], 5), (&["up", &pipeline, "--server", "nats://127.0.0.1:1"], 4)] {
        finish(pelton(args).envs(VARIABLES.map(|name| (name, "")))).code(code);
    }
    let listen =
        ["run", &pipeline, "--wait", "0s", "--server", "nats://127.0.0.1:1", "--state-dir", &scene.arg("state")];
    finish(pelton(&listen).envs(VARIABLES.map(|name| (name, "")))).code(4);
    for name in VARIABLES {
        let said = finish(pelton(&run).env(name, std::ffi::OsStr::from_bytes(b"\xff")));
        let is_path = ["NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY", "PELTON_STATE_DIR", "PELTON_LISTEN_TOKEN"];
        if is_path.contains(&name) {
            assert!(!said.stderr.contains("UTF-8"), "{name}: {}", said.stderr);
        } else {
            said.code(2).says(&[&format!("the variable {name} is not UTF-8")]);
        }
    }
}

#[test]
fn what_a_run_over_files_cannot_use_is_refused_and_a_variable_is_not() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    let (input, out) = (scene.write("input.jsonl", "{}\n"), scene.arg("out"));
    let run = ["run", &pipeline, "--input", &input, "--output-dir", &out];
    for more in [
        ["--listen", "127.0.0.1:9464"],
        ["--listen-token", "token"],
        ["--holder", "me"],
        ["--server", "nats://127.0.0.1:1"],
        ["--creds", "none"],
        ["--wait", "1s"],
    ] {
        let said = finish(pelton(&run).args(more)).code(2);
        assert!(said.stderr.contains(more[0]) && said.stderr.contains("--input"), "{more:?}: {}", said.stderr);
    }
    let variables = [("PELTON_LISTEN", "127.0.0.1:9464"), ("PELTON_LISTEN_TOKEN", "/none"), ("NATS_URL", "nats://h:1")];
    finish(pelton(&run).envs(variables)).code(5);
    finish(&mut pelton(&["run", &pipeline, "--holder", &"x".repeat(129)])).code(2).says(&["--holder", "128 bytes"]);
    let domain = ["up", &pipeline, "--server", "nats://127.0.0.1:1", "--domain", "a b.*"];
    finish(&mut pelton(&domain)).code(2).says(&["domain \"a b.*\""]);
    finish(&mut pelton(&["run", &pipeline, "--input", &scene.arg("none"), "--output-dir", &out]))
        .code(2)
        .says(&["none"]);
}

#[test]
fn generated_events_replace_nothing() {
    let scene = Scene::new();
    let mine = scene.write("mine.jsonl", "mine\n");
    std::os::unix::fs::symlink(&mine, scene.path("link")).unwrap();
    let fresh = scene.arg("fresh.jsonl");
    let generate = ["generate", "plays", "--events", "1000", "--farms", "1"];
    for (what, output, truth) in
        [("events", &mine, &fresh), ("truth", &fresh, &mine), ("link", &scene.arg("link"), &fresh)]
    {
        let said = finish(pelton(&generate).args(["--output", output, "--truth", truth])).code(2);
        said.says(&["cannot write ", "hint: remove it"]);
        assert_eq!(scene.read("mine.jsonl"), b"mine\n", "{what}");
        let _ = std::fs::remove_file(&fresh);
    }
    finish(pelton(&generate).args(["--output", &fresh])).code(0);
}

#[test]
fn rules_are_tried_with_an_empty_window() {
    let scene = Scene::new();
    let windowed = |name: &str, guest: &str| {
        let pipeline = scene.single(name, guest, "");
        let text = std::fs::read_to_string(&pipeline).unwrap();
        let window = "window = { kind = \"global\" }\n[output.seen]";
        std::fs::write(&pipeline, text.replace("[output.seen]", window)).unwrap();
        pipeline
    };
    let pipeline = windowed("another", "asks_for_another");
    let said = finish(&mut pelton(&["validate", &pipeline])).code(2).says(&["another.toml:11:10: E0208"]);
    assert!(said.stderr.contains("no aggregate `plays`, the rule has [\"events\"]"), "{}", said.stderr);
    let input = scene.write("input.jsonl", "{}\n");
    finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("out")]))
        .code(2)
        .says(&["E0208"]);
    assert!(!scene.path("out").exists(), "refused, and yet there is output");
    let pipeline = windowed("divides", "divides_by_count");
    let warning = "warning: the rule of stage `guest` fails with a window in which nothing happened";
    finish(&mut pelton(&["validate", &pipeline])).code(0).says(&[warning]);
    let pipeline = windowed("counts", "count_rule");
    let said = finish(&mut pelton(&["validate", &pipeline])).code(0);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
}

#[test]
fn modules_of_another_world_are_refused() {
    let scene = Scene::new();
    // A transform with a window, and a window rule without one.
    let pipeline = scene.single("world", "echo", "");
    let text = std::fs::read_to_string(&pipeline).unwrap();
    let window = "window = { kind = \"tumbling\", size = \"1h\" }\n[output.seen]";
    std::fs::write(&pipeline, text.replace("[output.seen]", window)).unwrap();
    finish(&mut pelton(&["validate", &pipeline])).code(2).says(&["world.toml:12:10", ": E02", "window"]);
    let pipeline = scene.single("rule", "fraud", "");
    finish(&mut pelton(&["validate", &pipeline])).code(2).says(&["rule.toml:", ": E02", "window"]);
}

#[test]
fn a_broker_that_is_not_there_is_said_so() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    // Bound and closed: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let state = scene.arg("state");
    for args in [
        vec!["run", &pipeline, "--state-dir", &state, "--wait", "0s", "--server", &url],
        vec!["up", &pipeline, "--server", &url],
        vec!["status", &pipeline, "--server", &url],
        vec!["tail", &pipeline, "-n", "1", "--server", &url],
        vec!["doctor", "--state-dir", &state, "--server", &url],
    ] {
        let began = Instant::now();
        let said = finish(&mut pelton(&args)).code(4);
        let told = format!("{}{}", said.stdout, said.stderr);
        assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains("just broker"), "{args:?}: {told}");
        assert!(began.elapsed() < Duration::from_secs(20), "{args:?} took {:?}", began.elapsed());
    }
}

#[test]
fn who_answers_in_place_of_a_broker_is_left_soon() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    // Silence, a first line without end, and some other service.
    for (begin, more) in
        [(&b""[..], &b""[..]), (b"INFO {", &[b'x'; 1 << 16]), (b"HTTP/1.0 400 Bad Request\r\n\r\n", b"")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut sent = stream.write_all(begin);
                while sent.is_ok() {
                    std::thread::sleep(Duration::from_millis(10));
                    sent = stream.write_all(more);
                }
            }
        });
        let began = Instant::now();
        let said = finish(pelton(&["up", &pipeline]).env("NATS_URL", &url)).code(4);
        assert!(said.stderr.contains(&format!("cannot connect to {url}")), "{}", said.stderr);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

#[test]
fn a_running_host_can_be_watched_and_is_alone() {
    let scene = Scene::new();
    let broker = Broker::start();
    let pipeline = scene.single("zoo", "echo", "");
    let state = scene.arg("state");
    let args = ["run", &pipeline, "--state-dir", &state, "--listen", "127.0.0.1:0"];
    finish(&mut broker.pelton(&args)).code(4).says(&["`pelton up PIPELINE` creates what is missing"]);
    broker.up(&pipeline);
    assert!(broker.up(&pipeline).stdout.contains("nothing to do"));
    broker.publish("zoo", events(1..=500));
    let watched = || {
        let mut host = Process::start(&mut broker.pelton(&args));
        host.wait_for("/metrics");
        let said = host.stderr();
        let address = said.split("http://").nth(1).and_then(|rest| rest.split("/metrics").next());
        (host, address.expect("an address").to_owned())
    };
    let (host, address) = watched();
    let address = address.as_str();
    let received = "pelton_events_received_total{pipeline=\"zoo\",partition=\"0\"} 500";
    until("500 events in the metrics", || get(address, "/metrics").contains(received).then_some(()));
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"), "{}", get(address, "/healthz"));
    let status = finish(&mut broker.pelton(&["status", &pipeline, "--json"])).code(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let partition = &status["partitions"][0];
    assert_eq!((&status["balanced"], &partition["revision_current"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!((partition["position"].as_u64(), partition["lag_events"].as_u64()), (Some(500), Some(0)), "{status}");
    assert_eq!(partition["totals"]["processed"], 500, "{status}");
    // A second one with the same state, and one with a state of its own.
    finish(&mut broker.pelton(&args)).code(4).says(&["another `pelton run` works on this folder"]);
    let other = scene.arg("other");
    let mut second = Process::start(&mut broker.pelton(&["run", &pipeline, "--state-dir", &other, "--listen", "off"]));
    second.wait_for("another host works on this partition");
    second.signal("TERM");
    second.wait().code(0);
    let doctor = finish(&mut broker.pelton(&["doctor", &pipeline, "--state-dir", &scene.arg("doctor"), "--json"]));
    let findings: Value = serde_json::from_str(&doctor.stdout).unwrap();
    assert!(findings.as_array().is_some_and(|all| all.len() >= 6), "{findings}");
    let tail = finish(&mut broker.pelton(&["tail", &pipeline, "--from-start", "-n", "3"])).code(0);
    assert_eq!(tail.stdout.lines().count(), 3, "{}", tail.stdout);
    let asked = Instant::now();
    host.signal("TERM");
    host.wait().code(0);
    assert!(asked.elapsed() < Duration::from_secs(4), "SIGTERM took {:?}", asked.elapsed());
    // Nothing is committed after a restart, and yet the metrics are not those of a partition without history.
    let (_host, address) = watched();
    let watermark = "pelton_watermark_timestamp_seconds{pipeline=\"zoo\",partition=\"0\"} ";
    let seen = until("the watermark", || {
        let text = get(&address, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(watermark))?;
        line.parse::<f64>().ok().filter(|value| *value > 0.0)?;
        Some(text)
    });
    assert!(!seen.contains("pelton_last_committed_epoch{pipeline=\"zoo\",partition=\"0\"} 0\n"), "{seen}");
}

/// A plain HTTP GET; empty while nobody answers.
fn get(address: &str, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        stream.read_to_string(&mut text).unwrap();
    }
    text
}

/// Events `numbers`, one each millisecond of event time.
fn events(numbers: RangeInclusive<u64>) -> impl Iterator<Item = String> {
    let event = |number| json!({ "user": format!("u{}", number % 7), "ts": 1_767_225_600_000 + number, "n": number });
    numbers.map(move |number| event(number).to_string())
}

/// A pipeline of which 300 events are committed, and no host runs.
fn committed(scene: &Scene, broker: &Broker) -> String {
    let pipeline = scene.single("zoo", "echo", "");
    broker.up(&pipeline);
    broker.publish("zoo", events(1..=300));
    catch_up(scene, broker, &pipeline, &[], 0);
    pipeline
}

#[track_caller]
fn catch_up(scene: &Scene, broker: &Broker, pipeline: &str, more: &[&str], code: i32) -> String {
    let state = scene.arg("state");
    finish(broker.catch_up(pipeline, &state).args(more)).code(code).stderr
}

#[test]
fn an_input_that_lost_unread_events_is_refused_until_the_loss_is_accepted() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = committed(&scene, &broker);
    broker.publish("zoo", events(301..=500));
    broker.ask(async |context| {
        let stream = context.get_stream("ZOO").await.unwrap();
        stream.purge().sequence(401).await.unwrap();
    });
    let said = catch_up(&scene, &broker, &pipeline, &[], 3);
    assert!(said.contains("301") && said.contains("400"), "no range in the evidence: {said}");
    catch_up(&scene, &broker, &pipeline, &["--accept-loss"], 0);
    let dump = Dump::read(&broker, "zoo");
    dump.assert_chain(500);
    assert_eq!((dump.count("out."), dump.markers.last().unwrap().totals_sum.lost), (400, 100));
}

#[test]
fn an_input_that_was_made_again_is_refused() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = committed(&scene, &broker);
    broker.ask(async |context| context.delete_stream("ZOO").await.unwrap());
    broker.up(&pipeline);
    broker.publish("zoo", events(1..=600));
    let said = catch_up(&scene, &broker, &pipeline, &[], 3);
    assert!(said.contains("ZOO") && said.contains("input-recreated"), "{said}");
    assert_eq!(Dump::read(&broker, "zoo").count("out."), 300, "nothing was added");
}

#[test]
fn a_stream_deleted_under_a_running_host_halts_it() {
    for stream in ["ZOO", "PELTON_zoo"] {
        let (scene, broker) = (Scene::new(), Broker::start());
        let pipeline = committed(&scene, &broker);
        let state = scene.arg("state");
        let mut host =
            Process::start(&mut broker.pelton(&["run", &pipeline, "--state-dir", &state, "--listen", "off"]));
        host.wait_until_running();
        if stream == "PELTON_zoo" {
            let said = finish(&mut broker.pelton(&["down", &pipeline, "--yes"])).code(0);
            said.says(&["note: still at work: ", " on partition 0; that host will halt"]);
            broker.publish("zoo", events(301..=310));
        } else {
            broker.ask(async |context| context.delete_stream(stream).await.unwrap());
        }
        host.wait().code(3).says(&[stream, "halted"]);
    }
}

#[test]
fn a_pipeline_stream_made_again_is_refused() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = committed(&scene, &broker);
    broker.ask(async |context| context.delete_stream("PELTON_zoo").await.unwrap());
    broker.up(&pipeline);
    let said = catch_up(&scene, &broker, &pipeline, &[], 3);
    assert!(said.contains("pipeline-stream-recreated"), "{said}");
}

#[test]
fn help_has_examples_and_wrong_arguments_are_refused() {
    for verb in ["run", "up", "down", "validate", "status", "doctor", "tail"] {
        let said = finish(&mut pelton(&[verb, "--help"])).code(0);
        assert!(said.stdout.contains("Examples:") && said.stdout.contains("pelton "), "{verb}");
    }
    assert!(finish(&mut pelton(&["generate", "plays", "--help"])).code(0).stdout.contains("Examples:"));
    let said = finish(&mut pelton(&["--help"])).code(0);
    for code in ["0  done", "1  failed", "2  wrong", "3  halted", "4  environment"] {
        assert!(said.stdout.contains(code), "{code}");
    }
    for args in [&["run"][..], &["frobnicate"], &["run", "x.toml", "--input", "x"], &["run", "x.toml", "--nope"]] {
        finish(&mut pelton(args)).code(2).says(&["error:"]);
    }
}
