//! The computing side of a run over bounded input: lines in, sealed epochs out.
//!
//! It knows neither the files that results go to nor what commits them. Where the input ends time ends as well, and
//! between lines it moves on only where an input that lives is silent, or where the ledger of a live run says so.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use pelton_engine::effects::{Effects, Room};
use pelton_engine::epoch::{CHANGE_BYTES_AT_ONCE_MAX, Closed, Place, StreamIdentity};
use pelton_engine::event::RawBatch;
use pelton_engine::judge::StepError;
use pelton_engine::plan::Limits;
use pelton_engine::seal::close;
use pelton_engine::step::{Engine, Input, Progress as Step};
use pelton_engine::time::EventTime;
use tracing::info;

use super::Stop;
use super::clock::Recorded;
use super::failpoint::bound;
use super::input::{Inputs, Places, Read, Silence};
use super::meter::Meter;
use super::progress::Progress;
use crate::cli::failure::{Exit, Failure};

/// Bounds of one epoch. Larger than under a broker: a batch has no message limit here.
pub(super) fn room(limits: &Limits) -> Room {
    // What modules may make of one event can be written, and so can the event itself, should it be refused.
    let bytes_at_once = limits.held_bytes().saturating_add(2 * limits.max_payload) as usize;
    Room {
        records: 1 << 16,
        bytes: 32 << 20,
        bytes_at_once,
        change_bytes: 64 << 20,
        // As with a broker: what is refused does not depend on where events come from.
        change_bytes_at_once: CHANGE_BYTES_AT_ONCE_MAX,
        record_bytes: usize::MAX,
        header_bytes: usize::MAX,
    }
}
const EPOCH_EVENTS: u64 = 1 << 17;
/// An epoch that is older than this is cut, for pipes that trickle.
const EPOCH_AGE: Duration = Duration::from_secs(1);
/// Delta bytes after which the store is written anew.
const COMPACT_BYTES: u64 = 64 << 20;

/// What the committer gets.
pub(super) struct Cut {
    pub(super) place: Place,
    pub(super) closed: Closed,
    pub(super) progress: Progress,
    pub(super) snapshot: Option<Vec<u8>>,
}

/// A run.
pub(super) struct Bounded {
    engine: Engine,
    /// Of the open epoch.
    effects: Effects,
    opened: Instant,
    /// Since the last snapshot.
    delta_bytes: usize,
    progress: Progress,
    /// Where sealed epochs go.
    drain: SyncSender<Cut>,
    keeps_state: bool,
    inputs: Arc<Inputs>,
    places: Places,
    silence: Silence,
    /// Time moves on where it has done so in a live run, and not by the clock of this machine.
    clock: Option<Recorded>,
    /// Of the inputs as they are stored.
    bytes_read: u64,
    meter: Meter,
}

/// What a run begins with.
pub(super) struct Start {
    /// Restored.
    pub(super) engine: Engine,
    pub(super) progress: Progress,
    pub(super) inputs: Arc<Inputs>,
    pub(super) places: Places,
    pub(super) clock: Option<Recorded>,
    pub(super) meter: Meter,
    /// Whether state is written: snapshots are of use.
    pub(super) keeps_state: bool,
}

impl Bounded {
    pub(super) fn new(start: Start, drain: SyncSender<Cut>) -> Bounded {
        let Start { engine, progress, inputs, places, clock, meter, keeps_state } = start;
        Bounded {
            engine,
            effects: Effects::default(),
            opened: Instant::now(),
            delta_bytes: 0,
            progress,
            drain,
            keeps_state,
            inputs,
            places,
            silence: Silence::default(),
            clock,
            bytes_read: 0,
            meter,
        }
    }

    /// Lets go of the drain; how far the run has come.
    pub(super) fn finish(self) -> (Progress, Meter) {
        (self.progress, self.meter)
    }

