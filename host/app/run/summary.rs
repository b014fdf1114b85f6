//! What a file run has brought about since its beginning, over all its restarts, and the last words about it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use pelton_engine::effects::Effects;
use pelton_engine::plan::{Key, Plan};
use pelton_engine::totals::Totals;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::cli::failure::{Exit, Failure};

/// Counts of a run; committed with each epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) totals: Totals,
    /// Records per output of the plan.
    records: Vec<u64>,
    /// Dead letters of events, by code.
    dead: BTreeMap<String, u64>,
    /// Dead letters of windows and timers that fired, by code: these are no events.
    firings: BTreeMap<String, u64>,
}

impl Summary {
    /// Adds what an epoch brings about.
    pub(super) fn add(&mut self, effects: &Effects) {
        self.totals.add(&effects.totals);
        self.records.resize(self.records.len().max(effects.records_by_output.len()), 0);
        for (sum, count) in self.records.iter_mut().zip(&effects.records_by_output) {
            *sum += count;
        }
        for (code, count) in &effects.dead_by_code {
            let firings = effects.dead_firings_by_code.get(code).copied().unwrap_or(0);
            for (sums, count) in [(&mut self.dead, count - firings), (&mut self.firings, firings)] {
                if count > 0 {
                    *sums.entry(code.clone()).or_default() += count;
                }
            }
        }
    }

    /// The last words of a process. `process` is what it has done itself, `counters` are the sums of those of modules
    /// and stages over all of the run.
    ///
    /// # Errors
    /// When the run is done and every event was refused.
    pub(super) fn end(
        &self,
        plan: &Plan,
        process: &Process,
        counters: &[(String, i128)],
        done: bool,
    ) -> Result<(), Failure> {
        let totals = &self.totals;
        let outputs: Vec<String> = plan
            .outputs
            .iter()
            .enumerate()
            .map(|(idx, output)| format!("{} {}", output.name, self.records.get(idx).unwrap_or(&0)))
            .collect();
        info!(
            events = totals.received,
            // Of a run that was resumed: the rest was done before.
            in_this_process = (process.events < totals.received).then_some(process.events),
            processed = totals.processed,
            filtered = totals.filtered,
            late = totals.late,
            dead = totals.dead,
            held = (totals.held > 0).then_some(totals.held),
            outputs = outputs.join(", "),
            dead_letters = list(&self.dead),
            dead_firings = (!self.firings.is_empty()).then(|| list(&self.firings)),
            counters = (!counters.is_empty()).then(|| list(counters.iter().map(|(name, count)| (name, count)))),
            seconds = format!("{:.2}", process.took.as_secs_f64()),
            events_per_second = (process.events as f64 / process.took.as_secs_f64().max(1e-9)) as u64,
            "{}",
            if done { "done" } else { "stopped" }
        );
        self.judge(plan, done)
    }

    /// Says so when all or nearly all events were refused.
    pub(super) fn judge(&self, plan: &Plan, done: bool) -> Result<(), Failure> {
        let Totals { received, dead, .. } = self.totals;
        // Nine of ten: what goes wrong with single records stays far below.
        if received == 0 || dead < received - received / 10 {
            return Ok(());
        }
        let reason = self.reason(plan);
        if done && dead == received {
            let message = format!("all {received} events were refused: {}", list(&self.dead));
            return Err(Failure::new(Exit::Refused, anyhow::Error::msg(message)).hint(reason));
        }
        warn!(events = received, dead, dead_letters = list(&self.dead), reason, "nearly all events were refused");
        Ok(())
    }

