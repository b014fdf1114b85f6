//! One window of one key that fired.

use crate::field::text;
use crate::raw::window_rule::{AggregateValues, Tops};
use crate::raw::{Firing, Panes};

/// One window of one key that fired.
pub struct Pane<'a> {
    /// The key.
    pub key: &'a str,
    /// First instant of the window, milliseconds since the Unix epoch.
    pub start: i64,
    /// First instant after the window.
    pub end: i64,
    /// Why it fired.
    pub firing: Firing,
    /// 0 for the first pane of a key and window, then 1, 2, …: a correction replaces what the last one gave.
    pub number: u32,
    /// Whether no further pane can follow.
    pub is_final: bool,
    /// The watermark that fired it.
    pub watermark: i64,
    row: usize,
    names: &'a [&'static str],
    values: &'a [AggregateValues],
}

impl<'a> Pane<'a> {
    pub(crate) fn new(
        panes: &'a Panes,
        row: usize,
        names: &'a [&'static str],
        values: &'a [AggregateValues],
    ) -> Pane<'a> {
        Pane {
            key: text(slice(&panes.keys, row)),
            start: panes.starts[row],
            end: panes.ends[row],
            firing: panes.firings[row],
            number: panes.numbers[row],
            is_final: panes.finals[row],
            watermark: panes.watermarks[row],
            row,
            names,
            values,
        }
    }

    /// Length of the window in milliseconds.
    #[must_use]
    pub fn length_ms(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }

    /// The value of a count, distinct, or integer sum, min or max.
    ///
    /// # Panics
    /// When the plan has no such aggregate.
    #[must_use]
    pub fn integer(&self, name: &str) -> i64 {
        match self.find(name) {
            AggregateValues::Integers(values) => values[self.row],
            _ => panic!("aggregate `{name}` is no integer"),
        }
    }

    /// The value of a sum, min or max over a number field.
    ///
    /// # Panics
    /// When the plan has no such aggregate.
    #[must_use]
    pub fn number(&self, name: &str) -> f64 {
        match self.find(name) {
            AggregateValues::Numbers(values) => values[self.row],
            _ => panic!("aggregate `{name}` is no number"),
        }
    }

    /// The items of a top-k with their counts, most frequent first.
    ///
    /// # Panics
    /// When the plan has no such aggregate.
    pub fn top(&self, name: &str) -> impl Iterator<Item = (&'a str, i64)> + use<'a> {
        let AggregateValues::Tops(Tops { items, counts, pane_ends }) = self.find(name) else {
            panic!("aggregate `{name}` is no top-k")
        };
        let start = if self.row == 0 { 0 } else { pane_ends[self.row - 1] };
        (start as usize..pane_ends[self.row] as usize).map(|item| (text(slice(items, item)), counts[item]))
    }

    fn find(&self, name: &str) -> &'a AggregateValues {
        let Some(index) = self.names.iter().position(|known| *known == name) else {
            panic!("no aggregate `{name}`, the plan has {:?}", self.names)
        };
        &self.values[index]
    }
}

/// Row `row` of a text column.
pub(crate) fn slice(texts: &crate::raw::Texts, row: usize) -> &[u8] {
    let start = if row == 0 { 0 } else { texts.ends[row - 1] as usize };
    &texts.data[start..texts.ends[row] as usize]
}
