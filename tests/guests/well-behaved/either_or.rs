//! Must emit `{"key":…,"events":…,"least":…}` for panes with three events or more, or whose smallest `x` is between 1.5 and
//! 2.5; count the panes (`panes`) and, by `extract`, the events that it drops for want of an `x` (`dropped`).

use pelton_sdk::{Aggregation, Error, Event, Extract, Fields, Module, Output, Pane, Samples, WindowRule};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Measure {
    x: Option<f64>,
}

pub(crate) struct EitherOr;

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    events: i64,
    least: Option<f64>,
}

impl Module for EitherOr {
    type Fields = Measure;
    type Config = ();
    const COUNTERS: &'static [&'static str] = &["panes", "dropped"];

    fn configure(_config: ()) -> Result<EitherOr, String> {
        Ok(EitherOr)
    }
}

impl WindowRule for EitherOr {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new()
            .count("events")
            .min("least", Measure::X)
            .at_least("events", 3)
            .or()
            .at_least_number("least", 1.5)
            .at_most_number("least", 2.5)
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.add("panes", 1);
        output.emit_json(&Row { key: pane.key, events: pane.count("events"), least: pane.number("least") });
        Ok(())
    }
}

impl Extract for EitherOr {
    type Derived = ();

    fn extract(&self, event: &Event<'_, Measure>, samples: &mut Samples<'_, ()>) -> Result<(), Error> {
        match event.fields.x {
            Some(_) => samples.keep(),
            None => samples.add("dropped", 1),
        }
        Ok(())
    }
}

pelton_sdk::export!(window_rule + extract: EitherOr);
