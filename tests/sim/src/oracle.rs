//! The sequential run: the same engine, one event at a time, no faults, no epochs to speak of.

use pelton_engine::effects::Effects;
use pelton_engine::epoch::Records;
use pelton_engine::event::RawBatch;
use pelton_engine::step::{Engine, Input as StepInput, Progress};
use pelton_engine::time::WallTime;
use pelton_engine::totals::Totals;

use crate::guests::Temper;
use crate::log::Input;
use crate::scenario::Scenario;

/// What a partition must have brought about.
pub struct Expected {
    pub records: Records,
    pub totals: Totals,
    /// State behind the last event.
    pub state: Vec<u8>,
    /// What would come if the input ended here: the state as far as it can be seen.
    pub rest: Vec<Vec<u8>>,
}

/// Runs a partition's part of the input, `batch` events at a time.
#[must_use]
pub fn expected(scenario: &Scenario, partition: u32, input: &Input, batch: usize) -> Expected {
    let engine = scenario.engine(partition, &Temper::calm()).expect("native guests need nothing");
    let mut run = Run { engine, effects: Effects::default(), records: Records::default(), totals: Totals::default() };
    let mut waiting = RawBatch::default();
    for sequence in 1..=input.last() {
        let message = input.at(sequence).expect("sequences are contiguous");
        if message.partition == partition {
            waiting.push(sequence, WallTime(message.published), b"in", b"", &message.payload);
        }
        if waiting.events.len() == batch || (sequence == input.last() && !waiting.events.is_empty()) {
            run.step(StepInput::Batch(std::mem::take(&mut waiting)));
        }
    }
    run.cut();
    let state = run.engine.snapshot();
    let Run { engine, records, totals, .. } = run;
    Expected { records, totals, state, rest: rest(engine) }
}

/// Payloads that an engine gives when its input ends, stamps aside.
#[must_use]
pub fn rest(engine: Engine) -> Vec<Vec<u8>> {
    let mut run = Run { engine, effects: Effects::default(), records: Records::default(), totals: Totals::default() };
    run.step(StepInput::End);
    run.cut();
    run.records.rows.iter().map(|row| unstamped(run.records.slice(&row.payload))).collect()
}

struct Run {
    engine: Engine,
    effects: Effects,
    records: Records,
    totals: Totals,
}

impl Run {
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
        self.totals.add(&self.effects.totals);
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
