//! Snapshots: found by their epochs, read part by part, shared, damaged, forged and abandoned; and what is purged before
//! them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::ObjectStore;
use async_nats::jetstream::stream::Stream;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use pelton_broker::{Log, LogOptions, Target};
use pelton_engine::epoch::{
    Epoch, Ledger, Manifest, Marker, MarkerFields, PART_BYTES_MAX, Records, SnapshotPart, sha256,
};
use pelton_engine::log::{Request, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::rig::{self, FIRST, Rig, fence_after, first_epoch, next_epoch, read_part, stored, survey};

const BUCKET: &str = "PELTON_snapshots_fraud";

async fn find(log: &Log, epoch_max: u64) -> Option<Manifest> {
    match log.perform(Request::FindSnapshot { epoch_max }).await {
        Response::SnapshotFound(found) => found.map(|manifest| *manifest),
        other => panic!("{other:?}"),
    }
}

async fn read(log: &Log, part: &SnapshotPart, offset: u64) -> Response {
    log.perform(Request::ReadPart { part: part.clone(), offset }).await
}

/// Epoch and sections.
type State = (u64, Vec<Vec<u8>>);

/// The sections of a snapshot, checked as the engine does.
async fn sections(log: &Log, manifest: &Manifest) -> Result<Vec<Vec<u8>>, String> {
    let mut sections = Vec::new();
    for section in &manifest.sections {
        let mut state = Vec::new();
        for part in &section.parts {
            let bytes = read_part(log, part).await?;
            assert_eq!((bytes.len() as u64, sha256(&bytes)), (part.bytes, part.sha256));
            state.extend(bytes);
        }
        sections.push(state);
    }
    Ok(sections)
}

/// What a rebuild would start from: an older snapshot where the newest cannot be read.
async fn load(log: &Log, epoch_max: u64) -> Option<State> {
    let manifest = find(log, epoch_max).await?;
    let epoch = manifest.marker.epoch;
    match sections(log, &manifest).await {
        Ok(sections) => Some((epoch, sections)),
        Err(_) => Box::pin(load(log, epoch - 1)).await,
    }
}

/// The first epoch of a partition, and where it is stored.
async fn first_stored(log: &Log) -> (Arc<Epoch>, u64) {
    let epoch = first_epoch(Records::default(), vec![1; 100]);
    let sequence = stored(log, &epoch, FIRST).await;
    (epoch, sequence)
}

/// Bytes of which no two places look alike.
fn state(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|idx| (idx ^ (idx >> 8) ^ (idx >> 16) ^ (idx >> 20)) as u8 ^ seed).collect()
}

async fn save(log: &Log, epoch: &Epoch, sequence: u64, farm: &[u8]) -> State {
    let core = format!("core of epoch {}, nonce {}", epoch.marker.epoch, epoch.marker.nonce).into_bytes();
    let response = rig::save(log, epoch, sequence, [&core, farm]).await;
    assert!(matches!(response, Response::SnapshotSaved), "{response:?}");
    (epoch.marker.epoch, vec![core, farm.to_vec()])
}

/// Commits so many epochs, with a snapshot of each.
struct Saver {
    log: Log,
    last: Option<(Arc<Epoch>, u64)>,
}

impl Saver {
    async fn save(&mut self, farm: &[u8]) -> State {
        let (epoch, fence) = match &self.last {
            None => (first_epoch(Records::default(), vec![1; 100]), FIRST),
            Some((last, at)) => (next_epoch(last, Records::default(), vec![1; 100]), fence_after(last, *at)),
        };
        let sequence = stored(&self.log, &epoch, fence).await;
        let state = save(&self.log, &epoch, sequence, farm).await;
        self.last = Some((epoch, sequence));
        state
    }
}

async fn save_all(log: &Log, count: u8, bytes: usize) -> (Saver, Vec<State>) {
    let mut saver = Saver { log: log.clone(), last: None };
    let mut states = Vec::new();
    for round in 0..count {
        states.push(saver.save(&state(round, bytes + usize::from(round))).await);
    }
    (saver, states)
}

async fn stream(rig: &Rig, name: &str) -> Stream {
    rig.broker.context().get_stream(name).await.expect("the stream is there")
}

async fn bucket(rig: &Rig) -> Stream {
    stream(rig, &format!("OBJ_{BUCKET}")).await
}

