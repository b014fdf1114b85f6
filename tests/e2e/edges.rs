//! Events at the edge of what the broker takes, and events that say what only the host may say: each has its fate, and
//! nothing else is held up by it.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::Message;
use pelton_engine::decode::partition_of;
use pelton_engine::epoch::Marker;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::broker::Broker;
use crate::process::finish;
use crate::scene::Scene;

/// The server's `max_payload`, which nobody has changed.
const PAYLOAD_MAX: usize = 1 << 20;
/// The most headers that JetStream stores with a message.
const HEADERS: usize = 65_300;

/// An event and what must come of it.
struct Case {
    name: &'static str,
    headers: HeaderMap,
    payload: Vec<u8>,
    must: Must,
}

#[derive(Clone, Copy, PartialEq)]
enum Must {
    Pass,
    /// The code of its dead letter, and what is cut of it.
    Die(&'static str, Cut),
}

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Nothing,
    Payload,
    Headers,
}

/// An event whose JSON has exactly `len` bytes.
fn sized(len: usize) -> Vec<u8> {
    let event = |pad: &str| json!({ "user": "u1", "ts": 1_767_225_600_000_u64, "pad": pad }).to_string().into_bytes();
    event(&"x".repeat(len - event("").len()))
}

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    all.iter().for_each(|(name, value)| headers.append(*name, *value));
    headers
}

fn cases() -> Vec<Case> {
    use Cut::*;
    use Must::*;
    let case = |name, all: &[(&str, &str)], payload, must| Case { name, headers: headers(all), payload, must };
    let key = |len| json!({ "user": "k".repeat(len), "ts": 1_767_225_600_000_u64 }).to_string().into_bytes();
    let not_json = |len: usize| vec![b'x'; len];
    let big = "h".repeat(HEADERS);
    vec![
        case("a key of 70,000 bytes", &[], key(70_000), Pass),
        case("headers of 65,300 bytes", &[("A", &big)], sized(100), Pass),
        case("no JSON, headers of 65,300 bytes", &[("A", &big), ("B", "2")], not_json(10), Die("json-syntax", Headers)),
        case("no JSON, as large as a message", &[], not_json(PAYLOAD_MAX), Die("json-syntax", Payload)),
        case("JSON as large as a message", &[], sized(PAYLOAD_MAX), Die("record-size", Payload)),
        case("JSON that leaves room for headers", &[], sized(PAYLOAD_MAX - 1024), Pass),
        case("no JSON that leaves room for headers", &[], not_json(PAYLOAD_MAX - 2048), Die("json-syntax", Nothing)),
        case(
            "words of the host and of the server",
            &[
                ("Pelton-Dlq-Path", "/forged"),
                ("pelton-dlq-module", "forged"),
                ("Pelton-Dlq-Sequence", "1"),
                ("Pelton-Original-Nats-X", "forged"),
                ("Nats-Expected-Stream", "EDGES"),
                ("User", "caf\u{e9}"),
            ],
            not_json(3),
            Die("json-syntax", Nothing),
        ),
        case("the same on an event that passes", &[("Pelton-Id", "forged"), ("Pelton-Key", "forged")], sized(90), Pass),
    ]
}