    /// Takes all of the feed, unless a signal comes. `is_new` is a run that has committed nothing yet.
    pub(super) fn compute(&mut self, reader: &Receiver<Read>, is_new: bool, stop: &Stop) -> Result<(), Failure> {
        // From now on the files are ours: an empty epoch says so before anything is written to them, and keeps the
        // moment at which the run began.
        if is_new {
            self.cut()?;
        }
        // What was due at the last commit comes before any further line.
        self.finish_step(Input::Continue, &[], 0)?;
        loop {
            if stop.is_asked() {
                info!("stopped; run the same command again to go on");
                return Ok(());
            }
            let idle_timeout = self.engine.plan().source.watermark.idle_timeout;
            match reader.recv_timeout(Silence::patience(idle_timeout)) {
                Ok(Read::Begun { lives }) => {
                    let input = &self.progress.input;
                    self.places.begin(input.lines_before(), self.inputs.list[input.file()].name());
                    self.silence.begin(lives);
                }
                Ok(Read::Chunk(chunk)) => {
                    self.take(chunk.batch, &chunk.ends)?;
                    self.silence.heard();
                    self.bytes_read = chunk.bytes_read;
                }
                Ok(Read::Next { stored_bytes }) => {
                    self.progress.input.next_file(stored_bytes, self.engine.position().sequence);
                    self.silence.end();
                }
                Ok(Read::End { stored_bytes }) => {
                    let count = self.engine.position().sequence;
                    self.let_time_pass(count + 1)?;
                    if let Some(at) = self.clock.as_ref().and_then(Recorded::next_at) {
                        let message = format!(
                            "the input ends with event {count}, but in the ledger time moves on behind event {at}"
                        );
                        return Err(
                            Failure::usage(message).hint("give all of the input that the ledger (--clock) is of")
                        );
                    }
                    self.progress.input.ended(stored_bytes);
                    self.finish_step(Input::End, &[], 0)?;
                    self.progress.done = true;
                    return self.cut();
                }
                Ok(Read::Failed(failure)) => {
                    // What was read before stays.
                    if self.effects.totals.received > 0 {
                        self.cut()?;
                    }
                    return Err(failure);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Failed, anyhow::anyhow!("the reader ended without a word")));
                }
            }
            let (sum, open) = (&self.progress.summary.totals, &self.effects.totals);
            self.meter.update(self.bytes_read, || {
                let mut totals = *sum;
                totals.add(open);
                totals
            });
            if let Some(to) = self.due_in_silence() {
                self.finish_step(Input::Idle(to), &[], 0)?;
                self.cut()?;
            }
            if self.opened.elapsed() >= EPOCH_AGE && self.effects.totals.received > 0 {
                self.cut()?;
            }
        }
    }

    /// Where the watermark stands by now, when an input that lives is silent and something is due by then.
    fn due_in_silence(&self) -> Option<EventTime> {
        let is_alive = self.clock.is_none();
        let silent = self.silence.lasts(self.engine.plan().source.watermark.idle_timeout).filter(|_| is_alive)?;
        self.engine.due_in_silence(silent).filter(|_| self.engine.watermark() != EventTime::MAX)
    }

    /// Takes events; time moves on between them where the ledger says so. `ends[i]` is the offset behind event `i`.
    fn take(&mut self, mut batch: RawBatch, mut ends: &[u64]) -> Result<(), Failure> {
        while let Some(first) = batch.events.first().map(|event| event.sequence) {
            self.let_time_pass(first)?;
            let count = batch.events.len();
            let before = self.clock.as_ref().map_or(count, |clock| clock.events_before(first, count));
            let rest = if before < count { batch.split_off(before) } else { RawBatch::default() };
            self.finish_step(Input::Batch(batch), &ends[..before], first)?;
            (batch, ends) = (rest, &ends[before..]);
        }
        Ok(())
    }

    /// Moves time on as the ledger says, before event `next` is taken.
    fn let_time_pass(&mut self, next: u64) -> Result<(), Failure> {
        while let Some(to) = self.clock.as_mut().and_then(|clock| clock.due(next, self.engine.watermark())) {
            self.finish_step(Input::Idle(to), &[], 0)?;
            self.cut()?;
        }
        Ok(())
    }

    /// Works an input off entirely, cutting epochs as they fill. `ends[i]` is the offset behind event `first + i`.
    fn finish_step(&mut self, mut input: Input, ends: &[u64], first: u64) -> Result<(), Failure> {
        let chunk_start = self.progress.input.offset();
        loop {
            let step = self.engine.step(input, &mut self.effects).map_err(failed)?;
            let taken = self.engine.position().sequence;
            if let Some(idx) = taken.checked_sub(first).filter(|_| !ends.is_empty()) {
                let idx = idx as usize;
                self.progress.input.take(if idx > 0 { ends[idx - 1] } else { chunk_start }, ends[idx]);
            }
            if step == Step::Full || self.effects.totals.received >= bound("PELTON_TEST_EPOCH_EVENTS", EPOCH_EVENTS) {
                self.cut()?;
            }
            if step == Step::NeedInput {
                return Ok(());
            }
            input = Input::Continue;
        }
    }

    /// Seals the open epoch and hands it to the committer.
    fn cut(&mut self) -> Result<(), Failure> {
        let closed =
            close(&mut self.engine, &mut self.effects).map_err(|unsound| Failure::halted(unsound.to_string()))?;
        self.progress.input.arrived(self.engine.published());
        self.delta_bytes += closed.delta.len();
        let compact_bytes = bound("PELTON_TEST_COMPACT_BYTES", COMPACT_BYTES);
        let is_due = self.keeps_state && self.delta_bytes as u64 >= compact_bytes;
        let snapshot = is_due.then(|| self.engine.snapshot());
        if snapshot.is_some() {
            self.delta_bytes = 0;
        }
        self.progress.summary.add(&self.effects);
        let place = Place {
            nonce: 0,
            input: StreamIdentity { name: self.inputs.name(), created: self.progress.input.began_ms() },
            // Without a broker the files are the log.
            pipeline_stream: StreamIdentity::default(),
            read_through: closed.position.sequence,
            lease: 0,
        };
        self.effects.clear();
        self.opened = Instant::now();
        // An error means that the committer has ended: its own error is the one to show, and there is nothing to
        // compute for any more.
        let cut = Cut { place, closed, progress: self.progress.clone(), snapshot };
        self.drain.send(cut).map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer has ended")))
    }
}

/// Why a step did not happen, for whoever started the run.
pub(super) fn failed(error: StepError) -> Failure {
    match error {
        StepError::Retry { .. } => Failure::new(Exit::Environment, error).hint("run the same command again"),
        StepError::Halt { .. } => Failure::halted(error.to_string()),
    }
}