async fn messages(rig: &Rig) -> u64 {
    bucket(rig).await.cached_info().state.messages
}

/// The bucket as any client has it.
async fn objects(rig: &Rig) -> ObjectStore {
    rig.broker.context().get_object_store(BUCKET).await.expect("bucket")
}

async fn get(rig: &Rig, object: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut object = objects(rig).await.get(object).await.expect("it is there");
    object.read_to_end(&mut bytes).await.expect("readable");
    bytes
}

async fn put(rig: &Rig, object: &str, mut bytes: &[u8]) {
    objects(rig).await.put(object, &mut bytes).await.expect("stored");
}

/// Stores an object as a host does, and replaces the one before: each chunk says where it begins.
async fn forge(rig: &Rig, object: &str, bytes: &[u8]) {
    let context = rig.broker.context();
    let id = format!("{}-{}", object.replace('/', "-"), rig.broker.client().new_inbox().replace('.', ""));
    let (mut headers, subject) = (HeaderMap::new(), format!("$O.{BUCKET}.C.{id}"));
    headers.insert("Pelton-Offset", "0");
    let sent = context.publish_with_headers(subject, headers, bytes.to_vec().into()).await.expect("sent");
    sent.await.expect("stored");
    let digest = format!("SHA-256={}", URL_SAFE.encode(sha256(bytes)));
    let (size, chunks) = (bytes.len(), 1);
    let head = json!({"name": object, "bucket": BUCKET, "nuid": id, "size": size, "chunks": chunks, "digest": digest});
    let sent = context.publish(head_subject(object), head.to_string().into()).await.expect("sent");
    sent.await.expect("stored");
}

fn head_subject(object: &str) -> String {
    format!("$O.{BUCKET}.M.{}", URL_SAFE.encode(object))
}

/// An object vanishes; its chunks stay.
async fn lose(rig: &Rig, object: &str) {
    bucket(rig).await.purge().filter(head_subject(object)).await.expect("purged");
}

fn names(manifest: &Manifest) -> Vec<&str> {
    manifest.parts().map(|part| part.object.as_str()).collect()
}

fn manifest_of(epoch: u64) -> String {
    format!("0/{epoch:020}")
}

fn part_of(epoch: u64, number: u32) -> String {
    format!("0/{epoch:020}/{number}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_come_back_and_what_lies_before_them_goes() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    assert_eq!(load(&log, u64::MAX).await, None);
    let (saver, states) = save_all(&log, 4, 700_000).await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&states[3]));
    assert_eq!(load(&log, 3).await.as_ref(), Some(&states[2]));
    assert_eq!(load(&log, 2).await, None, "only two are kept");
    assert_eq!(load(&rig.log(1), u64::MAX).await, None, "another partition has none");
    let (newest, older) = (find(&log, 4).await.expect("found"), find(&log, 3).await.expect("found"));
    let part = &newest.sections[1].parts[0];
    let past = read(&log, part, part.bytes).await;
    assert!(matches!(past, Response::Damaged(_)), "there is nothing at the end: {past:?}");

    // Epochs 1 and 2 cannot be replayed any more, epoch 4 after the older snapshot can.
    let (older, newest) = (older.sequence, newest.sequence);
    assert_eq!(Some(newest), saver.last.map(|(_, sequence)| sequence));
    let response = log.perform(Request::Changes { after: 0, up_to: newest }).await;
    assert!(matches!(response, Response::Damaged(_)), "{response:?}");
    let response = log.perform(Request::Changes { after: older, up_to: newest }).await;
    assert!(matches!(&response, Response::Changes(changes) if changes.len() == 1), "{response:?}");

    // Neither stream keeps a trace of what nobody can use: two markers and a chunk between them; twice a manifest and a
    // core of one chunk, and a part of six, each with its head. The ledger has all four epochs.
    assert_eq!(stream(&rig, "PELTON_fraud").await.cached_info().state.messages, 3 + 4);
    assert_eq!(messages(&rig).await, 2 * (2 + 2 + 7));
    for (epoch, is_there) in [(2, false), (3, true), (4, true)] {
        let survey = survey(&log, None, Some(epoch)).await;
        assert_eq!(survey.marker_of_epoch.is_some(), is_there, "marker of epoch {epoch}");
        assert_eq!(survey.marker.expect("the newest marker stays").sequence, newest);
    }
    let history = Request::Survey { input_sequence: None, epoch: None, history: true };
    let response = log.perform(history).await;
    assert!(matches!(&response, Response::Survey(survey) if survey.snapshot_epoch == Some(4)), "{response:?}");
}