#[test]
fn every_event_that_the_broker_takes_has_its_fate() {
    let scene = Scene::new();
    let broker = Broker::start();
    let pipeline = scene.single("edges", "echo", "");
    broker.up(&pipeline);
    // Ordinary events around each.
    let plain = || Case { name: "plain", headers: HeaderMap::new(), payload: sized(80), must: Must::Pass };
    let cases: Vec<Case> = cases().into_iter().flat_map(|case| [plain(), case]).chain([plain()]).collect();
    broker.ask(async |context| {
        for Case { name, headers, payload, .. } in &cases {
            let sent = context.publish_with_headers("edges", headers.clone(), payload.clone().into()).await;
            sent.expect(name).await.expect(name);
        }
    });
    finish(&mut broker.catch_up(&pipeline, &scene.arg("state"))).code(0);
    let input = broker.messages("EDGES");
    let log = Log::read(&broker, "edges");
    let passed: Vec<usize> = (0..cases.len()).filter(|&idx| cases[idx].must == Must::Pass).collect();
    let outputs = log.of("0.out.seen");
    assert_eq!(outputs.len(), passed.len(), "outputs");
    for (output, idx) in outputs.iter().zip(&passed) {
        assert!(output.payload == input[*idx].payload, "{}: another payload", cases[*idx].name);
        let id = format!("edges/0/{}/guest/0", idx + 1);
        assert_eq!(one(output, "Pelton-Id"), Some(id.as_str()), "{}", cases[*idx].name);
    }
    assert_eq!(one(outputs[1], "Pelton-Key-Bytes"), Some("70000"));
    for (idx, case) in cases.iter().enumerate() {
        let sequence = (idx + 1).to_string();
        let letters: Vec<&Message> = log
            .of("0.dlq")
            .into_iter()
            .filter(|letter| one(letter, "Pelton-Dlq-Sequence") == Some(&sequence))
            .collect();
        match case.must {
            Must::Pass => assert!(letters.is_empty(), "{} has a dead letter", case.name),
            Must::Die(code, cut) => {
                assert_eq!(letters.len(), 1, "dead letters of {}", case.name);
                check_letter(letters[0], case, code, cut);
            }
        }
    }
    let dead = (cases.len() - passed.len()) as u64;
    log.assert_totals(0, cases.len() as u64, passed.len() as u64, dead);
    finish(&mut broker.pelton(&["tail", &pipeline, "--dlq", "--from-start", "--no-follow", "--json"])).code(0);
}

fn check_letter(letter: &Message, case: &Case, code: &str, cut: Cut) {
    let Case { name, payload, headers, .. } = case;
    assert_eq!(one(letter, "Pelton-Dlq-Code"), Some(code), "{name}");
    assert!(payload.starts_with(&letter.payload), "{name}: the payload is another one");
    assert_eq!(letter.payload.len() < payload.len(), cut == Cut::Payload, "{name}: {} bytes", letter.payload.len());
    if cut == Cut::Payload {
        assert!(letter.payload.len() > PAYLOAD_MAX - 4096, "{name}: {} bytes are left", letter.payload.len());
        assert_eq!(one(letter, "Pelton-Dlq-Payload-Bytes"), Some(payload.len().to_string().as_str()), "{name}");
        let digest = pelton_engine::hex::encode(&Sha256::digest(payload));
        assert_eq!(one(letter, "Pelton-Dlq-Payload-Sha256"), Some(digest.as_str()), "{name}");
    }
    assert_eq!(one(letter, "Pelton-Dlq-Headers-Bytes").is_some(), cut == Cut::Headers, "{name}");
    for (header, values) in headers.iter() {
        let header = header.to_string();
        let is_reserved = ["nats-", "pelton-"].iter().any(|start| header.to_ascii_lowercase().starts_with(start));
        let kept = if is_reserved { format!("Pelton-Original-{header}") } else { header };
        let expected = if values[0].as_str().len() > HEADERS / 2 { None } else { Some(values[0].as_str()) };
        assert_eq!(one(letter, &kept), expected, "{name}: {kept}");
    }
    assert_eq!(one(letter, "Pelton-Dlq-Path"), None, "{name}: a path that the producer made up");
}

/// The only value of a header.
fn one<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let mut values = message.headers.as_ref()?.get_all(name);
    let first = values.next().map(|value| value.as_str());
    assert!(values.next().is_none(), "{name} stands there twice");
    first
}

/// All of a pipeline stream, by subjects below the pipeline's.
struct Log {
    messages: Vec<(String, Message)>,
}

impl Log {
    fn read(broker: &Broker, pipeline: &str) -> Log {
        let prefix = format!("pelton.{pipeline}.");
        let messages = broker.messages(&pelton_broker::log_stream(pipeline)).into_iter();
        let below = |message: Message| {
            (message.subject.strip_prefix(&prefix).expect("a subject of the pipeline").to_owned(), message)
        };
        Log { messages: messages.map(below).collect() }
    }

