//! One window of one key that fired.

use crate::field::text;
use crate::raw::window_rule::{AggregateData, AggregateValues, Tops};
use crate::raw::{Panes, Timing};

/// One window of one key that fired.
pub struct Pane<'a> {
    /// The key.
    pub key: &'a str,
    /// First instant of the window, milliseconds since the Unix epoch.
    pub start: i64,
    /// First instant after the window.
    pub end: i64,
    /// Name of the window, such as `2026-03` for a month of a calendar; empty where windows have none.
    pub label: &'a str,
    /// Why it fired.
    pub timing: Timing,
    /// 0 for the first pane of a key and window, then 1, 2, …: a correction replaces what the last one gave.
    pub index: u32,
    /// Whether no further pane can follow.
    pub is_last: bool,
    /// The watermark that fired it.
    pub watermark: i64,
    row: usize,
    aggregates: &'a [(&'static str, &'static str)],
    values: &'a [AggregateValues],
}

/// One of the most frequent values of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopItem<'a> {
    /// The value; an integer or a boolean as JSON writes it.
    pub item: &'a str,
    /// How often it occurred: never too low, and too high by at most `error`.
    pub count: i64,
    /// By how much `count` may be too high; 0 when it is exact.
    pub error: i64,
}

impl<'a> Pane<'a> {
    pub(crate) fn new(
        panes: &'a Panes,
        row: usize,
        aggregates: &'a [(&'static str, &'static str)],
        values: &'a [AggregateValues],
    ) -> Pane<'a> {
        Pane {
            key: text(slice(&panes.keys, row)),
            start: panes.starts[row],
            end: panes.ends[row],
            label: if panes.labels.ends.is_empty() { "" } else { text(slice(&panes.labels, row)) },
            timing: panes.timings[row],
            index: panes.indexes[row],
            is_last: panes.lasts[row],
            watermark: panes.watermarks[row],
            row,
            aggregates,
            values,
        }
    }

    /// Length of the window in milliseconds.
    #[must_use]
    pub fn length_ms(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }

    /// The value of a count or distinct; 0 when nothing was seen.
    ///
    /// # Panics
    /// When the rule has no such aggregate.
    #[must_use]
    #[track_caller]
    pub fn count(&self, name: &str) -> i64 {
        match self.find(name) {
            ("count" | "distinct", AggregateValues { data: AggregateData::Integers(values), .. }) => values[self.row],
            _ => panic!("aggregate `{name}` is neither count nor distinct: use `integer`, `number` or `top`"),
        }
    }

    /// The value of a sum, min or max over an integer field; `None` when nothing was seen. A count or distinct is one, too.
    ///
    /// A sum is exact in 128 bits; see [`Pane::is_clipped`] for one that leaves 64.
    ///
    /// # Panics
    /// When the rule has no such aggregate.
    #[must_use]
    #[track_caller]
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.find(name).1 {
            AggregateValues { missing, data: AggregateData::Integers(values), .. } => {
                (!self.is_among(missing)).then(|| values[self.row])
            }
            _ => panic!("aggregate `{name}` is not an integer: use `number` or `top`"),
        }
    }

    /// The value of a sum, min or max over a number field; `None` when nothing was seen.
    ///
    /// A sum that leaves the range of a number is infinite, which JSON cannot represent.
    ///
    /// # Panics
    /// When the rule has no such aggregate.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.find(name).1 {
            AggregateValues { missing, data: AggregateData::Numbers(values), .. } => {
                (!self.is_among(missing)).then(|| values[self.row])
            }
            _ => panic!("aggregate `{name}` is not a number: use `count`, `integer` or `top`"),
        }
    }

    /// Whether this integer sum left 64 bits: its value is the nearest end of them, `i64::MIN` or `i64::MAX`.
    ///
    /// # Panics
    /// When the rule has no such aggregate.
    #[must_use]
    #[track_caller]
    pub fn is_clipped(&self, name: &str) -> bool {
        self.is_among(&self.find(name).1.clipped)
    }

    /// The items of a top-k: highest count first, of equal counts in byte order; none when nothing was seen.
    ///
    /// # Panics
    /// When the rule has no such aggregate.
    #[track_caller]
    pub fn top(&self, name: &str) -> impl Iterator<Item = TopItem<'a>> + use<'a> {
        let AggregateData::Tops(Tops { items, counts, errors, pane_ends }) = &self.find(name).1.data else {
            panic!("aggregate `{name}` is not a top-k")
        };
        let start = if self.row == 0 { 0 } else { pane_ends[self.row - 1] };
        (start as usize..pane_ends[self.row] as usize).map(|idx| TopItem {
            item: text(slice(items, idx)),
            count: counts[idx],
            error: errors[idx],
        })
    }

    fn is_among(&self, panes: &[u32]) -> bool {
        panes.binary_search(&(self.row as u32)).is_ok()
    }

    #[track_caller]
    fn find(&self, name: &str) -> (&'static str, &'a AggregateValues) {
        let Some(index) = self.aggregates.iter().position(|(known, _)| *known == name) else {
            let known: Vec<&str> = self.aggregates.iter().map(|(known, _)| *known).collect();
            panic!("no aggregate `{name}`, the rule has {known:?}")
        };
        (self.aggregates[index].1, &self.values[index])
    }
}

/// Row `row` of a text column.
pub(crate) fn slice(texts: &crate::raw::Strings, row: usize) -> &[u8] {
    let start = if row == 0 { 0 } else { texts.ends[row - 1] as usize };
    &texts.data[start..texts.ends[row] as usize]
}
