//! The world `window-fold`: windows over a rule's own accumulator.

use crate::counters::Counters;
use crate::error::{Error, Failure};
use crate::event::Event;
use crate::field::Columns;
use crate::module::{Adapter, Configured, Module, with};
use crate::output::Output;
use crate::pane::{Pane, slice};
use crate::raw;
use crate::raw::window_fold::{Folded, Guest};
use crate::reducer::members;
use crate::state::{State, decode};

/// A rule over windows with an accumulator of its own.
pub trait WindowFold: Module {
    /// What is kept per key and window. A new one starts with the default.
    type Accumulator: State;

    /// Adds one event. One that is rejected leaves the accumulator as it was, whatever was done to it before.
    ///
    /// # Errors
    /// [`Error::reject`] makes the event a dead letter.
    fn add(
        &self,
        accumulator: &mut Self::Accumulator,
        event: &Event<'_, Self::Fields>,
        counters: &mut Counters<'_>,
    ) -> Result<(), Error>;

    /// Merges `right` into `left`: the same as if the events of both had been added to one.
    ///
    /// # Errors
    /// When the two do not fit together.
    fn merge(&self, left: &mut Self::Accumulator, right: Self::Accumulator) -> Result<(), Failure>;

    /// Evaluates one pane.
    ///
    /// # Errors
    /// [`Error::reject`] makes the pane a dead letter.
    fn finish(&self, pane: &Pane<'_>, accumulator: Self::Accumulator, output: &mut Output<'_>) -> Result<(), Error>;
}

/// New accumulators of all groups.
pub(crate) fn fold<M: WindowFold>(
    module: &Configured<M>,
    events: &raw::Events,
    groups: &raw::Groups,
) -> Result<Folded, raw::Failure> {
    let columns = Columns::new(&events.columns);
    let mut counters = Counters::new(&module.shape.counters);
    let mut rejects = Vec::new();
    let states = collect(groups.member_ends.len(), |group, bytes| {
        let mut accumulator: M::Accumulator = decode(slice(&groups.states, group))?;
        for &row in members(groups, group) {
            counters.begin(row);
            match module.rule.add(&mut accumulator, &Event::new(events, &columns, row as usize), &mut counters) {
                Ok(()) => {}
                Err(Error::Failure(failure)) => return Err(failure),
                Err(Error::Reject { code, detail, place }) => {
                    counters.drop_row();
                    rejects.push(raw::Reject { row, code: code.to_owned(), detail, place });
                }
            }
        }
        accumulator.encode(bytes);
        Ok(())
    })?;
    Ok(Folded { states, rejects, additions: counters.finish() })
}

/// Merges accumulators pairwise.
pub(crate) fn merge<M: WindowFold>(
    module: &Configured<M>,
    left: &raw::Strings,
    right: &raw::Strings,
) -> Result<raw::Strings, raw::Failure> {
    collect(left.ends.len(), |pair, bytes| {
        let mut merged: M::Accumulator = decode(slice(left, pair))?;
        module.rule.merge(&mut merged, decode(slice(right, pair))?)?;
        merged.encode(bytes);
        Ok(())
    })
}

/// Evaluates panes. The time of a pane's record is its last instant.
pub(crate) fn finish<M: WindowFold>(
    module: &Configured<M>,
    panes: &raw::Panes,
    accumulators: &raw::Strings,
) -> Result<raw::Output, raw::Failure> {
    let mut output = Output::new(&panes.keys.data, &module.shape);
    for row in 0..panes.starts.len() {
        output.begin(row as u32, panes.ends[row].saturating_sub(1));
        let accumulator = decode(slice(accumulators, row))?;
        let result = module.rule.finish(&Pane::new(panes, row, &[], &[]), accumulator, &mut output);
        output.settle(result)?;
    }
    Ok(output.finish())
}

fn collect(
    rows: usize,
    mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Failure>,
) -> Result<raw::Strings, raw::Failure> {
    let mut texts = raw::Strings { data: Vec::new(), ends: Vec::with_capacity(rows) };
    for row in 0..rows {
        write(row, &mut texts.data)?;
        texts.ends.push(texts.data.len() as u32);
    }
    Ok(texts)
}

impl<M: WindowFold> Guest for Adapter<M> {
    fn fold(input: raw::Events, groups: raw::Groups) -> Result<Folded, raw::Failure> {
        with::<M, _>(|module| fold(module, &input, &groups))
    }

    fn merge(left: raw::Strings, right: raw::Strings) -> Result<raw::Strings, raw::Failure> {
        with::<M, _>(|module| merge(module, &left, &right))
    }

    fn finish(input: raw::Panes, accumulators: raw::Strings) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| finish(module, &input, &accumulators))
    }
}