    /// What is most likely behind the refusals.
    fn reason(&self, plan: &Plan) -> String {
        let most = self.dead.iter().max_by_key(|(_, count)| **count).map_or("", |(code, _)| code.as_str());
        match most {
            "json-utf8" | "json-syntax" | "json-not-object" => {
                "is the input JSON lines, one object per line? dlq.jsonl has the lines as they were read".into()
            }
            "key-missing" | "key-type" => match &plan.source.key {
                Key::Field(path) => {
                    format!("`[source] key` reads a string or an integer at `/{}`: is it there?", path.join("/"))
                }
                Key::Header(_) | Key::SubjectToken(_) => {
                    "lines of a file have no headers and no subject: `[source] key` must name a field".into()
                }
            },
            "time-missing" | "time-type" => {
                format!(
                    "`[source] time` is read at `/{}`: is it there, and of its unit?",
                    plan.source.time.field.join("/")
                )
            }
            "time-too-old" | "time-in-future" | "time-range" => {
                "is the unit of `[source] time` right? `watermark.max_past` and `max_future` bound event times".into()
            }
            "field-missing" | "field-type" => {
                "the modules read fields that these events do not have so: `[source.fields]` maps names".into()
            }
            "payload-size" => "the events are larger than `[limits] max_payload`".into(),
            "limit-fuel" => "the modules need more than `[limits] fuel_per_event`".into(),
            _ => "the `message` of each dead letter says why".into(),
        }
    }
}

/// What one process did.
pub(super) struct Process {
    pub(super) events: u64,
    pub(super) took: Duration,
}

/// `code count, code count`.
fn list<'a>(counts: impl IntoIterator<Item = (&'a String, impl Display)>) -> String {
    let words: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(dead: u64, processed: u64, codes: &[(&str, u64)], firings: &[(&str, u64)]) -> Effects {
        let map = |codes: &[(&str, u64)]| codes.iter().map(|(code, count)| (code.to_string(), *count)).collect();
        let mut effects = Effects::default();
        effects.totals = Totals { received: dead + processed, processed, dead, ..Totals::default() };
        (effects.dead_by_code, effects.dead_firings_by_code) = (map(codes), map(firings));
        effects
    }

    fn plan() -> Plan {
        use pelton_engine::plan::{EventOrder, Limits, Source, Time, TimeUnit, Watermark};
        use pelton_engine::time::Span;
        let (stream, subject) = (String::new(), String::new());
        let time = Time { field: vec!["ts".into()], unit: TimeUnit::Millis };
        let watermark = Watermark { delay: Span(0), idle_timeout: None, max_future: Span(0), max_past: Span(0) };
        let key = Key::Field(vec!["user".into(), "id".into()]);
        let (order, dedupe, fields) = (EventOrder::Arrival, None, Vec::new());
        let source =
            Source { stream, subject, partitions: 1, create: None, key, time, watermark, order, dedupe, fields };
        Plan { name: "p".into(), source, stages: Vec::new(), outputs: Vec::new(), limits: Limits::default() }
    }

    #[test]
    fn only_a_run_without_any_good_event_fails() {
        let plan = plan();
        let judge = |effects: &[Effects], done: bool| {
            let mut summary = Summary::default();
            effects.iter().for_each(|effects| summary.add(effects));
            summary.judge(&plan, done).map_err(|failure| format!("{failure}"))
        };
        assert_eq!(judge(&[], true), Ok(()));
        let refused = || effects(1, 0, &[("json-syntax", 1)], &[]);
        assert_eq!(judge(&[refused()], true), Err("all 1 events were refused: json-syntax 1".into()));
        assert_eq!(judge(&[refused(), refused()], true), Err("all 2 events were refused: json-syntax 2".into()));
        assert_eq!(judge(&[refused()], false), Ok(()), "what comes later may be good");
        assert_eq!(judge(&[effects(u64::MAX - 1, 1, &[("trap", 5)], &[])], true), Ok(()));
        // Panes that trap are no events.
        assert_eq!(judge(&[effects(0, 9, &[("trap", 9)], &[("trap", 9)])], true), Ok(()));
    }

    #[test]
    fn firings_are_told_from_events_and_the_likely_reason_is_the_most_frequent() {
        let mut summary = Summary::default();
        summary.add(&effects(5, 0, &[("trap", 4155), ("schema", 3)], &[("trap", 4153)]));
        summary.add(&effects(4, 0, &[("key-missing", 4)], &[]));
        assert_eq!(list(&summary.dead), "key-missing 4, schema 3, trap 2");
        assert_eq!(list(&summary.firings), "trap 4153");
        assert!(summary.reason(&plan()).contains("`/user/id`"), "{}", summary.reason(&plan()));
    }
}
