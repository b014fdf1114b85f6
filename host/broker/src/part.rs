//! The bytes of one object of the bucket, read straight from its chunks.
//!
//! An answer has four chunks of 128 KiB, or what came within four seconds: half a megabyte takes 4.2 s at 1 Mbit/s, less
//! than half of the ten seconds for which an answer is waited for, and at 100 Mbit/s the way there and back counts as
//! much as the bytes. Each chunk says where in the object it begins, so a missing one is noticed where it is missing.
//!
//! Where the last answer ended is remembered, so the next one asks from there. Nothing depends on that: chunks lie in
//! order, at least one sequence apart, so from any of them the way to a wanted one is found in few steps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use pelton_engine::epoch::SnapshotPart;
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Fault, within};
use crate::bucket::{Bucket, CHUNK_BYTES, Head, OFFSET};
use crate::error::API_TIMEOUT;

const ANSWER_CHUNKS: usize = 4;
/// How long the first chunk may take.
const FIRST_TIMEOUT: Duration = Duration::from_secs(8);
/// After so long an answer is given with what is there.
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// Where the last answer about a part ended.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Name of the part.
    object: String,
    head: Head,
    offset: u64,
    sequence: u64,
}

/// One chunk as stored.
#[derive(Clone)]
pub(crate) struct Chunk {
    sequence: u64,
    offset: u64,
    payload: bytes::Bytes,
}

/// Bytes of an object, and where to ask for the next ones: their chunk has this sequence or a later one.
pub(crate) type Stretch = (Vec<u8>, u64);

/// The bytes of a part from `offset` on, as [`read_from`] gives them. `Damaged` when the part is not there, or is not what
/// its manifest says.
pub(crate) async fn read(
    bucket: &Bucket<'_>,
    part: &SnapshotPart,
    offset: u64,
    place: &Mutex<Option<Place>>,
) -> Result<Vec<u8>, Fault> {
    let start = Instant::now();
    let damaged = |reason: String| Fault::Damaged(format!("part `{}`: {reason}", part.object));
    let last = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A part is never replaced: its head is asked for once.
    let (head, sequence) = match last.filter(|last| last.object == part.object) {
        Some(last) => (last.head, (last.offset == offset).then_some(last.sequence)),
        None => {
            let found = bucket.head(&part.object).await?.ok_or_else(|| damaged("it is not there".to_string()))?;
            (found.head.map_err(damaged)?, None)
        }
    };
    if !head.is_of(part) {
        return Err(damaged(format!("its head says {} bytes, or another sha256 than its manifest", head.bytes)));
    }
    let reader = Reader { bucket, id: &head.id };
    let ask = |from, count| reader.chunks(from, count, start);
    let (bytes, sequence) = read_from(ask, &head, offset, sequence).await?;
    let next = Place { object: part.object.clone(), head, offset: offset + bytes.len() as u64, sequence };
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    Ok(bytes)
}

/// All bytes of an object. `Damaged` as [`read_from`] says.
pub(crate) async fn read_all(bucket: &Bucket<'_>, head: &Head) -> Result<Vec<u8>, Fault> {
    let reader = Reader { bucket, id: &head.id };
    let (mut all, mut sequence) = (Vec::new(), None);
    while (all.len() as u64) < head.bytes {
        let start = Instant::now();
        let ask = |from, count| reader.chunks(from, count, start);
        let (bytes, next) = read_from(ask, head, all.len() as u64, sequence).await?;
        all.extend(bytes);
        sequence = Some(next);
    }
    Ok(all)
}

/// The bytes of an object from `offset` on: at least one, at most of [`ANSWER_CHUNKS`]. `Damaged` when a chunk is not
/// there, or goes on behind the end that the head claims. `ask` gives up to so many chunks at or after a sequence;
/// `sequence` is where the last answer ended, when that was at this offset.
pub(crate) async fn read_from<F: Future<Output = Result<Vec<Chunk>, Fault>>>(
    ask: impl Fn(u64, usize) -> F,
    head: &Head,
    offset: u64,
    sequence: Option<u64>,
) -> Result<Stretch, Fault> {
    let id = &head.id;
    if offset >= head.bytes {
        return Err(Fault::Damaged(format!("object {id} ends at byte {}", head.bytes)));
    }
    let mut from = sequence.unwrap_or(1);
    // The way to a place that is not known is by single chunks.
    let mut count = if sequence.is_some() || offset == 0 { ANSWER_CHUNKS } else { 1 };
    loop {
        let chunks = ask(from, count).await?;
        let first = chunks.first().ok_or_else(|| missing(id, offset))?;
        let length = (first.payload.len() as u64).max(1);
        // Offsets and sequences are whatever somebody has stored: no sum of them may overflow.
        if first.offset > offset {
            return Err(missing(id, offset));
        }
        if first.offset.saturating_add(length) <= offset {
            // Every chunk but the last is as long as this one.
            let skipped = (offset - first.offset) / length;
            from = first.sequence.checked_add(skipped).ok_or_else(|| missing(id, offset))?;
            continue;
        }
        if count == 1 {
            from = first.sequence;
            count = ANSWER_CHUNKS;
            continue;
        }
        let (bytes, sequence) = join(&chunks, offset).ok_or_else(|| missing(id, offset))?;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > head.bytes {
            return Err(Fault::Damaged(format!("object {id} claims {} bytes and goes on to {end}", head.bytes)));
        }
        return Ok((bytes, sequence.saturating_add(1)));
    }
}

fn missing(id: &str, offset: u64) -> Fault {
    Fault::Damaged(format!("object {id}: the chunk at byte {offset} is missing"))
}

