//! The snapshot bucket, one partition of it: objects as every object store client lays them out.
//!
//! An object is a head, subject `$O.<bucket>.M.<name>`, and chunks, subject `$O.<bucket>.C.<id>`. The head is written
//! last, so an object that can be found is whole, and it holds all that is to be known before the state is read: the
//! marker, the length and the sha256. The name is `<partition>/<epoch>`, the id begins with both, so one request for
//! the subjects of the bucket tells which snapshots and which chunks there are, without reading any.
//!
//! Subjects, not a consumer: a list is one request and one answer, and leaves nothing behind on the server.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use pelton_engine::epoch::Marker;
use pelton_engine::log::{FoundSnapshot, Snapshot, StoredMarker};
use pelton_engine::time::WallTime;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{Fault, chain};
use crate::connect::Broker;
use crate::log::Target;
use crate::names::{object_stream, snapshot_bucket};

/// Bytes of one chunk: one second at 1 Mbit/s, so that no single answer comes near a time limit.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;
/// Where in the state a chunk begins.
pub(crate) const OFFSET: &str = "Pelton-Offset";
/// Chunks sent before the first of them is confirmed.
const WINDOW: usize = 4;
/// For the confirmation of one chunk, behind `WINDOW` others on a slow link.
const PUT_TIMEOUT: Duration = Duration::from_secs(15);
const MARKER: &str = "marker";
const SEQUENCE: &str = "marker-sequence";
const FORMAT: &str = "format";
const FORMAT_KNOWN: &str = "2";
const DIGEST_PREFIX: &str = "SHA-256=";

/// The bucket as one partition uses it.
pub(crate) struct Bucket<'a> {
    broker: &'a Broker,
    layout: Layout,
    pub(crate) stream: String,
}

/// Names and subjects of one partition's objects.
pub(crate) struct Layout {
    name: String,
    partition: u32,
}

/// What the bucket holds for this partition, by its subjects.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Epoch and subject of every head, in ascending order.
    pub(crate) heads: Vec<(u64, String)>,
    /// Chunks per id: of all objects, since an object of another writer may have any id.
    pub(crate) chunks: BTreeMap<String, u64>,
    /// Bytes of the whole bucket.
    pub(crate) bytes: u64,
    pub(crate) broker_time: WallTime,
}

/// What a head says; nothing of it is proven yet.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) found: FoundSnapshot,
    /// Chunks that the object has.
    pub(crate) chunks: u64,
}

#[derive(Default, Deserialize)]
struct SubjectsInfo {
    #[serde(default)]
    total: u64,
    #[serde(default)]
    ts: String,
    state: SubjectsState,
}

#[derive(Default, Deserialize)]
struct SubjectsState {
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

impl<'a> Bucket<'a> {
    pub(crate) fn new(broker: &'a Broker, target: &'a Target) -> Bucket<'a> {
        let name = snapshot_bucket(&target.pipeline);
        Bucket { broker, stream: object_stream(&name), layout: Layout::new(name, target.partition) }
    }

    /// Heads of this partition, and the number of chunks of every object.
    pub(crate) async fn list(&self) -> Result<Listing, Fault> {
        self.subjects("*").await
    }

    /// Heads alone: the shorter answer.
    pub(crate) async fn list_heads(&self) -> Result<Listing, Fault> {
        self.subjects("M").await
    }

    async fn subjects(&self, kind: &str) -> Result<Listing, Fault> {
        let verb = format!("STREAM.INFO.{}", self.stream);
        let filter = format!("$O.{}.{kind}.*", self.layout.name);
        let mut listing = Listing::default();
        let mut offset = 0;
        loop {
            // The server tells so many subjects per answer, and how many there are in all.
            let body = json!({ "subjects_filter": filter, "offset": offset });
            let info: SubjectsInfo = self.broker.api(&self.stream, &verb, &body).await?;
            offset += info.state.subjects.as_ref().map_or(0, BTreeMap::len) as u64;
            let is_last = info.state.subjects.as_ref().is_none_or(BTreeMap::is_empty) || offset >= info.total;
            listing.add(&self.layout, info);
            if is_last {
                return Ok(listing);
            }
        }
    }

    /// What the head says. The inner error is about its content.
    pub(crate) async fn head(&self, epoch: u64, subject: &str) -> Result<Result<Head, String>, Fault> {
        match self.broker.last_message(&self.stream, subject).await {
            Ok(Some(message)) => Ok(decode_head(&message.payload, epoch)),
            Ok(None) => Ok(Err("its head is gone".to_string())),
            Err(Fault::Damaged(text)) => Ok(Err(text)),
            Err(fault) => Err(fault),
        }
    }

