//! Terminal and log: whoever names a file, a server, a field or a key moves no cursor and begins no line.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use pelton_engine::text::is_printable;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::process::{Said, finish, pelton};
use crate::scene::{Scene, module};

/// Clears the screen, sets the title, begins a line, turns text around.
const EVIL: &str =
    "x\r\nerror: forged\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{7f}\u{85}\u{200b}\u{200f}\u{2028}\u{202e}\u{2066}\u{feff}y";

#[track_caller]
fn assert_clean(what: &str, said: &Said) {
    for text in [&said.stdout, &said.stderr] {
        let seen: Vec<char> = text.chars().filter(|c| !is_printable(*c) && *c != '\n').collect();
        assert!(seen.is_empty(), "{what}: {seen:?} in\n{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{what}: a forged line in\n{text}");
        assert!(!text.contains("panicked"), "{what}:\n{text}");
    }
}

/// A server that says `info` of itself to everybody, answers pings, and then says `last`.
fn liar(info: Value, last: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("nats://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (info, last) = (format!("INFO {info}\r\n"), last.clone());
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
                stream.write_all(info.as_bytes()).ok()?;
                let (mut heard, mut part) = (Vec::new(), [0; 4096]);
                while let Some(read) = stream.read(&mut part).ok().filter(|read| *read > 0) {
                    heard.extend_from_slice(&part[..read]);
                    if memchr::memmem::find(&heard, b"PING\r\n").is_some() {
                        heard.clear();
                        stream.write_all(if last.is_empty() { b"PONG\r\n" } else { last.as_bytes() }).ok()?;
                    }
                }
                Some(())
            });
        }
    });
    url
}

#[test]
fn what_a_server_says_of_itself_is_cleaned() {
    let scene = Scene::new();
    let (pipeline, state) = (scene.single("zoo", "echo", ""), scene.arg("state"));
    let info = |name: &str, value: Value| {
        let mut info = json!({"server_id": "x", "server_name": "x", "version": "2.14.0", "go": "go", "host": "h",
            "port": 4222, "headers": true, "max_payload": 1 << 20, "proto": 1, "client_id": 1, "jetstream": true});
        info[name] = value;
        info
    };
    let error = |text: &str| format!("-ERR '{}'\r\n", text.replace(['\r', '\n'], ""));
    for (what, info, last) in [
        ("name", info("server_name", json!(EVIL)), String::new()),
        ("host", info("host", json!(EVIL)), String::new()),
        ("version", info("version", json!(format!("2.14.0{EVIL}"))), String::new()),
        ("old version", info("version", json!(format!("1.0.0{EVIL}"))), String::new()),
        ("no jetstream", info("jetstream", json!(false)), String::new()),
        ("id", info("server_id", json!(EVIL)), String::new()),
        ("refusal", info("server_id", json!("x")), error(&format!("Authorization Violation {EVIL}"))),
        ("error", info("server_id", json!("x")), error(EVIL)),
    ] {
        let url = liar(info, last);
        for args in [
            &["doctor", "--state-dir", &state, "--log", "trace"][..],
            &["doctor", "--state-dir", &state, "--json", "--log", "trace", "--log-format", "json"],
            &["up", &pipeline],
        ] {
            let said = finish(pelton(args).env("NATS_URL", &url)).code(4);
            assert_clean(&format!("{what} {args:?}"), &said);
        }
    }
}

#[test]
fn names_of_files_and_arguments_are_cleaned() {
    let scene = Scene::new();
    let evil = EVIL.replace('/', "");
    let missing = scene.arg(&format!("missing{evil}.toml"));
    let wrong = scene.write(&format!("wrong{evil}.toml"), "name = 1\n");
    let good = scene.single("zoo", "echo", "");
    let state = scene.arg(&format!("state{evil}"));
    let server = "nats://127.0.0.1:1";
    for args in [
        &["validate", &missing][..],
        &["validate", &wrong],
        &["validate", &wrong, "--json"],
        &["run", &missing],
        &["run", &good, "--input", &missing, "--output-dir", &state],
        &["run", &good, "--partitions", &evil],
        &["run", &good, "--listen", &evil],
        &["run", &good, "--wait", "0s", "--server", server, "--state-dir", &state, "--holder", &evil],
        &["up", &good, "--context", &evil],
        &["up", &good, "--server", &evil],
        &["up", &good, "--server", server, "--inbox-prefix", &evil],
        &["up", &good, "--server", server, "--domain", &evil],
        &["up", &good, "--log", &evil],
        &["up", &good, &evil],
        &["up", &good, &format!("--{evil}")],
        &["up", &good, &format!("-{evil}")],
        &["up", &good, &format!("--server={server}"), &format!("--log={evil}")],
        &["tail", &good, "--output", &evil],
        &["doctor", "--state-dir", &state, "--server", server, "--monitor", &evil],
        &["doctor", "--state-dir", &state, "--server", server, "--json"],
        &[&evil],
    ] {
        let said = finish(&mut pelton(args));
        assert_ne!(said.status.code(), Some(0), "{args:?}");
        assert_clean(&format!("{args:?}"), &said);
    }
    let help = finish(pelton(&["run", "--help"]).env("PELTON_STATE_DIR", EVIL)).code(0);
    assert_clean("run --help", &help);
}