/// Of the epochs whose events have expired, the ledger keeps the last; of those behind the older snapshot all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_kept_as_long_as_the_input() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let ledger = async || {
        let stream = stream(&rig, "PELTON_fraud").await;
        let mut epochs = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await;
            let record = message.ok().filter(|message| message.subject.as_str() == "pelton.fraud.0.ledger");
            epochs.extend(record.map(|record| serde_json::from_slice::<Ledger>(&record.payload).expect("JSON").epoch));
        }
        epochs
    };
    // Epoch n ends at input sequence n.
    rig.produce(0, 20).await;
    let (mut saver, _) = save_all(&log, 8, 100).await;
    assert_eq!(ledger().await, (1..=8).collect::<Vec<_>>(), "all of the input is there");
    stream(&rig, "PLAYS").await.purge().sequence(5).await.expect("purged");
    saver.save(b"9").await;
    assert_eq!(ledger().await, (4..=9).collect::<Vec<_>>(), "sequence 5 is the first that is left");
    saver.save(b"10").await;
    assert_eq!(ledger().await, (4..=10).collect::<Vec<_>>(), "nothing is new");
    stream(&rig, "PLAYS").await.purge().await.expect("purged");
    saver.save(b"11").await;
    assert_eq!(ledger().await, [10, 11], "what the older snapshot may need stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_found_from_any_place_between_chunks_of_others() {
    let rig = Rig::new(2).await;
    let logs = [rig.log(0), rig.log(1)];
    let mut saved = Vec::new();
    for (log, bytes) in logs.iter().zip([3_000_017, 1_000_000]) {
        let (epoch, sequence) = first_stored(log).await;
        saved.push((epoch, sequence, state(3, bytes)));
    }
    let both = logs.iter().zip(&saved).map(|(log, (epoch, sequence, farm))| save(log, epoch, *sequence, farm));
    futures_util::future::join_all(both).await;
    for (log, (_, _, farm)) in logs.iter().zip(&saved) {
        let manifest = find(log, u64::MAX).await.expect("found");
        let part = &manifest.sections[1].parts[0];
        assert!(read_part(log, part).await.as_ref() == Ok(farm));
        for offset in [2_000_000, 700_001, farm.len() - 1, 131_072, 0, 999_999] {
            let offset = offset.min(farm.len() - 1);
            let Response::PartRead(bytes) = read(log, part, offset as u64).await else {
                panic!("nothing at {offset}");
            };
            assert!(!bytes.is_empty() && farm[offset..].starts_with(&bytes), "bytes at {offset}");
        }
    }
}

