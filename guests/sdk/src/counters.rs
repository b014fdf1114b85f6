//! Counters of a rule's own.

use crate::raw::Addition;

/// Counts in the names that [`Module::COUNTERS`](crate::Module::COUNTERS) declares. What is added for a row counts when the
/// row does: not where it ends as a dead letter.
pub struct Counters<'a> {
    names: &'a [String],
    row: u32,
    additions: Vec<Addition>,
    /// How many there were when the current row began.
    mark: usize,
}

impl<'a> Counters<'a> {
    pub(crate) fn new(names: &'a [String]) -> Counters<'a> {
        Counters { names, row: 0, additions: Vec::new(), mark: 0 }
    }

    /// Adds to the counter of this name.
    ///
    /// # Panics
    /// When the module declares no such counter.
    pub fn add(&mut self, name: &str, add: i64) {
        let names = self.names;
        let Some(index) = names.iter().position(|known| known == name) else {
            panic!("no counter `{name}`, the module declares {names:?}");
        };
        self.additions.push(Addition { row: self.row, counter: index as u16, add });
    }

    /// Everything from here on is of row `row`.
    pub(crate) fn begin(&mut self, row: u32) {
        (self.row, self.mark) = (row, self.additions.len());
    }

    /// Drops what the row has added.
    pub(crate) fn drop_row(&mut self) {
        self.additions.truncate(self.mark);
    }

    pub(crate) fn finish(self) -> Vec<Addition> {
        self.additions
    }
}