#[test]
fn what_a_pipeline_file_says_is_cleaned() {
    let scene = Scene::new();
    let head = "name = \"x\"\n[source]\nstream = \"S\"\nsubject = \"s\"\nkey = \"k\"\ntime = { field = \"t\", unit = \"ms\" }\n";
    let text: String = EVIL.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let stage = format!("[[stage]]\nname = \"h\"\nmodule = \"{}\"\n[output.out]\n", module("echo").display());
    for (what, file) in [
        ("key", format!("\"{text}\" = 1\n{head}{stage}")),
        ("name", head.replace("\"x\"", &format!("\"{text}\""))),
        ("unit", head.replace("\"ms\"", &format!("\"{text}\""))),
        ("duration", format!("{head}watermark = {{ delay = \"1{text}\" }}\n{stage}")),
        ("size", format!("{head}{stage}[limits]\nmemory = \"1{text}\"\n")),
        ("field", format!("{head}[source.fields]\n\"{text}\" = \"/{text}~2\"\n{stage}")),
        ("module", format!("{head}[[stage]]\nname = \"h\"\nmodule = \"{text}.wasm\"\n[output.out]\n")),
        ("output", format!("{head}{stage}from = \"h.{text}\"\n")),
        ("subject", format!("{head}{stage}subject = \"{text}\"\n")),
        ("raw", format!("{head}x = \"\u{202e}\u{200b}\u{2066}\" garbage\n")),
    ] {
        let path = scene.write("p.toml", file);
        for args in [&["validate", &path][..], &["validate", &path, "--json"]] {
            assert_clean(what, &finish(&mut pelton(args)).code(2));
        }
    }
}

#[test]
fn what_producers_say_is_cleaned() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let (pipeline, state) = (scene.single("zoo", "echo", ""), scene.arg("state"));
    broker.up(&pipeline);
    let start = 1_767_225_600_000_u64;
    // Once with escapes of JSON and once as it is.
    let raw = format!("{{\"user\":\"u\",\"ts\":{start},\"z\":\"{}\"}}", EVIL.replace(|c: char| c < ' ', ""));
    let events = [
        json!({"user": EVIL, "ts": start, "n": EVIL}).to_string(),
        raw,
        format!("not json {EVIL}"),
        json!({"user": "u", "ts": EVIL}).to_string(),
        format!("{{\"user\":\"u\",\"{}\":1,\"ts\":{start},\"ts\":1}}", EVIL.replace(|c: char| c < ' ', "")),
    ];
    broker.publish("zoo", events.into_iter());
    let run = ["run", &pipeline, "--state-dir", &state, "--exit-when-caught-up", "--listen", "off", "--log", "trace"];
    assert_clean("run", &finish(&mut broker.pelton(&run)).code(0));
    let mut rows = 0;
    for more in [&["--dlq"][..], &[], &["--dlq", "--json"], &["--json"]] {
        let args = [&["tail", &pipeline, "--no-follow"], more].concat();
        let said = finish(&mut broker.pelton(&args)).code(0);
        assert_clean(&format!("{args:?}"), &said);
        rows += said.stdout.lines().count();
        for line in said.stdout.lines().filter(|_| more.contains(&"--json")) {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let text = row.to_string();
            assert!(text.contains('\u{202e}') || text.contains("ts"), "its meaning stays: {text}");
        }
    }
    assert_eq!(rows, 2 * 5, "each event is one line");
}
