//! Runs a rule natively, without a host and without wasm: events or panes in, records and rejects out, all as JSON lines.
//!
//! Input lines:
//! - `{"key":"u1","time":1000,"event":{"track_id":"t1"}}` an event; `"raw":"text"` instead of `"event"` for a payload
//!   that is not JSON; `"headers":{"a":"b"}` as well. Without `key` it is `""`, without `time` 0.
//! - `{"window":{"size_ms":3600000,"slide_ms":300000}}` for window worlds with events, or `{"window":{"global":true}}`.
//! - `{"pane":{"key":"u1","start":0,"end":3600000,"index":1,"timing":"late"},"values":{"plays":120}}` for window
//!   rules: a pane as it is. An aggregate that has seen nothing is `null`, an integer sum beyond 64 bits is clipped, a
//!   top-k is `[["item",3],…]`, with a third number for its error. `"last"` is true and `"watermark"` is the end unless
//!   given.
//! - `{"watermark":{"delay_ms":5000}}` for reducers: how far the watermark stays behind the newest event; 10000 unless
//!   given, as in a pipeline that says nothing of it.
//! - `{"end":true}` for reducers, as the last line: the input ends, and the timers that are left fire, once. Without it more
//!   may come, and they do not fire.
//!
//! Output lines:
//! - `{"row":0,"port":"alerts","key":"u1","payload":…}`, with `"time"` where the rule sets one; `row` is the number
//!   of the event or pane; `"headers"` where the rule gives some, and `"delete":true` in place of a payload for a tombstone
//! - `{"row":2,"reject":"code","detail":"…"}`, with `"place"` where the rule names one
//! - `{"row":0,"counter":"name","add":1}` what the rule counts
//! - `{"timers":[1000],"port":"out","key":"u1","payload":…}` what due timers of a key cause
//!
//! The kit computes what the host computes: the aggregates are the same code, and reducers see events and timers in the
//! same order. What it does not do: events are never late for a window. Each window fires once, at the end, with all its
//! events; corrections can be tried as panes. `watermark.idle_timeout`, limits and routing between stages are not there either.
//!
//! A case is a folder with `config.json` (optional), `input.jsonl` and `expected.jsonl`:
//!
//! ```no_run
//! # use pelton_sdk::{testing, Error, Event, Module, Output, Transform};
//! # struct Rule;
//! # impl Module for Rule {
//! #     type Fields = ();
//! #     type Config = ();
//! #     fn configure(_: ()) -> Result<Rule, String> { Ok(Rule) }
//! # }
//! # impl Transform for Rule {
//! #     fn process(&self, _: &Event<'_, ()>, _: &mut Output<'_>) -> Result<(), Error> { Ok(()) }
//! # }
//! testing::check_cases(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"), testing::run_transform::<Rule>);
//! ```
//!
//! `PELTON_UPDATE_CASES=1 cargo test` writes what the rule gives into `expected.jsonl`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::module::{Configured, configured};
use crate::raw;
use crate::{Extract, Reducer, Transform, WindowFold, WindowRule, transform, window_fold, window_rule};

mod input;
mod reduce;
mod report;
mod windows;

use input::Input;
use report::{Cause, Report};

/// Runs a transform: JSON lines in, JSON lines out.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
///
/// # Panics
/// When the rule gives something else for the same events in batches of one.
pub fn run_transform<M: Transform>(config: &str, input: &str) -> Result<String, String> {
    let module = configured::<M>(config)?;
    let input = Input::parse(input)?;
    let run = |size: usize| {
        let mut report = Report::default();
        for (batch, lines) in input.events.chunks(size.max(1)).enumerate() {
            let first = batch * size;
            let events = input::events(lines, first, &module.shape)?;
            let output = transform::process(&module, &events).map_err(|failure| failure_text(&failure))?;
            let mut part = Report::default();
            part.output(&output, &input::input_rows(lines, &events), &module.shape, Cause::Rows(first))?;
            report.append(part);
        }
        Ok::<_, String>(report.text())
    };
    let whole = run(input.events.len())?;
    assert_eq!(run(1)?, whole, "the rule gives something else when the same events come one by one");
    Ok(whole)
}

/// Runs a window rule over panes, or over events that it aggregates like the host does.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_window_rule<M: WindowRule>(config: &str, input: &str) -> Result<String, String> {
    let module = configured::<M>(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, 0, &module.shape)?;
    let all = raw::window_rule::Samples {
        rows: (0..events.timestamps.len() as u32).collect(),
        columns: Vec::new(),
        rejects: Vec::new(),
        additions: Vec::new(),
    };
    evaluate(&module, &input, &window_rule::aggregates(&module), &events, &all, Report::default())
}

/// Runs a window rule that extracts.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_extract_rule<M: Extract>(config: &str, input: &str) -> Result<String, String> {
    let module = configured::<M>(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, 0, &module.shape)?;
    let samples = window_rule::extract(&module, &events).map_err(|failure| failure_text(&failure))?;
    let mut report = Report::default();
    report.rejects(&samples.rejects, Cause::Rows(0));
    report.additions(&samples.additions, &module.shape, Cause::Rows(0))?;
    evaluate(&module, &input, &window_rule::extract_aggregates(&module), &events, &samples, report)
}

