//! Sequences that are gone before they were read: said with the answer that they lie before, and only those.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Stream};
use pelton_engine::log::{Hole, HoleCause};

use crate::rig::{Read, Rig, fetch, read, read_all, read_exactly, reset, survey};

fn hole(first: u64, last: u64, cause: HoleCause) -> Hole {
    Hole { first, last, cause }
}

/// A rig whose input has other limits.
async fn rig_with(partitions: u32, change: impl FnOnce(&mut Config)) -> Rig {
    let rig = Rig::new(partitions).await;
    let mut config = rig.broker.context().get_stream("PLAYS").await.expect("stream").cached_info().config.clone();
    config.subjects = vec!["plays.>".to_string()];
    config.subject_transform = None;
    change(&mut config);
    rig.broker.context().update_stream(config).await.expect("updated");
    rig
}

async fn stream(rig: &Rig) -> Stream {
    rig.broker.context().get_stream("PLAYS").await.expect("stream")
}

async fn publish(rig: &Rig, subject: &str, count: usize) {
    for idx in 0..count {
        let ack = rig.broker.context().publish(subject.to_string(), format!("e{idx}").into()).await.expect("sent");
        ack.await.expect("stored");
    }
}

fn sequences(read: &Read) -> (u64, u64, usize) {
    let ends = (read.sequences.first().copied().unwrap_or(0), read.sequences.last().copied().unwrap_or(0));
    (ends.0, ends.1, read.sequences.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_while_everything_is_there() {
    let rig = rig_with(2, |_| {}).await;
    for _ in 0..20 {
        publish(&rig, "plays.0", 3).await;
        publish(&rig, "plays.1", 2).await;
    }
    for partition in 0..2 {
        let log = rig.log(partition);
        reset(&log, 1).await;
        assert_eq!(read_all(&log).await.holes, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_limit_took_of_two_partitions_is_expired() {
    let rig = rig_with(2, |config| config.max_messages = 100).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 10).await;
    reset(&log, 1).await;
    assert_eq!(sequences(&read_all(&log).await), (1, 10, 10));
    // The host stands still while 500 come and 400 go.
    for _ in 0..50 {
        publish(&rig, "plays.0", 5).await;
        publish(&rig, "plays.1", 5).await;
    }
    reset(&log, 11).await;
    let read = read_all(&log).await;
    assert_eq!(read.holes, [hole(11, 410, HoleCause::Expired)]);
    assert_eq!(sequences(&read), (411, 505, 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_limit_per_subject_took_is_expired() {
    let rig = rig_with(2, |config| config.max_messages_per_subject = 10).await;
    let log = rig.log(0);
    publish(&rig, "plays.1", 1).await;
    publish(&rig, "plays.0", 5).await;
    reset(&log, 1).await;
    assert_eq!(read_all(&log).await.holes, []);
    publish(&rig, "plays.0", 30).await;
    reset(&log, 7).await;
    let read = read_all(&log).await;
    assert_eq!(read.holes, [hole(7, 26, HoleCause::Expired)], "the first message of the stream is another partition's");
    assert_eq!(sequences(&read), (27, 36, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_inside_are_wishes() {
    let rig = rig_with(1, |_| {}).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 20).await;
    for sequence in [5, 6, 9, 20] {
        stream(&rig).await.delete_message(sequence).await.expect("deleted");
    }
    reset(&log, 1).await;
    let first = read_exactly(&log, 5).await;
    assert_eq!(first.sequences, [1, 2, 3, 4, 7], "the hole comes with what is behind it");
    assert_eq!(first.holes, [hole(5, 6, HoleCause::Deleted)]);
    assert_eq!(read_all(&log).await.holes, [hole(9, 9, HoleCause::Deleted)]);
    publish(&rig, "plays.0", 1).await;
    let rest = read(&log, 1, 5).await;
    assert_eq!((&rest.sequences[..], &rest.holes[..]), (&[21][..], &[hole(20, 20, HoleCause::Deleted)][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_is_a_wish() {
    let rig = rig_with(1, |config| config.allow_message_ttl = true).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 3).await;
    rig.produce_raw("plays.0", b"NATS/1.0\r\nNats-TTL: 1s\r\n\r\n", b"short");
    publish(&rig, "plays.0", 3).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while stream(&rig).await.cached_info().state.messages > 6 {
        assert!(std::time::Instant::now() < deadline, "it lives");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    reset(&log, 1).await;
    let read = read_all(&log).await;
    assert_eq!(read.holes, [hole(4, 4, HoleCause::Deleted)]);
    assert_eq!(sequences(&read), (1, 7, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_what_was_not_read_is_expiry() {
    let rig = rig_with(1, |_| {}).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 20).await;
    reset(&log, 1).await;
    read_exactly(&log, 5).await;
    stream(&rig).await.purge().sequence(11).await.expect("purged");
    reset(&log, 6).await;
    let read = read_all(&log).await;
    assert_eq!(read.holes, [hole(6, 10, HoleCause::Expired)]);
    assert_eq!(sequences(&read), (11, 20, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_may_be_gone_with_nothing_behind() {
    let rig = rig_with(1, |_| {}).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 20).await;
    reset(&log, 1).await;
    read_exactly(&log, 5).await;
    stream(&rig).await.purge().await.expect("purged");
    reset(&log, 6).await;
    let first = read_all(&log).await;
    assert_eq!((&first.holes[..], first.sequences.len()), (&[hole(6, 20, HoleCause::Expired)][..], 0));
    assert_eq!(read_all(&log).await.holes, [], "it is said once");
    publish(&rig, "plays.0", 1).await;
    let rest = read(&log, 1, 5).await;
    assert_eq!((&rest.sequences[..], &rest.holes[..]), (&[21][..], &[][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survey_explains_nothing_away() {
    let rig = rig_with(1, |_| {}).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 20).await;
    reset(&log, 1).await;
    assert_eq!(read_all(&log).await.sequences.len(), 20);
    reset(&log, 11).await;
    stream(&rig).await.purge().await.expect("purged");
    reset(&log, 11).await;
    assert_eq!(survey(&log, None, None).await.all_delivered, None, "what is due again is gone");
    assert_eq!(read_all(&log).await.holes, [hole(11, 20, HoleCause::Expired)]);
    assert!(survey(&log, None, None).await.all_delivered.is_some_and(|proof| proof.last == 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pending_may_go_while_the_consumer_stands() {
    let rig = rig_with(1, |_| {}).await;
    let log = rig.log_with(0, pelton_broker::LogOptions { pull_messages: 2, pull_requests: 1, ..Default::default() });
    publish(&rig, "plays.0", 20).await;
    reset(&log, 1).await;
    let before = read_exactly(&log, 2).await;
    stream(&rig).await.purge().await.expect("purged");
    let after = read_all(&log).await;
    let last = after.sequences.last().or(before.sequences.last()).copied().expect("some came");
    assert_eq!(after.holes, [hole(last + 1, 20, HoleCause::Expired)], "and the fetch says that nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_partition_beside_a_busy_one_is_not_accused() {
    let rig = rig_with(2, |config| config.max_messages = 100).await;
    let log = rig.log(0);
    publish(&rig, "plays.0", 10).await;
    reset(&log, 1).await;
    assert_eq!(sequences(&read_all(&log).await), (1, 10, 10));
    for round in 0..6 {
        publish(&rig, "plays.1", 80).await;
        // Once the survey proves it, once the idle fetch itself.
        if round % 2 == 0 {
            assert!(survey(&log, None, None).await.all_delivered.is_some());
        } else {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert!(fetch(&log, 10).await.holes.is_empty());
        }
    }
    publish(&rig, "plays.0", 1).await;
    let read = read(&log, 1, 10).await;
    assert_eq!((&read.sequences[..], &read.holes[..]), (&[491][..], &[][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_caller_knows_to_be_read_is_no_hole() {
    let rig = rig_with(2, |_| {}).await;
    let log = rig.log(0);
    publish(&rig, "plays.1", 50).await;
    publish(&rig, "plays.0", 1).await;
    stream(&rig).await.purge().sequence(41).await.expect("purged");
    for (read_through, expected) in
        [(0, vec![hole(1, 40, HoleCause::Expired)]), (30, vec![hole(31, 40, HoleCause::Expired)]), (45, vec![])]
    {
        let request = pelton_engine::log::Request::Reset { next: 1, read_through };
        log.perform(request).await;
        assert_eq!(read(&log, 1, 10).await.holes, expected, "read through {read_through}");
    }
}
