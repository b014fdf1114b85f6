//! One slice of event time: the accumulators of every key that has events in it.

use rustc_hash::FxHashMap;

use super::aggregate::{Accumulators, Shape};
use super::keys::Keys;
use crate::codec::{Damaged, Reader, put_i64, put_u64};

/// Rough bytes of one row besides its accumulators: id, row index, hash table slot, dirty mark.
const ROW_BYTES: usize = 24;

/// Accumulators of one slice, as columns. Rows are in order of first appearance.
pub(crate) struct Slice {
    rows: FxHashMap<u32, u32>,
    /// Key id of each row.
    pub(crate) keys: Vec<u32>,
    pub(crate) accumulators: Vec<Accumulators>,
    /// Rows changed since the last delta.
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
    variable_bytes: usize,
}

impl Slice {
    pub(crate) fn new(shapes: &[Shape], fold: bool) -> Slice {
        let accumulators = if fold {
            vec![Accumulators::Bytes(Vec::new())]
        } else {
            shapes.iter().map(|&shape| Accumulators::new(shape)).collect()
        };
        Slice {
            rows: FxHashMap::default(),
            keys: Vec::new(),
            accumulators,
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            variable_bytes: 0,
        }
    }

    pub(crate) fn row(&self, key: u32) -> Option<usize> {
        self.rows.get(&key).map(|&row| row as usize)
    }

    /// The row of `key`, made empty if it is new, marked as changed. The second value is true for a new row.
    pub(crate) fn touch(&mut self, key: u32, shapes: &[Shape], keys: &mut Keys) -> (usize, bool) {
        let next = self.keys.len() as u32;
        let row = *self.rows.entry(key).or_insert(next);
        let is_new = row == next;
        if is_new {
            keys.hold(key);
            self.keys.push(key);
            self.is_dirty.push(false);
            if let [Accumulators::Bytes(rows)] = &mut self.accumulators[..] {
                rows.push(Vec::new());
            } else {
                for (column, &shape) in self.accumulators.iter_mut().zip(shapes) {
                    column.push_empty(shape);
                }
            }
        }
        let idx = row as usize;
        if !self.is_dirty[idx] {
            self.is_dirty[idx] = true;
            self.dirty.push(row);
        }
        (idx, is_new)
    }

    /// A row's variable part has changed its size.
    pub(crate) fn resize(&mut self, before: usize, after: usize) {
        self.variable_bytes = (self.variable_bytes + after).saturating_sub(before);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() * (ROW_BYTES + 8 * self.accumulators.len()) + self.variable_bytes
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
            self.accumulators.iter().for_each(|column| column.encode(idx, out));
            if !all {
                self.is_dirty[idx] = false;
            }
        }
    }

    /// Reads rows back.
    pub(crate) fn decode(&mut self, shapes: &[Shape], keys: &mut Keys, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.u32()?;
            if !keys.is_defined(key) {
                return Err(Damaged(format!("slice names key {key}, which is not defined")));
            }
            let (row, _) = self.touch(key, shapes, keys);
            for column in &mut self.accumulators {
                let before = column.size(row);
                let after = column.decode(row, reader)?;
                self.variable_bytes = (self.variable_bytes + after).saturating_sub(before);
            }
        }
        self.dirty.clear();
        self.is_dirty.fill(false);
        Ok(())
    }
}
