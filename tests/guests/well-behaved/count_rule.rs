//! Must emit `{"key":…,"window_end":…,"count":…}` per key and window with more than `over` events; `over` is 0 unless configured.

use pelton_sdk::{Aggregation, Error, Module, Output, Pane, WindowRule};
use serde::{Deserialize, Serialize};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    over: i64,
}

pub(crate) struct Count {
    over: i64,
}

#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: &'a str,
    window_end: i64,
    count: i64,
}

impl Module for Count {
    type Fields = ();
    type Config = Config;

    fn configure(config: Config) -> Result<Count, String> {
        Ok(Count { over: config.over })
    }
}

impl WindowRule for Count {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new().count("events").at_least("events", self.over.saturating_add(1))
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit_json(&Row { key: pane.key, window_end: pane.end, count: pane.count("events") });
        Ok(())
    }
}

pelton_sdk::export!(window_rule: Count);
