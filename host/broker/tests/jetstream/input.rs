//! The input stream: order, restarts and acks.

use std::time::{Duration, Instant};

use pelton_broker::testing::Server;
use pelton_broker::{Broker, ConnectOptions, LogOptions, ProvisionOptions, consumer};
use pelton_engine::epoch::fingerprint;
use pelton_engine::log::{Request, Response};

use crate::rig::{Rig, fetch, read, read_exactly, reset, survey};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_order_with_the_fingerprint_of_the_survey() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    reset(&log, 1).await;
    let nothing = fetch(&log, 10).await;
    assert!(nothing.batch.events.is_empty() && nothing.caught_up && !nothing.restarted);

    rig.produce(0, 1000).await;
    reset(&log, 1).await;
    // A fetch hands on what has come by then: on a busy machine that may be less.
    let mut taken = 0;
    let some = loop {
        let some = fetch(&log, 10 - taken).await;
        taken += some.batch.events.len() as u32;
        if taken == 10 {
            break some;
        }
    };
    assert!(!some.caught_up);
    assert_eq!(some.pending, 990);
    let last = some.batch.events.last().expect("the tenth");
    assert_eq!(last.sequence, 10);
    assert_eq!(some.batch.slice(&last.subject), b"plays.0");
    let survey = survey(&log, Some(last.sequence), None).await;
    let expected = fingerprint(last.published.0, some.batch.slice(&last.payload));
    assert_eq!(survey.input_fingerprint, Some(expected));
    assert_eq!((survey.input.first_sequence, survey.input.last_sequence), (1, 1000));

    let rest = read(&log, 990, 400).await;
    rest.assert_whole(11, 990);
    assert_eq!(rest.payloads[989], "e999");
    assert!(fetch(&log, 10).await.caught_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_kept_in_one_order() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [("Zeta", "1"), ("Alpha", "2"), ("Nats-Msg-Id", "3")] {
        headers.insert(name, value);
    }
    let ack = rig.broker.context().publish_with_headers("plays.in.a", headers, "x".into()).await.expect("sent");
    ack.await.expect("stored");
    reset(&log, 1).await;
    let fetched = fetch(&log, 1).await;
    let event = &fetched.batch.events[0];
    assert_eq!(fetched.batch.slice(&event.headers), b"Alpha: 2\r\nNats-Msg-Id: 3\r\nZeta: 1\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_drops_what_was_prefetched() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    rig.produce(0, 5000).await;
    let mut last = 0;
    for next in [1, 3000, 1, 4999, 2] {
        reset(&log, next).await;
        let few = read(&log, 2, 100).await;
        assert_eq!(few.sequences[..2], [next, next + 1]);
        assert_eq!(few.restarts, 0);
        last = *few.sequences.last().expect("two at least");
    }
    assert_eq!(read(&log, 1, 5000).await.sequences[0], last + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_gets_its_own_events() {
    let rig = Rig::new(4).await;
    rig.produce(0, 2000).await;
    let mut sum = 0;
    for partition in 0..4 {
        let log = rig.log(partition);
        reset(&log, 1).await;
        let mut count = 0;
        loop {
            let fetched = fetch(&log, 1000).await;
            let subject = format!("plays.{partition}");
            for event in &fetched.batch.events {
                assert_eq!(fetched.batch.slice(&event.subject), subject.as_bytes());
            }
            count += fetched.batch.events.len();
            if fetched.caught_up {
                break;
            }
        }
        assert!(count > 0, "partition {partition} has no events");
        sum += count;
    }
    assert_eq!(sum, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_consumer_is_made_again() {
    let rig = Rig::new(1).await;
    let log = rig.log_with(0, LogOptions { pull_messages: 50, ..LogOptions::default() });
    rig.produce(0, 2000).await;
    reset(&log, 1).await;
    let before = read(&log, 300, 100).await;
    let stream = rig.broker.context().get_stream("PLAYS").await.expect("stream");
    stream.delete_consumer(&consumer("fraud", 0)).await.expect("deleted");
    let after = read(&log, 2000 - before.sequences.len(), 100).await;
    assert!(after.restarts >= 1);
    after.assert_whole(before.sequences.len() as u64 + 1, 2000 - before.sequences.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_move_the_floor_to_the_last_delivery() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    rig.produce(0, 1000).await;
    reset(&log, 1).await;
    read(&log, 1000, 300).await;
    let stream = rig.broker.context().get_stream("PLAYS").await.expect("stream");
    for sequence in [123, 700, 1000] {
        assert!(matches!(log.perform(Request::Ack { sequence }).await, Response::Acked));
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let info = stream.consumer_info(consumer("fraud", 0)).await.expect("consumer");
            if info.ack_floor.stream_sequence == sequence {
                break;
            }
            assert!(Instant::now() < deadline, "floor is {:?}, not {sequence}", info.ack_floor);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_no_event() {
    let mut rig = Rig::new(1).await;
    let log = rig.log_with(0, LogOptions { pull_messages: 100, ..LogOptions::default() });
    rig.produce(0, 20_000).await;
    reset(&log, 1).await;
    let before = read(&log, 5000, 500).await;
    let got = before.sequences.len();
    rig.server.kill();
    let reading = tokio::spawn({
        let log = log.clone();
        async move { read(&log, 20_000 - got, 500).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.server.restart();
    let after = reading.await.expect("no panic");
    assert!(after.restarts >= 1);
    after.assert_whole(got as u64 + 1, 20_000 - got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_dropped_in_the_client_come_again() {
    let server = Server::start_unsynced();
    let options = ConnectOptions { servers: vec![server.url()], ..ConnectOptions::default() };
    let broker = Broker::connect_with_capacity(&options, 500).await.expect("connected");
    let rig = Rig::on(server, broker, 1, &ProvisionOptions::default()).await;
    let count = 6000;
    rig.broker.context().publish("plays.in.a", "e".into()).await.expect("sent").await.expect("stored");
    for idx in 1..count {
        rig.broker.client().publish(format!("plays.in.k{idx}"), "e".into()).await.expect("sent");
    }
    let log = rig.log_with(0, LogOptions { pull_messages: 400, ..LogOptions::default() });
    reset(&log, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = read(&log, count, 1000).await;
    assert!(all.restarts >= 1, "nothing was dropped, the test shows nothing");
    all.assert_whole(1, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_larger_than_a_request_comes_through() {
    let rig = Rig::with(1, &Default::default(), "max_payload: 4MB").await;
    let log = rig.log_with(0, LogOptions { pull_bytes: 1 << 20, ..LogOptions::default() });
    for size in [10, 3 << 20, 10] {
        let ack = rig.broker.context().publish("plays.in.a", vec![b'x'; size].into()).await.expect("sent");
        ack.await.expect("stored");
    }
    reset(&log, 1).await;
    let all = read(&log, 3, 10).await;
    assert_eq!(all.payloads.iter().map(String::len).collect::<Vec<_>>(), [10, 3 << 20, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_again_gives_no_event_before_the_caller_decides() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    rig.produce(0, 100).await;
    reset(&log, 1).await;
    read_exactly(&log, 100).await;
    rig.broker.context().delete_stream("PLAYS").await.expect("deleted");
    pelton_broker::up(&rig.broker, &rig.plan, &Default::default()).await.expect("made again");
    rig.produce(0, 200).await;
    let mut restarts = 0;
    for _ in 0..5 {
        let fetched = fetch(&log, 100).await;
        assert!(fetched.batch.events.is_empty(), "events of another stream");
        restarts += usize::from(fetched.restarted);
    }
    assert!(restarts > 0);
    reset(&log, 101).await;
    read_exactly(&log, 100).await.assert_whole(101, 100);
}
