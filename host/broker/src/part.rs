//! One part of a stored snapshot, read straight from its chunks.
//!
//! A part is four chunks of 128 KiB, or what came within four seconds: half a megabyte takes 4.2 s at 1 Mbit/s, less
//! than half of the ten seconds for which an answer is waited for, and at 100 Mbit/s the way there and back counts as
//! much as the bytes. Each chunk says where in the state it begins, so a missing one is noticed where it is missing.
//!
//! Where the last part ended is remembered, so the next one asks from there. Nothing depends on that: chunks lie in
//! order, at least one sequence apart, so from any of them the way to a wanted one is found in few steps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use pelton_engine::log::FoundSnapshot;
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Fault, within};
use crate::bucket::{Bucket, CHUNK_BYTES, OFFSET};
use crate::connect::{API_TIMEOUT, Broker};
use crate::log::Target;

const PART_CHUNKS: usize = 4;
/// How long the first chunk may take.
const FIRST_TIMEOUT: Duration = Duration::from_secs(8);
/// After so long an answer is given with what is there.
const PART_TIME: Duration = Duration::from_secs(4);

/// Where the last part ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    object: String,
    offset: u64,
    /// The next chunk has this sequence or a later one.
    sequence: u64,
}

/// One chunk as stored.
#[derive(Clone)]
pub(crate) struct Chunk {
    sequence: u64,
    offset: u64,
    payload: bytes::Bytes,
}

/// The bytes of the state from `offset` on: at least one, at most a part. `Damaged` when a chunk is not there, or goes
/// on behind the end that the head claims.
pub(crate) async fn read(
    broker: &Broker,
    target: &Target,
    found: &FoundSnapshot,
    offset: u64,
    place: &Mutex<Place>,
) -> Result<Vec<u8>, Fault> {
    let reader = Reader { broker, bucket: Bucket::new(broker, target), id: &found.object };
    let start = Instant::now();
    read_from(|from, count| reader.chunks(from, count, start), found, offset, place).await
}

/// [`read`] with whatever `ask` gives: up to so many chunks at or after a sequence.
pub(crate) async fn read_from<F: Future<Output = Result<Vec<Chunk>, Fault>>>(
    ask: impl Fn(u64, usize) -> F,
    found: &FoundSnapshot,
    offset: u64,
    place: &Mutex<Place>,
) -> Result<Vec<u8>, Fault> {
    let id = &found.object;
    if offset >= found.bytes {
        return Err(Fault::Damaged(format!("snapshot {id} ends at byte {}", found.bytes)));
    }
    let last = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_known = last.object == *id && last.offset == offset;
    let mut from = if is_known { last.sequence } else { 1 };
    // The way to a place that is not known is by single chunks.
    let mut count = if is_known || offset == 0 { PART_CHUNKS } else { 1 };
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
            count = PART_CHUNKS;
            continue;
        }
        let (bytes, sequence) = join(&chunks, offset).ok_or_else(|| missing(id, offset))?;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > found.bytes {
            return Err(Fault::Damaged(format!("snapshot {id} claims {} bytes and goes on to {end}", found.bytes)));
        }
        let next = Place { object: id.clone(), offset: end, sequence: sequence.saturating_add(1) };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = next;
        return Ok(bytes);
    }
}

fn missing(id: &str, offset: u64) -> Fault {
    Fault::Damaged(format!("snapshot {id}: the chunk at byte {offset} is missing"))
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
            .ok_or_else(|| Fault::Damaged(format!("snapshot {id}: a chunk does not say where it begins")))?;
        Ok(Chunk { sequence, offset, payload })
    }
}

struct Reader<'a> {
    broker: &'a Broker,
    bucket: Bucket<'a>,
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
        let Some(message) = self.broker.next_message(&self.bucket.stream, &subject, from).await? else {
            return Ok(Vec::new());
        };
        let offset = message.headers.get(OFFSET).map(|value| value.as_str());
        Ok(vec![Chunk::new(self.id, message.sequence, offset, message.payload)?])
    }

    /// One request for several messages, answered by any replica.
    async fn direct(&self, from: u64, count: usize, start: Instant) -> Result<Vec<Chunk>, Fault> {
        let client = self.broker.client();
        let inbox = client.new_inbox();
        let mut answers = within(API_TIMEOUT, "subscribe for chunks", client.subscribe(inbox.clone())).await?;
        let verb = format!("{}.DIRECT.GET.{}", self.broker.api_prefix(), self.bucket.stream);
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
        let losses = self.broker.losses();
        while chunks.len() < count {
            let limit = if chunks.is_empty() { start + FIRST_TIMEOUT } else { start + PART_TIME };
            match tokio::time::timeout_at(limit, answers.next()).await {
                Ok(Some(message)) if message.status.is_none() => chunks.push(self.delivered(message)?),
                // The end of the answer, or nobody that answers.
                Ok(Some(_) | None) => break,
                Err(_) if chunks.is_empty() => {
                    return Err(Fault::Unavailable(format!("snapshot {}: no chunk came in time", self.id)));
                }
                Err(_) => break,
            }
            if self.broker.losses() != losses {
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
    use pelton_engine::epoch::Marker;
    use pelton_engine::log::StoredMarker;

    use super::*;

    /// The part at an offset of an object of 100 bytes that has lost all chunks but its first.
    fn part(sequence: u64, offset: u64) -> Result<Vec<u8>, Fault> {
        let marker = include_bytes!("../../../tests/fuzz/corpus/stored/marker");
        let stored = StoredMarker { sequence: 1, marker: Marker::decode(&marker[1..]).expect("a marker") };
        let found = FoundSnapshot { stored, bytes: 100, digest: [0; 32], object: "0-1-x".to_string() };
        let chunk = Chunk::new(&found.object, sequence, Some("0"), bytes::Bytes::from_static(b"0123456789"));
        let ask = |from, _| {
            let there = chunk.clone().map(|chunk| Vec::from_iter((from <= sequence).then_some(chunk)));
            std::future::ready(there)
        };
        read_from(ask, &found, offset, &Mutex::default()).now_or_never().expect("nothing is waited for")
    }

    #[test]
    fn behind_the_last_sequence_nothing_is_searched() {
        assert_eq!(part(u64::MAX, 4), Ok(b"456789".to_vec()));
        for sequence in [u64::MAX, u64::MAX - 3] {
            assert!(matches!(part(sequence, 50), Err(Fault::Damaged(text)) if text.contains("byte 50 is missing")));
        }
    }
}
