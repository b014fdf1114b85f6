//! One epoch as it is stored: its records, its state delta and its marker.
//!
//! An epoch is published as one atomic batch: chunks of the delta first (they carry the first fence), then the records
//! and the ledger, the marker last (it carries the second fence). All of it lands or nothing.

mod delta;
mod hexed;
mod ledger;
mod manifest;
mod marker;
mod records;
mod versioned;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::totals::Totals;

pub use delta::{DeltaReader, DeltaWriter, Part, SECTION_STORED_BYTES_MAX};
pub use ledger::Ledger;
pub use manifest::{MANIFEST_BYTES_MAX, Manifest, PART_BYTES_MAX, SnapshotPart, SnapshotSection};
pub use marker::{Clock, MARKER_BYTES_MAX, Marker, MarkerFields, Position, Section};
pub use records::{Channel, Record, Records};
pub use versioned::{Unreadable, Version};

/// Marker subjects repeat after this many epochs: `marker.<lease revision>-<run>.<epoch mod MARKER_SLOTS>`.
pub const MARKER_SLOTS: u64 = 4096;
/// A nonce is session (64 bits), run of the session (24 bits), epoch sealed in the session (40 bits).
pub const RUN_SHIFT: u32 = 40;
/// Largest chunk of a delta in a batch, bytes; below the broker's usual payload limit of 1 MiB.
pub const CHANGE_BYTES_MAX: usize = 512 << 10;
/// Messages of one atomic batch at most (the broker's default limit).
pub const BATCH_MESSAGES_MAX: usize = 1000;
/// Records of one epoch at most; leaves room for the delta, the ledger and the marker.
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

/// Bytes of the state delta that the ids of one run of events may take on top of that.
pub const ID_BYTES_AT_ONCE_MAX: usize = 8 << 10;

const _: () =
    assert!(EPOCH_CHANGE_BYTES_MAX + CHANGE_BYTES_AT_ONCE_MAX + ID_BYTES_AT_ONCE_MAX < CHANGES_MAX * CHANGE_BYTES_MAX);
/// Messages of a batch besides records and chunks: ledger and marker.
pub const EPOCH_OTHERS: usize = 2;

const _: () = assert!(EPOCH_RECORDS_MAX + CHANGES_MAX + EPOCH_OTHERS <= BATCH_MESSAGES_MAX);

/// A stream, told apart from another one of the same name by when it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamIdentity {
    pub name: String,
    /// Nanoseconds since the Unix epoch, as the broker reports it.
    pub created: i64,
}

/// sha256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
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

/// The number that stands for the text of a section's layout.
#[must_use]
pub fn layout_of(text: &str) -> u64 {
    fingerprint(0, text.as_bytes())
}

/// What was computed in an epoch, and where that left off.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    pub pipeline: String,
    pub partition: u32,
    pub partitions: u32,
    pub key: String,
    pub revision: [u8; 32],
    pub position: Position,
    pub published: i64,
    pub clock: Vec<Clock>,
    pub watermark: i64,
    pub ended: bool,
    pub totals: Totals,
    /// Dead letters by class.
    pub dead: BTreeMap<String, u64>,
    /// What modules have counted: every counter, as `STAGE/COUNTER`.
    pub counters: BTreeMap<String, i128>,
    pub records: Records,
    /// Encoded state changes.
    pub delta: Vec<u8>,
    /// What the delta's parts are of, without their beginnings.
    pub sections: Vec<Section>,
}

impl Closed {
    /// Rough memory of the state.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.sections.iter().map(|section| section.bytes).sum()
    }
}

/// By whom an epoch is sealed, and over which streams.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub nonce: u128,
    pub input: StreamIdentity,
    pub pipeline_stream: StreamIdentity,
    pub read_through: u64,
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
        let Place { nonce, input, pipeline_stream, read_through, lease } = place;
        let Closed { records, delta, totals, mut sections, .. } = closed;
        let epoch = last.map_or(0, |last| last.epoch) + 1;
        if let Some(last) = last {
            assert!(last.position.sequence <= closed.position.sequence, "positions never move back");
            assert!(last.watermark <= closed.watermark, "watermarks never move back");
            assert!(!last.ended || totals.received == 0, "nothing comes after the end of the input");
        }
        for section in &mut sections {
            let before = last.and_then(|last| last.sections.iter().find(|before| before.name == section.name));
            section.epoch = before.map_or(epoch, |before| before.epoch);
        }
        // A counter that the modules no longer have goes with its sum.
        let sum = |name: &String| last.and_then(|last| last.counters.get(name)).map_or(0, |[_, sum]| *sum);
        let counters = closed.counters.into_iter().map(|(name, count)| {
            let sum = sum(&name) + count;
            (name, [count, sum])
        });
        let counters = counters.collect();
        let fields = MarkerFields {
            host: concat!("pelton ", env!("CARGO_PKG_VERSION")).into(),
            pipeline: closed.pipeline,
            partition: closed.partition,
            partitions: closed.partitions,
            key: closed.key,
            epoch,
            nonce,
            prev_nonce: last.map_or(0, |last| last.nonce),
            lease,
            revision: closed.revision,
            input,
            pipeline_stream,
            position: closed.position,
            published: closed.published,
            read_through,
            clock: closed.clock,
            watermark: closed.watermark,
            ended: closed.ended,
            totals,
            totals_sum: last.map_or(Totals::default(), |last| last.totals_sum).and(&totals),
            dead: closed.dead,
            counters,
            sections,
            ..MarkerFields::default()
        };
        let epoch = Epoch::new(fields, last, records, delta);
        let bytes = epoch.marker.bytes().len();
        assert!(bytes <= MARKER_BYTES_MAX, "a marker of {bytes} bytes");
        epoch
    }

    /// An epoch of what it says, its records and its delta; counts and hashes of these and of the marker before are filled
    /// in.
    #[must_use]
    pub fn new(fields: MarkerFields, before: Option<&Marker>, records: Records, delta: Vec<u8>) -> Epoch {
        let delta_hash = sha256(&delta);
        let marker = Marker::new(MarkerFields {
            prev: before.map_or([0; 32], Marker::digest),
            records: records.rows.len() as u32,
            delta_chunks: chunk_count(&delta) as u32,
            delta_hash,
            records_hash: records.hash(),
            state_hash: roll(&before.map_or([0; 32], |before| before.state_hash), &delta_hash),
            ..fields
        });
        Epoch { marker, records, delta }
    }

    /// The delta cut into message-sized chunks; at least one, since the first carries a fence.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let count = chunk_count(&self.delta);
        (0..count).map(|idx| {
            let start = idx * CHANGE_BYTES_MAX;
            &self.delta[start..self.delta.len().min(start + CHANGE_BYTES_MAX)]
        })
    }

    /// How many messages its batch has.
    #[must_use]
    pub fn messages(&self) -> usize {
        chunk_count(&self.delta) + self.records.rows.len() + EPOCH_OTHERS
    }

    /// Whether delta and records are what the marker says.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.marker.delta_hash == sha256(&self.delta) && self.marker.records_hash == self.records.hash()
    }
}

/// The next value of the rolling state hash: sha256 over the last one and the hash of the delta.
#[must_use]
pub fn roll(state_hash: &[u8; 32], delta_hash: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(state_hash);
    hash.update(delta_hash);
    hash.finalize().into()
}

/// How many chunks a delta is cut into.
#[must_use]
pub fn chunk_count(delta: &[u8]) -> usize {
    delta.len().div_ceil(CHANGE_BYTES_MAX).max(1)
}

#[cfg(test)]
mod tests;