    /// Stores the chunks, then the head; the subject of the head. Deletes the chunks of an object that stays unfinished.
    pub(crate) async fn put(&self, snapshot: &Snapshot) -> Result<String, Fault> {
        let id = self.new_id(snapshot.stored.marker.epoch);
        let result = self.put_object(snapshot, &id).await;
        if result.is_err() {
            // When this gets lost as well, a later snapshot finds the chunks.
            let _ = self.purge(&self.layout.chunk_subject(&id)).await;
        }
        result
    }

    async fn put_object(&self, snapshot: &Snapshot, id: &str) -> Result<String, Fault> {
        let epoch = snapshot.stored.marker.epoch;
        let subject = self.layout.chunk_subject(id);
        let mut digest = Sha256::new();
        let mut unconfirmed = VecDeque::new();
        let mut chunks = 0;
        for (idx, chunk) in snapshot.state.chunks(CHUNK_BYTES).enumerate() {
            digest.update(chunk);
            chunks += 1;
            let mut headers = HeaderMap::new();
            headers.insert(OFFSET, HeaderValue::from(idx * CHUNK_BYTES));
            unconfirmed.push_back(self.send(&subject, headers, Bytes::copy_from_slice(chunk)).await?);
            if unconfirmed.len() >= WINDOW
                && let Some(oldest) = unconfirmed.pop_front()
            {
                self.confirmed(oldest).await?;
            }
        }
        for one in unconfirmed {
            self.confirmed(one).await?;
        }
        let found = FoundSnapshot {
            stored: snapshot.stored.clone(),
            bytes: snapshot.state.len() as u64,
            digest: digest.finalize().into(),
            object: id.to_string(),
        };
        let text = self.layout.encode_head(&Head { found, chunks }).map_err(Fault::Damaged)?;
        let head = self.layout.head_subject(&URL_SAFE.encode(self.layout.object_name(epoch)));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let sent = self.send(&head, headers, text.into()).await?;
        self.confirmed(sent).await?;
        Ok(head)
    }

    async fn send(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<PublishAckFuture, Fault> {
        let mut context = self.broker.context().clone();
        context.set_timeout(PUT_TIMEOUT);
        let sent = context.publish_with_headers(subject.to_string(), headers, payload).await;
        sent.map_err(|error| Fault::Unavailable(format!("store in bucket {}: {}", self.layout.name, chain(&error))))
    }

    async fn confirmed(&self, sent: PublishAckFuture) -> Result<(), Fault> {
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::Unavailable(format!("store in bucket {}: {}", self.layout.name, chain(&error)))),
        }
    }

    /// Deletes an object without a trace: its head first, so that nobody finds it half.
    pub(crate) async fn delete(&self, head_subject: &str, id: Option<&str>) -> Result<u64, Fault> {
        let mut purged = self.purge(head_subject).await?;
        // An id that is not ours may hold a wildcard.
        if let Some(id) = id.filter(|id| is_plain(id)) {
            purged += self.purge(&self.layout.chunk_subject(id)).await?;
        }
        Ok(purged)
    }

    /// Deletes the chunks of this id, when the last of them is older than `age`: a put that goes on has a younger one.
    pub(crate) async fn delete_chunks(&self, id: &str, now: WallTime, age: Duration) -> Result<u64, Fault> {
        let subject = self.layout.chunk_subject(id);
        let Some(last) = self.broker.last_message(&self.stream, &subject).await? else { return Ok(0) };
        let old = now.0.saturating_sub(last.stored_ms);
        if u128::from(old.max(0).unsigned_abs()) < age.as_millis() {
            return Ok(0);
        }
        self.purge(&subject).await
    }

    /// Whether the id is of a put of this partition.
    pub(crate) fn is_ours(&self, id: &str) -> bool {
        id.strip_prefix(&format!("{}-", self.layout.partition)).is_some() && is_plain(id)
    }

    pub(crate) fn chunk_subject(&self, id: &str) -> String {
        self.layout.chunk_subject(id)
    }

    fn new_id(&self, epoch: u64) -> String {
        let inbox = self.broker.client().new_inbox();
        format!("{}-{epoch:020}-{}", self.layout.partition, inbox.rsplit('.').next().unwrap_or(&inbox))
    }

    async fn purge(&self, subject: &str) -> Result<u64, Fault> {
        let verb = format!("STREAM.PURGE.{}", self.stream);
        let answer: Value = self.broker.api(&self.stream, &verb, &json!({ "filter": subject })).await?;
        Ok(answer["purged"].as_u64().unwrap_or(0))
    }
}

