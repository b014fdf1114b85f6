//! One epoch as it is stored: its records, its state delta and its marker.
//!
//! An epoch is published as one atomic batch: change chunks first (they carry the first fence), then the records,
//! the marker last (it carries the second fence). All of it lands or nothing.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::totals::Totals;

/// Marker subjects repeat after this many epochs: `mark.<lease revision>-<run>.<epoch mod MARKER_SLOTS>`.
pub const MARKER_SLOTS: u64 = 4096;
/// A nonce is session (64 bits), run of the session (24 bits), epoch sealed in the session (40 bits).
pub const RUN_SHIFT: u32 = 40;
/// Largest change chunk of a batch, bytes; below the broker's usual payload limit of 1 MiB.
pub const CHANGE_BYTES_MAX: usize = 512 << 10;
/// Messages of one atomic batch at most (the broker's default limit).
pub const BATCH_MESSAGES_MAX: usize = 1000;
/// Records of one epoch at most; leaves room for change chunks and the marker.
pub const EPOCH_RECORDS_MAX: usize = 900;
/// Bytes of the state delta at which an epoch is cut. What one event, timer or run of events changes comes on top of it.
pub const EPOCH_CHANGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of the state delta that one event, timer or run of events may bring about.
pub const CHANGE_BYTES_AT_ONCE_MAX: usize = 23 << 20;
/// Bytes of key and kept texts that one event may bring to the state; with the largest state of a key, 16 MiB, it makes
/// [`CHANGE_BYTES_AT_ONCE_MAX`].
pub const TEXT_BYTES_AT_ONCE_MAX: usize = 7 << 20;
/// Chunks of the state delta of one epoch at most.
pub const CHANGES_MAX: usize = 64;
/// Payload and header bytes of one epoch's records at which it is cut.
pub const EPOCH_BYTES_MAX: usize = 16 << 20;

/// What an atomic batch adds to each of its messages: the header line of the protocol, batch id, number and commit.
pub const BATCH_HEADER_BYTES: usize = 512;
/// Largest record where nothing else is known: the broker's usual payload limit of 1 MiB, less what the batch adds.
pub const RECORD_BYTES_MAX: usize = (1 << 20) - BATCH_HEADER_BYTES;
/// Largest header block of a record: JetStream takes 64 KiB of headers.
pub const HEADER_BYTES_MAX: usize = (63 << 10) - BATCH_HEADER_BYTES;

const _: () = assert!(EPOCH_CHANGE_BYTES_MAX + CHANGE_BYTES_AT_ONCE_MAX < CHANGES_MAX * CHANGE_BYTES_MAX);
// The marker, and one chunk where nothing has changed.
const _: () = assert!(EPOCH_RECORDS_MAX + CHANGES_MAX + 2 < BATCH_MESSAGES_MAX);

/// A stream, told apart from another one of the same name by when it was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamIdentity {
    pub name: String,
    /// Nanoseconds since the Unix epoch, as the broker reports it.
    pub created: i64,
}

/// The last input event of an epoch. Sequence 0 means that nothing was read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub sequence: u64,
    /// [`fingerprint`] of that event: tells a rolled-back stream that re-used its sequences.
    #[serde(with = "hex64")]
    pub fingerprint: u64,
}

/// sha256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Identity of a stored message: the first 8 bytes of sha256 over its payload and its publish time.
/// Computed once per epoch, for the last event only.
#[must_use]
pub fn fingerprint(published_ms: i64, payload: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(published_ms.to_be_bytes());
    hash.update(payload);
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("sha256 has 32 bytes"))
}

