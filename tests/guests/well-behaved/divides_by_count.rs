//! Must run, and may be warned of: a window that exists has events, but an empty one makes it divide by zero.

use pelton_sdk::{Aggregation, Error, Module, Output, Pane, WindowRule};

pub(crate) struct DividesByCount;

impl Module for DividesByCount {
    type Fields = ();
    type Config = ();

    fn configure(_: ()) -> Result<DividesByCount, String> {
        Ok(DividesByCount)
    }
}

impl WindowRule for DividesByCount {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new().count("events")
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit((1000 / pane.count("events")).to_string());
        Ok(())
    }
}

pelton_sdk::export!(window_rule: DividesByCount);
