//! The world `transform`: stateless rules that validate, enrich, route or shape events.

use crate::error::Error;
use crate::event::Event;
use crate::field::Columns;
use crate::module::{Adapter, Configured, Module, with};
use crate::output::Output;
use crate::raw;

/// A stateless rule.
pub trait Transform: Module {
    /// Handles one event: emits any number of records, or none to filter it out.
    ///
    /// # Errors
    /// [`Error::reject`] makes the event a dead letter.
    fn process(&self, event: &Event<'_, Self::Fields>, output: &mut Output<'_>) -> Result<(), Error>;
}

/// Handles one batch.
pub(crate) fn process<M: Transform>(module: &Configured<M>, events: &raw::Events) -> Result<raw::Output, raw::Failure> {
    let columns = Columns::new(&events.columns);
    let mut output = Output::new(&events.data, &module.shape);
    for row in 0..events.timestamps.len() {
        output.begin(row as u32, events.timestamps[row]);
        let result = module.rule.process(&Event::new(events, &columns, row), &mut output);
        output.settle(result)?;
    }
    Ok(output.finish())
}

impl<M: Transform> raw::transform::Guest for Adapter<M> {
    fn process(input: raw::Events) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| process(module, &input))
    }
}
