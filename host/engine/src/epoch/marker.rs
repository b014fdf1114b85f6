//! The commit marker: the last message of every epoch. It says what the epoch did, by whom, and what came before.
//!
//! A marker keeps the bytes it was sealed or read with: the next one holds their hash, and they are stored and published
//! again as they are, also what a newer host has written into them that this one does not know.

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::hexed::{digest, hex64, hex128};
use super::versioned::{self, Unreadable, Version};
use super::{MARKER_SLOTS, RUN_SHIFT, StreamIdentity, sha256};
use crate::totals::Totals;

/// Format of markers that this host writes, and the only one that it reads.
const MARKER_VERSION: u8 = 2;
/// Largest marker, bytes.
pub const MARKER_BYTES_MAX: usize = 64 << 10;

/// The last input event of an epoch. Sequence 0 means that nothing was read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub sequence: u64,
    /// [`super::fingerprint`] of that event: tells a rolled-back stream that re-used its sequences.
    #[serde(with = "hex64")]
    pub fingerprint: u64,
}

/// Something that moved a partition and is no event: it comes from a clock, so it is recorded. It holds behind the
/// position of its epoch, and no event is taken after it in that epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Clock {
    /// The source was silent, and the watermark has moved to `value`, milliseconds of event time.
    Idle { value: i64 },
}

/// One named part of a partition's state. A delta or snapshot addresses it by its place in the marker's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// `core`, or the name of its stage.
    pub name: String,
    /// What kind of operator reads it.
    pub operator: String,
    /// [`super::layout_of`] its text: bytes of another one cannot be read.
    #[serde(with = "hex64")]
    pub layout: u64,
    /// The epoch whose delta began it: what came before is of another section of this name.
    pub epoch: u64,
    /// Rough memory that it takes.
    pub bytes: u64,
}

/// What a marker says. Unknown fields of its JSON are passed over, unless `needs` names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerFields {
    /// Format of this record.
    pub version: Version<MARKER_VERSION>,
    /// Features that a reader must know.
    pub needs: Vec<String>,
    /// Version of the program that sealed it, for people.
    pub host: String,
    pub pipeline: String,
    pub partition: u32,
    /// How many partitions the pipeline has.
    pub partitions: u32,
    /// Where keys come from; with another key, or another number of partitions, the same events lie elsewhere.
    pub key: String,
    /// 1, 2, 3, … without a gap.
    pub epoch: u64,
    /// Chosen once per epoch; tells "my batch, acknowledgement lost" from "another host's epoch".
    #[serde(with = "hex128")]
    pub nonce: u128,
    /// Nonce of the epoch before; 0 for the first.
    #[serde(with = "hex128")]
    pub prev_nonce: u128,
    /// sha256 of the marker before, as it was stored; 0 for the first. So what markers say is chained, too.
    #[serde(with = "digest")]
    pub prev: [u8; 32],
    /// Revision of the lease under which it was published; part of the marker's subject.
    pub lease: u64,
    /// Of the pipeline that computed it: sha256 of what its file says, and of its modules.
    #[serde(with = "digest")]
    pub revision: [u8; 32],
    pub input: StreamIdentity,
    /// A host that remembers another one has lost its history.
    pub pipeline_stream: StreamIdentity,
    /// The last input event of this epoch, or of an earlier one when this epoch read none.
    pub position: Position,
    /// When the broker stored the message at the position, milliseconds since the Unix epoch; 0 before the first.
    pub published: i64,
    /// The input holds no event of this partition in `(position, read_through]`: other partitions of the stream may go
    /// on, and its old messages may expire, while this one is quiet.
    pub read_through: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<Clock>,
    /// Event time in milliseconds; `i64::MIN` before the first event.
    pub watermark: i64,
    /// The input has ended here, and every window has closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Of this epoch.
    pub totals: Totals,
    /// Since the beginning, this epoch included.
    pub totals_sum: Totals,
    /// Dead letters of this epoch by class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dead: BTreeMap<String, u64>,
    /// Counters of modules, as `STAGE/COUNTER`: what this epoch has added, and the sum since the counter began.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, [i128; 2]>,
    /// Outputs, dead letters and late events of this epoch.
    pub records: u32,
    /// Chunks of the state delta.
    pub delta_chunks: u32,
    /// sha256 of the delta.
    #[serde(with = "digest")]
    pub delta_hash: [u8; 32],
    /// sha256 over the digests of the single records: [`super::Records::hash`].
    #[serde(with = "digest")]
    pub records_hash: [u8; 32],
    /// Rolling hash over all delta hashes since the beginning.
    #[serde(with = "digest")]
    pub state_hash: [u8; 32],
    /// In the order of the indices of deltas and snapshots.
    pub sections: Vec<Section>,
}

/// A sealed marker: its fields, read through `Deref`, and the bytes they were written as. Neither changes any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    fields: MarkerFields,
    bytes: Vec<u8>,
}

impl Deref for Marker {
    type Target = MarkerFields;

    fn deref(&self) -> &MarkerFields {
        &self.fields
    }
}

impl Marker {
    /// Seals the fields.
    #[must_use]
    pub fn new(fields: MarkerFields) -> Marker {
        let bytes = serde_json::to_vec(&fields).expect("a marker holds only numbers, strings and lists");
        Marker { fields, bytes }
    }

    /// Reads a marker as it is stored.
    ///
    /// # Errors
    /// When the bytes are not a marker of the format of this host, or need what it does not know.
    pub fn decode(bytes: &[u8]) -> Result<Marker, Unreadable> {
        versioned::check(bytes, "marker", MARKER_VERSION)?;
        let fields = serde_json::from_slice(bytes).map_err(|error| Unreadable::damaged("marker", &error))?;
        Ok(Marker { fields, bytes: bytes.to_vec() })
    }

    /// JSON, for the stream and for people: the same bytes each time.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// sha256 of its bytes: `prev` of the next marker.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.bytes)
    }

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

    /// Sums of the modules' counters, by name.
    #[must_use]
    pub fn counter_sums(&self) -> Vec<(String, i128)> {
        self.counters.iter().map(|(name, [_, sum])| (name.clone(), *sum)).collect()
    }

    /// Whether this is the next link of the chain behind `before`: consecutive epoch, linked nonce and hash.
    ///
    /// # Errors
    /// What does not fit.
    pub fn follows(&self, before: Option<&Marker>) -> Result<(), String> {
        let (epoch, nonce) = before.map_or((0, 0), |before| (before.epoch, before.nonce));
        if self.epoch != epoch + 1 || self.prev_nonce != nonce {
            return Err(format!(
                "epoch {} (after nonce {:032x}) does not follow epoch {epoch} (nonce {nonce:032x})",
                self.epoch, self.prev_nonce
            ));
        }
        if self.prev != before.map_or([0; 32], Marker::digest) {
            return Err(format!(
                "the marker of epoch {} was sealed behind another marker of epoch {epoch}",
                self.epoch
            ));
        }
        Ok(())
    }
}
