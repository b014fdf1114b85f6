//! The store of one partition on sled: the verbs of [`Store`], over a folder of generations.
//!
//! Opening takes the lock and looks at the pointer; sled itself is opened by the first call that needs it, so that a
//! damaged store still is a handle on which `rebase` works. A failed write closes sled: the next call opens it again
//! and believes only what it finds. A failed sync is final until `rebase`.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use pelton_engine::epoch::Epoch;
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{Local, OUTBOX_MAX, Past, Store, StoreError};

use crate::build::{self, Source};
use crate::codec;
use crate::envelope::{Kind, Place};
use crate::generation::Generation;
use crate::layout::{Layout, Pointer};
use crate::record::{Base, Head, PAGE_SLOTS, Page, page_of, past};
use crate::rules::{self, Next};
use crate::scan::Content;

/// Settings of a [`SledStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Free bytes of the disk that are not touched: below them every write is refused with `Environment`.
    pub reserve_bytes: u64,
    /// How long sled may take to open an empty store; a second more for every 16 MiB. Then it counts as hung.
    pub open_limit: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { reserve_bytes: 1 << 30, open_limit: Duration::from_secs(10) }
    }
}

/// The working store of one partition in a folder.
pub struct SledStore {
    layout: Layout,
    options: Options,
    state: State,
    /// Content of a newer host was found: nothing here may be moved.
    newer: Option<StoreError>,
}

enum State {
    /// Not opened yet, or closed after a failed write. `reached`: epoch that this handle had applied.
    Closed {
        reached: Option<u64>,
    },
    Open(Box<Working>),
    /// A sync failed with this message: what is on the disk is not known.
    Failed(String),
}

/// An open generation and what is known of it.
struct Working {
    generation: Generation,
    base: Base,
    /// `None` in an empty store.
    head: Option<Head>,
    /// Ends at the head; begins with a whole page or with all there is.
    history: VecDeque<Past>,
}

impl SledStore {
    /// Locks the folder, and makes it if it is not there. The content is looked at by the first call that needs it.
    ///
    /// # Errors
    /// `InUse` when another handle has it, `Newer` for a folder of a newer host (it is left untouched),
    /// `Environment` when the folder cannot be made.
    pub fn open(dir: &Path, options: Options) -> Result<SledStore, StoreError> {
        let layout = Layout::open(dir)?;
        if let Err(error @ (StoreError::Newer { .. } | StoreError::Environment(_))) = layout.pointer() {
            return Err(error);
        }
        Ok(SledStore { layout, options, state: State::Closed { reached: None }, newer: None })
    }

