//! Messages that a client library cannot parse: they end its connection, or its task, whenever they are delivered.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use pelton_broker::tail;
use pelton_engine::epoch::fingerprint;
use pelton_engine::log::{Request, Response};

use crate::rig::{Lost, Raw, Read, Rig, read_until, reset, reset_behind, survey};

/// Blocks that end the client, each in its own way.
const FATAL: [(&str, &[u8]); 7] = [
    ("bytes that are no UTF-8", b"NATS/1.0\r\nUser: Andr\xe9\r\n\r\n"),
    ("a name that is no ASCII", b"NATS/1.0\r\nL\xc3\xa4nge: 1\r\n\r\n"),
    ("a name with a blank", b"NATS/1.0\r\nUser Name: 1\r\n\r\n"),
    ("a line without a colon", b"NATS/1.0\r\nnothing\r\n\r\n"),
    ("a lone line feed", b"NATS/1.0\r\nA: x\ny\r\n\r\n"),
    ("no version line", b"A: 1\r\n\r\n"),
    PANIC,
];

const PANIC: (&str, &[u8]) = ("a lone carriage return", b"NATS/1.0\r\nA: x\ry\r\n\r\n");

/// Fatal too, but not in a stream: the server stores no status lines.
const FATAL_OUTSIDE: (&str, &[u8]) = ("a status that is no number", b"NATS/1.0 abc\r\n\r\n");

/// Odd blocks that it reads.
const HARMLESS: [(&str, &[u8]); 5] = [
    ("an empty name", b"NATS/1.0\r\n: 1\r\n\r\n"),
    ("a status line", b"NATS/1.0 503 No Responders\r\nA: 1\r\n\r\n"),
    ("a folded line", b"NATS/1.0\r\nA: 1\r\n  2\r\n\r\n"),
    ("line feeds only", b"NATS/1.0\nA: 1\n\n"),
    ("a carriage return at the end", b"NATS/1.0\r\nA: 1\r\r\n\r\n"),
];

/// A readable event, the bad ones each followed by a readable one.
fn produce(rig: &Rig, subject: &str, bad: &[&[u8]]) {
    let good: &[u8] = b"NATS/1.0\r\nA: 1\r\n\r\n";
    rig.produce_raw(subject, good, b"good");
    for block in bad {
        rig.produce_raw(subject, block, b"bad");
        rig.produce_raw(subject, good, b"good");
    }
}

