//! Runs a rule natively, without a host and without wasm: events or panes in, records and rejects out, all as JSON lines.
//!
//! Input lines:
//! - `{"key":"u1","time":1000,"event":{"track_id":"t1"}}` an event; `"raw":"text"` instead of `"event"` for a payload
//!   that is no JSON; `"headers":{"a":"b"}` as well. Without `key` it is `""`, without `time` 0.
//! - `{"window":{"size_ms":3600000,"every_ms":300000}}` for window worlds with events. Every window fires once, in time order.
//! - `{"pane":{"key":"u1","start":0,"end":3600000,"number":1,"firing":"late"},"values":{"plays":120}}` for window
//!   rules: a pane as it is. A top-k is `[["item",3],…]`.
//!
//! Output lines:
//! - `{"source":0,"port":"alerts","key":"u1","payload":…}`, with `"time"` where the rule sets one
//! - `{"source":2,"reject":"code","detail":"…"}`
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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::field::Fields;
use crate::module::configured;
use crate::raw;
use crate::{Extract, Reducer, Transform, WindowFold, WindowRule, reducer, transform, window_fold, window_rule};

mod input;
mod report;
mod windows;

use input::Input;
use report::Report;

/// Runs a transform: JSON lines in, JSON lines out.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
///
/// # Panics
/// When the rule gives something else for the same events in batches of one.
pub fn run_transform<M: Transform>(config: &str, input: &str) -> Result<String, String> {
    let module: M = configured(config)?;
    let input = Input::parse(input)?;
    let run = |size: usize| {
        let mut report = Report::default();
        for (batch, lines) in input.events.chunks(size.max(1)).enumerate() {
            let events = input::events(lines, M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
            let output = transform::process(&module, &events).map_err(|failure| failure_text(&failure))?;
            report.output(&output, &input::sources(lines, &events), M::PORTS, batch * size)?;
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
    let module: M = configured(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
    let all = raw::window_rule::Samples {
        sources: (0..events.timestamps.len() as u32).collect(),
        columns: Vec::new(),
        rejects: Vec::new(),
    };
    evaluate(&module, &input, &window_rule::plan(&module), &events, &all, Report::default())
}

/// Runs a window rule that extracts.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_extract_rule<M: Extract>(config: &str, input: &str) -> Result<String, String> {
    let module: M = configured(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
    let samples = window_rule::extract(&module, &events).map_err(|failure| failure_text(&failure))?;
    let mut report = Report::default();
    report.rejects(&samples.rejects, 0);
    evaluate(&module, &input, &window_rule::extract_plan(&module), &events, &samples, report)
}

fn evaluate<M: WindowRule>(
    module: &M,
    input: &Input,
    plan: &raw::window_rule::RulePlan,
    events: &raw::Events,
    samples: &raw::window_rule::Samples,
    mut report: Report,
) -> Result<String, String> {
    let mut rows = windows::aggregate(input, plan, M::Fields::FIELDS, events, samples)?;
    rows.extend(windows::given(input, plan)?);
    rows.retain(|row| row.passes(plan));
    let (panes, values) = windows::columns(&rows, plan, M::Fields::FIELDS)?;
    let output = window_rule::evaluate(module, &panes, &values).map_err(|failure| failure_text(&failure))?;
    report.output(&output, &windows::sources(&panes), M::PORTS, 0)?;
    Ok(report.text())
}

/// Runs a reducer: all events key by key, then the timers that became due by them, in time order.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_reducer<M: Reducer>(config: &str, input: &str) -> Result<String, String> {
    let module: M = configured(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
    let mut report = Report::default();
    let mut states: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut timers: BTreeSet<(i64, Vec<u8>)> = BTreeSet::new();
    let mut step = |events: &raw::Events, groups: raw::Groups, timers: &mut BTreeSet<(i64, Vec<u8>)>| {
        let reduced = reducer::reduce(&module, events, &groups).map_err(|failure| failure_text(&failure))?;
        let keys = input::rows(&groups.keys);
        let sources = input::sources(&input.events, events);
        // What timers cause comes after all events.
        let first = if events.timestamps.is_empty() { input.events.len() } else { 0 };
        report.output(&reduced.output, &sources.with_groups(&keys), M::PORTS, first)?;
        for (index, state) in input::rows(&reduced.states).into_iter().enumerate() {
            match reduced.changes[index] {
                raw::reducer::Change::Keep => {}
                raw::reducer::Change::Replace => drop(states.insert(keys[index].clone(), state)),
                raw::reducer::Change::Delete => drop(states.remove(&keys[index])),
            }
        }
        timers.extend(reduced.timers.iter().map(|timer| (timer.at, keys[timer.group as usize].clone())));
        for cancel in &reduced.cancels {
            timers.remove(&(cancel.at, keys[cancel.group as usize].clone()));
        }
        Ok::<_, String>(states.clone())
    };
    let mut known = step(&events, input::groups(&events, &BTreeMap::new()), &mut timers)?;
    let none = input::events(&[], M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
    for _ in 0..1000 {
        let Some((at, key)) = timers.pop_first() else { return Ok(report.text()) };
        let state = known.get(&key).cloned().unwrap_or_default();
        known = step(&none, input::timer_group(&key, &state, at), &mut timers)?;
    }
    Err("more than 1000 timers came due, the rule seems to set one in each timer".to_owned())
}

/// Runs a window fold. Each window is folded in two halves that are merged, when it has two events or more.
///
/// # Errors
/// When the input is not understood, the rule refuses its configuration, or a call fails.
pub fn run_window_fold<M: WindowFold>(config: &str, input: &str) -> Result<String, String> {
    let module: M = configured(config)?;
    let input = Input::parse(input)?;
    let events = input::events(&input.events, M::Fields::FIELDS, M::PAYLOAD, M::HEADERS)?;
    let mut panes = windows::no_panes();
    let mut accumulators = raw::Texts { data: Vec::new(), ends: Vec::new() };
    for (window, members) in windows::members(&input, &events)? {
        let (left, right) = members.split_at(members.len().div_ceil(2));
        let half = |members: &[u32]| {
            let groups = input::group(&window.key, members);
            window_fold::fold(&module, &events, &groups).map_err(|failure| failure_text(&failure))
        };
        let mut folded = half(left)?;
        if !right.is_empty() {
            folded = window_fold::merge(&module, &folded, &half(right)?).map_err(|failure| failure_text(&failure))?;
        }
        window.push(&mut panes);
        accumulators.data.extend_from_slice(&folded.data);
        accumulators.ends.push(accumulators.data.len() as u32);
    }
    let output = window_fold::finish(&module, &panes, &accumulators).map_err(|failure| failure_text(&failure))?;
    let mut report = Report::default();
    report.output(&output, &windows::sources(&panes), M::PORTS, 0)?;
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
