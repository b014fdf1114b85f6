//! The snapshot bucket, one partition of it: objects as every object store client lays them out.
//!
//! An object is a head, subject `$O.<bucket>.M.<name>`, and chunks, subject `$O.<bucket>.C.<id>`. The head is written
//! last, so an object that can be found is whole. Its name is `<partition>/<epoch>` when it is a manifest, and
//! `<partition>/<epoch>/<n>` when it is a part; the id begins with all of that. So one request for the subjects of the
//! bucket tells which snapshots, parts and chunks there are, without reading any.
//!
//! A part is never replaced, and a head that is stored again says the same: whoever names a part finds that, or nothing.
//! Who deletes an object deletes the head that it has seen, so one that was stored again since stays.
//!
//! Subjects, not a consumer: a list is one request and one answer, and leaves nothing behind on the server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use pelton_engine::epoch::SnapshotPart;
use pelton_engine::time::WallTime;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Fault;
use crate::code::Class;
use crate::connect::Broker;
use crate::error::chain;
use crate::names::{object_stream, snapshot_bucket};
use crate::target::Target;

/// Bytes of one chunk: one second at 1 Mbit/s, so that no single answer comes near a time limit.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;
/// Where in the object a chunk begins.
pub(crate) const OFFSET: &str = "Pelton-Offset";
/// Chunks sent before the first of them is confirmed.
const WINDOW: usize = 4;
/// For the confirmation of one chunk, behind `WINDOW` others on a slow link.
const PUT_TIMEOUT: Duration = Duration::from_secs(15);
const DIGEST_PREFIX: &str = "SHA-256=";
const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// The bucket as one partition uses it.
pub(crate) struct Bucket<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) layout: Layout,
    pub(crate) stream: String,
}

/// Names and subjects of one partition's objects.
pub(crate) struct Layout {
    bucket: String,
    partition: u32,
}

/// What an object is called, less its partition: manifest of an epoch, or a part that was stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) epoch: u64,
    /// Number of the part.
    pub(crate) part: Option<u32>,
}

/// What the bucket holds for this partition, by its subjects.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Objects with a head.
    pub(crate) objects: BTreeSet<Name>,
    /// Chunks per id: of all objects, since an object of another writer may have any id.
    pub(crate) chunks: BTreeMap<String, u64>,
    pub(crate) broker_time: WallTime,
}

/// What a head says of its object; nothing of it is proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of its chunks.
    pub id: String,
    pub bytes: u64,
    pub sha256: [u8; 32],
    pub chunks: u64,
}

/// A head, and where it is.
pub(crate) struct Found {
    /// The error is about its content.
    pub(crate) head: Result<Head, String>,
    pub(crate) sequence: u64,
    pub(crate) stored_at: WallTime,
    payload: Bytes,
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
    subjects: Option<BTreeMap<String, u64>>,
}