/// And any client can read all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_section_has_parts_and_those_that_stay_are_not_stored_again() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut saver = Saver { log: log.clone(), last: None };
    let mut farm = state(0, 2 * PART_BYTES_MAX + 1_000);
    let first = saver.save(&farm).await;
    assert_eq!(load(&log, 1).await.as_ref(), Some(&first));
    let manifest = find(&log, 1).await.expect("found");
    assert_eq!(names(&manifest), [0, 1, 2, 3].map(|number| part_of(1, number)));
    assert_eq!(manifest.bytes(), (first.1[0].len() + farm.len()) as u64);
    assert!(get(&rig, &part_of(1, 2)).await == farm[PART_BYTES_MAX..2 * PART_BYTES_MAX]);
    assert_eq!(Manifest::decode(&get(&rig, &manifest_of(1)).await), Ok(manifest));

    // The last part becomes another one and the second one, too; then nothing but the core.
    *farm.last_mut().expect("bytes") ^= 1;
    farm[PART_BYTES_MAX] ^= 1;
    saver.save(&farm).await;
    let second = [part_of(2, 0), part_of(1, 1), part_of(2, 1), part_of(2, 2)];
    assert_eq!(names(&find(&log, 2).await.expect("found")), second);
    let third = saver.save(&farm).await;
    let wanted = [part_of(3, 0), part_of(1, 1), part_of(2, 1), part_of(2, 2)];
    assert_eq!(names(&find(&log, 3).await.expect("found")), wanted);
    // The first snapshot is gone, and what only it named.
    assert_eq!(find(&log, 1).await, None);
    for number in [0, 2, 3] {
        assert!(objects(&rig).await.info(part_of(1, number)).await.is_err(), "part {number} of epoch 1");
    }
    assert_eq!(load(&log, 3).await.as_ref(), Some(&third));
    assert!(load(&log, 2).await.is_some_and(|(epoch, sections)| epoch == 2 && sections[1] == farm));
    // Two manifests and two cores of one chunk each, two parts of 64, one of one.
    assert_eq!(messages(&rig).await, 2 * 2 + 2 * 2 + 2 * 65 + 2);

    // A part that has lost a chunk is stored again.
    let subject = format!("$O.{BUCKET}.C.{}", objects(&rig).await.info(part_of(2, 1)).await.expect("there").nuid);
    let chunk = bucket(&rig).await.get_first_raw_message_by_subject(&subject, 1).await.expect("a chunk");
    bucket(&rig).await.delete_message(chunk.sequence).await.expect("deleted");
    assert_eq!(load(&log, 3).await, None, "both snapshots need it");
    let fourth = saver.save(&farm).await;
    let wanted = [part_of(4, 0), part_of(1, 1), part_of(4, 1), part_of(2, 2)];
    assert_eq!(names(&find(&log, 4).await.expect("found")), wanted);
    assert_eq!(load(&log, 4).await, Some(fourth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_passed_over() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (_, states) = save_all(&log, 2, 400_000).await;
    for (epoch, content) in [(5, b"".as_slice()), (6, b"garbage that is long enough to be read"), (7, b"\x09")] {
        put(&rig, &manifest_of(epoch), content).await;
    }
    let readable: Value = serde_json::from_slice(&get(&rig, &manifest_of(2)).await).expect("JSON");
    let with = |field: &str, value: Value| {
        let mut changed = readable.clone();
        changed[field] = value;
        changed.to_string()
    };
    for changed in [with("version", json!(2)), with("version", json!(4)), with("needs", json!(["tables"]))] {
        forge(&rig, &manifest_of(2), changed.as_bytes()).await;
        assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&states[0]), "{changed}");
    }
    forge(&rig, &manifest_of(2), with("tables", json!([1])).as_bytes()).await;
    assert_eq!(
        load(&log, u64::MAX).await.as_ref(),
        Some(&states[1]),
        "what is not known and not needed is passed over"
    );

    // One of its chunks vanishes, first under a reader, then before one; then the whole part.
    let part = find(&log, u64::MAX).await.expect("found").sections[1].parts[0].clone();
    let subject = format!("$O.{BUCKET}.C.{}", objects(&rig).await.info(&part.object).await.expect("there").nuid);
    let bucket = bucket(&rig).await;
    let first = bucket.get_first_raw_message_by_subject(&subject, 1).await.expect("a chunk");
    let second = bucket.get_first_raw_message_by_subject(&subject, first.sequence + 1).await.expect("a chunk");
    bucket.delete_message(second.sequence).await.expect("deleted");
    let Response::PartRead(start) = read(&log, &part, 0).await else { panic!("the first chunk is there") };
    let response = read(&log, &part, start.len() as u64).await;
    assert!(matches!(response, Response::Damaged(_)), "{response:?}");
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&states[0]));
    lose(&rig, &part.object).await;
    assert_eq!(find(&log, u64::MAX).await.expect("found").marker.epoch, 1);
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&states[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_lacks_a_part_pushes_out_no_other() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (mut saver, states) = save_all(&log, 2, 1_000).await;
    let lacking = find(&log, 2).await.expect("found").sections[1].parts[0].object.clone();
    lose(&rig, &lacking).await;
    let third = saver.save(b"third").await;
    assert_eq!(load(&log, 3).await, Some(third));
    assert_eq!(load(&log, 2).await.as_ref(), Some(&states[0]));
    // Its changes are kept, too.
    let (older, newest) = (find(&log, 1).await.expect("found").sequence, find(&log, 3).await.expect("found").sequence);
    let response = log.perform(Request::Changes { after: older, up_to: newest }).await;
    assert!(matches!(&response, Response::Changes(changes) if changes.len() == 2), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_length_is_not_believed() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (_, states) = save_all(&log, 2, 1_000).await;
    let older = Some(&states[0]);
    let text = String::from_utf8(get(&rig, &manifest_of(2)).await).expect("text");
    let claim = async |size: &str| {
        forge(&rig, &manifest_of(2), text.replace("\"bytes\":1001", &format!("\"bytes\":{size}")).as_bytes()).await;
    };
    let sizes = [PART_BYTES_MAX as u64 + 1, 1 << 40, u64::MAX, 0].map(|size| size.to_string());
    for size in sizes.iter().map(String::as_str).chain(["-1", "1e30", "18446744073709551616", "\"1001\"", "null"]) {
        claim(size).await;
        assert_eq!(find(&log, u64::MAX).await.expect("found").marker.epoch, 1, "{size}");
    }
    // What it can be and is not: the head of the part tells, and the chunks do when that lies as well.
    let info = objects(&rig).await.info(part_of(2, 1)).await.expect("there");
    for size in [500, 1_000_000] {
        claim(&size.to_string()).await;
        assert_eq!(load(&log, u64::MAX).await.as_ref(), older, "{size}");
        let part = find(&log, u64::MAX).await.expect("nothing speaks against it yet").sections[1].parts[0].clone();
        let head = async |size: u64| {
            let head =
                serde_json::to_string(&info).expect("JSON").replace("\"size\":1001", &format!("\"size\":{size}"));
            rig.broker
                .context()
                .publish(head_subject(&part.object), head.into())
                .await
                .expect("sent")
                .await
                .expect("stored");
        };
        head(size).await;
        // A client of its own: nothing is remembered of the part.
        let response = read(&rig.log(0), &part, 0).await;
        match size {
            500 => assert!(matches!(&response, Response::Damaged(why) if why.contains("500")), "{response:?}"),
            _ => assert!(matches!(&response, Response::PartRead(bytes) if bytes.len() == 1001), "{response:?}"),
        }
        assert!(matches!(read(&rig.log(0), &part, 400_000).await, Response::Damaged(_)));
        head(1001).await;
    }
    claim("1001").await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&states[1]));
    // More than a state of this pipeline can be, and the bucket holds it indeed.
    let bytes: usize = states[1].1.iter().map(Vec::len).sum();
    for (snapshot_bytes_max, epoch) in [(bytes as u64, 2), (bytes as u64 - 1, 1)] {
        let target = Target { snapshot_bytes_max, ..Target::new(&rig.plan, 0) };
        let strict = Log::new(&rig.broker, target, LogOptions::default());
        assert_eq!(find(&strict, u64::MAX).await.expect("found").marker.epoch, epoch);
    }
}

