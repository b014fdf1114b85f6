//! Running over a file, without a broker: here the store is the commit.
//!
//! Three threads: one reads lines, this one computes, one commits. An epoch is committed in this order: records are
//! appended to the files and synced, then delta, position and the files' lengths go into the store in one write, which
//! is synced too. A kill between the two leaves bytes behind the committed lengths; the next start cuts them off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use pelton_engine::effects::{Effects, Room};
use pelton_engine::epoch::{CHANGE_BYTES_AT_ONCE_MAX, Closed, Epoch, Marker, Place, StreamIdentity};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::plan::{Limits, Plan};
use pelton_engine::seal::close;
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Progress as Step};
use pelton_engine::store::Store;
use pelton_engine::time::EventTime;
use tracing::info;

use super::failpoint::{Watched, bound, pass};
use super::input::{InputProgress, Inputs, Places, Read, Reader, Silence};
use super::made_by::MadeBy;
use super::meter::Meter;
use super::nowhere::Nowhere;
use super::output::{self, InputFiles, Lengths, Sink, Target};
use super::progress::Progress;
use super::restore::{Begun, restore, start_over};
use super::summary::{Process, Summary};
use super::{Stop, engine, open_store, session, state_folder};
use crate::cli::failure::{Exit, Failure};
use crate::cli::run::FileOptions;

