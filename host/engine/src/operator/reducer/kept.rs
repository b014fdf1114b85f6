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
    /// The time of the key's last event, or the watermark before it where that was further; only where keys have a time to
    /// live.
    pub(super) touched: i64,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { state: Vec::new(), timers: BTreeSet::new(), touched: i64::MIN }
    }
}

impl Entry {
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
    /// How long a key is kept after its last event.
    ttl: Option<Span>,
    /// With a time to live: all keys, by the time from which it counts.
    by_age: BTreeSet<(i64, Vec<u8>)>,
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

    /// How long a key is kept after its last event.
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

    /// Nothing is kept of an entry without state and timers.
    fn put(&mut self, key: &[u8], entry: Entry) {
        let has_ttl = self.ttl.is_some();
        let of_age = if has_ttl { key.len() + 48 } else { 0 };
        let of_timers = |entry: &Entry| entry.timers.len() * (key.len() + 48);
        let size = |entry: &Entry| ENTRY_BYTES + key.len() + entry.state.len() + of_timers(entry) + of_age;
        let is_empty = entry.state.is_empty() && entry.timers.is_empty();
        let added = if is_empty { 0 } else { size(&entry) };
        entry.timers.iter().for_each(|&at| {
            self.timers.insert((at, key.to_vec()));
        });
        if has_ttl && !is_empty {
            self.by_age.insert((entry.touched, key.to_vec()));
        }
        let (fresh, touched) = (entry.timers.clone(), (!is_empty).then_some(entry.touched));
        let old = if is_empty { self.entries.remove(key) } else { self.entries.insert(key.to_vec(), entry) };
        if let Some(old) = old {
            self.bytes -= size(&old);
            for at in old.timers.difference(&fresh) {
                self.timers.remove(&(*at, key.to_vec()));
            }
            if has_ttl && touched != Some(old.touched) {
                self.by_age.remove(&(old.touched, key.to_vec()));
            }
        }
        self.bytes += added;
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
    pub(super) fn encode(&mut self, all: bool, out: &mut Vec<u8>) {
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
    pub(super) fn apply(&mut self, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.bytes()?.to_vec();
            let state = reader.bytes()?.to_vec();
            let timers = (0..reader.count()?).map(|_| reader.i64()).collect::<Result<_, _>>()?;
            let touched = if self.ttl.is_some() { reader.i64()? } else { i64::MIN };
            self.put(&key, Entry { state, timers, touched });
        }
        Ok(())
    }
}
