//! Fills a new generation, from a snapshot alone or with what the generation before still needs to hand on.

use std::collections::VecDeque;
use std::time::Duration;

use pelton_engine::log::Snapshot;
use pelton_engine::store::{Past, StoreError};
use sha2::{Digest, Sha256};

use crate::envelope::{Kind, Place};
use crate::generation::Generation;
use crate::record::{Base, Head, PAGE_SLOTS, Page, SnapshotFacts, page_of};
use crate::rules;

/// Bytes per batch: nobody reads the generation before it is complete, so it need not be one batch. While sled applies a
/// batch it frees none of the nodes that it replaces: twice 4 MiB of values were held by batches of 4 MiB.
const BATCH_BYTES: usize = 256 << 10;

/// The generation before and what it holds.
pub(crate) struct Source<'a> {
    pub(crate) generation: &'a Generation,
    pub(crate) base: &'a Base,
    pub(crate) head: &'a Head,
    pub(crate) history: &'a VecDeque<Past>,
    /// Whether its outbox is handed on.
    pub(crate) outbox: bool,
    /// For reading one value.
    pub(crate) limit: Duration,
}

/// Fills `target` with a snapshot and nothing before it; the head is the snapshot's.
pub(crate) fn fresh(target: &Generation, snapshot: Option<&Snapshot>) -> Result<Base, StoreError> {
    let epoch = snapshot.map_or(0, |snapshot| snapshot.stored.marker.epoch);
    let base = Base {
        snapshot: snapshot.map(facts),
        head_epoch: epoch,
        delta_first: epoch + 1,
        outbox_first: epoch + 1,
        history_first: epoch.max(1),
    };
    let mut writer = Writer::new(target);
    if let Some(snapshot) = snapshot {
        writer.put(Kind::Snapshot, 0, epoch, &snapshot.state)?;
        writer.history(&rules::history_of(Some(snapshot)))?;
        writer.put(Kind::Head, 0, epoch, &Head::encode(&snapshot.stored, &[]))?;
    }
    writer.finish(&base)?;
    Ok(base)
}

/// Fills `target` with a snapshot and all that the source keeps besides: head, history, outbox if it is of use and, when the
/// snapshot is older than the head, the deltas since.
pub(crate) fn compacted(target: &Generation, snapshot: &Snapshot, source: &Source<'_>) -> Result<Base, StoreError> {
    let head_epoch = source.head.epoch();
    let outbox_first = if source.outbox { source.base.outbox_from(head_epoch) } else { head_epoch + 1 };
    let base = Base {
        snapshot: Some(facts(snapshot)),
        head_epoch,
        delta_first: outbox_first.min(snapshot.stored.marker.epoch + 1),
        outbox_first,
        history_first: source.history.front().map_or(head_epoch, |past| past.epoch),
    };
    let mut writer = Writer::new(target);
    writer.put(Kind::Snapshot, 0, snapshot.stored.marker.epoch, &snapshot.state)?;
    for epoch in base.delta_first..=head_epoch {
        writer.copy(source, Kind::Delta, epoch, epoch)?;
    }
    for epoch in outbox_first..=head_epoch {
        writer.copy(source, Kind::Outbox, epoch % pelton_engine::store::OUTBOX_MAX as u64, epoch)?;
    }
    writer.history(source.history)?;
    writer.put(Kind::Head, 0, head_epoch, &Head::encode(&source.head.stored, &source.head.sink))?;
    writer.finish(&base)?;
    Ok(base)
}

fn facts(snapshot: &Snapshot) -> SnapshotFacts {
    SnapshotFacts {
        stored: snapshot.stored.clone(),
        bytes: snapshot.state.len() as u64,
        sha256: Sha256::digest(&snapshot.state).into(),
    }
}

struct Writer<'a> {
    target: &'a Generation,
    batch: sled::Batch,
    batch_bytes: usize,
}

impl<'a> Writer<'a> {
    fn new(target: &'a Generation) -> Writer<'a> {
        Writer { target, batch: sled::Batch::default(), batch_bytes: 0 }
    }

    fn put(&mut self, kind: Kind, slot: u64, tag: u64, bytes: &[u8]) -> Result<(), StoreError> {
        for (key, value) in crate::envelope::seal(self.target.number, Place { kind, slot }, tag, bytes) {
            self.batch_bytes += value.len();
            self.batch.insert(&key[..], value);
            if BATCH_BYTES <= self.batch_bytes {
                self.target.write(std::mem::take(&mut self.batch))?;
                self.batch_bytes = 0;
            }
        }
        Ok(())
    }

    fn copy(&mut self, source: &Source<'_>, kind: Kind, slot: u64, tag: u64) -> Result<(), StoreError> {
        match source.generation.read(Place { kind, slot }, source.limit)? {
            Some(value) if value.tag == tag => self.put(kind, slot, tag, &value.bytes),
            _ => Err(StoreError::Damaged(format!("{kind:?} of epoch {tag} is gone"))),
        }
    }

    fn history(&mut self, history: &VecDeque<Past>) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (history.front(), history.back()) else { return Ok(()) };
        for number in page_of(first.epoch)..=page_of(last.epoch) {
            let page = Page::cut(history, number);
            let tag = page.entries.last().expect("a page between two entries has entries").epoch;
            self.put(Kind::History, number % PAGE_SLOTS, tag, &page.encode())?;
        }
        Ok(())
    }

    /// The base is written last: without it nothing here is believed.
    fn finish(mut self, base: &Base) -> Result<(), StoreError> {
        self.put(Kind::Base, 0, base.head_epoch, &base.encode())?;
        self.target.write(std::mem::take(&mut self.batch))?;
        self.target.settle()
    }
}