impl<'a> Bucket<'a> {
    pub(crate) fn new(broker: &'a Broker, target: &'a Target) -> Bucket<'a> {
        let name = snapshot_bucket(&target.pipeline);
        Bucket { broker, stream: object_stream(&name), layout: Layout::new(name, target.partition) }
    }

    /// Objects of this partition, and the number of chunks of every object.
    pub(crate) async fn list(&self) -> Result<Listing, Fault> {
        self.subjects("*").await
    }

    /// Objects alone: the shorter answer.
    pub(crate) async fn list_objects(&self) -> Result<Listing, Fault> {
        self.subjects("M").await
    }

    async fn subjects(&self, kind: &str) -> Result<Listing, Fault> {
        let verb = format!("STREAM.INFO.{}", self.stream);
        let filter = format!("$O.{}.{kind}.*", self.layout.bucket);
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

    /// The head of an object of this partition; `None` when it is not there.
    pub(crate) async fn find(&self, name: Name) -> Result<Option<Found>, Fault> {
        self.head(&self.layout.object(name)).await
    }

    /// The head of an object, whoever's it is; `None` when it is not there.
    pub(crate) async fn head(&self, object: &str) -> Result<Option<Found>, Fault> {
        let message = self.broker.last_message(&self.stream, &self.layout.head_subject(object)).await?;
        Ok(message.map(|message| Found {
            head: decode_head(&message.payload),
            sequence: message.sequence,
            stored_at: WallTime(message.stored_ms),
            payload: message.payload,
        }))
    }

    /// Stores a head again as it was found, so that the object is as young as one that is stored now. False when somebody
    /// was faster, or has deleted it.
    pub(crate) async fn renew(&self, name: Name, found: &Found) -> Result<bool, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        headers.insert("Nats-Expected-Last-Subject-Sequence", HeaderValue::from(found.sequence));
        let subject = self.layout.head_subject(&self.layout.object(name));
        let sent = self.send(&subject, headers, found.payload.clone()).await?;
        match self.confirmed(sent).await {
            Ok(()) => Ok(true),
            Err(fault) if fault.is(Class::Fenced) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Stores an object: chunks, then the head. Deletes the chunks of one that stays unfinished. A manifest replaces the
    /// one before, a part must not be there yet.
    pub(crate) async fn put(&self, name: Name, bytes: &[u8], sha256: [u8; 32]) -> Result<(), Fault> {
        let inbox = self.broker.client().new_inbox();
        let id = self.layout.id(name, inbox.rsplit('.').next().unwrap_or(&inbox));
        let result = self.put_object(name, bytes, sha256, &id).await;
        if result.is_err() {
            // When this gets lost as well, a later snapshot finds the chunks.
            let _ = self.delete_chunks(&id).await;
        }
        result
    }

    async fn put_object(&self, name: Name, bytes: &[u8], sha256: [u8; 32], id: &str) -> Result<(), Fault> {
        let subject = self.layout.chunk_subject(id);
        let mut unconfirmed = VecDeque::new();
        let mut chunks = 0;
        for (idx, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
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
        let object = self.layout.object(name);
        let subject = self.layout.head_subject(&object);
        let head = Head { id: id.to_string(), bytes: bytes.len() as u64, sha256, chunks };
        let text = self.layout.encode_head(&object, &head).map_err(Fault::Damaged)?;
        let mut headers = HeaderMap::new();
        match name.part {
            None => headers.insert("Nats-Rollup", "sub"),
            Some(_) => headers.insert("Nats-Expected-Last-Subject-Sequence", "0"),
        }
        let sent = self.send(&subject, headers, text.into()).await?;
        self.confirmed(sent).await
    }

    async fn send(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<PublishAckFuture, Fault> {
        let mut context = self.broker.context().clone();
        context.set_timeout(PUT_TIMEOUT);
        let sent = context.publish_with_headers(subject.to_string(), headers, payload).await;
        sent.map_err(|error| Fault::Unavailable(format!("store in bucket {}: {}", self.layout.bucket, chain(&error))))
    }

    async fn confirmed(&self, sent: PublishAckFuture) -> Result<(), Fault> {
        let Err(error) = sent.await else { return Ok(()) };
        let description = format!("store in bucket {}: {}", self.layout.bucket, chain(&error));
        Err(match error.kind() {
            PublishErrorKind::WrongLastSequence => {
                Fault::Refused { code: WRONG_LAST_SEQUENCE, class: Class::Fenced, description }
            }
            _ => Fault::Unavailable(description),
        })
    }

    /// Deletes an object as it was found, without a trace: its head first, so that nobody finds it half.
    pub(crate) async fn delete(&self, name: Name, found: &Found) -> Result<u64, Fault> {
        let subject = self.layout.head_subject(&self.layout.object(name));
        let mut purged = self.purge(&json!({ "filter": subject, "seq": found.sequence.saturating_add(1) })).await?;
        if let Ok(head) = &found.head
            && purged > 0
        {
            purged += self.delete_chunks(&head.id).await?;
        }
        Ok(purged)
    }

    /// Deletes all chunks with this id.
    pub(crate) async fn delete_chunks(&self, id: &str) -> Result<u64, Fault> {
        self.purge(&json!({ "filter": self.layout.chunk_subject(id) })).await
    }

    /// When the last chunk with this id was stored; `None` when there is none.
    pub(crate) async fn chunks_stored_at(&self, id: &str) -> Result<Option<WallTime>, Fault> {
        let message = self.broker.last_message(&self.stream, &self.layout.chunk_subject(id)).await?;
        Ok(message.map(|message| WallTime(message.stored_ms)))
    }

    pub(crate) fn chunk_subject(&self, id: &str) -> String {
        self.layout.chunk_subject(id)
    }

    async fn purge(&self, body: &Value) -> Result<u64, Fault> {
        let verb = format!("STREAM.PURGE.{}", self.stream);
        let answer: Value = self.broker.api(&self.stream, &verb, body).await?;
        Ok(answer["purged"].as_u64().unwrap_or(0))
    }
}

impl Head {
    /// Whether the object is what a manifest says of it.
    pub(crate) fn is_of(&self, part: &SnapshotPart) -> bool {
        (self.bytes, self.sha256) == (part.bytes, part.sha256)
    }
}

impl Name {
    pub(crate) fn manifest(epoch: u64) -> Name {
        Name { epoch, part: None }
    }

    pub(crate) fn part(epoch: u64, part: u32) -> Name {
        Name { epoch, part: Some(part) }
    }

    /// The tokens behind the partition; only as they are written.
    fn parse(text: &str, separator: char) -> Option<Name> {
        let (epoch, part) = text.split_once(separator).map_or((text, None), |(epoch, part)| (epoch, Some(part)));
        let part = match part {
            Some(part) => Some(part.parse().ok()?),
            None => None,
        };
        let name = Name { epoch: epoch.parse().ok()?, part };
        (name.joined(separator).to_string() == text).then_some(name)
    }

    fn joined(self, separator: char) -> impl fmt::Display {
        fmt::from_fn(move |out| {
            write!(out, "{:020}", self.epoch)?;
            self.part.map_or(Ok(()), |part| write!(out, "{separator}{part}"))
        })
    }
}

impl Layout {
    pub(crate) fn new(bucket: String, partition: u32) -> Layout {
        Layout { bucket, partition }
    }

    fn chunk_subject(&self, id: &str) -> String {
        format!("$O.{}.C.{id}", self.bucket)
    }

    fn head_subject(&self, object: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(object))
    }

    /// Name of an object as the bucket has it.
    pub(crate) fn object(&self, name: Name) -> String {
        format!("{}/{}", self.partition, name.joined('/'))
    }

    /// The object of this name, when it is one of this partition.
    pub(crate) fn name(&self, object: &str) -> Option<Name> {
        Name::parse(object.strip_prefix(&format!("{}/", self.partition))?, '/')
    }

    fn id(&self, name: Name, unique: &str) -> String {
        format!("{}-{}-{unique}", self.partition, name.joined('-'))
    }

    /// The object to which chunks with this id were put, when it is one of this partition.
    pub(crate) fn name_of_id(&self, id: &str) -> Option<Name> {
        let name = id.strip_prefix(&format!("{}-", self.partition)).filter(|_| is_plain(id))?;
        Name::parse(name.rsplit_once('-')?.0, '-')
    }

    /// A head as object store clients read it.
    pub(crate) fn encode_head(&self, object: &str, head: &Head) -> Result<Vec<u8>, String> {
        let size = |number: u64| usize::try_from(number).map_err(|error| error.to_string());
        let info = ObjectInfo {
            name: object.to_string(),
            description: None,
            metadata: [].into(),
            headers: None,
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(CHUNK_BYTES) }),
            bucket: self.bucket.clone(),
            nuid: head.id.clone(),
            size: size(head.bytes)?,
            chunks: size(head.chunks)?,
            modified: None,
            digest: Some(format!("{DIGEST_PREFIX}{}", URL_SAFE.encode(head.sha256))),
            deleted: false,
        };
        serde_json::to_vec(&info).map_err(|error| error.to_string())
    }
}

