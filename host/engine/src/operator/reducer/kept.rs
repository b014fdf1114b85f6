//! What a reducer keeps: state and timers per key, what has changed of them, and how they are stored.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::time::{EventTime, Span};

/// Rough bytes of one entry besides key, state and timers.
const ENTRY_BYTES: usize = 96;
/// Most bytes of a stored length, time or number.
const COUNT_STORED_BYTES_MAX: usize = 10;

/// What is kept of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) state: Vec<u8>,
    pub(super) timers: BTreeSet<i64>,
    /// The time of the key's newest event, or the watermark before its last one where that was further; only where keys
    /// have a time to live.
    pub(super) touched: i64,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { state: Vec::new(), timers: BTreeSet::new(), touched: i64::MIN }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.state.is_empty() && self.timers.is_empty()
    }

    /// At least what it takes where it is stored.
    pub(super) fn stored_bytes_max(&self, key: &[u8]) -> usize {
        key.len() + self.state.len() + (4 + self.timers.len()) * COUNT_STORED_BYTES_MAX
    }
}

/// Keys in order: firing and encoding are the same in every run, and whoever chooses the keys of events cannot make them
/// collide.
pub(super) type Entries = BTreeMap<Vec<u8>, Entry>;

/// All that is kept.
pub(super) struct Kept {
    entries: Entries,
    /// How long a key is kept after its newest event.
    ttl: Option<Span>,
    /// With a time to live: all keys with state or timers, by the time from which it counts.
    by_age: BTreeSet<(i64, Vec<u8>)>,
    /// With a time to live: keys that have nothing left, by the time of their newest event. It decides when they go, should
    /// an older event bring them back, so it is known until the watermark has reached it: whether a key has had nothing in
    /// the middle of a run of events cannot be seen, and must not matter.
    empty: BTreeSet<(i64, Vec<u8>)>,
    /// All timers, by time and key.
    timers: BTreeSet<(i64, Vec<u8>)>,
    /// Keys that have changed since the last delta, each with the bytes that it takes there.
    changed: BTreeMap<Vec<u8>, usize>,
    /// Sum over `changed`.
    change_bytes: usize,
    bytes: usize,
}

impl Kept {
    /// Keeps nothing yet.
    pub(super) fn new(ttl: Option<Span>) -> Kept {
        Kept {
            entries: Entries::new(),
            ttl,
            by_age: BTreeSet::new(),
            empty: BTreeSet::new(),
            timers: BTreeSet::new(),
            changed: BTreeMap::new(),
            change_bytes: 0,
            bytes: 0,
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Kept::new(self.ttl);
    }

    /// How long a key is kept after its newest event.
    pub(super) fn ttl(&self) -> Option<Span> {
        self.ttl
    }

    /// The watermark at which a key goes that was touched then; never without a time to live.
    fn expiry(&self, touched: i64) -> i64 {
        self.ttl.map_or(i64::MAX, |ttl| touched.saturating_add(ttl.0))
    }

    /// The earliest watermark at which a key goes.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.by_age.first().map(|(touched, _)| self.expiry(*touched))
    }

    /// Lets a key go whose time is over before the next timer is due, in the order of time; false when there is none. At
    /// the end of the input time does not pass, and only such keys go as have a timer that comes too late.
    pub(super) fn expire_next(&mut self, watermark: EventTime) -> bool {
        let is_late = |(at, key): &&(i64, Vec<u8>)| *at <= watermark.0 && self.expiry(self.entries[key].touched) < *at;
        let is_over = |(touched, _): &&(i64, Vec<u8>)| {
            let expiry = self.expiry(*touched);
            expiry <= watermark.0 && self.next_timer().is_none_or(|timer| expiry < timer)
        };
        let oldest = || self.by_age.first().filter(is_over).filter(|_| watermark != EventTime::MAX);
        let Some((_, key)) = self.timers.first().filter(is_late).or_else(oldest) else { return false };
        self.change(key.clone(), Entry::default());
        true
    }

    /// What is kept of each key.
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The earliest timer of all keys, with its key.
    pub(super) fn first_timer(&self) -> Option<(i64, &[u8])> {
        self.timers.first().map(|(at, key)| (*at, key.as_slice()))
    }

    /// The earliest timer.
    pub(super) fn next_timer(&self) -> Option<i64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Replaces what is kept of some keys.
    pub(super) fn change_all(&mut self, entries: Entries) {
        for (key, entry) in entries {
            self.change(key, entry);
        }
    }

