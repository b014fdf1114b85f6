//! Rows on their way through the stages of one unit of events.

use crate::decode::Decoded;
use crate::event::{Column, Events, Kind, RawBatch, RawEvent, Strings, Values};
use crate::guest::Shape;

/// Rows that one stage reads: decoded columns and where each row comes from.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) decoded: Decoded,
    /// Per decoded row, its event within the unit.
    pub(crate) origins: Vec<u32>,
    /// Payloads of rows that a stage has made new; `None` while they are those of the source.
    pub(crate) payloads: Option<Strings>,
}

/// What comes out of the source, or of a stage: rows of a flow that stages may share.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// Index into the unit's flows.
    pub(crate) flow: usize,
    /// The rows that are still there, ascending; `None` means all.
    pub(crate) selected: Option<Vec<u32>>,
}

impl Flow {
    /// The payload of a decoded row.
    pub(crate) fn payload<'a>(&'a self, row: usize, batch: &'a RawBatch, unit: &[RawEvent]) -> &'a [u8] {
        match &self.payloads {
            Some(payloads) => payloads.get(row),
            None => batch.slice(&unit[self.origins[row] as usize].payload),
        }
    }

    /// Fills `events` with `rows` as the module of `shape` wants them; `columns[i]` is the decoder's column of
    /// its i-th declared field.
    pub(crate) fn fill(
        &self,
        rows: &[u32],
        shape: &Shape,
        columns: &[usize],
        batch: &RawBatch,
        unit: &[RawEvent],
        events: &mut Events,
    ) {
        events.data.clear();
        events.ends.clear();
        events.timestamps.clear();
        events.sequences.clear();
        events.headers.clear();
        events.header_ends.clear();
        // Stages share the batch that they are told: the one before may have declared other kinds.
        let kinds = shape.fields.iter().map(|field| field.kind);
        if !events.columns.iter().map(Column::kind).eq(kinds) {
            events.columns = shape.fields.iter().map(|field| Column::new(field.kind)).collect();
        }
        for &row in rows {
            let row = row as usize;
            let event = &unit[self.origins[row] as usize];
            events.data.extend_from_slice(self.decoded.keys.get(row));
            events.ends.push(events.data.len() as u32);
            if shape.payload {
                events.data.extend_from_slice(self.payload(row, batch, unit));
            }
            events.ends.push(events.data.len() as u32);
            events.timestamps.push(self.decoded.timestamps[row]);
            events.sequences.push(event.sequence);
            if shape.headers {
                events.headers.extend_from_slice(batch.slice(&event.headers));
                events.header_ends.push(events.headers.len() as u32);
            }
        }
        let all = rows.len() == self.decoded.len();
        for (to, &from) in events.columns.iter_mut().zip(columns) {
            copy_column(&self.decoded.columns[from], rows, all, to);
        }
    }
}

/// Copies the given rows of a column; all of them at once when that is what is asked.
fn copy_column(from: &Column, rows: &[u32], all: bool, to: &mut Column) {
    to.clear();
    if all {
        to.missing.extend_from_slice(&from.missing);
        to.unlike.extend_from_slice(&from.unlike);
        match (&from.values, &mut to.values) {
            (Values::Strings(from), Values::Strings(to))
            | (Values::Decimals(from), Values::Decimals(to))
            | (Values::Jsons(from), Values::Jsons(to))
            | (Values::Blobs(from), Values::Blobs(to)) => {
                to.data.extend_from_slice(&from.data);
                to.ends.extend_from_slice(&from.ends);
            }
            (Values::Integers(from), Values::Integers(to)) => to.extend_from_slice(from),
            (Values::Numbers(from), Values::Numbers(to)) => to.extend_from_slice(from),
            (Values::Booleans(from), Values::Booleans(to)) => to.extend_from_slice(from),
            _ => unreachable!("the plan gives both columns one kind"),
        }
        return;
    }
    for (at, &row) in rows.iter().enumerate() {
        let row = row as usize;
        if from.is_missing(row) {
            to.missing.push(at as u32);
            if !from.unlike.is_empty() && from.unlike.binary_search(&(row as u32)).is_ok() {
                to.unlike.push(at as u32);
            }
        }
        match (&from.values, &mut to.values) {
            (Values::Strings(from), Values::Strings(to))
            | (Values::Decimals(from), Values::Decimals(to))
            | (Values::Jsons(from), Values::Jsons(to))
            | (Values::Blobs(from), Values::Blobs(to)) => to.push(from.get(row)),
            (Values::Integers(from), Values::Integers(to)) => to.push(from[row]),
            (Values::Numbers(from), Values::Numbers(to)) => to.push(from[row]),
            (Values::Booleans(from), Values::Booleans(to)) => to.push(from[row]),
            _ => unreachable!("the plan gives both columns one kind"),
        }
    }
}

/// Appends all rows of one column to another of the same kind.
pub(crate) fn append_column(from: &Column, to: &mut Column) {
    let base = to.len() as u32;
    to.missing.extend(from.missing.iter().map(|row| row + base));
    to.unlike.extend(from.unlike.iter().map(|row| row + base));
    match (&from.values, &mut to.values) {
        (Values::Strings(from), Values::Strings(to))
        | (Values::Decimals(from), Values::Decimals(to))
        | (Values::Jsons(from), Values::Jsons(to))
        | (Values::Blobs(from), Values::Blobs(to)) => (0..from.ends.len()).for_each(|row| to.push(from.get(row))),
        (Values::Integers(from), Values::Integers(to)) => to.extend_from_slice(from),
        (Values::Numbers(from), Values::Numbers(to)) => to.extend_from_slice(from),
        (Values::Booleans(from), Values::Booleans(to)) => to.extend_from_slice(from),
        _ => unreachable!("the sandbox checks derived columns against the plan"),
    }
}

/// Empty columns of these kinds.
pub(crate) fn empty_columns(kinds: impl Iterator<Item = Kind>) -> Vec<Column> {
    kinds.map(Column::new).collect()
}
