//! The store of one partition on sled: the verbs of [`Store`], over a folder of generations.
//!
//! Opening takes the lock and looks at the pointer; sled itself is opened by the first call that needs it, so that a
//! damaged store still is a handle on which `rebase` works. A failed write closes sled: the next call opens it again
//! and believes only what it finds. A failed sync is final until `rebase`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pelton_engine::epoch::Epoch;
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{Discard, Local, Store, StoreError};

use crate::build::{self, Source};
use crate::codec;
use crate::disk::{Disk, RealDisk};
use crate::generation::Generation;
use crate::layout::Layout;
use crate::pointer::Pointer;
use crate::record::{Base, Head};
use crate::rules::{self, Next};
use crate::scan::Content;
use crate::space;
use crate::working::Working;

/// Settings of a [`SledStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Free bytes of the disk that are not touched: below them every write is refused with `Environment`.
    pub reserve_bytes: u64,
    /// How long sled may take to open an empty store; a second more for every 16 MiB. Then it counts as hung.
    pub open_limit: Duration,
    /// Whether a compaction hands the last epochs on, so that they can be published again. Of no use without a broker,
    /// where it would copy most of what the compaction is to free.
    pub outbox: bool,
    /// The file system; tests put another one in its place.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options { reserve_bytes: 1 << 30, open_limit: Duration::from_secs(10), outbox: true, disk: Arc::new(RealDisk) }
    }
}

/// The working store of one partition in a folder.
pub struct SledStore {
    layout: Layout,
    options: Options,
    state: State,
    /// Content of another version of Pelton was found: nothing here may be moved.
    foreign: Option<StoreError>,
    /// Id of the folder, once it was asked for.
    id: Option<u128>,
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

impl SledStore {
    /// Locks the folder, and makes it if it is not there. The content is looked at by the first call that needs it.
    ///
    /// # Errors
    /// `InUse` when another handle has it, `Format` for a folder of another version (it is left untouched),
    /// `Environment` when the folder cannot be made.
    pub fn open(dir: &Path, options: Options) -> Result<SledStore, StoreError> {
        let layout = Layout::open(dir, options.disk.clone())?;
        if let Err(error @ (StoreError::Format(_) | StoreError::Environment(_))) = layout.pointer() {
            return Err(error);
        }
        Ok(SledStore { layout, options, state: State::Closed { reached: None }, foreign: None, id: None })
    }

    /// A random number, 32 hex digits, that belongs to this folder: it stays the same through damage and rebuilds, and a
    /// copy of the folder gets another one.
    ///
    /// # Errors
    /// `Environment` when it cannot be stored.
    pub fn id(&mut self) -> Result<String, StoreError> {
        let id = self.layout.id(self.id).map_err(|error| self.placed(error))?;
        self.id = Some(id);
        Ok(format!("{id:032x}"))
    }

    /// How many times content was set aside in this folder and is kept; each has a `bad.*` folder.
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

