//! Counts: what became of every input event, and failed calls of modules.

use serde::{Deserialize, Serialize};

/// Fates of input events. Law: `received = processed + filtered + late + dead + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Events taken from the source, plus sequences reported as lost.
    pub received: u64,
    /// Gave a record or changed state.
    pub processed: u64,
    /// Had no effect, on purpose.
    pub filtered: u64,
    /// Arrived after every window that could take them had closed; stored as late events.
    pub late: u64,
    /// Kept as dead letters.
    pub dead: u64,
    /// Sequences that were gone before they could be read, each range reported by a gap record.
    pub lost: u64,
}

impl Totals {
    /// Whether every received event is accounted for.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.received == self.processed + self.filtered + self.late + self.dead + self.lost
    }

    /// These counts and those of the events after them.
    #[must_use]
    pub fn and(mut self, next: &Totals) -> Totals {
        self.add(next);
        self
    }

    /// Adds the counts of another run of events.
    pub fn add(&mut self, other: &Totals) {
        self.received += other.received;
        self.processed += other.processed;
        self.filtered += other.filtered;
        self.late += other.late;
        self.dead += other.dead;
        self.lost += other.lost;
    }
}

/// Failed calls of a module, by kind and before any retry. The kinds are codes of dead letters, and `timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Faults::KINDS.len()]);

impl Faults {
    pub const KINDS: [&'static str; 5] = ["timeout", "trap", "limit-fuel", "limit", "contract-violation"];

    /// Counts one; a kind that is not known counts nothing.
    pub fn count(&mut self, kind: &str) {
        if let Some(idx) = Faults::KINDS.iter().position(|known| *known == kind) {
            self.0[idx] += 1;
        }
    }

    /// In the order of [`Faults::KINDS`].
    #[must_use]
    pub fn counts(&self) -> [u64; Faults::KINDS.len()] {
        self.0
    }

    pub(crate) fn add(&mut self, other: Faults) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }
}