/// The last message of every epoch: what happened, by whom, and what came before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Format of this record.
    pub version: u8,
    /// 1, 2, 3, … without a gap.
    pub epoch: u64,
    /// Chosen once per epoch; tells "my batch, acknowledgement lost" from "another host's epoch".
    #[serde(with = "hex128")]
    pub nonce: u128,
    /// Nonce of the epoch before; 0 for the first.
    #[serde(with = "hex128")]
    pub prev_nonce: u128,
    pub input: StreamIdentity,
    /// The pipeline stream itself: a host that remembers another one has lost its history.
    pub log: StreamIdentity,
    /// The last input event of this epoch, or of an earlier one when this epoch read none.
    pub position: Position,
    /// The input holds no event of this partition in `(position, seen]`: other partitions of the stream may go on, and
    /// its old messages may expire, while this one is quiet.
    pub seen: u64,
    /// When the broker stored the message at the position, milliseconds since the Unix epoch; 0 before the first.
    pub published: i64,
    /// Event time in milliseconds; `i64::MIN` before the first event.
    pub watermark: i64,
    /// sha256 of each stage's module.
    #[serde(with = "hex_digests")]
    pub modules: Vec<[u8; 32]>,
    /// Shape of the state ([`crate::step::Engine::layout`]); another shape cannot be read.
    #[serde(with = "hex64")]
    pub layout: u64,
    /// Revision of the lease under which it was published; part of the marker's subject.
    pub lease: u64,
    /// Of this epoch.
    pub totals: Totals,
    /// Since the beginning, this epoch included.
    pub totals_sum: Totals,
    /// Outputs, dead letters and late rows of this epoch.
    pub records: u32,
    /// Chunks of the state delta.
    pub changes: u32,
    /// sha256 over delta and records: [`Epoch::hash`].
    #[serde(with = "hex_digest")]
    pub batch_hash: [u8; 32],
    /// Rolling hash over all state deltas since the beginning.
    #[serde(with = "hex_digest")]
    pub state_hash: [u8; 32],
}

impl Marker {
    /// `<lease>-<run>.<epoch mod slots>`: the last two tokens of the marker's subject.
    ///
    /// `<run>` stands for one unbroken stretch of work of one process, so that a partition which commits an epoch
    /// number again, after the stream lost the first one, does not use the first one's subject: a host that still
    /// holds the first one must not pass the fence.
    #[must_use]
    pub fn slot(&self) -> String {
        let run = (self.nonce >> RUN_SHIFT) as u64 ^ (self.nonce >> 96) as u64;
        let run = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        format!("{}-{run:08x}.{}", self.lease, self.epoch % MARKER_SLOTS)
    }

    /// Whether no event was taken yet: it only says where the partition begins.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.position.sequence == 0 && self.totals_sum.received == 0
    }

    /// The marker as JSON, for the stream and for people.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a marker holds only numbers, strings and lists")
    }

    /// Reads a marker back.
    ///
    /// # Errors
    /// When the bytes are not a marker of a version that this host knows.
    pub fn decode(bytes: &[u8]) -> Result<Marker, String> {
        let marker: Marker =
            serde_json::from_slice(bytes).map_err(|error| format!("marker does not decode: {error}"))?;
        if marker.version != 1 {
            return Err(format!("marker version {} is not known to this host (it knows 1)", marker.version));
        }
        Ok(marker)
    }
}

/// Outputs, dead letters and late rows of an epoch, in one arena.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    pub data: Vec<u8>,
    pub rows: Vec<Record>,
}

/// One message of the batch; ranges address the arena of its [`Records`].
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which output, dead-letter or late subject.
    pub channel: Channel,
    /// Subject below the partition's prefix, such as `out.alerts`, `dlq.source.json-syntax` or `late.stream-farm`.
    pub subject: Range<u32>,
    /// `name: value\r\n` per header; values hold neither CR nor LF.
    pub headers: Range<u32>,
    pub payload: Range<u32>,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Index into the plan's outputs.
    Output(u16),
    DeadLetter,
    Late,
}

impl Records {
    /// The bytes of one range.
    #[must_use]
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.data[range.start as usize..range.end as usize]
    }

    /// Appends a record and its bytes.
    pub fn push(&mut self, channel: Channel, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let mut put = |bytes: &[u8]| {
            let start = self.data.len() as u32;
            self.data.extend_from_slice(bytes);
            start..self.data.len() as u32
        };
        let (subject, headers, payload) = (put(subject), put(headers), put(payload));
        self.rows.push(Record { channel, subject, headers, payload });
    }

    /// Empties the arena and keeps its allocations.
    pub fn clear(&mut self) {
        self.data.clear();
        self.rows.clear();
    }
}