fn evaluate<M: WindowRule>(
    module: &Configured<M>,
    input: &Input,
    plan: &raw::window_rule::Aggregation,
    events: &raw::Events,
    samples: &raw::window_rule::Samples,
    mut report: Report,
) -> Result<String, String> {
    let fields = &module.shape.fields;
    windows::check(plan, fields)?;
    let mut rows = windows::aggregate(input, plan, fields, events, samples)?;
    rows.extend(windows::given(input, plan, fields)?);
    rows.retain(|row| row.passes(plan));
    let (panes, values) = windows::columns(&rows, plan, fields);
    let output = window_rule::evaluate(module, &panes, &values).map_err(|failure| failure_text(&failure))?;
    report.output(&output, &windows::input_rows(&panes), &module.shape, Cause::Rows(0))?;
    Ok(report.text())
}

/// Runs a reducer: one event after the other, and after each the timers that the watermark has reached by it, in order of
/// time and key. The watermark is the newest event time less the delay, as in the host, so an event of any key makes
/// timers due; what is left at the end fires only after a line `{"end":true}`, as at the end of a file.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, a call fails, or timers set timers for ever.
pub fn run_reducer<M: Reducer>(config: &str, input: &str) -> Result<String, String> {
    let module = configured::<M>(config)?;
    reduce::run(&module, &Input::parse(input)?)
}

/// Runs a window fold: each slice is folded, and the slices of a sliding window are merged in order of time.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_window_fold<M: WindowFold>(config: &str, input: &str) -> Result<String, String> {
    let module = configured::<M>(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, 0, &module.shape)?;
    let mut report = Report::default();
    let fold = |key: &[u8], members: &[u32]| {
        // As in the host, an event that is rejected changes nothing, whatever the rule has done before.
        let mut taken = members.to_vec();
        loop {
            let groups = input::group(key, &taken);
            let folded = window_fold::fold(&module, &events, &groups).map_err(|failure| failure_text(&failure))?;
            report.rejects(&folded.rejects, Cause::Rows(0));
            if folded.rejects.is_empty() {
                report.additions(&folded.additions, &module.shape, Cause::Rows(0))?;
                return Ok((!taken.is_empty()).then_some(folded.states));
            }
            taken.retain(|row| folded.rejects.iter().all(|reject| reject.row != *row));
        }
    };
    let merge = |left: &raw::Strings, right: &raw::Strings| {
        window_fold::merge(&module, left, right).map_err(|failure| failure_text(&failure))
    };
    let (panes, accumulators) = windows::fold(&input, &events, fold, merge)?;
    let output = window_fold::finish(&module, &panes, &accumulators).map_err(|failure| failure_text(&failure))?;
    report.output(&output, &windows::input_rows(&panes), &module.shape, Cause::Rows(0))?;
    Ok(report.text())
}

/// Runs every case in `folder` with `run` and compares what comes out, line by line.
///
/// # Panics
/// When a case differs, with a diff, or when there is no case.
pub fn check_cases(folder: impl AsRef<Path>, run: impl Fn(&str, &str) -> Result<String, String>) {
    let folder = folder.as_ref();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut cases: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case in {}", folder.display());
    let update = std::env::var_os("PELTON_UPDATE_CASES").is_some();
    let mut problems = String::new();
    for case in &cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        match check_case(case, &run, update) {
            Ok(()) => {}
            Err(problem) => problems.push_str(&format!("\ncase {name}:\n{problem}")),
        }
    }
    assert!(problems.is_empty(), "{problems}\nPELTON_UPDATE_CASES=1 takes the new results as expected");
}

fn check_case(case: &Path, run: impl Fn(&str, &str) -> Result<String, String>, update: bool) -> Result<(), String> {
    let read = |name: &str| fs::read_to_string(case.join(name)).map_err(|error| format!("cannot read {name}: {error}"));
    let config = if case.join("config.json").exists() { read("config.json")? } else { String::new() };
    let actual = run(&config, &read("input.jsonl")?)?;
    if update {
        return fs::write(case.join("expected.jsonl"), actual).map_err(|error| error.to_string());
    }
    match diff(&read("expected.jsonl")?, &actual) {
        Some(diff) => Err(diff),
        None => Ok(()),
    }
}

/// What differs between two lists of JSON lines: ` ` in both, `-` only expected, `+` only given.
fn diff(expected: &str, actual: &str) -> Option<String> {
    let lines = |text: &str| -> Vec<(String, Value)> {
        let value = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| (line.to_owned(), value(line))).collect()
    };
    let (expected, actual) = (lines(expected), lines(actual));
    if expected.iter().map(|line| &line.1).eq(actual.iter().map(|line| &line.1)) {
        return None;
    }
    let mut text = String::new();
    for index in 0..expected.len().max(actual.len()) {
        let (want, got) = (expected.get(index), actual.get(index));
        if want.map(|line| &line.1) == got.map(|line| &line.1) {
            let _ = writeln!(text, "  {}", want.map_or("", |line| &line.0));
            continue;
        }
        for (sign, line) in [('-', want), ('+', got)] {
            if let Some(line) = line {
                let _ = writeln!(text, "{sign} {}", line.0);
            }
        }
    }
    Some(text)
}

fn failure_text(failure: &raw::Failure) -> String {
    match failure {
        raw::Failure::Retry(reason) => format!("the rule asks for a retry: {reason}"),
        raw::Failure::Halt(reason) => format!("the rule halts: {reason}"),
    }
}
