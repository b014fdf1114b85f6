//! Must emit `{"key":…,"window_end":…,"count":…}` per key and window: plays of 30 seconds or more.

use pelton_sdk::{Aggregation, Error, Event, Extract, Fields, Module, Output, Pane, Samples, WindowRule};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Play {
    ms_played: i64,
}

pub(crate) struct LongPlays;

#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: &'a str,
    window_end: i64,
    count: i64,
}

impl Module for LongPlays {
    type Fields = Play;
    type Config = ();

    fn configure(_config: ()) -> Result<LongPlays, String> {
        Ok(LongPlays)
    }
}

impl WindowRule for LongPlays {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new().count("plays")
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit_json(&Row { key: pane.key, window_end: pane.end, count: pane.count("plays") });
        Ok(())
    }
}

impl Extract for LongPlays {
    type Derived = ();

    fn extract(&self, event: &Event<'_, Play>, samples: &mut Samples<'_, ()>) -> Result<(), Error> {
        if 30_000 <= event.fields.ms_played {
            samples.keep();
        }
        Ok(())
    }
}

pelton_sdk::export!(window_rule + extract: LongPlays);
