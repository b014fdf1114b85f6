//! The sequential run: the same engine, one event at a time, no faults, no epochs to speak of.
//!
//! What an engine gives is a function of its events, of what was lost before it was read, and of what came from a clock.
//! The last two are the host's decisions, and the stream tells them: gap records, and the clock entries of markers. [`along`] takes them from there; whether they were right to be
//! taken is up to [`crate::audit`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use pelton_engine::effects::Effects;
use pelton_engine::epoch::{Clock, Records};
use pelton_engine::event::RawBatch;
use pelton_engine::step::{Engine, Input as StepInput, Progress};
use pelton_engine::time::{EventTime, WallTime};
use pelton_engine::totals::Totals;

use crate::audit;
use crate::guests::Temper;
use crate::log::{Entry, Input};
use crate::scenario::Scenario;

/// What a partition must have brought about.
pub struct Expected {
    pub records: Records,
    pub totals: Totals,
    /// What the modules have counted, by the names of markers.
    pub counters: BTreeMap<String, i128>,
    /// State behind the last event.
    pub state: Vec<u8>,
    /// What would come if the input ended here: the state as far as it can be seen.
    pub rest: Vec<Vec<u8>>,
}

/// Runs a partition's part of the input, `batch` events at a time.
#[must_use]
pub fn expected(scenario: &Scenario, partition: u32, input: &Input, batch: usize) -> Expected {
    let mut run = Run::new(scenario, partition);
    run.feed(input, partition, 1..=input.last(), batch);
    run.finish()
}

/// Runs what a chain of epochs says that it has read, with its gaps and its silences.
#[must_use]
pub fn along(scenario: &Scenario, partition: u32, input: &Input, entries: &[Entry]) -> Expected {
    let mut run = Run::new(scenario, partition);
    let mut reached = audit::begin(entries.first().map(|entry| &entry.epoch.marker), input);
    for entry in entries.iter().filter(|entry| entry.torn.is_none()) {
        let marker = &entry.epoch.marker;
        let gaps = audit::gaps(std::slice::from_ref(entry));
        let taken = audit::taken(reached, marker, &gaps, partition, input);
        let mut taken = taken.into_iter().peekable();
        for &(first, last) in &gaps {
            while let Some(sequence) = taken.next_if(|&sequence| sequence < first) {
                run.feed(input, partition, sequence..=sequence, 1);
            }
            run.skip(first, last);
        }
        taken.for_each(|sequence| run.feed(input, partition, sequence..=sequence, 1));
        reached = reached.max(marker.position.sequence);
        for &Clock::Idle { value } in &marker.clock {
            run.step(StepInput::Idle(EventTime(value)));
            run.cut();
        }
    }
    run.finish()
}

/// Payloads that an engine gives when its input ends, stamps aside.
#[must_use]
pub fn rest(engine: Engine) -> Vec<Vec<u8>> {
    let mut run = Run::of(engine);
    run.step(StepInput::End);
    run.cut();
    run.records.rows.iter().map(|row| unstamped(run.records.slice(&row.payload))).collect()
}

struct Run {
    engine: Engine,
    effects: Effects,
    records: Records,
    totals: Totals,
    counters: BTreeMap<String, i128>,
}

impl Run {
    fn new(scenario: &Scenario, partition: u32) -> Run {
        Run::of(scenario.engine(partition, &Temper::calm()).expect("native guests need nothing"))
    }

    fn of(engine: Engine) -> Run {
        Run {
            engine,
            effects: Effects::default(),
            records: Records::default(),
            totals: Totals::default(),
            counters: BTreeMap::new(),
        }
    }

    fn feed(&mut self, input: &Input, partition: u32, range: RangeInclusive<u64>, batch: usize) {
        let mut waiting = RawBatch::default();
        for sequence in range {
            if let Some(message) = input.at(sequence).filter(|message| message.partition == partition) {
                waiting.push(sequence, WallTime(message.published), b"in", b"", &message.payload);
            }
            if waiting.events.len() == batch {
                self.step(StepInput::Batch(std::mem::take(&mut waiting)));
            }
        }
        if !waiting.events.is_empty() {
            self.step(StepInput::Batch(waiting));
        }
    }

    fn skip(&mut self, first: u64, last: u64) {
        if !self.engine.skip_gap(first, last, &mut self.effects) {
            self.cut();
            assert!(self.engine.skip_gap(first, last, &mut self.effects), "an empty epoch has room for one record");
        }
    }

    fn finish(mut self) -> Expected {
        self.cut();
        let state = self.engine.snapshot();
        let Run { engine, records, totals, counters, .. } = self;
        Expected { records, totals, counters, state, rest: rest(engine) }
    }

    fn step(&mut self, input: StepInput) {
        let mut progress = self.engine.step(input, &mut self.effects).expect("calm guests do not fail");
        while progress != Progress::NeedInput {
            if progress == Progress::Full {
                self.cut();
            }
            progress = self.engine.step(StepInput::Continue, &mut self.effects).expect("calm guests do not fail");
        }
    }

    fn cut(&mut self) {
        self.engine.cut(&mut Vec::new());
        let from = &self.effects.records;
        for row in &from.rows {
            self.records.push(
                row.channel,
                from.slice(&row.subject),
                from.slice(&row.headers),
                from.slice(&row.payload),
            );
        }
        self.totals.add(&Totals { held: self.engine.held(), ..self.effects.totals });
        for (name, count) in self.engine.counted(&self.effects.counters) {
            *self.counters.entry(name).or_default() += count;
        }
        self.effects.clear();
    }
}

/// Bytes with every stamp (`s=` or `p=` and 16 hex digits) set to zero.
#[must_use]
pub fn unstamped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in stamps(&bytes.clone()) {
        bytes[at + 2..at + 18].fill(b'0');
    }
    bytes
}

/// Where stamps begin.
#[must_use]
pub fn stamps(bytes: &[u8]) -> Vec<usize> {
    let is_stamp = |at: &usize| {
        let window = &bytes[*at..*at + 18];
        matches!(window[0], b's' | b'p') && window[1] == b'=' && window[2..].iter().all(u8::is_ascii_hexdigit)
    };
    (0..bytes.len().saturating_sub(17)).filter(is_stamp).collect()
}

/// The stamp of a kind (`b's'` or `b'p'`), when there is one.
#[must_use]
pub fn stamp_of(bytes: &[u8], kind: u8) -> Option<u64> {
    let at = stamps(bytes).into_iter().find(|&at| bytes[at] == kind)?;
    u64::from_str_radix(std::str::from_utf8(&bytes[at + 2..at + 18]).ok()?, 16).ok()
}