impl Listing {
    fn add(&mut self, layout: &Layout, info: SubjectsInfo) {
        self.broker_time = WallTime(info.ts.parse::<jiff::Timestamp>().map_or(0, |time| time.as_millisecond()));
        let (heads, chunks) = (layout.head_subject(""), layout.chunk_subject(""));
        for (subject, count) in info.state.subjects.unwrap_or_default() {
            if let Some(id) = subject.strip_prefix(&chunks) {
                self.chunks.insert(id.to_string(), count);
            } else if let Some(name) = subject.strip_prefix(&heads).and_then(|encoded| {
                let object = String::from_utf8(URL_SAFE.decode(encoded).ok()?).ok()?;
                layout.name(&object).filter(|_| layout.head_subject(&object) == subject)
            }) {
                self.objects.insert(name);
            }
        }
    }

    /// Epochs with a manifest, in ascending order.
    pub(crate) fn manifests(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.objects.iter().filter(|name| name.part.is_none()).map(|name| name.epoch)
    }

    /// Whether all that a head says is there, is there.
    pub(crate) fn has_chunks(&self, head: &Head) -> bool {
        self.chunks.get(&head.id).copied().unwrap_or(0) == head.chunks
    }

    /// Numbers from this one on have no part of this epoch, finished or not.
    pub(crate) fn next_part(&self, layout: &Layout, epoch: u64) -> u32 {
        let unfinished = self.chunks.keys().filter_map(|id| layout.name_of_id(id));
        let taken = self.objects.iter().copied().chain(unfinished).filter(|name| name.epoch == epoch);
        taken.filter_map(|name| name.part).max().map_or(0, |last| last.saturating_add(1))
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

pub(crate) fn decode_head(payload: &[u8]) -> Result<Head, String> {
    let info: ObjectInfo = serde_json::from_slice(payload).map_err(|error| format!("its head: {error}"))?;
    if info.deleted {
        return Err("it was deleted".to_string());
    }
    let digest = info.digest.as_deref().and_then(|text| URL_SAFE.decode(text.strip_prefix(DIGEST_PREFIX)?).ok());
    let sha256 = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or("its head does not say its sha256")?;
    if !is_plain(&info.nuid) {
        return Err(format!("{:?} is not an id of chunks", info.nuid));
    }
    Ok(Head { id: info.nuid, bytes: info.size as u64, sha256, chunks: info.chunks as u64 })
}
