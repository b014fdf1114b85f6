//! One event as a rule sees it.

use crate::field::{Columns, Fields, text};
use crate::raw;

/// One event of a batch.
pub struct Event<'a, F: Fields> {
    /// The fields that the rule declared.
    pub fields: F::Row<'a>,
    /// Event time, milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Position in the source.
    pub sequence: u64,
    row: usize,
    batch: &'a raw::Events,
}

impl<'a, F: Fields> Event<'a, F> {
    pub(crate) fn new(batch: &'a raw::Events, columns: &Columns<'a>, row: usize) -> Event<'a, F> {
        Event {
            fields: F::read(columns, row),
            timestamp: batch.timestamps[row],
            sequence: batch.sequences[row],
            row,
            batch,
        }
    }

    /// The key that the stream is partitioned by.
    #[must_use]
    pub fn key(&self) -> &'a str {
        let start = if self.row == 0 { 0 } else { self.batch.ends[2 * self.row - 1] as usize };
        text(&self.batch.data[start..self.batch.ends[2 * self.row] as usize])
    }

    /// The original bytes; empty unless [`Module::PAYLOAD`](crate::Module::PAYLOAD) is set.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.batch.data[self.batch.ends[2 * self.row] as usize..self.batch.ends[2 * self.row + 1] as usize]
    }

    /// Names and values of the headers; none unless [`Module::HEADERS`](crate::Module::HEADERS) is set.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a, F> {
        let ends = &self.batch.header_ends;
        let block = if ends.is_empty() {
            ""
        } else {
            let start = if self.row == 0 { 0 } else { ends[self.row - 1] as usize };
            text(&self.batch.headers[start..ends[self.row] as usize])
        };
        block.split("\r\n").filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim()))
    }
}
