//! Counts: what became of every input event, and failed calls of modules.

use serde::{Deserialize, Serialize};

/// Fates of input events, of an epoch or since the beginning. Law: [`Totals::balanced`].
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
    /// Received, and kept for later: how many there are at the end, not how many have been added.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Totals {
    /// Whether every event is accounted for that was received, or was held when the counts began:
    /// `received + held before = processed + filtered + late + dead + lost + held`.
    #[must_use]
    pub fn balanced(&self, held_before: u64) -> bool {
        let fates = self.processed + self.filtered + self.late + self.dead + self.lost;
        self.received + held_before == fates + self.held
    }

    /// These counts and those of the events after them.
    #[must_use]
    pub fn and(mut self, next: &Totals) -> Totals {
        self.add(next);
        self
    }

    /// Adds the counts of the events that come next.
    pub fn add(&mut self, other: &Totals) {
        self.received += other.received;
        self.processed += other.processed;
        self.filtered += other.filtered;
        self.late += other.late;
        self.dead += other.dead;
        self.lost += other.lost;
        self.held = other.held;
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
