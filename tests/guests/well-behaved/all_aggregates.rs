//! Must emit every aggregate of every pane over an integer `n`, a number `x`, a text `s` and a boolean `b`, none of them required.
//! A top-k is a list of `[item, count, error]`.

use pelton_sdk::{Aggregation, Error, Fields, Module, Output, Pane, WindowRule};
use serde::{Deserialize, Serialize};

#[derive(Fields)]
pub(crate) struct Anything<'a> {
    n: Option<i64>,
    x: Option<f64>,
    s: Option<&'a str>,
    b: Option<bool>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    top: u32,
    distinct: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config { top: 3, distinct: 1000 }
    }
}

pub(crate) struct AllAggregates {
    config: Config,
}

type Top<'a> = Vec<(&'a str, i64, i64)>;

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    start: i64,
    end: i64,
    last: bool,
    count: i64,
    sum_n: Option<i64>,
    clipped: bool,
    min_n: Option<i64>,
    max_n: Option<i64>,
    sum_x: Option<f64>,
    min_x: Option<f64>,
    max_x: Option<f64>,
    distinct_n: i64,
    distinct_x: i64,
    distinct_s: i64,
    distinct_b: i64,
    top_n: Top<'a>,
    top_s: Top<'a>,
    top_b: Top<'a>,
}

impl Module for AllAggregates {
    type Fields = Anything<'static>;
    type Config = Config;

    fn configure(config: Config) -> Result<AllAggregates, String> {
        Ok(AllAggregates { config })
    }
}

impl WindowRule for AllAggregates {
    fn aggregates(&self) -> Aggregation {
        let Config { top, distinct } = self.config;
        Aggregation::new()
            .count("count")
            .sum("sum_n", Anything::N)
            .min("min_n", Anything::N)
            .max("max_n", Anything::N)
            .sum("sum_x", Anything::X)
            .min("min_x", Anything::X)
            .max("max_x", Anything::X)
            .distinct("distinct_n", Anything::N, distinct)
            .distinct("distinct_x", Anything::X, distinct)
            .distinct("distinct_s", Anything::S, distinct)
            .distinct("distinct_b", Anything::B, distinct)
            .top("top_n", Anything::N, top)
            .top("top_s", Anything::S, top)
            .top("top_b", Anything::B, top)
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        let top = |name| pane.top(name).map(|top| (top.item, top.count, top.error)).collect();
        output.emit_json(&Row {
            key: pane.key,
            start: pane.start,
            end: pane.end,
            last: pane.is_last,
            count: pane.count("count"),
            sum_n: pane.integer("sum_n"),
            clipped: pane.is_clipped("sum_n"),
            min_n: pane.integer("min_n"),
            max_n: pane.integer("max_n"),
            sum_x: pane.number("sum_x"),
            min_x: pane.number("min_x"),
            max_x: pane.number("max_x"),
            distinct_n: pane.count("distinct_n"),
            distinct_x: pane.count("distinct_x"),
            distinct_s: pane.count("distinct_s"),
            distinct_b: pane.count("distinct_b"),
            top_n: top("top_n"),
            top_s: top("top_s"),
            top_b: top("top_b"),
        });
        Ok(())
    }
}

pelton_sdk::export!(window_rule: AllAggregates);
