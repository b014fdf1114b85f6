//! Must emit `{"key":…,"window_end":…,"mean":…,"count":…}` per pane, the mean of `ms_played` rounded down, from an accumulator of its own.

use pelton_sdk::{Counters, Error, Event, Failure, Fields, Module, Output, Pane, State, WindowFold};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Play {
    ms_played: i64,
}

pub(crate) struct Mean;

/// Sum and count.
#[derive(Default)]
pub(crate) struct Played {
    sum: i64,
    count: i64,
}

#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: &'a str,
    window_end: i64,
    mean: i64,
    count: i64,
}

impl State for Played {
    fn decode(bytes: &[u8]) -> Result<Played, String> {
        let (sum, count) = bytes.split_at_checked(8).ok_or_else(|| format!("state has {} bytes", bytes.len()))?;
        Ok(Played { sum: i64::decode(sum)?, count: i64::decode(count)? })
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        self.sum.encode(bytes);
        self.count.encode(bytes);
    }
}

impl Module for Mean {
    type Fields = Play;
    type Config = ();

    fn configure(_config: ()) -> Result<Mean, String> {
        Ok(Mean)
    }
}

impl WindowFold for Mean {
    type Accumulator = Played;

    fn add(
        &self,
        accumulator: &mut Played,
        event: &Event<'_, Play>,
        _counters: &mut Counters<'_>,
    ) -> Result<(), Error> {
        accumulator.sum = accumulator.sum.saturating_add(event.fields.ms_played);
        accumulator.count += 1;
        Ok(())
    }

    fn merge(&self, left: &mut Played, right: Played) -> Result<(), Failure> {
        left.sum = left.sum.saturating_add(right.sum);
        left.count += right.count;
        Ok(())
    }

    fn finish(&self, pane: &Pane<'_>, accumulator: Played, output: &mut Output<'_>) -> Result<(), Error> {
        let Played { sum, count } = accumulator;
        let mean = if count == 0 { 0 } else { sum.div_euclid(count) };
        output.emit_json(&Row { key: pane.key, window_end: pane.end, mean, count });
        Ok(())
    }
}

pelton_sdk::export!(window_fold: Mean);
