//! Must emit `{"key":…,"window_end":…,"count":…}` per key and window: of the key how many different users, and of
//! `key/country` how many plays, for the ten most frequent countries.

use pelton_sdk::{Aggregation, Error, Fields, Module, Output, Pane, WindowRule};
use serde::Serialize;

#[derive(Fields)]
pub(crate) struct Play<'a> {
    user_id: &'a str,
    country: &'a str,
}

pub(crate) struct Audience;

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    window_end: i64,
    count: i64,
}

impl Module for Audience {
    type Fields = Play<'static>;
    type Config = ();

    fn configure(_config: ()) -> Result<Audience, String> {
        Ok(Audience)
    }
}

impl WindowRule for Audience {
    fn aggregates(&self) -> Aggregation {
        Aggregation::new().distinct("users", Play::USER_ID, 1_000_000).top("countries", Play::COUNTRY, 10)
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit_json(&Row { key: pane.key, window_end: pane.end, count: pane.count("users") });
        for item in pane.top("countries") {
            let key = format!("{}/{}", pane.key, item.item);
            output.emit_json(&Row { key: &key, window_end: pane.end, count: item.count });
        }
        Ok(())
    }
}

pelton_sdk::export!(window_rule: Audience);