/// The stream loses everything after the epoch was read, and another process publishes it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_found_by_its_epoch_where_the_stream_holds_it_now() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let (first, before) = first_stored(&log).await;
    save(&log, &first, before, b"first").await;
    stream(&rig, "PELTON_fraud").await.purge().await.expect("purged");
    assert_eq!(find(&log, u64::MAX).await, None, "its epoch is not in the stream");

    let now = stored(&log, &first, FIRST).await;
    assert_ne!(now, before);
    let second = next_epoch(&first, Records::default(), vec![1; 100]);
    let end = stored(&log, &second, fence_after(&first, now)).await;
    save(&log, &second, end, b"second").await;
    let found = find(&log, 1).await.expect("the older snapshot is kept");
    assert_eq!((found.marker.epoch, found.sequence), (1, now));
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
    let state = save(&log, &again, sequence, b"again").await;
    // Whoever committed the epoch that is gone did not know of that yet.
    save(&log, &lost, before, b"lost").await;
    assert_eq!(load(&log, u64::MAX).await.as_ref(), Some(&state));
}

/// A put was killed between its chunks, between its parts, or before its manifest; and others may be at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_an_unfinished_snapshot_goes_when_it_is_old() {
    let rig = Rig::new(2).await;
    let ids = ["0-00000000000000000001-2-killed", "0-00000000000000000009-killed", "1-00000000000000000001-0-going"];
    let subjects = ids.map(|id| format!("$O.{BUCKET}.C.{id}"));
    for subject in &subjects {
        let publish = rig.broker.context().publish(subject.clone(), vec![0; 1000].into()).await.expect("sent");
        publish.await.expect("stored");
    }
    let parts = [part_of(1, 0), part_of(1, 1), format!("1/{:020}/0", 1)];
    for part in &parts {
        put(&rig, part, b"killed before the manifest").await;
    }
    let there = async || {
        let (bucket, objects) = (bucket(&rig).await, objects(&rig).await);
        let mut there = Vec::new();
        for subject in &subjects {
            there.push(bucket.get_last_raw_message_by_subject(subject).await.is_ok());
        }
        for part in &parts {
            there.push(objects.info(part).await.is_ok());
        }
        there
    };
    let log = rig.log(0);
    let (epoch, sequence) = first_stored(&log).await;
    let first = save(&log, &epoch, sequence, b"state").await;
    assert_eq!(there().await, [true; 6], "another process may be at it");
    let manifest = find(&log, 1).await.expect("found");
    assert_eq!(names(&manifest), [part_of(1, 3), part_of(1, 4)], "nothing is replaced, finished or not");
    assert_eq!(load(&log, 1).await, Some(first));

    let log = rig.log_with(0, LogOptions { abandoned_after: Duration::ZERO, ..LogOptions::default() });
    let again = save(&log, &epoch, sequence, b"state").await;
    assert_eq!(there().await, [false, false, true, false, false, true], "those of another partition stay");
    assert_eq!(names(&find(&log, 1).await.expect("found")), [part_of(1, 3), part_of(1, 4)]);
    assert_eq!(load(&log, u64::MAX).await, Some(again));
    // A manifest and two parts of one chunk each; what is of the other partition.
    assert_eq!(messages(&rig).await, 3 * 2 + 1 + 2);
}

