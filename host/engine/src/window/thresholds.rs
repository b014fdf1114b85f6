//! Which panes are evaluated: those for which all conditions of any list hold.

use pelton_aggregates::{Accumulators, Bound, Shape};

use crate::guest::Condition;

/// The lists, at least one, and which aggregates are summed over slices, key by key, to decide them.
#[derive(Default)]
pub(super) struct Thresholds {
    any_of: Vec<Vec<Test>>,
    /// Aggregates that are counts, each once: tables that addition fills, without a merge.
    pub(super) counts: Vec<usize>,
    /// Aggregates that are sums of integers, each once.
    pub(super) sums: Vec<usize>,
}

/// One condition.
pub(super) enum Test {
    /// Index into [`Thresholds::counts`].
    Count(usize, Bound),
    /// Index into [`Thresholds::sums`].
    Sum(usize, Bound),
    /// The aggregate, which has to be merged.
    Merged(usize, Bound),
}

impl Thresholds {
    /// `shapes` are those of the aggregates that the conditions name.
    pub(super) fn new(any_of: &[Vec<Condition>], shapes: &[Shape]) -> Thresholds {
        let mut thresholds = Thresholds::default();
        for all_of in any_of {
            let tests = all_of.iter().map(|condition| thresholds.test(condition, shapes)).collect();
            thresholds.any_of.push(tests);
        }
        if thresholds.any_of.is_empty() {
            // One without conditions, which holds for every pane.
            thresholds.any_of.push(Vec::new());
        }
        thresholds
    }

    /// The lists of tests.
    pub(super) fn lists(&self) -> impl Iterator<Item = &[Test]> {
        self.any_of.iter().map(Vec::as_slice)
    }

    fn test(&mut self, condition: &Condition, shapes: &[Shape]) -> Test {
        let (aggregate, bound) = (condition.aggregate as usize, condition.bound);
        match Accumulators::new(shapes[aggregate]) {
            Accumulators::Counts(_) => Test::Count(place(&mut self.counts, aggregate), bound),
            Accumulators::IntegerSums(_) => Test::Sum(place(&mut self.sums, aggregate), bound),
            _ => Test::Merged(aggregate, bound),
        }
    }

    /// Whether all tests of any list hold.
    pub(super) fn any(&self, holds: impl Fn(&Test) -> bool) -> bool {
        self.any_of.iter().any(|all_of| all_of.iter().all(&holds))
    }
}

/// Where an aggregate is in a list; it is added when it is not there yet.
fn place(list: &mut Vec<usize>, aggregate: usize) -> usize {
    list.iter().position(|&known| known == aggregate).unwrap_or_else(|| {
        list.push(aggregate);
        list.len() - 1
    })
}