/// Bounds of one epoch. Larger than under a broker: a batch has no message limit here.
fn room(limits: &Limits) -> Room {
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
/// Name of the state in the output folder, when no other is named.
const STATE: &str = ".state";
/// Delta bytes after which the store is written anew.
const COMPACT_BYTES: u64 = 64 << 20;
/// Epochs that may wait for their commit.
const COMMITS_AHEAD: usize = 1;

/// What the committer gets.
struct Cut {
    place: Place,
    closed: Closed,
    progress: Progress,
    snapshot: Option<Vec<u8>>,
}

/// Runs a pipeline over a file until it ends, or a signal comes.
pub(crate) fn run(mut options: FileOptions) -> Result<(), Failure> {
    let plan = options.pipeline.plan.clone();
    if let Target::Folder(dir) = &options.output {
        refuse_same_folder(&options.input, dir)?;
    }
    let inputs = Arc::new(Inputs::find(&options.input)?);
    let name = inputs.name();
    let files = InputFiles::look(&inputs.files())?;
    let guests = options.pipeline.guests().map_err(failed)?;
    let envelope = if options.envelope { Envelope::Headers } else { Envelope::Bare };
    let mut engine = engine(&options.pipeline, guests, 0, &name, room(&plan.limits), envelope, HashKey(rand::random()))
        .map_err(failed)?;
    let made_by = MadeBy::of(&plan, engine.digests(), options.envelope);
    if let Target::Folder(dir) = &options.output {
        // Before the state's folder is made: what is refused leaves nothing behind.
        let may_hold = options.fresh || options.state.exists();
        output::check_new(dir, &plan, &files, may_hold)?;
        // A link that the user has named is followed, one that lies in the output folder is not.
        if options.state != dir.join(STATE) {
            options.state = state_folder(&options.state)?;
        }
    }
    let (mut store, folder): (Box<dyn Store>, String) = match &options.output {
        Target::Folder(dir) => (Box::new(Watched(open_store(&options.state, false)?)), absolute(dir)),
        Target::Stdout => (Box::new(Nowhere), String::new()),
    };
    if let (Target::Folder(dir), true) = (&options.output, options.fresh) {
        start_over(&mut *store, dir, &plan, &files, &folder)?;
    }
    let wanted = Progress {
        input: InputProgress::fresh(&inputs),
        made_by,
        folder,
        lengths: Lengths::new(),
        summary: Summary::default(),
        done: false,
    };
    let Begun { last, mut progress } = restore(&mut *store, &mut engine, wanted)?;
    progress.input.check(&inputs)?;
    let reader = Reader::prepare(inputs.clone(), &progress.input, engine.position(), plan.limits.max_payload)?;
    if progress.done {
        if let Target::Folder(dir) = &options.output {
            output::check_done(dir, &plan, &files, &progress.lengths)?;
        }
        info!(
            input = name,
            "all of this input is done, with this pipeline; --fresh deletes the results and starts over"
        );
        return progress.summary.judge(&plan, true);
    }
    let sink = match &options.output {
        Target::Folder(dir) => {
            Sink::folder(dir, &plan, options.envelope, &files, last.as_ref().map(|_| &progress.lengths))?
        }
        Target::Stdout => Sink::stdout(&plan, options.envelope, &files)?,
    };
    if plan.source.watermark.idle_timeout.is_some() && inputs.are_files() {
        info!("`watermark.idle_timeout` does not apply: files are never silent");
    }
    let before = progress.summary.totals.received;
    let meter = Meter::new(inputs.bytes(), before);
    let reader = reader.start()?;
    let places = Places::default();
    let (sender, receiver) = sync_channel(COMMITS_AHEAD);
    let is_new = last.is_none();
    let committer = {
        let places = places.clone();
        let commit = move || commit_all(&receiver, store, sink, &places, last);
        std::thread::Builder::new().name("committer".into()).spawn(commit)?
    };
    let began = Instant::now();
    let keeps_state = options.output != Target::Stdout;
    let mut work = Work {
        engine,
        effects: Effects::default(),
        opened: Instant::now(),
        delta_bytes: 0,
        keeps_state,
        inputs,
        places,
        silence: Silence::default(),
        bytes_read: 0,
        meter,
        plan,
    };
    let computed = work.compute(&reader, &sender, &mut progress, is_new, &options.stop);
    drop(sender);
    let committed =
        committer.join().map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer panicked")))?;
    work.meter.finish();
    let committed = committed?;
    computed?;
    let process = Process { events: progress.summary.totals.received - before, took: began.elapsed() };
    let counters = committed.map_or_else(Vec::new, |last| last.counter_sums());
    progress.summary.end(&work.plan, &process, &counters, progress.done)
}

/// The results of a run would be inputs of the next one, which could not go on.
fn refuse_same_folder(inputs: &[PathBuf], output: &Path) -> Result<(), Failure> {
    match inputs.iter().find(|input| input.is_dir() && absolute(input) == absolute(output)) {
        None => Ok(()),
        Some(folder) => {
            let message = format!("the folder `{}` is both --input and --output-dir", folder.display());
            Err(Failure::usage(message).hint("name another --output-dir, or the files in it as inputs"))
        }
    }
}

/// A path without links, where it exists: tells one folder from another.
fn absolute(dir: &Path) -> String {
    let path = dir.canonicalize().or_else(|_| std::path::absolute(dir)).unwrap_or_else(|_| dir.to_owned());
    path.display().to_string()
}

/// The computing side of a run.
struct Work {
    engine: Engine,
    effects: Effects,
    opened: Instant,
    delta_bytes: usize,
    /// Whether state is written: snapshots are of use.
    keeps_state: bool,
    inputs: Arc<Inputs>,
    places: Places,
    silence: Silence,
    /// Of the inputs as they are stored.
    bytes_read: u64,
    meter: Meter,
    plan: Arc<Plan>,
}

impl Work {
    fn compute(
        &mut self,
        reader: &Receiver<Read>,
        sender: &SyncSender<Cut>,
        progress: &mut Progress,
        is_new: bool,
        stop: &Stop,
    ) -> Result<(), Failure> {
        // From now on the files are ours: an empty epoch says so before anything is written to them, and keeps the
        // moment at which the run began.
        if is_new {
            self.cut(sender, progress)?;
        }
        // What was due at the last commit comes before any further line.
        self.finish_step(Input::Continue, &[], 0, sender, progress)?;
        loop {
            if stop.is_asked() {
                info!("stopped; run the same command again to go on");
                return Ok(());
            }
            let idle_timeout = self.plan.source.watermark.idle_timeout;
            match reader.recv_timeout(Silence::patience(idle_timeout)) {
                Ok(Read::Begun { lives }) => {
                    let input = &progress.input;
                    self.places.begin(input.lines_before(), self.inputs.list[input.file()].name());
                    self.silence.begin(lives);
                }
                Ok(Read::Chunk(chunk)) => {
                    let first = chunk.batch.events.first().map_or(0, |event| event.sequence);
                    self.finish_step(Input::Batch(chunk.batch), &chunk.ends, first, sender, progress)?;
                    self.silence.heard();
                    self.bytes_read = chunk.bytes_read;
                }
                Ok(Read::Next { stored_bytes }) => {
                    progress.input.next_file(stored_bytes, self.engine.position().sequence);
                    self.silence.end();
                }
                Ok(Read::End { stored_bytes }) => {
                    progress.input.ended(stored_bytes);
                    self.finish_step(Input::End, &[], 0, sender, progress)?;
                    progress.done = true;
                    return self.cut(sender, progress);
                }
                Ok(Read::Failed(failure)) => {
                    // What was read before stays.
                    if self.effects.totals.received > 0 {
                        self.cut(sender, progress)?;
                    }
                    return Err(failure);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Failed, anyhow::anyhow!("the reader ended without a word")));
                }
            }
            let (sum, open) = (&progress.summary.totals, &self.effects.totals);
            self.meter.update(self.bytes_read, || {
                let mut totals = *sum;
                totals.add(open);
                totals
            });
            if let Some(to) = self.due_in_silence() {
                self.finish_step(Input::Idle(to), &[], 0, sender, progress)?;
                self.cut(sender, progress)?;
            }
            if self.opened.elapsed() >= EPOCH_AGE && self.effects.totals.received > 0 {
                self.cut(sender, progress)?;
            }
        }
    }

    /// Where the watermark stands by now, when an input that lives is silent and something is due by then.
    fn due_in_silence(&self) -> Option<EventTime> {
        let silent = self.silence.lasts(self.plan.source.watermark.idle_timeout)?;
        self.engine.due_in_silence(silent).filter(|_| self.engine.watermark() != EventTime::MAX)
    }

    /// Works an input off entirely, cutting epochs as they fill. `ends[i]` is the offset behind event `first + i`.
    fn finish_step(
        &mut self,
        mut input: Input,
        ends: &[u64],
        first: u64,
        sender: &SyncSender<Cut>,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let chunk_start = progress.input.offset();
        loop {
            let step = self.engine.step(input, &mut self.effects).map_err(failed)?;
            let taken = self.engine.position().sequence;
            if let Some(idx) = taken.checked_sub(first).filter(|_| !ends.is_empty()) {
                let idx = idx as usize;
                progress.input.take(if idx > 0 { ends[idx - 1] } else { chunk_start }, ends[idx]);
            }
            if step == Step::Full || self.effects.totals.received >= bound("PELTON_TEST_EPOCH_EVENTS", EPOCH_EVENTS) {
                self.cut(sender, progress)?;
            }
            if step == Step::NeedInput {
                return Ok(());
            }
            input = Input::Continue;
        }
    }

    /// Seals the open epoch and hands it to the committer.
    fn cut(&mut self, sender: &SyncSender<Cut>, progress: &mut Progress) -> Result<(), Failure> {
        let closed = close(&mut self.engine, &mut self.effects, self.plan.limits.state)
            .map_err(|unsound| Failure::halted(unsound.to_string()))?;
        progress.input.arrived(self.engine.published());
        self.delta_bytes += closed.delta.len();
        let compact_bytes = bound("PELTON_TEST_COMPACT_BYTES", COMPACT_BYTES);
        let is_due = self.keeps_state && self.delta_bytes as u64 >= compact_bytes;
        let snapshot = is_due.then(|| self.engine.snapshot());
        if snapshot.is_some() {
            self.delta_bytes = 0;
        }
        progress.summary.add(&self.effects);
        let place = Place {
            nonce: 0,
            input: StreamIdentity { name: self.inputs.name(), created: progress.input.began_ms() },
            // Without a broker the files are the log.
            pipeline_stream: StreamIdentity::default(),
            read_through: closed.position.sequence,
            lease: 0,
        };
        self.effects.clear();
        self.opened = Instant::now();
        // An error means that the committer has ended: its own error is the one to show, and there is nothing to
        // compute for any more.
        let cut = Cut { place, closed, progress: progress.clone(), snapshot };
        sender.send(cut).map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer has ended")))
    }
}

