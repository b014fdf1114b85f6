//! Must be refused before it runs: it evaluates by an aggregate that it does not declare.

use pelton_sdk::{Aggregation, Error, Module, Output, Pane, WindowRule};

pub(crate) struct AsksForAnother;

impl Module for AsksForAnother {
    type Fields = ();
    type Config = ();

    fn configure(_: ()) -> Result<AsksForAnother, String> {
        Ok(AsksForAnother)
    }
}

impl WindowRule for AsksForAnother {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new().count("events")
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit(format!("{:?}", pane.integer("plays")));
        Ok(())
    }
}

pelton_sdk::export!(window_rule: AsksForAnother);
