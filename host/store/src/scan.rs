//! Reads a whole generation and believes it only when everything fits.
//!
//! Base and head say what must be there: every delta, page and outbox entry has exactly one tag that it may carry.
//! Values from before (a lost write) or from after (a lost head) carry another one. On top, the deltas must roll
//! from the snapshot's state hash to the head's, the snapshot must hash to what the base says, and the history must
//! end in the head's nonces. What passes is the state at the end of one epoch; it may be an older one.

use std::collections::{BTreeMap, VecDeque};

use pelton_engine::epoch::{roll, sha256};
use pelton_engine::log::Snapshot;
use pelton_engine::store::{Local, OUTBOX_MAX, Past, StoreError};
use sha2::{Digest, Sha256};

use crate::envelope::{Assembler, Kind, Value};
use crate::guard::sled_error;
use crate::record::{Base, Head, PAGE_SLOTS, Page, page_of};
use crate::rules::STATE_HASH_START;

/// What a generation holds, verified.
pub(crate) struct Content {
    pub(crate) base: Base,
    /// `None` when nothing was applied yet and there is no snapshot.
    pub(crate) local: Option<Local>,
    /// As in `local`, and the rest of its first page.
    pub(crate) history: VecDeque<Past>,
}

/// Values as they were found, before they are believed.
#[derive(Default)]
struct Found {
    base: Option<Base>,
    head: Option<Head>,
    snapshot: Option<Vec<u8>>,
    deltas: BTreeMap<u64, Vec<u8>>,
    /// Slot to tag and bytes.
    pages: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Slot to tag.
    outbox: BTreeMap<u64, u64>,
}

/// Reads and verifies; `None` when there is nothing at all.
pub(crate) fn read(tree: &sled::Tree, generation: u32) -> Result<Option<Content>, StoreError> {
    let mut assembler = Assembler::new(generation);
    let mut found = Found::default();
    let mut empty = true;
    for entry in tree.iter() {
        let (key, value) = entry.map_err(|error| sled_error("reading a generation", error))?;
        empty = false;
        if let Some(value) = assembler.push(&key, &value)? {
            found.take(value)?;
        }
    }
    assembler.end()?;
    if empty {
        return Ok(None);
    }
    let base = found.base.take().ok_or_else(|| damaged("generation has no base"))?;
    let Some(head) = found.head.take() else {
        return found.nothing_applied(&base).map(|()| Some(Content { base, local: None, history: VecDeque::new() }));
    };
    let snapshot = found.snapshot(&base, &head)?;
    let history = found.history(&base, &head)?;
    found.outbox(&base, &head)?;
    let deltas = found.deltas(&base, &head)?;
    let first = base.history_from(head.epoch());
    let recent = history.iter().filter(|past| first <= past.epoch).copied().collect();
    let local = Local { head: head.stored, snapshot, deltas, history: recent, sink: head.sink };
    Ok(Some(Content { base, local: Some(local), history }))
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged(what.into())
}

impl Found {
    fn take(&mut self, value: Value) -> Result<(), StoreError> {
        let Value { place, tag, bytes } = value;
        match place.kind {
            Kind::Head => {
                let head = Head::decode(&bytes)?;
                if tag != head.epoch() {
                    return Err(damaged(format!("head of epoch {} carries tag {tag}", head.epoch())));
                }
                self.head = Some(head);
            }
            Kind::Base => self.base = Some(Base::decode(&bytes)?),
            Kind::Delta if tag != place.slot => {
                return Err(damaged(format!("delta of epoch {} carries tag {tag}", place.slot)));
            }
            Kind::Delta => {
                // Those up to the snapshot are only for the outbox: it is enough that they are there.
                let needed = self.base.as_ref().is_none_or(|base| base.snapshot_epoch() < tag);
                self.deltas.insert(tag, if needed { bytes } else { Vec::new() });
            }
            Kind::History => drop(self.pages.insert(place.slot, (tag, bytes))),
            Kind::Outbox => drop(self.outbox.insert(place.slot, tag)),
            Kind::Snapshot => {
                let epoch = self.base.as_ref().map_or(0, Base::snapshot_epoch);
                if tag != epoch {
                    return Err(damaged(format!("snapshot of epoch {epoch} carries tag {tag}")));
                }
                self.snapshot = Some(bytes);
            }
        }
        Ok(())
    }

    /// Without a head there must be nothing but the base of an empty store.
    fn nothing_applied(&self, base: &Base) -> Result<(), StoreError> {
        let values = self.deltas.len() + self.pages.len() + self.outbox.len();
        if base.head_epoch != 0 || self.snapshot.is_some() || values != 0 {
            return Err(damaged(format!("head is missing, {values} values are left")));
        }
        Ok(())
    }

