//! Must emit `{"key":…,"sum":…}` per pane, reject a negative `n` at its place, after adding it, and count what it adds.

use pelton_sdk::{Counters, Error, Event, Failure, Fields, Module, Output, Pane, WindowFold};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Amount {
    n: i64,
}

pub(crate) struct StrictFold;

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    sum: i64,
}

impl Module for StrictFold {
    type Fields = Amount;
    type Config = ();
    const COUNTERS: &'static [&'static str] = &["added"];

    fn configure(_config: ()) -> Result<StrictFold, String> {
        Ok(StrictFold)
    }
}

impl WindowFold for StrictFold {
    type Accumulator = i64;

    fn add(&self, accumulator: &mut i64, event: &Event<'_, Amount>, counters: &mut Counters<'_>) -> Result<(), Error> {
        *accumulator = accumulator.saturating_add(event.fields.n);
        counters.add("added", event.fields.n);
        match event.fields.n {
            n if n < 0 => Err(Error::reject_at("/n", "negative", format!("n is {n}"))),
            _ => Ok(()),
        }
    }

    fn merge(&self, left: &mut i64, right: i64) -> Result<(), Failure> {
        *left = left.saturating_add(right);
        Ok(())
    }

    fn finish(&self, pane: &Pane<'_>, accumulator: i64, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit_json(&Row { key: pane.key, sum: accumulator });
        Ok(())
    }
}

pelton_sdk::export!(window_fold: StrictFold);
