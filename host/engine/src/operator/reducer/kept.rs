//! What a reducer keeps: state and timers per key, what has changed of them, and how they are stored.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::time::EventTime;

/// Rough bytes of one entry besides key, state and timers.
const ENTRY_BYTES: usize = 96;
/// Most bytes of a stored length, time or number.
const COUNT_STORED_BYTES_MAX: usize = 10;

/// What is kept of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    pub(super) state: Vec<u8>,
    pub(super) timers: BTreeSet<i64>,
}

impl Entry {
    /// At least what it takes where it is stored.
    pub(super) fn stored_bytes_max(&self, key: &[u8]) -> usize {
        key.len() + self.state.len() + (3 + self.timers.len()) * COUNT_STORED_BYTES_MAX
    }
}

/// Keys in order: firing and encoding are the same in every run, and whoever chooses the keys of events cannot make them
/// collide.
pub(super) type Entries = BTreeMap<Vec<u8>, Entry>;

/// All that is kept.
#[derive(Default)]
pub(super) struct Kept {
    entries: Entries,
    /// All timers, by time and key.
    timers: BTreeSet<(i64, Vec<u8>)>,
    /// Keys that have changed since the last delta, each with the bytes that it takes there.
    changed: BTreeMap<Vec<u8>, usize>,
    /// Sum over `changed`.
    change_bytes: usize,
    bytes: usize,
}

impl Kept {
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
        let size = |entry: &Entry| ENTRY_BYTES + key.len() + entry.state.len() + entry.timers.len() * (key.len() + 48);
        let is_empty = entry.state.is_empty() && entry.timers.is_empty();
        let added = if is_empty { 0 } else { size(&entry) };
        entry.timers.iter().for_each(|&at| {
            self.timers.insert((at, key.to_vec()));
        });
        let fresh = entry.timers.clone();
        let old = if is_empty { self.entries.remove(key) } else { self.entries.insert(key.to_vec(), entry) };
        if let Some(old) = old {
            self.bytes -= size(&old);
            for at in old.timers.difference(&fresh) {
                self.timers.remove(&(*at, key.to_vec()));
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
        for (_, key) in self.timers.iter().take_while(|(at, _)| *at <= watermark.0) {
            if groups.len() == count {
                break;
            }
            if seen.insert(key)
                && let Some(entry) = self.entries.get(key)
            {
                // All that are due, so that a group does not depend on where an epoch was cut.
                groups.push((key.clone(), entry.timers.range(..=watermark.0).copied().collect()));
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
        }
    }

    /// Applies what [`Kept::encode`] wrote.
    pub(super) fn apply(&mut self, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.bytes()?.to_vec();
            let state = reader.bytes()?.to_vec();
            let timers = (0..reader.count()?).map(|_| reader.i64()).collect::<Result<_, _>>()?;
            self.put(&key, Entry { state, timers });
        }
        Ok(())
    }
}