    /// Replaces what is kept of a key.
    pub(super) fn change(&mut self, key: Vec<u8>, entry: Entry) {
        let bytes = entry.stored_bytes_max(&key);
        self.put(&key, entry);
        self.change_bytes += bytes;
        self.change_bytes -= self.changed.insert(key, bytes).unwrap_or(0);
    }

    /// Nothing is kept of an entry without state and timers, except its age.
    fn put(&mut self, key: &[u8], entry: Entry) {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= self.size(key, &old);
            for &at in old.timers.difference(&entry.timers) {
                self.timers.remove(&(at, key.to_vec()));
            }
            if self.ttl.is_some() && (old.touched, old.is_empty()) != (entry.touched, entry.is_empty()) {
                self.ages(old.is_empty()).remove(&(old.touched, key.to_vec()));
            }
        }
        if entry.is_empty() && entry.touched == i64::MIN {
            return;
        }
        for &at in &entry.timers {
            self.timers.insert((at, key.to_vec()));
        }
        if self.ttl.is_some() {
            self.ages(entry.is_empty()).insert((entry.touched, key.to_vec()));
        }
        self.bytes += self.size(key, &entry);
        self.entries.insert(key.to_vec(), entry);
    }

    /// The keys of a kind, by age.
    fn ages(&mut self, of_empty: bool) -> &mut BTreeSet<(i64, Vec<u8>)> {
        if of_empty { &mut self.empty } else { &mut self.by_age }
    }

    fn size(&self, key: &[u8], entry: &Entry) -> usize {
        let of_index = key.len() + 48;
        let indexed = entry.timers.len() + usize::from(self.ttl.is_some());
        ENTRY_BYTES + key.len() + entry.state.len() + indexed * of_index
    }

    /// Forgets keys that have nothing left and whose age no longer counts, because the watermark is further. Needs no
    /// delta: who applies one forgets the same.
    fn forget_empty(&mut self, watermark: EventTime) {
        while let Some((_, key)) = self.empty.first().filter(|(touched, _)| *touched <= watermark.0) {
            let key = key.clone();
            self.put(&key, Entry::default());
        }
    }

    /// What is kept of a key, but for some timers.
    pub(super) fn without_timers(&self, key: &[u8], timers: &[i64]) -> Entry {
        let mut entry = self.entries.get(key).cloned().unwrap_or_default();
        timers.iter().for_each(|at| {
            entry.timers.remove(at);
        });
        entry
    }

    /// The first keys that have timers due at this watermark, at most `count`, each with all of these.
    pub(super) fn due_groups(&self, watermark: EventTime, count: usize) -> Vec<(Vec<u8>, Vec<i64>)> {
        let mut groups: Vec<(Vec<u8>, Vec<i64>)> = Vec::new();
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        for (at, key) in self.timers.iter().take_while(|(at, _)| *at <= watermark.0) {
            let Some(entry) = self.entries.get(key) else { continue };
            let expiry = self.expiry(entry.touched);
            // A key that goes before its next timer goes first.
            if groups.len() == count || expiry < *at {
                break;
            }
            if seen.insert(key) {
                // All that are due, so that a group does not depend on where an epoch was cut.
                groups.push((key.clone(), entry.timers.range(..=watermark.0.min(expiry)).copied().collect()));
            }
        }
        groups
    }

    /// Rough memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// At least what [`Kept::encode`] would append of what has changed.
    pub(super) fn change_bytes(&self) -> usize {
        self.change_bytes + COUNT_STORED_BYTES_MAX
    }

    /// Appends changed entries, or all of them.
    pub(super) fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.forget_empty(watermark);
        let changed = std::mem::take(&mut self.changed);
        self.change_bytes = 0;
        let keys: Vec<Vec<u8>> =
            if all { self.entries.keys().cloned().collect() } else { changed.into_keys().collect() };
        put_u64(out, keys.len() as u64);
        for key in keys {
            put_bytes(out, &key);
            let none = Entry::default();
            let entry = self.entries.get(&key).unwrap_or(&none);
            put_bytes(out, &entry.state);
            put_u64(out, entry.timers.len() as u64);
            entry.timers.iter().for_each(|&at| put_i64(out, at));
            if self.ttl.is_some() {
                put_i64(out, entry.touched);
            }
        }
    }

    /// Applies what [`Kept::encode`] wrote.
    pub(super) fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.bytes()?.to_vec();
            let state = reader.bytes()?.to_vec();
            let timers = (0..reader.count()?).map(|_| reader.i64()).collect::<Result<_, _>>()?;
            let touched = if self.ttl.is_some() { reader.i64()? } else { i64::MIN };
            self.put(&key, Entry { state, timers, touched });
        }
        self.forget_empty(watermark);
        Ok(())
    }
}