fn assert_unreadable(read: &Read, bad: &[&[u8]]) {
    read.assert_whole(1, 1 + 2 * bad.len());
    let found: Vec<(u64, &[u8])> = read.unreadable.iter().map(|(sequence, block)| (*sequence, &block[..])).collect();
    let expected: Vec<(u64, &[u8])> = bad.iter().enumerate().map(|(idx, block)| (2 + 2 * idx as u64, *block)).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_block_is_read_past_by_itself() {
    for (what, block) in FATAL {
        let rig = Rig::new(1).await;
        let log = rig.log(0);
        produce(&rig, "plays.in.a", &[block]);
        reset(&log, 1).await;
        let read = read_until(&log, 100, Lost::Reset, |read| read.sequences.len() >= 3).await;
        println!("{what}: {} restarts", read.restarts);
        assert!(read.restarts > 0, "{what} did no harm, the test shows nothing");
        assert_unreadable(&read, &[block]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_blocks_in_a_row_cost_no_connection_each() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let bad = FATAL.map(|(_, block)| block).repeat(5);
    produce(&rig, "plays.in.a", &bad);
    reset(&log, 1).await;
    let read = read_until(&log, 7, Lost::Reset, |read| read.sequences.len() > 2 * bad.len()).await;
    assert_unreadable(&read, &bad);
    assert!(read.restarts <= 4, "{} restarts", read.restarts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_is_used_again_behind_the_bad_ones() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    produce(&rig, "plays.in.a", &[FATAL[0].1]);
    let count = 3000;
    rig.produce(0, count).await;
    reset(&log, 1).await;
    let read = read_until(&log, 500, Lost::Reset, |read| read.sequences.len() >= 3 + count).await;
    read.assert_whole(1, 3 + count);
    let name = pelton_broker::consumer("fraud", 0);
    let stream = rig.broker.context().get_stream("PLAYS").await.expect("stream");
    let info = stream.consumer_info(&name).await.expect("consumer");
    assert_eq!(info.delivered.stream_sequence, 3 + count as u64, "the last events came by the consumer");
    assert_eq!((info.num_pending, read.caught_up), (0, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_partitions_go_on() {
    let rig = Rig::new(2).await;
    rig.produce(0, 2000).await;
    let (bad, good) = (rig.log(0), rig.log(1));
    let counts = [count(&rig, "plays.0").await, count(&rig, "plays.1").await];
    // Whose key it is decides the server: the subject of the partition itself cannot be published to.
    let key = (0..100).map(|key| format!("k{key}"));
    let mut keys = Vec::new();
    for key in key {
        rig.produce_raw(&format!("plays.in.{key}"), b"NATS/1.0\r\n\r\n", b"probe");
        if count(&rig, "plays.0").await > counts[0] {
            keys.push(key);
            break;
        }
    }
    let key = keys.pop().expect("a key of partition 0");
    for (_, block) in FATAL {
        rig.produce_raw(&format!("plays.in.{key}"), block, b"bad");
    }
    let counts = [count(&rig, "plays.0").await, count(&rig, "plays.1").await];
    reset_behind(&bad, 0).await;
    reset_behind(&good, 0).await;
    let (bad, good) = tokio::join!(
        read_until(&bad, 100, Lost::Reset, |read| read.sequences.len() >= counts[0]),
        read_until(&good, 100, Lost::Reset, |read| read.sequences.len() >= counts[1]),
    );
    assert_eq!((bad.sequences.len(), good.sequences.len()), (counts[0], counts[1]));
    assert_eq!((bad.unreadable.len(), good.unreadable.len()), (FATAL.len(), 0));
}

/// Messages of one subject.
async fn count(rig: &Rig, subject: &str) -> usize {
    let stream = rig.broker.context().get_stream("PLAYS").await.expect("stream");
    let mut subjects = stream.info_with_subjects(subject).await.expect("subjects");
    subjects.next().await.map_or(0, |found| found.expect("a subject").1)
}

/// A subscription that the server knows of; a flush does not wait for that.
async fn probe(client: &async_nats::Client) -> async_nats::Subscriber {
    let mut messages = client.subscribe("probe").await.expect("subscribed");
    client.publish("probe", "is it there?".into()).await.expect("sent");
    messages.next().await.expect("it is there");
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_agrees_with_the_client() {
    let rig = Rig::new(1).await;
    let fatal = FATAL.into_iter().map(|case| (case, false));
    let harmless = HARMLESS.into_iter().map(|case| (case, true));
    for ((what, block), is_read) in fatal.chain(harmless).chain([(FATAL_OUTSIDE, false)]) {
        // A client of its own, so that it is seen to end.
        let broker = rig.server.connect().await.expect("connected");
        let client = broker.client();
        let mut messages = probe(&client).await;
        let before = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
        Raw::connect(&rig.server).publish("probe", block, b"x");
        let deadline = Instant::now() + Duration::from_secs(30);
        let came = loop {
            tokio::select! {
                message = messages.next() => break message.is_some(),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            if client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed) > before {
                break false;
            }
            assert!(Instant::now() < deadline, "{what}: nothing happens");
        };
        assert_eq!(came, is_read, "{what}");
        rig.produce_raw("plays.in.a", block, b"x");
    }
    let log = rig.log(0);
    reset(&log, 1).await;
    let count = FATAL.len() + HARMLESS.len() + 1;
    let read = read_until(&log, 100, Lost::Reset, |read| read.sequences.len() >= count).await;
    assert_eq!(read.unreadable.keys().copied().collect::<Vec<_>>(), (1..=FATAL.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_client_is_replaced_for_everybody() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    rig.produce(0, 10).await;
    reset(&log, 1).await;
    let before = rig.broker.client();
    let held = probe(&before).await;
    Raw::connect(&rig.server).publish("probe", PANIC.1, b"x");
    let deadline = Instant::now() + Duration::from_secs(30);
    while before.publish("probe", "x".into()).await.is_ok() {
        assert!(Instant::now() < deadline, "the client lives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(held);
    let read = read_until(&log, 100, Lost::Reset, |read| read.sequences.len() >= 10).await;
    read.assert_whole(1, 10);
    assert!(read.restarts > 0, "the loss is said");
    rig.produce(10, 10).await;
    assert!(rig.broker.connected());
    read_until(&log, 100, Lost::Reset, |read| read.sequences.len() >= 10).await.assert_whole(11, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_messages_of_others_survives() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    for (_, block) in FATAL {
        rig.produce_raw("plays.in.a", block, b"bad");
    }
    let survey = survey(&log, Some(7), None).await;
    assert!(survey.input_fingerprint.is_some_and(|found| found != fingerprint(0, b"bad")));
    let mut tail = tail(&rig.broker, "PLAYS", "plays.>", Some(1)).await.expect("tail");
    for sequence in 1..=7 {
        let record = tail.next().await.expect("goes on").expect("a record");
        assert_eq!((record.sequence, record.headers.is_empty()), (sequence, true));
        assert_eq!(record.pending == 0, sequence == 7);
    }
    let response = log.perform(Request::Survey { input_sequence: Some(3), epoch: None, history: false }).await;
    assert!(matches!(response, Response::Survey(_)), "{response:?}");
}
