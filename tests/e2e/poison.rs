//! Messages with headers that a client cannot read: each is a dead letter with its bytes, and nothing else is held up.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pelton_engine::epoch::Marker;
use serde_json::json;

use crate::broker::Broker;
use crate::process::finish;
use crate::scene::{Scene, module};

/// Header blocks as a program writes them that does not use a client: the server stores each of them.
const BLOCKS: [&[u8]; 5] = [
    b"NATS/1.0\r\nA: x\ry\r\n\r\n",
    b"NATS/1.0\r\nUser: caf\xe9\r\n\r\n",
    b"NATS/1.0\r\nL\xc3\xa4nge: 3\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nX Y: 1\r\n\r\n",
];
/// Good events before, between and after them, in each partition.
const GOOD: u64 = 20;

fn event(number: u64) -> String {
    json!({"user": format!("u{}", number % 5), "ts": 1_767_225_600_000 + number, "n": number}).to_string()
}

/// Publishes a message with a header block of our own, and waits until the server has taken it.
fn publish_raw(url: &str, subject: &str, block: &[u8], payload: &[u8]) {
    let address = url.strip_prefix("nats://").expect("an address of the test's server");
    let mut stream = TcpStream::connect(address).expect("the broker runs");
    let command = format!("HPUB {subject} {} {}\r\n", block.len(), block.len() + payload.len());
    let connect = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".as_slice();
    let all = [connect, command.as_bytes(), block, payload, b"\r\nPING\r\n"].concat();
    stream.write_all(&all).expect("the broker reads");
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while !said.windows(6).any(|window| window == b"PONG\r\n") {
        let read = stream.read(&mut part).expect("the broker answers");
        assert!(read > 0, "the broker hung up: {}", said.escape_ascii());
        said.extend_from_slice(&part[..read]);
    }
}

#[test]
fn headers_that_no_client_can_read_hold_up_nothing() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let text = format!(
        "name = \"zoo\"\n[source]\nstream = \"ZOO\"\nsubject = \"zoo.{{partition}}\"\npartitions = 2\nkey = \"user\"\n\
         time = {{ field = \"ts\", unit = \"ms\" }}\n[source.create]\n\
         [[stage]]\nname = \"guest\"\nmodule = \"{}\"\n[output.seen]\n",
        module("echo").display()
    );
    let pipeline = scene.write("zoo.toml", text);
    broker.up(&pipeline);
    let good = || {
        for partition in 0..2 {
            broker.publish(&format!("zoo.{partition}"), (0..GOOD).map(event));
        }
    };
    good();
    for (idx, block) in BLOCKS.iter().enumerate() {
        publish_raw(broker.url(), "zoo.0", block, event(1000 + idx as u64).as_bytes());
        good();
    }
    let state = scene.arg("state");
    finish(&mut broker.catch_up(&pipeline, &state)).code(0);

    let (mut seen, mut letters, mut totals) = ([0; 2], Vec::new(), [None; 2]);
    for message in broker.messages("PELTON_zoo") {
        let mut tokens = message.subject.split('.').skip(2);
        let partition: usize = tokens.next().expect("a partition").parse().expect("a number");
        match tokens.next() {
            Some("out") => seen[partition] += 1,
            Some("dlq") => letters.push(message),
            Some("marker") => totals[partition] = Some(Marker::decode(&message.payload).expect("a marker").totals_sum),
            _ => {}
        }
    }
    let rounds = BLOCKS.len() as u64 + 1;
    assert_eq!(seen, [rounds * GOOD, rounds * GOOD]);
    let totals = totals.map(|totals| totals.expect("each partition has an epoch"));
    assert_eq!((totals[0].received, totals[0].dead), (rounds * GOOD + BLOCKS.len() as u64, BLOCKS.len() as u64));
    assert_eq!((totals[1].received, totals[1].dead), (rounds * GOOD, 0));
    assert_eq!(letters.len(), BLOCKS.len());
    for (idx, (letter, block)) in letters.iter().zip(BLOCKS).enumerate() {
        assert!(letter.subject.ends_with("dlq.source.header"), "{}", letter.subject);
        assert_eq!(letter.payload, event(1000 + idx as u64));
        let headers = letter.headers.as_ref().expect("a letter has headers");
        let kept = headers.get("Pelton-Dlq-Headers").expect("the block is kept").as_str();
        let kept = STANDARD.decode(kept).expect("the block is base64");
        assert_eq!(kept.escape_ascii().to_string(), block.escape_ascii().to_string());
    }
}