impl Layout {
    pub(crate) fn new(name: String, partition: u32) -> Layout {
        Layout { name, partition }
    }

    fn chunk_subject(&self, id: &str) -> String {
        format!("$O.{}.C.{id}", self.name)
    }

    fn head_subject(&self, encoded: &str) -> String {
        format!("$O.{}.M.{encoded}", self.name)
    }

    fn object_name(&self, epoch: u64) -> String {
        format!("{}/{epoch:020}", self.partition)
    }

    fn epoch_of(&self, encoded: &str) -> Option<u64> {
        let name = String::from_utf8(URL_SAFE.decode(encoded).ok()?).ok()?;
        name.strip_prefix(&format!("{}/", self.partition))?.parse().ok()
    }

    /// A head as object store clients read it.
    pub(crate) fn encode_head(&self, head: &Head) -> Result<Vec<u8>, String> {
        let Head { found: FoundSnapshot { stored, bytes, digest, object }, chunks } = head;
        let size = |number: &u64| usize::try_from(*number).map_err(|error| error.to_string());
        let info = ObjectInfo {
            name: self.object_name(stored.marker.epoch),
            description: None,
            metadata: [
                (FORMAT.to_string(), FORMAT_KNOWN.to_string()),
                (SEQUENCE.to_string(), stored.sequence.to_string()),
                (MARKER.to_string(), String::from_utf8_lossy(stored.marker.bytes()).into_owned()),
            ]
            .into(),
            headers: None,
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(CHUNK_BYTES) }),
            bucket: self.name.clone(),
            nuid: object.clone(),
            size: size(bytes)?,
            chunks: size(chunks)?,
            modified: None,
            digest: Some(format!("{DIGEST_PREFIX}{}", URL_SAFE.encode(digest))),
            deleted: false,
        };
        serde_json::to_vec(&info).map_err(|error| error.to_string())
    }
}

impl Listing {
    fn add(&mut self, layout: &Layout, info: SubjectsInfo) {
        self.bytes = info.state.bytes;
        self.broker_time = WallTime(info.ts.parse::<jiff::Timestamp>().map_or(0, |time| time.as_millisecond()));
        let (heads, chunks) = (layout.head_subject(""), layout.chunk_subject(""));
        for (subject, count) in info.state.subjects.unwrap_or_default() {
            if let Some(id) = subject.strip_prefix(&chunks) {
                self.chunks.insert(id.to_string(), count);
            } else if let Some(epoch) = subject.strip_prefix(&heads).and_then(|name| layout.epoch_of(name)) {
                self.heads.push((epoch, subject));
            }
        }
        self.heads.sort();
    }

    /// The listing that one answer makes; for `tests/fuzz`.
    pub(crate) fn parse(layout: &Layout, answer: &[u8]) -> Result<Listing, String> {
        let mut listing = Listing::default();
        listing.add(layout, serde_json::from_slice(answer).map_err(|error| error.to_string())?);
        Ok(listing)
    }
}

/// One token of a subject, without wildcards.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && !id.contains(|letter: char| letter.is_whitespace() || matches!(letter, '.' | '*' | '>'))
}

pub(crate) fn decode_head(payload: &[u8], epoch: u64) -> Result<Head, String> {
    let info: ObjectInfo = serde_json::from_slice(payload).map_err(|error| format!("its head: {error}"))?;
    if info.deleted {
        return Err("it was deleted".to_string());
    }
    let field = |name: &str| info.metadata.get(name).ok_or_else(|| format!("its head does not say its {name}"));
    let format = field(FORMAT)?;
    if format != FORMAT_KNOWN {
        return Err(format!("format {format} is not known to this host (it knows {FORMAT_KNOWN})"));
    }
    let marker = Marker::decode(field(MARKER)?.as_bytes()).map_err(|error| error.to_string())?;
    if marker.epoch != epoch {
        return Err(format!("it holds epoch {}", marker.epoch));
    }
    let sequence = field(SEQUENCE)?.parse().map_err(|_| "its sequence is not a number".to_string())?;
    let digest = info.digest.as_deref().and_then(|text| URL_SAFE.decode(text.strip_prefix(DIGEST_PREFIX)?).ok());
    let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or("its head does not say its sha256")?;
    if !is_plain(&info.nuid) {
        return Err(format!("{:?} is not an id of chunks", info.nuid));
    }
    let found =
        FoundSnapshot { stored: StoredMarker { sequence, marker }, bytes: info.size as u64, digest, object: info.nuid };
    Ok(Head { found, chunks: info.chunks as u64 })
}