/// What was computed in an epoch, and where that left off.
#[derive(Clone, Debug)]
pub struct Closed {
    pub position: Position,
    pub published: i64,
    pub watermark: i64,
    pub modules: Vec<[u8; 32]>,
    pub layout: u64,
    pub totals: Totals,
    pub records: Records,
    /// Encoded state changes.
    pub delta: Vec<u8>,
    /// Rough memory of the state.
    pub state_bytes: usize,
}

/// By whom an epoch is sealed, and over which streams.
#[derive(Clone, Debug)]
pub struct Place {
    pub nonce: u128,
    pub input: StreamIdentity,
    pub log: StreamIdentity,
    pub seen: u64,
    pub lease: u64,
}

/// A whole epoch, ready to be published, applied or published again with the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    pub marker: Marker,
    pub records: Records,
    /// Encoded state changes.
    pub delta: Vec<u8>,
}

impl Epoch {
    /// The next link of the chain after `last`.
    #[must_use]
    pub fn seal(last: Option<&Marker>, place: Place, closed: Closed) -> Epoch {
        let Place { nonce, input, log, seen, lease } = place;
        let Closed { position, published, watermark, modules, layout, totals, records, delta, state_bytes: _ } = closed;
        let mut totals_sum = last.map_or(Totals::default(), |last| last.totals_sum);
        totals_sum.add(&totals);
        if let Some(last) = last {
            assert!(last.position.sequence <= position.sequence, "positions never move back");
            assert!(last.watermark <= watermark, "watermarks never move back");
        }
        let marker = Marker {
            version: 1,
            epoch: last.map_or(0, |last| last.epoch) + 1,
            nonce,
            prev_nonce: last.map_or(0, |last| last.nonce),
            input,
            log,
            position,
            seen,
            published,
            watermark,
            modules,
            layout,
            lease,
            totals,
            totals_sum,
            records: records.rows.len() as u32,
            changes: change_count(&delta) as u32,
            batch_hash: Epoch::hash(&delta, &records),
            state_hash: Epoch::roll(&last.map_or([0; 32], |last| last.state_hash), &delta),
        };
        Epoch { marker, records, delta }
    }

    /// The delta cut into message-sized chunks; at least one, since the first carries a fence.
    pub fn changes(&self) -> impl Iterator<Item = &[u8]> {
        let count = change_count(&self.delta);
        (0..count).map(|idx| {
            let start = idx * CHANGE_BYTES_MAX;
            &self.delta[start..self.delta.len().min(start + CHANGE_BYTES_MAX)]
        })
    }

    /// sha256 over delta and records, with lengths, so that no two epochs share it by shifting bytes.
    #[must_use]
    pub fn hash(delta: &[u8], records: &Records) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((delta.len() as u64).to_be_bytes());
        hash.update(delta);
        hash.update((records.rows.len() as u64).to_be_bytes());
        for row in &records.rows {
            for range in [&row.subject, &row.headers, &row.payload] {
                hash.update((range.end - range.start).to_be_bytes());
            }
        }
        hash.update(&records.data);
        hash.finalize().into()
    }

    /// The next value of the rolling state hash.
    #[must_use]
    pub fn roll(state_hash: &[u8; 32], delta: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(state_hash);
        hash.update(delta);
        hash.finalize().into()
    }
}

/// How many chunks a delta is cut into.
#[must_use]
pub fn change_count(delta: &[u8]) -> usize {
    delta.len().div_ceil(CHANGE_BYTES_MAX).max(1)
}

mod hex64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

mod hex128 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:032x}"))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(value: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::hex::encode(value))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::hex::decode32(&text).ok_or_else(|| D::Error::custom("not 64 hex digits"))
    }
}

mod hex_digests {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(value: &[[u8; 32]], serializer: S) -> Result<S::Ok, S::Error> {
        value.iter().map(|digest| crate::hex::encode(digest)).collect::<Vec<_>>().serialize(serializer)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| crate::hex::decode32(text).ok_or_else(|| D::Error::custom("not 64 hex digits")))
            .collect()
    }
}

#[cfg(test)]
mod tests;
