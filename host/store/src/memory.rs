//! The double of the store in memory, with the same rules and with faults on request.
//!
//! It makes the difference between applied and synced visible: [`MemoryStore::lose_unsynced`] is the power cut,
//! [`MemoryStore::fail_next`] the full disk, [`MemoryStore::corrupt`] the flipped bit. Deterministic.

use std::collections::VecDeque;
use std::sync::Arc;

use pelton_engine::epoch::Epoch;
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{Discard, HISTORY_MAX, Local, OUTBOX_MAX, Past, Store, StoreError};

use crate::record::past;
use crate::rules::{self, Next};

/// A [`Store`] without a disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    snapshot: Option<Arc<Snapshot>>,
    /// Applied epochs, oldest first: all after the snapshot, and older ones for the outbox.
    entries: VecDeque<Arc<Entry>>,
    /// More than is handed out, so that losing the tail leaves a full history.
    history: VecDeque<Past>,
    /// Last epoch that survives a power cut.
    synced: u64,
    fail_next: Option<String>,
    damaged: Option<String>,
    quarantined: usize,
}

#[derive(Debug)]
struct Entry {
    epoch: Epoch,
    sequence: u64,
    sink: Vec<u8>,
}

impl Entry {
    fn number(&self) -> u64 {
        self.epoch.marker.epoch
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A power cut: of the epochs applied since the last sync, the first `kept` survive. Gives how many were lost.
    pub fn lose_unsynced(&mut self, kept: u64) -> u64 {
        let head = self.head_epoch();
        let last = head.min(self.synced + kept);
        self.entries.retain(|entry| entry.number() <= last);
        self.history.retain(|past| past.epoch <= last);
        self.synced = last;
        head - last
    }

    /// The disk is gone, and a new one is empty.
    pub fn drop_everything(&mut self) {
        *self = MemoryStore { quarantined: self.quarantined, ..MemoryStore::default() };
    }

    /// The next write fails with `Environment` and has no effect.
    pub fn fail_next(&mut self, why: &str) {
        self.fail_next = Some(why.into());
    }

    /// Everything but `rebase` answers `Damaged` from now on.
    pub fn corrupt(&mut self, why: &str) {
        self.damaged = Some(why.into());
    }

    /// How many times content was set aside.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }

    /// Epochs applied since the last sync.
    #[must_use]
    pub fn unsynced(&self) -> u64 {
        self.head_epoch() - self.synced
    }

    fn head_epoch(&self) -> u64 {
        self.head().map_or(0, |(stored, _)| stored.marker.epoch)
    }

    /// Marker, sequence and sink of the last epoch.
    fn head(&self) -> Option<(StoredMarker, &[u8])> {
        if let Some(entry) = self.entries.back() {
            let stored = StoredMarker { sequence: entry.sequence, marker: entry.epoch.marker.clone() };
            return Some((stored, &entry.sink));
        }
        self.snapshot.as_ref().map(|snapshot| (snapshot.stored.clone(), &[][..]))
    }

    fn snapshot_epoch(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.stored.marker.epoch)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.damaged.clone().map_or(Ok(()), |why| Err(StoreError::Damaged(why)))
    }

    fn check_write(&mut self) -> Result<(), StoreError> {
        self.fail_next.take().map_or(Ok(()), |why| Err(StoreError::Environment(why)))
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        self.check()?;
        let Some((head, sink)) = self.head() else { return Ok(None) };
        let from = self.snapshot_epoch();
        let deltas = self.entries.iter().filter(|entry| from < entry.number()).map(|entry| entry.epoch.delta.clone());
        let skipped = self.history.len().saturating_sub(HISTORY_MAX);
        Ok(Some(Local {
            head,
            snapshot: self.snapshot.as_deref().cloned(),
            deltas: deltas.collect(),
            history: self.history.iter().skip(skipped).copied().collect(),
            sink: sink.to_vec(),
        }))
    }

    fn apply(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        let head = self.head().map(|(stored, _)| stored);
        if rules::follows(head.as_ref(), epoch, sequence)? == Next::Applied {
            return Ok(());
        }
        self.check_write()?;
        let entry = Entry { epoch: epoch.clone(), sequence, sink: sink.to_vec() };
        self.history.push_back(past(&StoredMarker { sequence, marker: epoch.marker.clone() }));
        self.entries.push_back(Arc::new(entry));
        // Nobody falls back further than to the last sync, so what its history does not need can go.
        while self.history.front().is_some_and(|past| past.epoch + HISTORY_MAX as u64 <= self.synced) {
            self.history.pop_front();
        }
        Ok(())
    }

    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.check()?;
        let head = self.head().map(|(stored, _)| stored);
        rules::belongs(head.as_ref(), &self.history, &snapshot.stored.marker)?;
        self.check_write()?;
        self.snapshot = Some(Arc::new(snapshot.clone()));
        self.synced = self.head_epoch();
        let outbox_first = (self.synced + 1).saturating_sub(OUTBOX_MAX as u64);
        let first = outbox_first.min(snapshot.stored.marker.epoch + 1);
        self.entries.retain(|entry| first <= entry.number());
        Ok(())
    }

    fn rebase(&mut self, snapshot: Option<&Snapshot>, old: Discard<'_>) -> Result<(), StoreError> {
        self.check_write()?;
        let is_content = self.damaged.is_some() || self.head().is_some();
        let kept = usize::from(is_content && matches!(old, Discard::Damaged(_)));
        *self = MemoryStore {
            snapshot: snapshot.cloned().map(Arc::new),
            history: rules::history_of(snapshot),
            synced: snapshot.map_or(0, |snapshot| snapshot.stored.marker.epoch),
            quarantined: self.quarantined + kept,
            ..MemoryStore::default()
        };
        Ok(())
    }

    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError> {
        self.check()?;
        let first = (self.head_epoch() + 1).saturating_sub(OUTBOX_MAX as u64);
        let entry = self.entries.iter().find(|entry| entry.number() == epoch && first <= epoch);
        Ok(entry.map(|entry| entry.epoch.clone()))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if let Some(why) = self.fail_next.take() {
            // As on a disk: after a failed sync nobody knows what is there.
            self.corrupt(&format!("content is unknown since a failed sync ({why})"));
            return Err(StoreError::Environment(why));
        }
        self.synced = self.head_epoch();
        Ok(())
    }
}
