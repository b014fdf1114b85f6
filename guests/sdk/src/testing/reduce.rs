//! Reducers of the native kit: one event after the other, and after each the timers that it has made due, as the host does.

use std::collections::{BTreeMap, BTreeSet};

use crate::module::Configured;
use crate::raw::Change;
use crate::{Reducer, raw, reducer};

use super::failure_text;
use super::input::{self, Input, Line};
use super::report::{Cause, Report, Rows};

/// Firings of one key between two events, after which the kit takes a rule for one that sets timers for ever.
const FIRINGS_MAX: usize = 1000;

/// What the host keeps of one key.
#[derive(Clone, Default)]
struct Entry {
    state: Vec<u8>,
    timers: BTreeSet<i64>,
}

/// A reducer with all its state.
struct Run<'m, M> {
    module: &'m Configured<M>,
    entries: BTreeMap<Vec<u8>, Entry>,
    newest: i64,
    report: Report,
}

/// Runs all events of `input`, and where it ends all timers that are left.
pub(super) fn run<M: Reducer>(module: &Configured<M>, input: &Input) -> Result<String, String> {
    let mut run = Run { module, entries: BTreeMap::new(), newest: i64::MIN, report: Report::default() };
    for (number, line) in input.events.iter().enumerate() {
        run.event(line, number)?;
        // The watermark moves per event, after the event, and never back.
        run.newest = run.newest.max(line.time());
        run.fire_due(run.newest.saturating_sub(input.watermark.delay_ms))?;
    }
    if input.end {
        run.fire_due(i64::MAX)?;
    }
    Ok(run.report.text())
}

impl<M: Reducer> Run<'_, M> {
    fn event(&mut self, line: &Line, number: usize) -> Result<(), String> {
        let lines = std::slice::from_ref(line);
        let events = input::events(lines, number, &self.module.shape)?;
        let key = input::key(&events, 0).to_vec();
        let entry = self.entries.get(&key).cloned().unwrap_or_default();
        let groups = input::reducer_group(&key, &entry.state, vec![0], Vec::new());
        let reduced = self.call(&events, &groups)?;
        self.tell(&reduced.output, &input::input_rows(lines, &events), Cause::Rows(number))?;
        // An event that is rejected changes nothing, whatever the rule has done before.
        if reduced.output.rejects.is_empty() {
            self.keep(key, entry, reduced);
        }
        Ok(())
    }

    /// Fires due timers in order of time and key, all of a key at once.
    fn fire_due(&mut self, watermark: i64) -> Result<(), String> {
        let mut firings: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        while let Some(key) = self.next_due(watermark) {
            let mut entry = self.entries.get(&key).cloned().unwrap_or_default();
            let due: Vec<i64> = entry.timers.range(..=watermark).copied().collect();
            let last = *due.last().expect("a key that is due has timers");
            let count = firings.entry(key.clone()).or_default();
            *count += 1;
            if *count > FIRINGS_MAX {
                return Err(format!(
                    "timers of key `{}` fired {FIRINGS_MAX} times without an event, the last one at {last}; the rule \
                     seems to set one in each timer",
                    String::from_utf8_lossy(&key)
                ));
            }
            let events = input::events(&[], 0, &self.module.shape)?;
            let groups = input::reducer_group(&key, &entry.state, Vec::new(), due.clone());
            let reduced = self.call(&events, &groups)?;
            if let Some(timer) = reduced.timers.iter().find(|timer| timer.at <= last) {
                return Err(format!(
                    "a timer at {last} sets one at {}, which is not later: the host makes a dead letter of it",
                    timer.at
                ));
            }
            let rows = Rows { arena: Vec::new(), rows: vec![(key.clone(), Vec::new())] };
            self.tell(&reduced.output, &rows, Cause::Timers(&due))?;
            entry.timers.retain(|at| watermark < *at);
            if reduced.output.rejects.is_empty() {
                self.keep(key.clone(), entry, reduced);
            } else {
                self.put(key.clone(), entry);
            }
            // At the end of the input a timer fires only if it was set before.
            if watermark == i64::MAX
                && let Some(mut entry) = self.entries.remove(&key)
            {
                entry.timers.clear();
                if !entry.state.is_empty() {
                    self.entries.insert(key, entry);
                }
            }
        }
        Ok(())
    }

    /// The key with the earliest due timer; of several the first.
    fn next_due(&self, watermark: i64) -> Option<Vec<u8>> {
        let earliest = self.entries.iter().filter_map(|(key, entry)| Some((*entry.timers.first()?, key)));
        earliest.min().filter(|(at, _)| *at <= watermark).map(|(_, key)| key.clone())
    }

    fn call(&self, events: &raw::Events, groups: &raw::Groups) -> Result<raw::reducer::Reduced, String> {
        reducer::reduce(self.module, events, groups).map_err(|failure| failure_text(&failure))
    }

    fn tell(&mut self, output: &raw::Output, rows: &Rows, cause: Cause<'_>) -> Result<(), String> {
        let mut report = Report::default();
        report.output(output, rows, &self.module.shape, cause)?;
        self.report.append(report);
        Ok(())
    }

    /// Keeps what the rule said of the one key of a call.
    fn keep(&mut self, key: Vec<u8>, mut entry: Entry, reduced: raw::reducer::Reduced) {
        match reduced.changes[0] {
            Change::Keep => {}
            Change::Replace => entry.state = crate::pane::slice(&reduced.states, 0).to_vec(),
            Change::Delete => entry.state.clear(),
        }
        entry.timers.extend(reduced.timers.iter().map(|timer| timer.at));
        for cancel in &reduced.cancels {
            entry.timers.remove(&cancel.at);
        }
        self.put(key, entry);
    }

    fn put(&mut self, key: Vec<u8>, entry: Entry) {
        if entry.state.is_empty() && entry.timers.is_empty() {
            self.entries.remove(&key);
        } else {
            self.entries.insert(key, entry);
        }
    }
}