    fn snapshot(&mut self, base: &Base, head: &Head) -> Result<Option<Snapshot>, StoreError> {
        if head.epoch() < base.head_epoch {
            return Err(damaged(format!("head {} is older than its generation ({})", head.epoch(), base.head_epoch)));
        }
        let Some(facts) = &base.snapshot else {
            return if self.snapshot.is_none() { Ok(None) } else { Err(damaged("snapshot without a base")) };
        };
        let state = self.snapshot.take().ok_or_else(|| damaged("snapshot is missing"))?;
        if state.len() as u64 != facts.bytes || Sha256::digest(&state)[..] != facts.sha256 {
            return Err(damaged(format!("snapshot of {} bytes does not hash to what its base says", state.len())));
        }
        Ok(Some(Snapshot { stored: facts.stored.clone(), state }))
    }

    /// Every delta is there, and those after the snapshot roll to the head's state hash.
    fn deltas(self, base: &Base, head: &Head) -> Result<Vec<Vec<u8>>, StoreError> {
        if !self.deltas.keys().copied().eq(base.delta_first..=head.epoch()) {
            return Err(damaged(format!("deltas {}..={} are not complete", base.delta_first, head.epoch())));
        }
        let from = base.snapshot_epoch() + 1;
        if from < base.delta_first {
            return Err(damaged(format!("deltas from {from} on are needed, kept from {}", base.delta_first)));
        }
        let deltas: Vec<Vec<u8>> =
            self.deltas.into_iter().filter(|(epoch, _)| from <= *epoch).map(|(_, delta)| delta).collect();
        let start = base.snapshot.as_ref().map_or(STATE_HASH_START, |facts| facts.stored.marker.state_hash);
        let hash = deltas.iter().fold(start, |hash, delta| roll(&hash, &sha256(delta)));
        if hash != head.stored.marker.state_hash {
            return Err(damaged(format!("deltas {from}..={} do not roll to the head's state hash", head.epoch())));
        }
        Ok(deltas)
    }

    /// Every page is there as of the head, and the entries are one chain of nonces that ends in it.
    fn history(&self, base: &Base, head: &Head) -> Result<VecDeque<Past>, StoreError> {
        let (first, last) = (base.history_from(head.epoch()), head.epoch());
        let mut history: VecDeque<Past> = VecDeque::new();
        for number in page_of(first)..=page_of(last) {
            let end = last.min((number + 1) * crate::record::PAGE_EPOCHS - 1);
            let page = match self.pages.get(&(number % PAGE_SLOTS)) {
                Some((tag, bytes)) if *tag == end => Page::decode(bytes)?,
                Some((tag, _)) => return Err(damaged(format!("history page {number} is of epoch {tag}, not {end}"))),
                None => return Err(damaged(format!("history page {number} is missing"))),
            };
            let before = history.back().map(|past| past.nonce);
            if before.is_some_and(|nonce| nonce != page.prev_nonce) {
                return Err(damaged(format!("history page {number} does not follow the one before")));
            }
            history.extend(page.entries);
        }
        let start = history.front().map_or(0, |past| past.epoch);
        if first < start || !history.iter().map(|past| past.epoch).eq(start..=last) {
            return Err(damaged(format!("history {first}..={last} is not complete")));
        }
        let marker = &head.stored.marker;
        if history.back() != Some(&crate::record::past(&head.stored)) {
            return Err(damaged(format!("history does not end in the head of epoch {last}")));
        }
        if history.iter().rev().nth(1).is_some_and(|past| past.nonce != marker.prev_nonce) {
            return Err(damaged(format!("history does not lead to the head of epoch {last}")));
        }
        if self.pages.values().any(|(tag, _)| last < *tag) {
            return Err(damaged(format!("history reaches beyond the head of epoch {last}")));
        }
        Ok(history)
    }

    /// Every slot of the outbox holds the epoch that it must hold.
    fn outbox(&self, base: &Base, head: &Head) -> Result<(), StoreError> {
        let expected = base.outbox_from(head.epoch())..=head.epoch();
        let mut found: Vec<u64> = Vec::with_capacity(self.outbox.len());
        for (slot, epoch) in &self.outbox {
            if epoch % OUTBOX_MAX as u64 != *slot {
                return Err(damaged(format!("outbox slot {slot} holds epoch {epoch}")));
            }
            found.push(*epoch);
        }
        found.sort_unstable();
        if !found.iter().copied().eq(expected.clone()) {
            return Err(damaged(format!("outbox {}..={} is not complete", expected.start(), expected.end())));
        }
        Ok(())
    }
}
