//! Must emit per key and window how many plays lasted 30 seconds or more and their whole seconds: `{"key":…,"window_end":…,"plays":…,"seconds":…}`.
//! Rejects a negative length with code `negative`.

use pelton_sdk::{Aggregation, Error, Event, Extract, Fields, Module, Output, Pane, Samples, WindowRule};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Play {
    ms_played: i64,
}

/// What it computes per event.
#[derive(Fields)]
pub(crate) struct Length {
    seconds: i64,
}

pub(crate) struct LongPlays;

#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: &'a str,
    window_end: i64,
    plays: i64,
    seconds: Option<i64>,
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
        Aggregation::new().count("plays").sum("seconds", Length::SECONDS)
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        let (plays, seconds) = (pane.count("plays"), pane.integer("seconds"));
        output.emit_json(&Row { key: pane.key, window_end: pane.end, plays, seconds });
        Ok(())
    }
}

impl Extract for LongPlays {
    type Derived = Length;

    fn extract(&self, event: &Event<'_, Play>, samples: &mut Samples<'_, Length>) -> Result<(), Error> {
        let ms_played = event.fields.ms_played;
        if ms_played < 0 {
            return Err(Error::reject("negative", format!("ms_played is {ms_played}")));
        }
        if 30_000 <= ms_played {
            samples.push(Length { seconds: ms_played / 1000 });
        }
        Ok(())
    }
}

pelton_sdk::export!(window_rule + extract: LongPlays);
