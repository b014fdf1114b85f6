//! One slice of event time: the accumulators of every key that has events in it.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use pelton_aggregates::{Accumulators, Growth, Shape};

use super::aggregate;
use super::keys::Keys;
use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};

/// Rough bytes of one row besides its accumulators: id, slot of the hash table, dirty marks, room to grow.
const ROW_BYTES: usize = 24;
/// Most bytes of a stored slice besides its rows: its start, and how many rows there are.
const SLICE_STORED_BYTES_MAX: usize = 20;
/// Most bytes of a stored row besides its accumulators: its key's id, and the length of a fold's state.
const ROW_STORED_BYTES_MAX: usize = 15;
/// Rows by which full columns grow at least.
const GROWTH_MIN: usize = 16;

fn hash(key: u32) -> u64 {
    FxBuildHasher.hash_one(key)
}

/// Accumulators of one slice, as columns. Rows are in order of first appearance.
pub(crate) struct Slice {
    /// Rows by the hash of their key's id. The host gives the ids, so nobody can make them collide.
    rows: HashTable<u32>,
    /// Key id of each row.
    pub(crate) keys: Vec<u32>,
    /// Empty for a window-fold.
    pub(crate) accumulators: Vec<Accumulators>,
    /// The guest's own accumulator of each row; only for a window-fold.
    folded: Option<Vec<Vec<u8>>>,
    /// Rows changed since the last delta.
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
    variable_bytes: usize,
    /// At least what [`Slice::encode`] would append of the changed rows.
    change_bytes: usize,
}

impl Slice {
    pub(crate) fn new(shapes: &[Shape], fold: bool) -> Slice {
        Slice {
            rows: HashTable::new(),
            keys: Vec::new(),
            accumulators: shapes.iter().map(|&shape| Accumulators::new(shape)).collect(),
            folded: fold.then(Vec::new),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            variable_bytes: 0,
            change_bytes: 0,
        }
    }

    pub(crate) fn row(&self, key: u32) -> Option<usize> {
        self.rows.find(hash(key), |&row| self.keys[row as usize] == key).map(|&row| row as usize)
    }

    /// The row of `key`, made empty if it is new, marked as changed.
    pub(crate) fn touch(&mut self, key: u32, keys: &mut Keys) -> usize {
        let row = self.row(key).unwrap_or_else(|| self.push(key, keys));
        if !self.is_dirty[row] {
            if self.dirty.is_empty() {
                self.change_bytes += SLICE_STORED_BYTES_MAX;
            }
            self.is_dirty[row] = true;
            self.dirty.push(row as u32);
            let stored = |column: &Accumulators| aggregate::stored_bytes_max(column) + column.change_bytes(row);
            let folded = self.folded.as_ref().map_or(0, |rows| rows[row].len());
            self.change_bytes += ROW_STORED_BYTES_MAX + folded + self.accumulators.iter().map(stored).sum::<usize>();
        }
        row
    }

    fn push(&mut self, key: u32, keys: &mut Keys) -> usize {
        let row = self.keys.len();
        if row == self.keys.capacity() {
            // By an eighth, not to double: a window has many slices, and most of them have stopped growing.
            let more = (row / 8).max(GROWTH_MIN);
            self.keys.reserve_exact(more);
            self.is_dirty.reserve_exact(more);
            self.accumulators.iter_mut().for_each(|column| column.reserve_exact(more));
            self.folded.iter_mut().for_each(|rows| rows.reserve_exact(more));
        }
        keys.hold(key);
        self.keys.push(key);
        self.is_dirty.push(false);
        self.accumulators.iter_mut().for_each(Accumulators::push_empty);
        self.folded.iter_mut().for_each(|rows| rows.push(Vec::new()));
        self.rows.insert_unique(hash(key), row as u32, |&row| hash(self.keys[row as usize]));
        row
    }

    /// The variable part of a changed row has grown, or shrunk.
    pub(crate) fn grow(&mut self, growth: Growth) {
        self.variable_bytes = self.variable_bytes.saturating_add_signed(growth.memory);
        self.change_bytes = self.change_bytes.saturating_add_signed(growth.change);
    }

    /// At least what [`Slice::encode`] would append of the changed rows.
    pub(crate) fn change_bytes(&self) -> usize {
        self.change_bytes
    }

    pub(crate) fn bytes(&self) -> usize {
        let places: usize = self.accumulators.iter().map(Accumulators::row_bytes).sum();
        self.keys.len() * (ROW_BYTES + places) + self.variable_bytes
    }

    pub(crate) fn is_changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Appends changed rows (or all) to a delta and forgets that they changed.
    pub(crate) fn encode(&mut self, start: i64, all: bool, out: &mut Vec<u8>) {
        put_i64(out, start);
        let rows = if all { (0..self.keys.len() as u32).collect() } else { std::mem::take(&mut self.dirty) };
        put_u64(out, rows.len() as u64);
        for row in rows {
            let idx = row as usize;
            put_u64(out, u64::from(self.keys[idx]));
            self.accumulators.iter().for_each(|column| aggregate::encode(column, idx, all, out));
            self.folded.iter().for_each(|rows| put_bytes(out, &rows[idx]));
            if !all {
                self.is_dirty[idx] = false;
                self.accumulators.iter_mut().for_each(|column| column.mark_stored(idx));
            }
        }
        if !all {
            self.change_bytes = 0;
        }
    }

    /// Reads rows back.
    pub(crate) fn decode(&mut self, keys: &mut Keys, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.u32()?;
            if !keys.is_defined(key) {
                return Err(Damaged(format!("slice names key {key}, which is not defined")));
            }
            let row = self.touch(key, keys);
            for column in &mut self.accumulators {
                let before = column.variable_bytes(row);
                aggregate::decode(column, row, reader)?;
                let after = column.variable_bytes(row);
                self.variable_bytes = (self.variable_bytes + after).saturating_sub(before);
            }
            if self.folded.is_some() {
                self.replace(row, reader.bytes()?);
            }
        }
        for row in self.dirty.drain(..) {
            self.is_dirty[row as usize] = false;
            self.accumulators.iter_mut().for_each(|column| column.mark_stored(row as usize));
        }
        self.change_bytes = 0;
        Ok(())
    }

    /// The guest's own accumulator of a row; of a window-fold.
    pub(crate) fn folded(&self, row: usize) -> &[u8] {
        self.folded.as_ref().map_or(&[], |rows| &rows[row])
    }

    /// Replaces the guest's own accumulator of a row.
    pub(crate) fn replace(&mut self, row: usize, bytes: &[u8]) {
        let Some(rows) = &mut self.folded else { return };
        let grown = bytes.len() as isize - rows[row].len() as isize;
        rows[row].clear();
        rows[row].extend_from_slice(bytes);
        self.grow(Growth { memory: grown, change: grown });
    }
}
