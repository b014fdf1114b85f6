//! The pipeline stream: fences, refusals, and epochs read back.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pelton_broker::{LogOptions, ProvisionOptions};
use pelton_engine::epoch::{BATCH_HEADER_BYTES, CHANGE_BYTES_MAX, Channel, Records};
use pelton_engine::log::{Change, Fence, Published, Request, Response};

use crate::rig::{FIRST, Rig, fence_after, first_epoch, last_marker, next_epoch, publish, stored, survey};

fn records(count: usize) -> Records {
    let mut records = Records::default();
    for idx in 0..count {
        records.push(Channel::Output(0), b"out.alerts.k1", b"Pelton-Row: 1\r\n", format!("row {idx}").as_bytes());
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_fence_lets_a_batch_in() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let first = first_epoch(records(3), b"one".to_vec());
    let first_sequence = stored(&log, &first, FIRST).await;
    assert_eq!(first_sequence, 6, "one chunk, three records, the ledger, the marker");

    let second = next_epoch(&first, records(1), b"two".to_vec());
    let second_sequence = stored(&log, &second, fence_after(&first, first_sequence)).await;

    let third = next_epoch(&second, records(1), b"three".to_vec());
    let slot = Some(second.marker.slot());
    let cases = [
        ("first again", FIRST),
        ("stale sequence and slot", fence_after(&first, first_sequence)),
        ("stale sequence", Fence { sequence: first_sequence, slot: slot.clone() }),
        ("right sequence, another epoch's slot", Fence { sequence: second_sequence, slot: Some(first.marker.slot()) }),
        ("right sequence, another lease's slot", Fence { sequence: second_sequence, slot: Some("99.2".to_string()) }),
        ("a sequence beyond the end", Fence { sequence: second_sequence + 10, slot }),
    ];
    for (what, fence) in cases {
        let published = publish(&log, &third, fence).await;
        assert!(matches!(published, Published::Rejected(_)), "{what}: {published:?}");
    }
    let survey = survey(&log, None, Some(1)).await;
    assert_eq!(survey.log.last_sequence, second_sequence, "nothing of the refused batches is there");
    assert_eq!(survey.marker.expect("a marker").marker, second.marker);
    assert_eq!(survey.marker_of_epoch.expect("a marker").sequence, first_sequence);
    stored(&log, &third, fence_after(&second, second_sequence)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_published_twice_is_refused_and_its_marker_tells_why() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let epoch = first_epoch(records(2), b"one".to_vec());
    let sequence = stored(&log, &epoch, FIRST).await;
    assert!(matches!(publish(&log, &epoch, FIRST).await, Published::Rejected(_)));
    let found = last_marker(&log).await.expect("a marker");
    assert_eq!((found.sequence, found.marker.nonce), (sequence, epoch.marker.nonce));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_do_not_fence_each_other() {
    let rig = Rig::new(2).await;
    let (left, right) = (rig.log(0), rig.log(1));
    let epoch = first_epoch(records(2), b"one".to_vec());
    let (one, other) = tokio::join!(publish(&left, &epoch, FIRST), publish(&right, &epoch, FIRST));
    assert!(matches!(one, Published::Stored { .. }), "{one:?}");
    assert!(matches!(other, Published::Stored { .. }), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_cannot_take_is_refused_as_a_whole() {
    let options = ProvisionOptions { stream_max_bytes: Some(200_000), ..ProvisionOptions::default() };
    let rig = Rig::with(1, &options, "").await;
    let log = rig.log(0);
    let cases = [
        ("too many messages", first_epoch(records(1000), b"one".to_vec()), true),
        ("a stream that would be too full", first_epoch(Records::default(), vec![7; 300_000]), false),
        ("more headers than the server takes", first_epoch(headers_of(70_000), Vec::new()), true),
    ];
    for (what, epoch, is_permanent) in cases {
        let published = publish(&log, &epoch, FIRST).await;
        let is_right = match published {
            Published::Permanent(_) => is_permanent,
            Published::Refused(_) => !is_permanent,
            _ => false,
        };
        assert!(is_right, "{what}: {published:?}");
        assert_eq!(survey(&log, None, None).await.log.last_sequence, 0, "{what}");
    }
    let mut too_large = Records::default();
    too_large.push(Channel::DeadLetter, b"dlq.source.size", b"", &vec![7; 2 << 20]);
    let published = publish(&log, &first_epoch(too_large, Vec::new()), FIRST).await;
    assert!(matches!(published, Published::Permanent(_)), "{published:?}");
    stored(&log, &first_epoch(records(1), b"one".to_vec()), FIRST).await;
}

/// One record with a header of so many bytes.
fn headers_of(bytes: usize) -> Records {
    let mut records = Records::default();
    let header = format!("A: {}\r\n", "x".repeat(bytes));
    records.push(Channel::Output(0), b"out.alerts.k1", header.as_bytes(), b"row");
    records
}

/// The header block of a message as it is stored.
async fn block(rig: &Rig, sequence: u64) -> Vec<u8> {
    let request = serde_json::json!({ "seq": sequence }).to_string();
    let client = rig.broker.client();
    let answer = client.request("$JS.API.STREAM.MSG.GET.PELTON_fraud", request.into()).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
    STANDARD.decode(answer["message"]["hdrs"].as_str().expect("headers")).expect("base64")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_lines_are_stored_in_their_order_as_they_are() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let lines = "Zeta: 1\r\nAlpha:  two \r\nmid: \u{e9}\r\nZeta: 3\r\nNats-Rollup: all\r\nB: \r\n";
    let kept = lines.replace("Nats-Rollup", "Pelton-Original-Nats-Rollup");
    let mut records = Records::default();
    for _ in 0..20 {
        records.push(Channel::Output(0), b"out.alerts.k1", lines.as_bytes(), b"row");
    }
    records.push(Channel::DeadLetter, b"dlq.source.header", b"no headers\r\n", b"row");
    stored(&log, &first_epoch(records, b"one".to_vec()), FIRST).await;
    for sequence in 2..22 {
        let stored = String::from_utf8(block(&rig, sequence).await).expect("text");
        assert!(stored.starts_with("NATS/1.0\r\nNats-Batch-Id: "), "{stored:?}");
        let expected = format!("\r\nNats-Batch-Sequence: {sequence}\r\n{kept}\r\n");
        assert!(stored.ends_with(&expected), "{stored:?}");
    }
    let stored = String::from_utf8(block(&rig, 22).await).expect("text");
    let expected = format!("\r\nPelton-Original-Headers: {}\r\n\r\n", STANDARD.encode("no headers\r\n"));
    assert!(stored.ends_with(&expected), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_atomic_batches_refuses_for_good() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let stream = rig.broker.context().get_stream("PELTON_fraud").await.expect("stream");
    let mut config = stream.cached_info().config.clone();
    config.allow_atomic_publish = false;
    rig.broker.context().update_stream(config).await.expect("updated");
    let published = publish(&log, &first_epoch(records(1), b"one".to_vec()), FIRST).await;
    assert!(matches!(published, Published::Permanent(_)), "{published:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_record_is_what_the_server_says() {
    let rig = Rig::with(1, &ProvisionOptions::default(), "max_payload: 600000").await;
    assert_eq!(rig.broker.max_payload(), 600_000);
    let log = rig.log(0);
    let sized = |bytes: usize| {
        let mut records = Records::default();
        records.push(Channel::Output(0), b"out.alerts.k1", b"A: 1\r\n", &vec![7; bytes]);
        first_epoch(records, Vec::new())
    };
    let published = publish(&log, &sized(600_000), FIRST).await;
    assert!(matches!(published, Published::Permanent(_)), "{published:?}");
    stored(&log, &sized(600_000 - BATCH_HEADER_BYTES), FIRST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_kept_from_events_command_nothing() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut records = Records::default();
    let commands = b"Nats-Msg-Id: same\r\nNats-Expected-Stream: PLAYS\r\nNats-Expected-Last-Sequence: 77\r\n";
    for _ in 0..2 {
        records.push(Channel::DeadLetter, b"dlq.source.json-syntax", commands, b"bad");
    }
    stored(&log, &first_epoch(records, Vec::new()), FIRST).await;
    let stream = rig.broker.context().get_stream("PELTON_fraud").await.expect("stream");
    let message = stream.get_raw_message(2).await.expect("message");
    assert_eq!(message.headers.get("Pelton-Original-Nats-Msg-Id").map(|value| value.as_str()), Some("same"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_gone_are_said_to_be() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    rig.broker.context().delete_stream("PELTON_fraud").await.expect("deleted");
    let published = publish(&log, &first_epoch(records(1), b"one".to_vec()), FIRST).await;
    assert!(matches!(published, Published::Refused(_)), "{published:?}");
    for request in
        [Request::Survey { input_sequence: None, epoch: None, history: false }, Request::Changes { after: 0, up_to: 5 }]
    {
        let response = log.perform(request).await;
        assert!(matches!(&response, Response::Missing { stream } if stream == "PELTON_fraud"), "{response:?}");
    }
    rig.broker.context().delete_stream("PLAYS").await.expect("deleted");
    let response = log.perform(Request::Reset { next: 1, read_through: 0 }).await;
    assert!(matches!(&response, Response::Missing { stream } if stream == "PLAYS"), "{response:?}");
}

/// Asks until nothing is left, as the protocol does.
async fn all_changes(log: &pelton_broker::Log, mut after: u64, up_to: u64) -> (Vec<Change>, usize) {
    let (mut all, mut parts) = (Vec::new(), 0);
    loop {
        match log.perform(Request::Changes { after, up_to }).await {
            Response::Changes(part) => {
                let Some(last) = part.last() else { return (all, parts) };
                after = last.stored.sequence;
                parts += 1;
                all.extend(part);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_come_back_as_they_were_published() {
    let rig = Rig::new(1).await;
    let log = rig.log_with(0, LogOptions { changes_bytes: 1 << 20, ..LogOptions::default() });
    assert_eq!(all_changes(&log, 0, 10).await.0.len(), 0, "an empty stream has none");
    let deltas: [Vec<u8>; 4] = [Vec::new(), vec![1; 3 * CHANGE_BYTES_MAX + 17], vec![2; CHANGE_BYTES_MAX], vec![3; 10]];
    let mut epochs = Vec::new();
    let (mut fence, mut previous) = (FIRST, None::<std::sync::Arc<_>>);
    for delta in deltas {
        let epoch = match &previous {
            None => first_epoch(records(2), delta),
            Some(previous) => next_epoch(previous, records(2), delta),
        };
        let sequence = stored(&log, &epoch, fence).await;
        fence = fence_after(&epoch, sequence);
        epochs.push((sequence, epoch.clone()));
        previous = Some(epoch);
    }
    let end = epochs[3].0;
    let (changes, parts) = all_changes(&log, 0, end).await;
    assert!(parts > 1, "one part holds about a mebibyte");
    assert_eq!(changes.len(), 4);
    for (change, (sequence, epoch)) in changes.iter().zip(&epochs) {
        assert_eq!(change.stored.sequence, *sequence);
        assert_eq!(change.stored.marker, epoch.marker);
        assert!(change.delta == epoch.delta, "delta of epoch {}", epoch.marker.epoch);
    }
    let (some, _) = all_changes(&log, epochs[0].0, epochs[2].0).await;
    assert_eq!(some.iter().map(|change| change.stored.marker.epoch).collect::<Vec<_>>(), [2, 3]);

    let stream = rig.broker.context().get_stream("PELTON_fraud").await.expect("stream");
    stream.purge().filter("pelton.fraud.0.delta").sequence(epochs[1].0).await.expect("purged");
    let response = log.perform(Request::Changes { after: 0, up_to: end }).await;
    assert!(matches!(response, Response::Damaged(_)), "{response:?}");
    assert_eq!(all_changes(&log, epochs[1].0, end).await.0.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_every_batch_whole_or_absent() {
    let mut rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut epoch = first_epoch(records(200), vec![1; 1000]);
    let mut fence = FIRST;
    let mut doubts = 0;
    for round in 0..6 {
        let publishing = tokio::spawn({
            let (log, epoch, fence) = (log.clone(), epoch.clone(), fence.clone());
            async move { publish(&log, &epoch, fence).await }
        });
        tokio::time::sleep(Duration::from_millis(2 + 3 * round)).await;
        rig.server.kill();
        let started = std::time::Instant::now();
        let published = publishing.await.expect("no panic");
        assert!(started.elapsed() < Duration::from_secs(3), "the lost connection ends the wait");
        rig.server.restart();
        let found = loop {
            match log.perform(Request::Survey { input_sequence: None, epoch: None, history: false }).await {
                Response::Survey(survey) => break survey,
                Response::Unavailable(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        };
        let landed = found.marker.filter(|marker| marker.marker.nonce == epoch.marker.nonce);
        match (&published, &landed) {
            (Published::Stored { sequence }, Some(marker)) => assert_eq!(*sequence, marker.sequence),
            (Published::Unknown(_), _) => doubts += 1,
            (Published::Refused(_), None) => {}
            other => panic!("round {round}: {other:?}"),
        }
        let Some(marker) = landed else { continue };
        assert_eq!(found.log.last_sequence, epoch.marker.epoch * 203, "whole batches only");
        fence = fence_after(&epoch, marker.sequence);
        epoch = next_epoch(&epoch, records(200), vec![1; 1000]);
    }
    println!("{doubts} outcomes were in doubt");
    stored(&log, &epoch, fence).await;
}
