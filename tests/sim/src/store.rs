//! The double of the local store: atomic writes, a sync that counts, and every fault a disk can have.

use std::collections::VecDeque;
use std::sync::Arc;

use pelton_engine::epoch::Epoch;
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{Discard, HISTORY_MAX, Local, OUTBOX_MAX, Past, Store, StoreError};

use crate::rng::Rng;

struct Entry {
    epoch: Epoch,
    sequence: u64,
}

/// How long calls take, in milliseconds of the host's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub load: u64,
    pub apply: u64,
    pub compact: u64,
    pub rebase: u64,
    pub sync: u64,
}

/// A store of one partition of one host. It outlives the process that uses it.
#[derive(Default)]
pub struct SimStore {
    snapshot: Option<Arc<Snapshot>>,
    entries: VecDeque<Entry>,
    history: VecDeque<Past>,
    synced: u64,
    damaged: bool,
    /// Writes that fail before the next one succeeds.
    pub failing: u32,
    /// After this many more calls the process dies: this call and all later ones have no effect.
    pub dies_in: Option<u32>,
    /// The process has died in a call.
    pub dead: bool,
    /// Mutant: a crash may leave the position of an epoch without its state.
    pub torn: bool,
    pub quarantined: u64,
    /// Contents that were dropped because the stream had gone on without them.
    pub outdated: u64,
    pub cost: Cost,
    /// Time that calls took and that nobody has asked for yet.
    spent: u64,
}

impl SimStore {
    /// How long the calls since the last question took.
    pub fn take_spent(&mut self) -> u64 {
        std::mem::take(&mut self.spent)
    }

    /// The process is gone. After a power cut some of what was not synced is gone too. Gives how many epochs were lost.
    pub fn crash(&mut self, power_cut: bool, rng: &mut Rng) -> u64 {
        (self.dead, self.dies_in, self.failing, self.spent) = (false, None, 0, 0);
        if self.torn
            && power_cut
            && let [.., before, last] = self.entries.make_contiguous()
        {
            last.epoch.delta.clone_from(&before.epoch.delta);
        }
        let head = self.head_epoch();
        if !power_cut || self.torn || head <= self.synced {
            return 0;
        }
        let last = self.synced + rng.below(head - self.synced + 1);
        self.entries.retain(|entry| entry.epoch.marker.epoch <= last);
        self.history.retain(|past| past.epoch <= last);
        head - last
    }

    /// A new, empty disk.
    pub fn lose_all(&mut self) {
        let SimStore { torn, quarantined, outdated, cost, spent, .. } = *self;
        *self = SimStore { torn, quarantined, outdated, cost, spent, ..SimStore::default() };
    }

    /// Everything but a rebase answers `Damaged` from now on.
    pub fn corrupt(&mut self) {
        self.damaged = true;
    }

    fn head_epoch(&self) -> u64 {
        self.head().map_or(0, |head| head.marker.epoch)
    }

    fn head(&self) -> Option<StoredMarker> {
        match self.entries.back() {
            Some(entry) => Some(StoredMarker { sequence: entry.sequence, marker: entry.epoch.marker.clone() }),
            None => self.snapshot.as_ref().map(|snapshot| snapshot.stored.clone()),
        }
    }

    fn alive(&mut self) -> Result<(), StoreError> {
        if let Some(left) = &mut self.dies_in {
            if *left == 0 {
                self.dead = true;
            } else {
                *left -= 1;
            }
        }
        if self.dead { Err(StoreError::Environment("the process has died".into())) } else { Ok(()) }
    }

    fn readable(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        if self.damaged { Err(StoreError::Damaged("a flipped bit".into())) } else { Ok(()) }
    }

    fn writable(&mut self) -> Result<(), StoreError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(StoreError::Environment("disk full".into()));
        }
        Ok(())
    }
}

fn past(sequence: u64, epoch: &Epoch) -> Past {
    let marker = &epoch.marker;
    Past { epoch: marker.epoch, nonce: marker.nonce, position: marker.position, sequence }
}

impl Store for SimStore {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        self.spent += self.cost.load;
        self.readable()?;
        let Some(head) = self.head() else { return Ok(None) };
        let from = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.stored.marker.epoch);
        let deltas = self.entries.iter().filter(|entry| from < entry.epoch.marker.epoch);
        Ok(Some(Local {
            head,
            snapshot: self.snapshot.as_deref().cloned(),
            deltas: deltas.map(|entry| entry.epoch.delta.clone()).collect(),
            history: self.history.iter().copied().collect(),
            sink: Vec::new(),
        }))
    }

    fn apply(&mut self, epoch: &Epoch, sequence: u64, _sink: &[u8]) -> Result<(), StoreError> {
        self.spent += self.cost.apply;
        self.readable()?;
        let head = self.head();
        if head.as_ref().is_some_and(|head| head.marker == epoch.marker && head.sequence == sequence) {
            return Ok(());
        }
        let (last, nonce) = head.as_ref().map_or((0, 0), |head| (head.marker.epoch, head.marker.nonce));
        if epoch.marker.epoch != last + 1 || epoch.marker.prev_nonce != nonce {
            return Err(StoreError::Damaged(format!("epoch {} does not follow epoch {last}", epoch.marker.epoch)));
        }
        self.writable()?;
        self.history.push_back(past(sequence, epoch));
        self.entries.push_back(Entry { epoch: epoch.clone(), sequence });
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        Ok(())
    }

    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.spent += self.cost.compact;
        self.readable()?;
        let marker = &snapshot.stored.marker;
        let known = self.head().is_some_and(|head| head.marker == *marker)
            || self.history.iter().any(|past| past.epoch == marker.epoch && past.nonce == marker.nonce);
        if !known {
            return Err(StoreError::Damaged("the snapshot is not of this store".into()));
        }
        self.writable()?;
        self.snapshot = Some(Arc::new(snapshot.clone()));
        self.synced = self.head_epoch();
        let first = (self.synced + 1).saturating_sub(OUTBOX_MAX as u64).min(marker.epoch + 1);
        self.entries.retain(|entry| first <= entry.epoch.marker.epoch);
        Ok(())
    }

    fn rebase(&mut self, snapshot: Option<&Snapshot>, old: Discard<'_>) -> Result<(), StoreError> {
        self.spent += self.cost.rebase;
        self.alive()?;
        self.writable()?;
        match old {
            Discard::Damaged(_) => self.quarantined += 1,
            Discard::Outdated(_) => self.outdated += 1,
        }
        self.lose_all();
        if let Some(snapshot) = snapshot {
            let marker = &snapshot.stored.marker;
            let sequence = snapshot.stored.sequence;
            self.history.push_back(Past {
                epoch: marker.epoch,
                nonce: marker.nonce,
                position: marker.position,
                sequence,
            });
            self.synced = marker.epoch;
            self.snapshot = Some(Arc::new(snapshot.clone()));
        }
        Ok(())
    }

    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError> {
        self.readable()?;
        let first = (self.head_epoch() + 1).saturating_sub(OUTBOX_MAX as u64);
        let found = self.entries.iter().rev().find(|entry| entry.epoch.marker.epoch == epoch && first <= epoch);
        Ok(found.map(|entry| entry.epoch.clone()))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.spent += self.cost.sync;
        self.readable()?;
        if let Err(error) = self.writable() {
            self.damaged = true;
            return Err(error);
        }
        self.synced = self.head_epoch();
        Ok(())
    }
}