/// Two hosts, of which one has lost its lease, store snapshots and clear up at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_clear_up_at_once_leave_a_snapshot() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut saver = Saver { log: log.clone(), last: None };
    let farm = state(0, 300_000);
    for round in 0..8 {
        saver.save(&farm).await;
        let (epoch, sequence) = saver.last.clone().expect("just stored");
        let next = next_epoch(&epoch, Records::default(), vec![1; 100]);
        let end = stored(&log, &next, fence_after(&epoch, sequence)).await;
        let (one, two) = (rig.log(0), rig.log(0));
        let core = format!("core of round {round}").into_bytes();
        let saves = [rig::save(&one, &epoch, sequence, [&core, &farm]), rig::save(&two, &next, end, [&core, &farm])];
        // One of them may find that its snapshot lacks what the other has deleted; nothing else is allowed to fail.
        for response in futures_util::future::join_all(saves).await {
            assert!(matches!(response, Response::SnapshotSaved | Response::Unavailable(_)), "{response:?}");
        }
        let found = find(&log, u64::MAX).await.expect("a snapshot is there");
        assert_eq!(sections(&log, &found).await.expect("it is whole")[1], farm);
        let response = log.perform(Request::Changes { after: found.sequence, up_to: end }).await;
        let missing = next.marker.epoch - found.marker.epoch;
        assert!(
            missing == 0 || matches!(&response, Response::Changes(changes) if changes.len() as u64 == missing),
            "{response:?}"
        );
        saver.last = Some((next, end));
    }
}

/// Somebody is about to name a part again while the snapshot that it was stored for goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_being_named_again_stays() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut saver = Saver { log: log.clone(), last: None };
    saver.save(b"one").await;
    saver.save(b"two").await;
    let part = part_of(1, 1);
    let head = bucket(&rig).await.get_last_raw_message_by_subject(&head_subject(&part)).await.expect("a head");
    rig.broker.context().publish(head.subject, head.payload).await.expect("sent").await.expect("stored");
    saver.save(b"three").await;
    assert_eq!(find(&log, 1).await, None);
    assert!(get(&rig, &part).await == b"one");
    assert!(objects(&rig).await.info(part_of(1, 0)).await.is_err(), "nobody names the core of that snapshot");
    // Nobody did.
    saver.log = rig.log_with(0, LogOptions { abandoned_after: Duration::ZERO, ..LogOptions::default() });
    saver.save(b"four").await;
    assert!(objects(&rig).await.info(&part).await.is_err());
}