/// The bytes from `offset` on, up to where a chunk is missing, and the sequence of the last chunk; `None` when there are
/// none.
fn join(chunks: &[Chunk], offset: u64) -> Option<(Vec<u8>, u64)> {
    let mut bytes = Vec::with_capacity(chunks.iter().map(|chunk| chunk.payload.len()).sum());
    let mut sequence = 0;
    for chunk in chunks {
        let expected = offset.saturating_add(bytes.len() as u64);
        let rest = expected.checked_sub(chunk.offset).and_then(|skipped| usize::try_from(skipped).ok());
        match rest.and_then(|skipped| chunk.payload.get(skipped..)) {
            Some(rest) if !rest.is_empty() => bytes.extend_from_slice(rest),
            _ => break,
        }
        sequence = chunk.sequence;
    }
    (!bytes.is_empty()).then_some((bytes, sequence))
}

impl Chunk {
    /// `offset` is what its header says.
    pub(crate) fn new(id: &str, sequence: u64, offset: Option<&str>, payload: bytes::Bytes) -> Result<Chunk, Fault> {
        let offset = offset
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Fault::Damaged(format!("object {id}: a chunk does not say where it begins")))?;
        Ok(Chunk { sequence, offset, payload })
    }
}

struct Reader<'a> {
    bucket: &'a Bucket<'a>,
    id: &'a str,
}

impl Reader<'_> {
    /// Up to `count` chunks at or after a sequence; none only when the leader says that there is none.
    async fn chunks(&self, from: u64, count: usize, start: Instant) -> Result<Vec<Chunk>, Fault> {
        let chunks = self.direct(from, count, start).await?;
        if !chunks.is_empty() {
            return Ok(chunks);
        }
        // A replica may lag, and direct reads may be off: the leader has the last word.
        let subject = self.bucket.chunk_subject(self.id);
        let Some(message) = self.bucket.broker.next_message(&self.bucket.stream, &subject, from).await? else {
            return Ok(Vec::new());
        };
        let offset = message.headers.get(OFFSET).map(|value| value.as_str());
        Ok(vec![Chunk::new(self.id, message.sequence, offset, message.payload)?])
    }

    /// One request for several messages, answered by any replica.
    async fn direct(&self, from: u64, count: usize, start: Instant) -> Result<Vec<Chunk>, Fault> {
        let broker = self.bucket.broker;
        let client = broker.client();
        let inbox = client.new_inbox();
        let mut answers = within(API_TIMEOUT, "subscribe for chunks", client.subscribe(inbox.clone())).await?;
        let verb = format!("{}.DIRECT.GET.{}", broker.api_prefix(), self.bucket.stream);
        let subject = self.bucket.chunk_subject(self.id);
        let body =
            json!({ "seq": from, "next_by_subj": subject, "batch": count, "max_bytes": count * 2 * CHUNK_BYTES });
        let request = client.publish_with_reply(verb, inbox, body.to_string().into());
        within(API_TIMEOUT, "ask for chunks", request).await?;
        let chunks = self.collect(&mut answers, count, start).await;
        let _ = within(API_TIMEOUT, "unsubscribe", answers.unsubscribe()).await;
        chunks
    }

    async fn collect(&self, answers: &mut Subscriber, count: usize, start: Instant) -> Result<Vec<Chunk>, Fault> {
        let mut chunks = Vec::new();
        let losses = self.bucket.broker.losses();
        while chunks.len() < count {
            let limit = if chunks.is_empty() { start + FIRST_TIMEOUT } else { start + ANSWER_TIME };
            match tokio::time::timeout_at(limit, answers.next()).await {
                Ok(Some(message)) if message.status.is_none() => chunks.push(self.delivered(message)?),
                // The end of the answer, or nobody that answers.
                Ok(Some(_) | None) => break,
                Err(_) if chunks.is_empty() => {
                    return Err(Fault::Unavailable(format!("object {}: no chunk came in time", self.id)));
                }
                Err(_) => break,
            }
            if self.bucket.broker.losses() != losses {
                break;
            }
        }
        Ok(chunks)
    }

    fn delivered(&self, message: Message) -> Result<Chunk, Fault> {
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|it| it.as_str());
        let sequence = header("Nats-Sequence").and_then(|text| text.parse().ok());
        let sequence = sequence.ok_or_else(|| Fault::Unavailable("a chunk came without its sequence".to_string()))?;
        Chunk::new(self.id, sequence, header(OFFSET), message.payload.clone())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// What an object of 100 bytes that has lost all chunks but its first gives at an offset.
    fn stretch(sequence: u64, offset: u64) -> Result<Stretch, Fault> {
        let head = Head { id: "0-1-x".to_string(), bytes: 100, sha256: [0; 32], chunks: 10 };
        let chunk = Chunk::new(&head.id, sequence, Some("0"), bytes::Bytes::from_static(b"0123456789"));
        let ask = |from, _| {
            let there = chunk.clone().map(|chunk| Vec::from_iter((from <= sequence).then_some(chunk)));
            std::future::ready(there)
        };
        read_from(ask, &head, offset, None).now_or_never().expect("nothing is waited for")
    }

    #[test]
    fn behind_the_last_sequence_nothing_is_searched() {
        assert_eq!(stretch(u64::MAX, 4), Ok((b"456789".to_vec(), u64::MAX)));
        for sequence in [u64::MAX, u64::MAX - 3] {
            assert!(matches!(stretch(sequence, 50), Err(Fault::Damaged(text)) if text.contains("byte 50 is missing")));
        }
    }
}
