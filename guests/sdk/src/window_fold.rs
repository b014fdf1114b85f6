//! The world `window-fold`: windows over a rule's own accumulator.

use crate::error::{Error, Failure};
use crate::event::Event;
use crate::field::Columns;
use crate::module::{Adapter, Module, with};
use crate::output::Output;
use crate::pane::{Pane, slice};
use crate::raw;
use crate::raw::window_fold::Guest;
use crate::reducer::members;
use crate::state::{State, decode};

/// A rule over windows with an accumulator of its own.
pub trait WindowFold: Module {
    /// What is kept per key and window. A new one starts with the default.
    type Accumulator: State;

    /// Adds one event.
    ///
    /// # Errors
    /// An event cannot be rejected here: put a transform in front.
    fn add(&self, accumulator: &mut Self::Accumulator, event: &Event<'_, Self::Fields>) -> Result<(), Failure>;

    /// Merges `right` into `left`: the same as if the events of both had been added to one.
    ///
    /// # Errors
    /// When the two do not fit together.
    fn merge(&self, left: &mut Self::Accumulator, right: Self::Accumulator) -> Result<(), Failure>;

    /// Judges one pane.
    ///
    /// # Errors
    /// [`Error::reject`] makes the pane a dead letter.
    fn finish(&self, pane: &Pane<'_>, accumulator: Self::Accumulator, output: &mut Output<'_>) -> Result<(), Error>;
}

/// New accumulators of all groups.
pub(crate) fn fold<M: WindowFold>(
    module: &M,
    events: &raw::Events,
    groups: &raw::Groups,
) -> Result<raw::Texts, raw::Failure> {
    let columns = Columns::new(&events.columns);
    collect(groups.member_ends.len(), |group, bytes| {
        let mut accumulator: M::Accumulator = decode(slice(&groups.states, group))?;
        for row in members(groups, group) {
            module.add(&mut accumulator, &Event::new(events, &columns, *row as usize))?;
        }
        accumulator.encode(bytes);
        Ok(())
    })
}

/// Merges accumulators pairwise.
pub(crate) fn merge<M: WindowFold>(
    module: &M,
    left: &raw::Texts,
    right: &raw::Texts,
) -> Result<raw::Texts, raw::Failure> {
    collect(left.ends.len(), |pair, bytes| {
        let mut merged: M::Accumulator = decode(slice(left, pair))?;
        module.merge(&mut merged, decode(slice(right, pair))?)?;
        merged.encode(bytes);
        Ok(())
    })
}

/// Judges panes. The time of a pane's record is its last instant.
pub(crate) fn finish<M: WindowFold>(
    module: &M,
    panes: &raw::Panes,
    accumulators: &raw::Texts,
) -> Result<raw::Output, raw::Failure> {
    let mut output = Output::new(&panes.keys.data, M::PORTS);
    for row in 0..panes.starts.len() {
        output.begin(row as u32, panes.ends[row].saturating_sub(1));
        let accumulator = decode(slice(accumulators, row))?;
        let result = module.finish(&Pane::new(panes, row, &[], &[]), accumulator, &mut output);
        output.settle(result)?;
    }
    Ok(output.finish())
}

fn collect(
    rows: usize,
    mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Failure>,
) -> Result<raw::Texts, raw::Failure> {
    let mut texts = raw::Texts { data: Vec::new(), ends: Vec::with_capacity(rows) };
    for row in 0..rows {
        write(row, &mut texts.data)?;
        texts.ends.push(texts.data.len() as u32);
    }
    Ok(texts)
}

impl<M: WindowFold> Guest for Adapter<M> {
    fn fold(input: raw::Events, groups: raw::Groups) -> Result<raw::Texts, raw::Failure> {
        with::<M, _>(|module| fold(module, &input, &groups))
    }

    fn merge(left: raw::Texts, right: raw::Texts) -> Result<raw::Texts, raw::Failure> {
        with::<M, _>(|module| merge(module, &left, &right))
    }

    fn finish(input: raw::Panes, accumulators: raw::Texts) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| finish(module, &input, &accumulators))
    }
}
