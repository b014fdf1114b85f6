//! What a generation holds besides snapshot, deltas and epochs: its base, its head and pages of history.
//!
//! All expectations of `scan` follow from base and head: which deltas, pages and outbox entries must be there, and
//! with which tag. So these two records stay small and are never derived from what happens to be found.

use std::collections::VecDeque;

use pelton_engine::epoch::{Marker, Position};
use pelton_engine::log::StoredMarker;
use pelton_engine::store::{HISTORY_MAX, OUTBOX_MAX, Past};

use crate::codec::{CodecError, Reader, Writer};

/// Epochs per history page: one page is written per epoch, all of them are read on load.
pub(crate) const PAGE_EPOCHS: u64 = 64;
/// A window of `HISTORY_MAX` epochs touches at most one page more than it fills.
pub(crate) const PAGE_SLOTS: u64 = HISTORY_MAX as u64 / PAGE_EPOCHS + 1;

const _: () = assert!((HISTORY_MAX as u64).is_multiple_of(PAGE_EPOCHS));
const _: () = assert!(OUTBOX_MAX <= HISTORY_MAX, "outbox entries are checked against the history");

/// Written once, when the generation is made: what it starts from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Base {
    pub(crate) snapshot: Option<SnapshotFacts>,
    /// Epoch of the head at that time; 0 for an empty store.
    pub(crate) head_epoch: u64,
    /// First epoch whose delta, outbox entry or history entry is kept. May be `head_epoch + 1`: none yet.
    pub(crate) delta_first: u64,
    pub(crate) outbox_first: u64,
    pub(crate) history_first: u64,
}

/// The snapshot's marker and what its bytes must hash to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SnapshotFacts {
    pub(crate) stored: StoredMarker,
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

/// Written with every epoch: where the store is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) stored: StoredMarker,
    pub(crate) sink: Vec<u8>,
}

impl Base {
    /// Epoch of the snapshot, 0 without one.
    pub(crate) fn snapshot_epoch(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |facts| facts.stored.marker.epoch)
    }

    /// First epoch of the outbox when the head is at `head_epoch`.
    pub(crate) fn outbox_from(&self, head_epoch: u64) -> u64 {
        self.outbox_first.max((head_epoch + 1).saturating_sub(OUTBOX_MAX as u64))
    }

    /// First epoch of the history when the head is at `head_epoch`.
    pub(crate) fn history_from(&self, head_epoch: u64) -> u64 {
        self.history_first.max((head_epoch + 1).saturating_sub(HISTORY_MAX as u64))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for value in [self.head_epoch, self.delta_first, self.outbox_first, self.history_first] {
            out.u64(value);
        }
        out.u8(u8::from(self.snapshot.is_some()));
        if let Some(facts) = &self.snapshot {
            encode_stored(&facts.stored, &mut out);
            out.u64(facts.bytes);
            out.array(&facts.sha256);
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Base, CodecError> {
        let mut input = Reader(bytes);
        let (head_epoch, delta_first) = (input.u64()?, input.u64()?);
        let (outbox_first, history_first) = (input.u64()?, input.u64()?);
        let snapshot = match input.u8()? {
            0 => None,
            _ => {
                let stored = decode_stored(&mut input)?;
                Some(SnapshotFacts { stored, bytes: input.u64()?, sha256: input.array()? })
            }
        };
        input.end()?;
        Ok(Base { snapshot, head_epoch, delta_first, outbox_first, history_first })
    }
}

impl Head {
    pub(crate) fn epoch(&self) -> u64 {
        self.stored.marker.epoch
    }

    pub(crate) fn encode(stored: &StoredMarker, sink: &[u8]) -> Vec<u8> {
        let mut out = Writer::default();
        encode_stored(stored, &mut out);
        out.bytes(sink);
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Head, CodecError> {
        let mut input = Reader(bytes);
        let stored = decode_stored(&mut input)?;
        let sink = input.bytes()?.to_vec();
        input.end()?;
        Ok(Head { stored, sink })
    }
}

fn encode_stored(stored: &StoredMarker, out: &mut Writer) {
    out.u64(stored.sequence);
    out.bytes(stored.marker.bytes());
}

fn decode_stored(input: &mut Reader<'_>) -> Result<StoredMarker, CodecError> {
    Ok(StoredMarker { sequence: input.u64()?, marker: Marker::decode(input.bytes()?)? })
}

/// The history entry of a stored marker.
pub(crate) fn past(stored: &StoredMarker) -> Past {
    let marker = &stored.marker;
    Past { epoch: marker.epoch, nonce: marker.nonce, position: marker.position, sequence: stored.sequence }
}

/// One page of history: entries of consecutive epochs, chained by nonce to the page before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    /// Nonce of the epoch before the first entry; 0 when it is not kept.
    pub(crate) prev_nonce: u128,
    pub(crate) entries: Vec<Past>,
}

/// Page that an epoch belongs to.
pub(crate) fn page_of(epoch: u64) -> u64 {
    epoch / PAGE_EPOCHS
}

impl Page {
    /// Page `number` out of a history that ends at the head.
    pub(crate) fn cut(history: &VecDeque<Past>, number: u64) -> Page {
        let start = history.partition_point(|entry| page_of(entry.epoch) < number);
        let prev_nonce = start.checked_sub(1).map_or(0, |idx| history[idx].nonce);
        let entries = history.range(start..).take_while(|entry| page_of(entry.epoch) == number).copied().collect();
        Page { prev_nonce, entries }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u128(self.prev_nonce);
        for entry in &self.entries {
            out.u64(entry.epoch);
            out.u128(entry.nonce);
            out.u64(entry.position.sequence);
            out.u64(entry.position.fingerprint);
            out.u64(entry.sequence);
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Page, CodecError> {
        let mut input = Reader(bytes);
        let prev_nonce = input.u128()?;
        let mut entries = Vec::new();
        while !input.0.is_empty() {
            let (epoch, nonce) = (input.u64()?, input.u128()?);
            let position = Position { sequence: input.u64()?, fingerprint: input.u64()? };
            entries.push(Past { epoch, nonce, position, sequence: input.u64()? });
        }
        Ok(Page { prev_nonce, entries })
    }
}