    fn of(&self, start: &str) -> Vec<&Message> {
        self.messages.iter().filter(|(subject, _)| subject.starts_with(start)).map(|(_, message)| message).collect()
    }

    /// The sums of the newest marker of a partition.
    #[track_caller]
    fn assert_totals(&self, partition: u32, received: u64, processed: u64, dead: u64) {
        let markers = self.of(&format!("{partition}.marker"));
        let sums = markers.last().map(|message| Marker::decode(&message.payload).expect("a marker").totals_sum);
        let sums = sums.unwrap_or_default();
        assert_eq!((sums.received, sums.processed, sums.dead), (received, processed, dead), "partition {partition}");
        assert!(sums.balanced(0), "{sums:?}");
    }
}

/// Producers put a key under the token of another one: such an event is in a partition that is not its key's, where it
/// would be counted apart from the others of its key.
#[test]
fn a_key_under_the_token_of_another_is_a_dead_letter() {
    const EVENTS: u32 = 60;
    let scene = Scene::new();
    let broker = Broker::start();
    let pipeline = scene.single("foreign", "echo", "partitions = 2");
    let text = String::from_utf8(scene.read("foreign.toml")).expect("it was text");
    let text = text.replace("subject = \"foreign\"", "subject = \"foreign.{partition}\"");
    scene.write("foreign.toml", text.replace("[source.create]", "[source.create]\ningest = \"foreign.in.*\""));
    broker.up(&pipeline);
    // Every third one under another's token; every seventh has a key that is no token.
    let events: Vec<(String, String)> = (0..EVENTS)
        .map(|number| {
            let key = if number % 7 == 0 { format!("u.{number}") } else { format!("u{number}") };
            let token = if number % 3 == 0 || number % 7 == 0 { format!("t{number}") } else { key.clone() };
            (key, token)
        })
        .collect();
    broker.ask(async |context| {
        for (number, (key, token)) in events.iter().enumerate() {
            let event = json!({ "user": key, "ts": 1_767_225_600_000_u64 + number as u64 }).to_string();
            let sent = context.publish(format!("foreign.in.{token}"), event.into()).await.expect("sent");
            sent.await.expect("stored");
        }
    });
    finish(&mut broker.catch_up(&pipeline, &scene.arg("state"))).code(0);
    let input = broker.messages("FOREIGN");
    assert_eq!(input.len(), events.len());
    let log = Log::read(&broker, "foreign");
    // Per partition: received, and the sequences that must be dead.
    let mut expected: BTreeMap<u32, (u64, Vec<String>)> = BTreeMap::new();
    for (idx, ((key, token), message)) in events.iter().zip(&input).enumerate() {
        let partition: u32 = message.subject.rsplit('.').next().expect("a token").parse().expect("a partition");
        assert_eq!(partition, partition_of(token.as_bytes(), 2), "the server puts `{token}` elsewhere");
        let (received, dead) = expected.entry(partition).or_default();
        *received += 1;
        if !key.contains('.') && partition_of(key.as_bytes(), 2) != partition {
            dead.push((idx + 1).to_string());
        }
    }
    for (partition, (received, dead)) in &expected {
        let letters = log.of(&format!("{partition}.dlq.source.key-partition"));
        let found: Vec<&str> = letters.iter().filter_map(|letter| one(letter, "Pelton-Dlq-Sequence")).collect();
        assert_eq!(&found, dead, "dead letters of partition {partition}");
        assert!(!dead.is_empty(), "no key is in partition {partition} by mistake");
        let said = one(letters[0], "Pelton-Dlq-Message").expect("a message");
        assert!(said.contains(&format!("belongs to partition {}, and came to {partition}", 1 - partition)), "{said}");
        let dead = dead.len() as u64;
        assert_eq!(log.of(&format!("{partition}.out.")).len() as u64, received - dead);
        log.assert_totals(*partition, *received, received - dead, dead);
    }
    assert_eq!(expected.len(), 2, "both partitions have events");
}
