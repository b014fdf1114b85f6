//! Snapshots: found by their epochs, read by parts, damaged, forged and abandoned; and what is purged before them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use pelton_broker::{Log, LogOptions, Target};
use pelton_engine::epoch::{Epoch, Marker, MarkerFields, Records};
use pelton_engine::log::{FoundSnapshot, Request, Response, Snapshot, StoredMarker};

use crate::rig::{FIRST, Rig, fence_after, first_epoch, next_epoch, stored, survey};

const BUCKET: &str = "PELTON_snapshots_fraud";
/// Bytes that one part may have: what a link of 1 Mbit/s carries in half of the time that an answer may take.
const PART_MAX: usize = 512 << 10;

async fn find(log: &Log, epoch_max: u64) -> Option<Arc<FoundSnapshot>> {
    match log.perform(Request::FindSnapshot { epoch_max }).await {
        Response::SnapshotFound(found) => found.map(Arc::from),
        other => panic!("{other:?}"),
    }
}

async fn part(log: &Log, found: &Arc<FoundSnapshot>, offset: u64) -> Response {
    log.perform(Request::ReadSnapshot { found: found.clone(), offset }).await
}

async fn read(log: &Log, found: &Arc<FoundSnapshot>) -> Vec<u8> {
    let mut state = Vec::new();
    while (state.len() as u64) < found.bytes {
        match part(log, found, state.len() as u64).await {
            Response::SnapshotPart(part) => {
                assert!((1..=PART_MAX).contains(&part.len()), "a part of {} bytes", part.len());
                state.extend(part);
            }
            other => panic!("{other:?}"),
        }
    }
    state
}

async fn load(log: &Log, epoch_max: u64) -> Option<Snapshot> {
    let found = find(log, epoch_max).await?;
    Some(Snapshot { stored: found.stored.clone(), state: read(log, &found).await })
}

/// The first epoch of a partition, and where it is stored.
async fn first_stored(log: &Log) -> (Arc<Epoch>, u64) {
    let epoch = first_epoch(Records::default(), vec![1; 100]);
    let sequence = stored(log, &epoch, FIRST).await;
    (epoch, sequence)
}

/// Bytes of which no two places look alike.
fn state(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|idx| (idx ^ (idx >> 8) ^ (idx >> 16)) as u8 ^ seed).collect()
}

async fn save(log: &Log, epoch: &Arc<Epoch>, sequence: u64, state: Vec<u8>) -> Arc<Snapshot> {
    let stored = StoredMarker { sequence, marker: epoch.marker.clone() };
    let snapshot = Arc::new(Snapshot { stored, state });
    let response = log.perform(Request::SaveSnapshot { snapshot: snapshot.clone() }).await;
    assert!(matches!(response, Response::SnapshotSaved), "{response:?}");
    snapshot
}

/// Commits so many epochs with a snapshot of each.
async fn save_all(log: &Log, count: u8, bytes: usize) -> Vec<Arc<Snapshot>> {
    let mut epoch = first_epoch(Records::default(), vec![1; 100]);
    let mut fence = FIRST;
    let mut snapshots = Vec::new();
    for round in 0..count {
        let sequence = stored(log, &epoch, fence).await;
        fence = fence_after(&epoch, sequence);
        snapshots.push(save(log, &epoch, sequence, state(round, bytes + usize::from(round))).await);
        epoch = next_epoch(&epoch, Records::default(), vec![1; 100]);
    }
    snapshots
}

async fn stream(rig: &Rig, name: &str) -> Stream {
    rig.broker.context().get_stream(name).await.expect("the stream is there")
}