    /// Opens sled if needed, and insists on what this handle had reached, in the folder and the file that it had opened.
    fn working(&mut self) -> Result<&mut Working, StoreError> {
        self.insist_on_folder()?;
        match &self.state {
            State::Failed(why) => return Err(StoreError::Damaged(format!("content is unknown since {why}"))),
            State::Open(working) => working.generation.check()?,
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

    /// Refuses when the folder is no longer the one that is locked. What sled had open there is given back.
    fn insist_on_folder(&mut self) -> Result<(), StoreError> {
        self.layout.check().inspect_err(|_| self.shut())
    }

    /// The beginning of a new attempt: a folder that vanished is made again or, when another one lies there, taken as it
    /// is. Whatever this handle had reached is gone with the old one.
    fn find_folder(&mut self) -> Result<(), StoreError> {
        let Err(lost) = self.layout.check() else { return Ok(()) };
        self.forget();
        self.layout.open_again()?;
        tracing::warn!(reason = %lost, "the folder of the store is opened again");
        if let Some(id) = self.id {
            self.id = Some(self.layout.id(Some(id))?);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.shut();
        self.state = State::Closed { reached: None };
        self.foreign = None;
    }

    /// A sync failed: what the disk holds is not known, and only `rebase` may be called from now on.
    fn fail(&mut self, error: StoreError) -> StoreError {
        self.shut();
        self.state = State::Failed(format!("a failed sync ({error})"));
        error
    }

    /// An error with the folder and what is free there, for those that have to do something about it.
    fn placed(&self, error: StoreError) -> StoreError {
        let dir = self.layout.dir().display().to_string();
        match error {
            StoreError::Environment(text) if !text.contains(&dir) => {
                let free = self.layout.free_bytes().map_or_else(|_| "?".to_owned(), space::size);
                StoreError::Environment(format!("{text} (folder {dir}, {free} free)"))
            }
            error => error,
        }
    }

    /// Gives sled back; later calls open it again.
    fn shut(&mut self) {
        if let State::Open(working) = &self.state {
            let reached = working.head.as_ref().map(Head::epoch);
            if let State::Open(working) = std::mem::replace(&mut self.state, State::Closed { reached }) {
                working.generation.close();
            }
        }
    }

    /// The generation that counts: the current one, or the one before when that is damaged.
    fn find(&mut self) -> Result<(Working, Option<Local>), StoreError> {
        let Some(pointer) = self.layout.pointer()? else {
            return self.find_without_pointer();
        };
        // A kill may have come between the switch of the pointer and the sync of its name.
        self.layout.sync().map_err(|error| self.fail(error))?;
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
        self.layout.sync().map_err(|error| self.fail(error))?;
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
        self.layout.sync().map_err(|error| self.fail(error))?;
        self.layout.end_making()?;
        Ok((working, None))
    }

    /// Clears away what a cut-short compaction or rebase left behind. A failure only leaves it lying.
    fn tidy(&self, pointer: Pointer, before: Option<u32>, generations: &[u32]) {
        let mut result = self.layout.clear_leftovers();
        for &number in generations {
            let unfinished = pointer.current < number;
            let of_another_past = number < pointer.floor;
            let too_old = before.is_some_and(|before| number < before);
            if unfinished || of_another_past || too_old {
                result = result.and(self.layout.remove(number));
            }
        }
        if let Err(error) = result {
            tracing::warn!(%error, "old generations are left lying");
        }
    }

    fn try_open(&mut self, number: u32) -> Result<(Working, Option<Local>), StoreError> {
        let dir = self.layout.generation_dir(number);
        let (limit, disk) = (self.options.open_limit, self.layout.disk());
        Generation::sync_before_open(&dir, &**disk).map_err(|error| self.fail(error))?;
        let (generation, content) = Generation::open(&dir, number, limit, self.layout.disk()).inspect_err(|error| {
            if matches!(error, StoreError::Format(_)) {
                self.foreign = Some(error.clone());
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
        let made =
            Generation::create(&dir, number, self.options.open_limit, self.layout.disk()).and_then(|generation| {
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

    /// Refuses a write of about `bytes` when it would eat into the reserve. Content that was set aside for people goes
    /// before a write is refused.
    fn check_space(&self, bytes: usize) -> Result<(), StoreError> {
        let check = || space::check(self.layout.free_bytes()?, bytes, self.options.reserve_bytes, self.layout.dir());
        check().or_else(|short| {
            if self.layout.quarantined() == 0 {
                return Err(short);
            }
            self.layout.clear_bad(0)?;
            check()
        })
    }

    /// Room for a generation that replaces everything: outdated content goes first when there is not enough.
    fn make_room(&mut self, bytes: usize, discard: Discard<'_>) -> Result<(), StoreError> {
        let Err(short) = self.check_space(bytes) else { return Ok(()) };
        if !matches!(discard, Discard::Outdated(_)) {
            return Err(short);
        }
        self.forget();
        self.layout.generations()?.into_iter().try_for_each(|number| self.layout.remove(number))?;
        self.check_space(bytes)
    }

    fn rebase_to(&mut self, snapshot: Option<&Snapshot>, discard: Discard<'_>) -> Result<(), StoreError> {
        self.find_folder()?;
        if let Some(error) = &self.foreign {
            return Err(error.clone());
        }
        let pointer = match self.layout.pointer() {
            Ok(pointer) => pointer,
            Err(StoreError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        self.make_room(snapshot.map_or(0, |snapshot| snapshot.state.len()), discard)?;
        let old = self.layout.generations()?;
        let number = self.layout.next_number(pointer)?;
        let working = self.create(number, snapshot)?;
        if let Err(error) = self.switch(Pointer { current: number, floor: number }) {
            working.generation.close();
            return Err(error);
        }
        let nothing_to_keep = match &self.state {
            State::Open(old) => old.head.is_none(),
            _ => false,
        };
        self.shut();
        self.state = State::Open(Box::new(working));
        let kept = matches!(discard, Discard::Damaged(_)) && !nothing_to_keep;
        self.discard(&old, discard, kept);
        Ok(())
    }

    /// The pointer names another generation, so nothing depends on whether this succeeds: what stays is removed by the
    /// next open.
    fn discard(&self, old: &[u32], discard: Discard<'_>, kept: bool) {
        let (Discard::Damaged(reason) | Discard::Outdated(reason)) = discard;
        let result = if kept {
            self.layout.quarantine(old, reason)
        } else {
            old.iter().try_for_each(|number| self.layout.remove(*number))
        };
        match result {
            Ok(()) if !kept => tracing::info!(reason, "store content that is of no use any more was deleted"),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, reason, "old generations are left lying"),
        }
    }

    /// Lets another generation count. After an error this handle looks at the pointer again before it goes on, and does
    /// not go on at all when it is not known which pointer a power cut would leave.
    fn switch(&mut self, pointer: Pointer) -> Result<(), StoreError> {
        self.layout.switch(pointer).inspect_err(|_| self.shut())?;
        self.layout.sync().map_err(|error| self.fail(error))
    }

    fn compact_to(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.working()?;
        let pointer = self.layout.pointer()?.ok_or_else(|| StoreError::Damaged("pointer file is missing".into()))?;
        let number = self.layout.next_number(Some(pointer))?;
        let (limit, outbox) = (self.options.open_limit, self.options.outbox);
        let (base, generation, before) = {
            let State::Open(old) = &self.state else { unreachable!("opened above") };
            rules::belongs(old.head.as_ref().map(|head| &head.stored), &old.history, &snapshot.stored.marker)?;
            let head = old.head.as_ref().expect("a snapshot of this store was just found to belong to it");
            self.check_space(snapshot.state.len())?;
            let source =
                Source { generation: &old.generation, base: &old.base, head, history: &old.history, outbox, limit };
            let (generation, base) = self.make(number, |target| build::compacted(target, snapshot, &source))?;
            (base, generation, old.generation.number)
        };
        if let Err(error) = self.switch(Pointer { current: number, ..pointer }) {
            generation.close();
            return Err(error);
        }
        let State::Open(old) = &mut self.state else { unreachable!("opened above") };
        old.base = base;
        std::mem::replace(&mut old.generation, generation).close();
        let mut stale = self.layout.generations()?;
        stale.retain(|&number| number < before);
        if let Err(error) = stale.into_iter().try_for_each(|number| self.layout.remove(number)) {
            tracing::warn!(%error, "an old generation is left lying");
        }
        Ok(())
    }
}

impl SledStore {
    fn load_content(&mut self) -> Result<Option<Local>, StoreError> {
        self.find_folder()?;
        if let State::Failed(why) = &self.state {
            return Err(StoreError::Damaged(format!("content is unknown since {why}")));
        }
        if let State::Open(working) = &self.state {
            let read = working.generation.check();
            match read.and_then(|()| working.generation.content(self.options.open_limit * 6)) {
                Ok(Some(content)) => return Ok(content.local),
                Ok(None) | Err(_) => self.shut(),
            }
        }
        let (working, local) = self.find()?;
        self.state = State::Open(Box::new(working));
        Ok(local)
    }

    fn apply_epoch(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
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

    fn sync_content(&mut self) -> Result<(), StoreError> {
        let working = self.working()?;
        if let Err(error) = working.generation.flush() {
            self.shut();
            return Err(error);
        }
        working.generation.sync().map_err(|error| self.fail(error))
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        self.load_content().map_err(|error| self.placed(error))
    }

    fn apply(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
        self.apply_epoch(epoch, sequence, sink).map_err(|error| self.placed(error))
    }

    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.compact_to(snapshot).map_err(|error| self.placed(error))
    }

    fn rebase(&mut self, snapshot: Option<&Snapshot>, old: Discard<'_>) -> Result<(), StoreError> {
        self.rebase_to(snapshot, old).map_err(|error| match error {
            // Nothing of the old content is read here: what fails is the disk under the new one.
            StoreError::Damaged(what) => self.placed(StoreError::Environment(what)),
            error => self.placed(error),
        })
    }

    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError> {
        let limit = self.options.open_limit;
        self.working().and_then(|working| working.outbox(epoch, limit)).map_err(|error| self.placed(error))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_content().map_err(|error| self.placed(error))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.shut();
    }
}