    /// How many times content was set aside in this folder; each has a `bad.*` folder.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.layout.quarantined()
    }

    /// Bytes on disk of the current generation and the one before.
    ///
    /// # Errors
    /// `Environment`.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.layout.disk_bytes()
    }

    /// Opens sled if needed, and insists on what this handle had reached.
    fn working(&mut self) -> Result<&mut Working, StoreError> {
        match &self.state {
            State::Failed(why) => return Err(StoreError::Damaged(format!("content is unknown since {why}"))),
            State::Open(_) => {}
            State::Closed { reached } => {
                let reached = reached.unwrap_or(0);
                let (working, _) = self.find()?;
                let found = working.head.as_ref().map_or(0, Head::epoch);
                if found < reached {
                    working.generation.close();
                    return Err(StoreError::Damaged(format!("store fell back from epoch {reached} to {found}")));
                }
                self.state = State::Open(Box::new(working));
            }
        }
        match &mut self.state {
            State::Open(working) => Ok(working),
            _ => unreachable!("opened above"),
        }
    }

    /// Gives sled back; later calls open it again.
    fn shut(&mut self) {
        let reached = match &self.state {
            State::Open(working) => working.head.as_ref().map(Head::epoch),
            State::Closed { reached } => *reached,
            State::Failed(_) => None,
        };
        if let State::Open(working) = std::mem::replace(&mut self.state, State::Closed { reached }) {
            working.generation.close();
        }
    }

    /// The generation that counts: the current one, or the one before when that is damaged.
    fn find(&mut self) -> Result<(Working, Option<Local>), StoreError> {
        let Some(pointer) = self.layout.pointer()? else {
            return self.find_without_pointer();
        };
        self.layout.end_making()?;
        let generations = self.layout.generations()?;
        let before = generations.iter().copied().rfind(|&number| pointer.floor <= number && number < pointer.current);
        self.tidy(pointer, before, &generations);
        let damage = match self.try_open(pointer.current) {
            Err(StoreError::Damaged(damage)) => damage,
            other => return other,
        };
        let Some(before) = before else {
            return Err(StoreError::Damaged(damage));
        };
        let found = match self.try_open(before) {
            Err(StoreError::Damaged(older)) => {
                return Err(StoreError::Damaged(format!("{damage}; generation {before} as well: {older}")));
            }
            other => other?,
        };
        tracing::warn!(damaged = pointer.current, used = before, %damage, "fell back to the generation before");
        self.layout.quarantine(&[pointer.current], &damage)?;
        self.layout.switch(Pointer { current: before, ..pointer })?;
        Ok(found)
    }

    /// No pointer: a new store, one whose making was cut short, or one that lost its pointer.
    fn find_without_pointer(&mut self) -> Result<(Working, Option<Local>), StoreError> {
        const FIRST: u32 = 1;
        let generations = self.layout.generations()?;
        if !self.layout.is_making() {
            if !generations.is_empty() {
                let count = generations.len();
                return Err(StoreError::Damaged(format!("pointer file is missing beside {count} generations")));
            }
            self.layout.begin_making()?;
        }
        generations.into_iter().try_for_each(|number| self.layout.remove(number))?;
        let working = self.create(FIRST, None)?;
        self.layout.switch(Pointer { current: FIRST, floor: FIRST })?;
        self.layout.end_making()?;
        Ok((working, None))
    }

    /// Clears away what a cut-short compaction or rebase left behind. A failure only leaves it lying.
    fn tidy(&self, pointer: Pointer, before: Option<u32>, generations: &[u32]) {
        let of_another_past: Vec<u32> = generations.iter().copied().filter(|&number| number < pointer.floor).collect();
        let mut result = self.layout.quarantine(&of_another_past, "left behind by a rebase");
        for &number in generations {
            let unfinished = pointer.current < number;
            let too_old = pointer.floor <= number && before.is_some_and(|before| number < before);
            if unfinished || too_old {
                result = result.and(self.layout.remove(number));
            }
        }
        if let Err(error) = result {
            tracing::warn!(%error, "old generations are left lying");
        }
    }

    fn try_open(&mut self, number: u32) -> Result<(Working, Option<Local>), StoreError> {
        let dir = self.layout.generation_dir(number);
        let (generation, content) = Generation::open(&dir, number, self.options.open_limit).inspect_err(|error| {
            if matches!(error, StoreError::Newer { .. }) {
                self.newer = Some(error.clone());
            }
        })?;
        let Some(Content { base, local, history }) = content else {
            generation.close();
            return Err(StoreError::Damaged(format!("generation {number} is empty")));
        };
        let head = local.as_ref().map(|local| Head { stored: local.head.clone(), sink: local.sink.clone() });
        Ok((Working { generation, base, head, history }, local))
    }

    /// A generation that starts from a snapshot or from nothing.
    fn create(&self, number: u32, snapshot: Option<&Snapshot>) -> Result<Working, StoreError> {
        let (generation, base) = self.make(number, |generation| build::fresh(generation, snapshot))?;
        let head = snapshot.map(|snapshot| Head { stored: snapshot.stored.clone(), sink: Vec::new() });
        Ok(Working { generation, base, head, history: rules::history_of(snapshot) })
    }

    /// Makes and fills a generation; removes it again when that fails: its space may be what is missing.
    fn make(
        &self,
        number: u32,
        fill: impl FnOnce(&Generation) -> Result<Base, StoreError>,
    ) -> Result<(Generation, Base), StoreError> {
        let dir = self.layout.generation_dir(number);
        let made = Generation::create(&dir, number, self.options.open_limit).and_then(|generation| {
            match fill(&generation).and_then(|base| self.layout.sync().map(|()| base)) {
                Ok(base) => Ok((generation, base)),
                Err(error) => {
                    generation.close();
                    Err(error)
                }
            }
        });
        if made.is_err()
            && let Err(error) = self.layout.remove(number)
        {
            tracing::debug!(%error, "unfinished generation is left lying");
        }
        made
    }

    /// Refuses a write of about `bytes` when it would eat into the reserve.
    fn check_space(&self, bytes: usize) -> Result<(), StoreError> {
        let available = self.layout.available_bytes()?;
        // sled writes a value more than once: when it is new and when its node is written anew.
        let needed = self.options.reserve_bytes.saturating_add(3 * bytes as u64);
        if available < needed {
            return Err(StoreError::Environment(format!(
                "{available} bytes are free, {needed} are needed to write {bytes} and keep the reserve"
            )));
        }
        Ok(())
    }

    fn rebase_to(&mut self, snapshot: Option<&Snapshot>, reason: &str) -> Result<(), StoreError> {
        if let Some(error) = &self.newer {
            return Err(error.clone());
        }
        let pointer = match self.layout.pointer() {
            Ok(pointer) => pointer,
            Err(StoreError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        self.check_space(snapshot.map_or(0, |snapshot| snapshot.state.len()))?;
        let old = self.layout.generations()?;
        let number = self.layout.next_number(pointer)?;
        let working = self.create(number, snapshot)?;
        if let Err(error) = self.layout.switch(Pointer { current: number, floor: number }) {
            // Whether the pointer moved is not known; both generations are whole, the next call looks.
            working.generation.close();
            self.shut();
            return Err(error);
        }
        let nothing_to_keep = match &self.state {
            State::Open(old) => old.head.is_none(),
            _ => false,
        };
        self.shut();
        self.state = State::Open(Box::new(working));
        if nothing_to_keep {
            return old.into_iter().try_for_each(|number| self.layout.remove(number));
        }
        self.layout.quarantine(&old, reason)
    }

    fn compact_to(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.working()?;
        let pointer = self.layout.pointer()?.ok_or_else(|| StoreError::Damaged("pointer file is missing".into()))?;
        let number = self.layout.next_number(Some(pointer))?;
        let limit = self.options.open_limit;
        let (base, generation, before) = {
            let State::Open(old) = &self.state else { unreachable!("opened above") };
            rules::belongs(old.head.as_ref().map(|head| &head.stored), &old.history, &snapshot.stored.marker)?;
            let head = old.head.as_ref().expect("a snapshot of this store was just found to belong to it");
            self.check_space(snapshot.state.len())?;
            let source = Source { generation: &old.generation, base: &old.base, head, history: &old.history, limit };
            let (generation, base) = self.make(number, |target| build::compacted(target, snapshot, &source))?;
            (base, generation, old.generation.number)
        };
        if let Err(error) = self.layout.switch(Pointer { current: number, ..pointer }) {
            generation.close();
            self.shut();
            return Err(error);
        }
        let State::Open(old) = &mut self.state else { unreachable!("opened above") };
        old.base = base;
        std::mem::replace(&mut old.generation, generation).close();
        let stale: Vec<u32> = self.layout.generations()?.into_iter().filter(|&number| number < before).collect();
        stale.into_iter().try_for_each(|number| self.layout.remove(number))
    }
}

impl Working {
    fn stored(&self) -> Option<&StoredMarker> {
        self.head.as_ref().map(|head| &head.stored)
    }

    /// Writes an epoch that follows the head, as one batch.
    fn write(&mut self, epoch: &Epoch, stored: StoredMarker, sink: &[u8], body: &[u8]) -> Result<(), StoreError> {
        let number = stored.marker.epoch;
        self.history.push_back(past(&stored));
        let page = page_of(number);
        let mut batch = sled::Batch::default();
        let mut put = |kind, slot, bytes: &[u8]| {
            self.generation.put(&mut batch, Place { kind, slot }, number, bytes);
        };
        put(Kind::Delta, number, &epoch.delta);
        put(Kind::Outbox, number % OUTBOX_MAX as u64, body);
        put(Kind::History, page % PAGE_SLOTS, &Page::cut(&self.history, page).encode());
        put(Kind::Head, 0, &Head::encode(&stored, sink));
        self.generation.write(batch)?;
        self.head = Some(Head { stored, sink: sink.to_vec() });
        let first = page_of(self.base.history_from(number));
        while self.history.front().is_some_and(|past| page_of(past.epoch) < first) {
            self.history.pop_front();
        }
        Ok(())
    }

    fn outbox(&self, epoch: u64, limit: Duration) -> Result<Option<Epoch>, StoreError> {
        let Some(head) = &self.head else { return Ok(None) };
        if epoch < self.base.outbox_from(head.epoch()) || head.epoch() < epoch {
            return Ok(None);
        }
        let value = |kind, slot| match self.generation.read(Place { kind, slot }, limit)? {
            Some(value) if value.tag == epoch => Ok(value.bytes),
            _ => Err(StoreError::Damaged(format!("{kind:?} of epoch {epoch} is gone"))),
        };
        let (marker, records) = codec::decode(&value(Kind::Outbox, epoch % OUTBOX_MAX as u64)?)?;
        let delta = value(Kind::Delta, epoch)?;
        let known = self.history.iter().rev().any(|past| past.epoch == epoch && past.nonce == marker.nonce);
        if marker.epoch != epoch || !known || marker.batch_hash != Epoch::hash(&delta, &records) {
            return Err(StoreError::Damaged(format!("outbox entry of epoch {epoch} is not what was published")));
        }
        Ok(Some(Epoch { marker, records, delta }))
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        if let State::Failed(why) = &self.state {
            return Err(StoreError::Damaged(format!("content is unknown since {why}")));
        }
        if let State::Open(working) = &self.state {
            match working.generation.content(self.options.open_limit * 6) {
                Ok(Some(content)) => return Ok(content.local),
                Ok(None) | Err(_) => self.shut(),
            }
        }
        let (working, local) = self.find()?;
        self.state = State::Open(Box::new(working));
        Ok(local)
    }

    fn apply(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
        if rules::follows(self.working()?.stored(), epoch, sequence)? == Next::Applied {
            return Ok(());
        }
        let body = codec::encode(&epoch.marker, &epoch.records);
        self.check_space(epoch.delta.len() + body.len())?;
        let stored = StoredMarker { sequence, marker: epoch.marker.clone() };
        self.working()?.write(epoch, stored, sink, &body).inspect_err(|error| {
            tracing::warn!(%error, epoch = epoch.marker.epoch, "write failed, the store is opened again");
            self.shut();
        })
    }

    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.compact_to(snapshot)
    }

    fn rebase(&mut self, snapshot: Option<&Snapshot>, reason: &str) -> Result<(), StoreError> {
        self.rebase_to(snapshot, reason).map_err(|error| match error {
            // Nothing of the old content is read here: what fails is the disk under the new one.
            StoreError::Damaged(what) => StoreError::Environment(what),
            error => error,
        })
    }

    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError> {
        let limit = self.options.open_limit;
        self.working()?.outbox(epoch, limit)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let working = self.working()?;
        if let Err(error) = working.generation.flush() {
            self.shut();
            return Err(error);
        }
        if let Err(error) = working.generation.sync() {
            self.shut();
            self.state = State::Failed(format!("a failed sync ({error})"));
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.shut();
    }
}