async fn bucket(rig: &Rig) -> Stream {
    stream(rig, &format!("OBJ_{BUCKET}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_come_back_and_what_lies_before_them_goes() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    assert_eq!(load(&log, u64::MAX).await, None);
    let snapshots = save_all(&log, 4, 700_000).await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshots[3]));
    assert_eq!(load(&log, 3).await.as_ref(), Some(&*snapshots[2]));
    assert_eq!(load(&log, 2).await, None, "only two are kept");
    assert_eq!(load(&rig.log(1), u64::MAX).await, None, "another partition has none");
    let found = find(&log, u64::MAX).await.expect("found");
    let past = part(&log, &found, found.bytes).await;
    assert!(matches!(past, Response::Damaged(_)), "there is nothing at the end: {past:?}");

    // Epochs 1 and 2 cannot be replayed any more, epoch 4 after the older snapshot can.
    let (older, newest) = (snapshots[2].stored.sequence, snapshots[3].stored.sequence);
    let response = log.perform(Request::Changes { after: 0, up_to: newest }).await;
    assert!(matches!(response, Response::Damaged(_)), "{response:?}");
    let response = log.perform(Request::Changes { after: older, up_to: newest }).await;
    assert!(matches!(&response, Response::Changes(changes) if changes.len() == 1), "{response:?}");

    // Neither stream keeps a trace of what nobody can use: two markers and a chunk between them, two heads and twice six
    // chunks. The ledger has all four epochs.
    assert_eq!(stream(&rig, "PELTON_fraud").await.cached_info().state.messages, 3 + 4);
    assert_eq!(bucket(&rig).await.cached_info().state.messages, 2 + 2 * 6);
    for (epoch, is_there) in [(2, false), (3, true), (4, true)] {
        let survey = survey(&log, None, Some(epoch)).await;
        assert_eq!(survey.marker_of_epoch.is_some(), is_there, "marker of epoch {epoch}");
        assert_eq!(survey.marker.expect("the newest marker stays").sequence, newest);
    }
    let history = Request::Survey { input_sequence: None, epoch: None, history: true };
    let response = log.perform(history).await;
    assert!(matches!(&response, Response::Survey(survey) if survey.snapshot_epoch == Some(4)), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_found_from_any_place_between_chunks_of_others() {
    let rig = Rig::new(2).await;
    let logs = [rig.log(0), rig.log(1)];
    let mut saved = Vec::new();
    for (log, bytes) in logs.iter().zip([3_000_017, 1_000_000]) {
        let (epoch, sequence) = first_stored(log).await;
        saved.push((epoch, sequence, bytes));
    }
    let both =
        logs.iter().zip(&saved).map(|(log, (epoch, sequence, bytes))| save(log, epoch, *sequence, state(3, *bytes)));
    let both = futures_util::future::join_all(both).await;
    for (log, snapshot) in logs.iter().zip(&both) {
        let found = find(log, u64::MAX).await.expect("found");
        assert_eq!(read(log, &found).await, snapshot.state);
        for offset in [2_000_000, 700_001, snapshot.state.len() - 1, 131_072, 0, 999_999] {
            let Response::SnapshotPart(part) = part(log, &found, offset.min(snapshot.state.len() - 1) as u64).await
            else {
                panic!("no part at {offset}");
            };
            let offset = offset.min(snapshot.state.len() - 1);
            assert!(!part.is_empty() && snapshot.state[offset..].starts_with(&part), "part at {offset}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_passed_over() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let snapshots = save_all(&log, 2, 400_000).await;
    let store = rig.broker.context().get_object_store(BUCKET).await.expect("bucket");
    for (epoch, content) in [(5, b"".as_slice()), (6, b"garbage that is long enough to be read"), (7, b"\x09")] {
        let name = format!("0/{epoch:020}");
        store.put(name.as_str(), &mut &content[..]).await.expect("stored");
    }
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshots[1]));

    // One of its chunks vanishes, first under a reader, then before one.
    let found = find(&log, u64::MAX).await.expect("found");
    let bucket = bucket(&rig).await;
    let subject = format!("$O.{BUCKET}.C.{}", found.object);
    let first = bucket.get_first_raw_message_by_subject(&subject, 1).await.expect("a chunk");
    let second = bucket.get_first_raw_message_by_subject(&subject, first.sequence + 1).await.expect("a chunk");
    bucket.delete_message(second.sequence).await.expect("deleted");
    let Response::SnapshotPart(start) = part(&log, &found, 0).await else { panic!("the first chunk is there") };
    let response = part(&log, &found, start.len() as u64).await;
    assert!(matches!(response, Response::Damaged(_)), "{response:?}");
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshots[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_length_is_not_believed() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let snapshots = save_all(&log, 2, 1_000).await;
    let bucket = bucket(&rig).await;
    let found = find(&log, u64::MAX).await.expect("found");
    let heads = format!("$O.{BUCKET}.M.>");
    let head = bucket.get_last_raw_message_by_subject(&heads).await.expect("the newest head");
    let text = String::from_utf8(head.payload.to_vec()).expect("text");
    let (subject, older) = (head.subject.clone(), Some(&*snapshots[0]));
    let claim = async |size: &str| {
        let text = text.replace("\"size\":1001", &format!("\"size\":{size}"));
        rig.broker.context().publish(subject.clone(), text.into()).await.expect("sent").await.expect("stored");
    };
    let sizes = [1 << 40, 1 << 62, (1 << 63) - 1, u64::MAX].map(|size: u64| size.to_string());
    for size in sizes.iter().map(String::as_str).chain(["-1", "1e30", "18446744073709551616", "\"1001\"", "null"]) {
        claim(size).await;
        assert_eq!(load(&log, u64::MAX).await.as_ref(), older, "{size}");
    }
    // Less than there is: what goes on behind the end is noticed before it is taken.
    claim("500").await;
    let short = find(&log, u64::MAX).await.expect("nothing speaks against it yet");
    let response = part(&log, &short, 0).await;
    assert!(matches!(&response, Response::Damaged(why) if why.contains("500")), "{response:?}");
    claim("1001").await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshots[1]));
    // More than a state of this pipeline can be, and the bucket holds it indeed.
    let target = Target { snapshot_bytes_max: 1000, ..Target::new(&rig.plan, 0) };
    let strict = Log::new(&rig.broker, target, LogOptions::default());
    assert_eq!(load(&strict, u64::MAX).await.as_ref(), older);
    // Whoever believes it all the same gets what is there, and no more.
    let believed = Arc::new(FoundSnapshot { bytes: 1 << 62, ..(*found).clone() });
    assert!(matches!(part(&log, &believed, 0).await, Response::SnapshotPart(part) if part.len() == 1001));
    assert!(matches!(part(&log, &believed, 1 << 61).await, Response::Damaged(_)));
}

/// The stream loses everything after the epoch was read, and another process publishes it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_found_by_its_epoch_where_the_stream_holds_it_now() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (first, before) = first_stored(&log).await;
    save(&log, &first, before, b"first".to_vec()).await;
    stream(&rig, "PELTON_fraud").await.purge().await.expect("purged");
    assert_eq!(find(&log, u64::MAX).await, None, "its epoch is not in the stream");

    let now = stored(&log, &first, FIRST).await;
    assert_ne!(now, before);
    let second = next_epoch(&first, Records::default(), vec![1; 100]);
    let end = stored(&log, &second, fence_after(&first, now)).await;
    save(&log, &second, end, b"second".to_vec()).await;
    let found = load(&log, 1).await.expect("the older snapshot is kept");
    assert_eq!((found.stored.sequence, found.state.as_slice()), (now, b"first".as_slice()));
    let response = log.perform(Request::Changes { after: now, up_to: end }).await;
    assert!(matches!(&response, Response::Changes(changes) if changes.len() == 1), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_snapshot_of_a_lost_epoch_takes_nobodys_place() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (lost, before) = first_stored(&log).await;
    stream(&rig, "PELTON_fraud").await.purge().await.expect("purged");
    let mut again = Epoch::clone(&lost);
    let fields = (*again.marker).clone();
    again.marker = Marker::new(MarkerFields { nonce: fields.nonce + 1, ..fields });
    let again = Arc::new(again);
    let sequence = stored(&log, &again, FIRST).await;
    let snapshot = save(&log, &again, sequence, b"again".to_vec()).await;
    // Whoever committed the epoch that is gone did not know of that yet.
    save(&log, &lost, before, b"lost".to_vec()).await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshot));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_without_an_object_are_deleted_when_they_are_old() {
    let rig = Rig::new(2).await;
    let subjects = ["0-00000000000000000001-killed", "1-00000000000000000001-going-on"].map(|id| {
        let subject = format!("$O.{BUCKET}.C.{id}");
        subject
    });
    for subject in &subjects {
        let publish = rig.broker.context().publish(subject.clone(), vec![0; 1000].into()).await.expect("sent");
        publish.await.expect("stored");
    }
    let there = async |idx: usize| bucket(&rig).await.get_last_raw_message_by_subject(&subjects[idx]).await.is_ok();
    let log = rig.log(0);
    let (epoch, sequence) = first_stored(&log).await;
    save(&log, &epoch, sequence, b"state".to_vec()).await;
    assert!(there(0).await, "another process may be at it");
    let log = rig.log_with(0, LogOptions { abandoned_after: Duration::ZERO, ..LogOptions::default() });
    let snapshot = save(&log, &epoch, sequence, b"state".to_vec()).await;
    assert!(!there(0).await, "chunks of a put that ended without a head");
    assert!(there(1).await, "another partition may be at it");
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&*snapshot));
    assert_eq!(bucket(&rig).await.cached_info().state.messages, 3, "the chunk of the first try went with its head");
}
