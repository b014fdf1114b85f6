//! Keys as small numbers: every key is stored once, and slices refer to it by id.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

/// Rough bytes of a key besides its name: allocation, hash, count of uses, slot of the hash table.
const KEY_BYTES: usize = 56;
/// Most bytes of a stored key besides its name: its id, and the length of the name.
const FRESH_STORED_BYTES_MAX: usize = 15;

/// Key ↔ id, with a count of the slices that refer to it; an id is used again once nothing does.
#[derive(Default)]
pub(crate) struct Keys {
    /// Ids by the hash of their names. A set of its own would hold each name a second time.
    ids: HashTable<u32>,
    hasher: KeyHasher,
    names: Vec<Option<Box<[u8]>>>,
    /// Of the names, so that none is read again when the table grows.
    hashes: Vec<u64>,
    uses: Vec<u32>,
    free: Vec<u32>,
    /// Ids defined since the last delta.
    fresh: Vec<u32>,
    /// At least what they take where they are stored.
    fresh_bytes: usize,
    bytes: usize,
}

/// Keyed: whoever chooses the keys of events must not choose where they collide. Like std's own, with a way for bytes
/// that are there as a whole, which is twice as quick.
struct KeyHasher(SipHasher13);

impl Default for KeyHasher {
    fn default() -> KeyHasher {
        let random = RandomState::new();
        KeyHasher(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)))
    }
}

impl KeyHasher {
    fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }
}

impl Keys {
    /// The id of `key`, made if it is new. The caller must [`Keys::hold`] it before anything else can free it.
    pub(crate) fn intern(&mut self, key: &[u8]) -> u32 {
        let hash = self.hasher.hash(key);
        if let Some(id) = self.find_hashed(hash, key) {
            return id;
        }
        let id = self.next_free();
        self.name_as(id, hash, key);
        self.insert(id, hash);
        self.fresh.push(id);
        self.fresh_bytes += key.len() + FRESH_STORED_BYTES_MAX;
        id
    }

    /// An unused id. The free list may hold ids that a replayed delta has defined since: they are skipped.
    fn next_free(&mut self) -> u32 {
        while let Some(id) = self.free.pop() {
            if !self.is_defined(id) {
                return id;
            }
        }
        self.names.len() as u32
    }

    /// The id of `key` if it has one.
    pub(crate) fn find(&self, key: &[u8]) -> Option<u32> {
        self.find_hashed(self.hasher.hash(key), key)
    }

    fn find_hashed(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.ids.find(hash, |&id| self.name(id) == key).copied()
    }

    /// Gives `id` the name `key`, when a delta is replayed.
    pub(crate) fn define(&mut self, id: u32, key: &[u8]) {
        let hash = self.hasher.hash(key);
        self.name_as(id, hash, key);
        match self.ids.find_mut(hash, |&other| self.names[other as usize].as_deref() == Some(key)) {
            // The delta gives the name a new id before it frees the old one.
            Some(old) => *old = id,
            None => self.insert(id, hash),
        }
    }

    fn insert(&mut self, id: u32, hash: u64) {
        self.ids.insert_unique(hash, id, |&id| self.hashes[id as usize]);
    }

    fn name_as(&mut self, id: u32, hash: u64, key: &[u8]) {
        let idx = id as usize;
        if idx >= self.names.len() {
            // Ids between are free until a delta defines them.
            let first = self.names.len();
            self.names.resize(idx + 1, None);
            self.hashes.resize(idx + 1, 0);
            self.uses.resize(idx + 1, 0);
            self.free.extend((first..idx).map(|unused| unused as u32));
        }
        self.forget(id);
        self.names[idx] = Some(key.into());
        self.hashes[idx] = hash;
        self.bytes += key.len() + KEY_BYTES;
    }

    pub(crate) fn name(&self, id: u32) -> &[u8] {
        self.names[id as usize].as_deref().unwrap_or_default()
    }

    /// Whether `id` has a name: false for an id that only a damaged record could hold.
    pub(crate) fn is_defined(&self, id: u32) -> bool {
        self.names.get(id as usize).is_some_and(Option::is_some)
    }

    pub(crate) fn hold(&mut self, id: u32) {
        self.uses[id as usize] += 1;
    }

    /// One slice less refers to `id`; the last one frees it.
    pub(crate) fn release(&mut self, id: u32) {
        let uses = &mut self.uses[id as usize];
        *uses -= 1;
        if *uses == 0 {
            self.forget(id);
            self.free.push(id);
        }
    }

    /// Takes the name of `id` away. While a delta is replayed, the name may have a new id already: that one stays.
    fn forget(&mut self, id: u32) {
        if let Some(name) = self.names[id as usize].take() {
            self.bytes -= name.len() + KEY_BYTES;
            if let Ok(entry) = self.ids.find_entry(self.hashes[id as usize], |&other| other == id) {
                entry.remove();
            }
        }
    }

    /// Ids defined since the last call and still alive, ascending.
    pub(crate) fn take_fresh(&mut self) -> Vec<u32> {
        self.fresh_bytes = 0;
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|&id| self.is_defined(id));
        fresh.sort_unstable();
        fresh.dedup();
        fresh
    }

    /// All live ids, ascending.
    pub(crate) fn live(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.names.len() as u32).filter(|&id| self.uses[id as usize] > 0)
    }

    /// At least what the ids defined since the last delta take in the next one.
    pub(crate) fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// One past the largest id ever used: the size of a dense table.
    pub(crate) fn span(&self) -> usize {
        self.names.len()
    }

    /// Rough memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
