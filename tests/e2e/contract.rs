//! The contract end to end: counters that are exact under kills, tombstones, headers, places and kinds of fields, from a
//! broker and over a file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::Scene;

const EVENTS: u64 = 2000;

/// Amounts are negative in one of ten, and 0 in another one.
fn amount(idx: u64) -> i64 {
    (idx % 10) as i64 - 1
}

fn events() -> impl Iterator<Item = String> {
    (0..EVENTS).map(|idx| {
        let (user, ts, amount) = (idx % 7, 1_767_225_600_000 + idx, amount(idx));
        format!(r#"{{"user":"u{user}","ts":{ts},"amount":{amount},"note":[{idx}],"blob":"aGk="}}"#)
    })
}

/// What the module must have counted, from the events alone.
fn counted() -> BTreeMap<String, i64> {
    let good = (0..EVENTS).filter(|idx| amount(*idx) >= 0).count() as i64;
    let deletes = (0..EVENTS).filter(|idx| amount(*idx) == 0).count() as i64;
    [("guest/blob_bytes", 2 * good), ("guest/deletes", deletes), ("guest/events", good)]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
}

#[test]
fn counters_are_exact_under_kills_and_tombstones_are_told() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = scene.single("payments", "whole_contract", "");
    broker.up(&pipeline);
    broker.publish("payments", events());
    let state = scene.arg("state");
    let host = || broker.catch_up(&pipeline, &state);
    let context = broker.watcher();
    for round in 1..=3 {
        let mut process = Process::start(&mut host());
        until("progress", || (broker.committed(&context, "payments")? >= round * EVENTS / 5).then_some(()));
        process.kill();
        broker.evict("payments");
    }
    finish(&mut host()).code(0);
    let dump = Dump::read(&broker, "payments");
    dump.assert_chain(EVENTS);
    let marker = dump.markers.last().expect("an epoch");
    let sums: BTreeMap<String, i64> =
        marker.counter_sums().into_iter().map(|(name, sum)| (name, i64::try_from(sum).expect("it is small"))).collect();
    assert_eq!(sums, counted());
    let status = finish(&mut broker.pelton(&["status", &pipeline, "--json"])).code(0);
    let status: Value = serde_json::from_str(&status.stdout).expect("status is JSON");
    assert_eq!(status["partitions"][0]["counters"], json!(counted()));

    let (mut deletes, mut said, mut refused) = (0, 0, 0);
    for message in broker.messages("PELTON_payments") {
        let header =
            |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
        if message.subject.contains(".out.") {
            match header("KV-Operation") {
                Some(operation) => {
                    assert_eq!((operation, message.payload.len()), ("DEL", 0));
                    deletes += 1;
                }
                None => {
                    assert_eq!(header("Currency"), Some("EUR"));
                    let payload: Value = serde_json::from_slice(&message.payload).expect("a payment");
                    assert_eq!((&payload["bytes"], payload["note"][0].is_u64()), (&json!(2), true), "{payload}");
                    said += 1;
                }
            }
        } else if message.subject.contains(".dlq.") {
            assert_eq!(header("Pelton-Dlq-Path"), Some("/amount"));
            refused += 1;
        }
    }
    assert_eq!((deletes, said, refused), (EVENTS / 10, EVENTS / 10 * 8, EVENTS / 10));
}

#[test]
fn files_tell_tombstones_and_headers() {
    let scene = Scene::new();
    let pipeline = scene.single("payments", "whole_contract", "");
    let input = scene.write("input.jsonl", events().take(10).map(|event| event + "\n").collect::<String>());
    let lines = |out: &str, more: &[&str]| -> Vec<Value> {
        let run = ["run", &pipeline, "--input", &input, "--output-dir", &scene.arg(out)];
        finish(&mut pelton(&[&run[..], more].concat())).code(0);
        let text = String::from_utf8(scene.read(&format!("{out}/seen.jsonl"))).expect("lines are text");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    };
    let bare = lines("bare", &[]);
    assert_eq!((bare.len(), &bare[0], &bare[1]["amount"]), (9, &Value::Null, &json!(1)));
    let rows = lines("rows", &["--envelope"]);
    assert_eq!((&rows[0]["key"], &rows[0]["delete"], rows[0].get("payload")), (&json!("u1"), &json!(true), None));
    assert_eq!((&rows[1]["headers"], &rows[1]["payload"]["amount"]), (&json!({"Currency": "EUR"}), &json!(1)));
    assert_eq!(rows[1].get("delete"), None);
}

#[test]
fn a_module_that_reads_lanes_is_refused() {
    let scene = Scene::new();
    let pipeline = scene.single("lanes", "reads_lanes", "");
    finish(&mut pelton(&["validate", &pipeline])).code(2).says(&["E0209", "reads the lane `plays`"]);
}