/// Commits epochs in order until the sender is gone; the marker of the last one.
fn commit_all(
    receiver: &Receiver<Cut>,
    mut store: Box<dyn Store>,
    mut sink: Sink,
    places: &Places,
    mut last: Option<Marker>,
) -> Result<Option<Marker>, Failure> {
    let session = u128::from(session()) << 64;
    let way_out = sink.way_out();
    let environment = |error: anyhow::Error| Failure::new(Exit::Environment, error).hint(way_out);
    while let Ok(mut cut) = receiver.recv() {
        pass("files.before");
        // Once they are in the files, the store keeps none.
        let records = std::mem::take(&mut cut.closed.records);
        cut.progress.lengths = sink.append(&records, places).map_err(|error| environment(error.into()))?;
        pass("files.after");
        cut.place.nonce = session | u128::from(last.as_ref().map_or(0, |last| last.epoch) + 1);
        let epoch = Epoch::seal(last.as_ref(), cut.place, cut.closed);
        let sink_state = serde_json::to_vec(&cut.progress)?;
        let number = epoch.marker.epoch;
        store.apply(&epoch, number, &sink_state).map_err(|error| environment(error.into()))?;
        store.sync().map_err(|error| environment(error.into()))?;
        if let Some(state) = cut.snapshot {
            let stored = StoredMarker { sequence: number, marker: epoch.marker.clone() };
            store.compact(&Snapshot { stored, state }).map_err(|error| environment(error.into()))?;
        }
        last = Some(epoch.marker);
    }
    Ok(last)
}

fn failed(error: pelton_engine::judge::StepError) -> Failure {
    match error {
        pelton_engine::judge::StepError::Retry { .. } => {
            Failure::new(Exit::Environment, error).hint("run the same command again")
        }
        pelton_engine::judge::StepError::Halt { .. } => Failure::halted(error.to_string()),
    }
}
