//! Running over a file, without a broker: here the store is the commit.
//!
//! Three threads: one reads lines, this one computes, one commits. An epoch is committed in this order: records are
//! appended to the files and synced, then delta, position and the files' lengths go into the store in one write, which
//! is synced too. A kill between the two leaves bytes behind the committed lengths; the next start cuts them off.

use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use pelton_engine::effects::{Effects, Room};
use pelton_engine::epoch::{Epoch, Facts, Marker, Records, StreamIdentity, fingerprint};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::plan::Plan;
use pelton_engine::step::{Engine, Envelope, Input, Progress as Step};
use pelton_engine::store::Store;
use pelton_engine::time::WallTime;
use tracing::info;

use super::failpoint::{Watched, bound, pass};
use super::made_by::MadeBy;
use super::meter::Meter;
use super::nowhere::Nowhere;
use super::output::{self, Inputs, Sink, Target};
use super::progress::Progress;
use super::restore::{Begun, restore, start_over};
use super::source::{self, Read, Start};
use super::summary::Process;
use super::{Stop, engine, guests, open_store, session};
use crate::cli::failure::{Exit, Failure};
use crate::cli::run::FileOptions;

/// Bounds of one epoch. Larger than under a broker: a batch has no message limit here.
const ROOM: Room = Room { records: 1 << 16, bytes: 32 << 20, record_bytes: usize::MAX, header_bytes: usize::MAX };
const EPOCH_EVENTS: u64 = 1 << 17;
/// An epoch that is older than this is cut, for pipes that trickle.
const EPOCH_AGE: Duration = Duration::from_secs(1);
/// Delta bytes after which the store is written anew.
const COMPACT_BYTES: u64 = 64 << 20;
/// Epochs that may wait for their commit.
const COMMITS_AHEAD: usize = 1;

/// What the committer gets.
struct Cut {
    facts: Facts,
    records: Records,
    delta: Vec<u8>,
    progress: Progress,
    snapshot: Option<Vec<u8>>,
}

/// Runs a pipeline over a file until it ends, or a signal comes.
pub(crate) fn run(options: FileOptions) -> Result<(), Failure> {
    let plan = Arc::new(options.pipeline.plan.clone());
    let paths: Vec<PathBuf> = options.input.iter().cloned().collect();
    let inputs = Inputs::look(&paths)?;
    let name = options.input.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
    let guests = guests(&options.pipeline).map_err(failed)?;
    let envelope = if options.envelope { Envelope::Headers } else { Envelope::Bare };
    let mut engine = engine(&plan, guests, 0, &name, ROOM, envelope).map_err(failed)?;
    let made_by = MadeBy::of(&plan, engine.digests(), options.envelope);
    if let Target::Folder(dir) = &options.output {
        // Before the state's folder is made: what is refused leaves nothing behind.
        let may_hold = options.fresh || options.state.exists();
        output::check_new(dir, &plan, &inputs, may_hold)?;
    }
    let (mut store, folder): (Box<dyn Store>, String) = match &options.output {
        Target::Folder(dir) => (Box::new(Watched(open_store(&options.state, false)?)), absolute(dir)),
        Target::Stdout => (Box::new(Nowhere), String::new()),
    };
    if let (Target::Folder(dir), true) = (&options.output, options.fresh) {
        start_over(&mut *store, dir, &plan, &inputs, &folder)?;
    }
    let wanted = Progress { input: name.clone(), made_by, folder, ..Progress::default() };
    let Begun { last, mut progress } = restore(&mut *store, &mut engine, wanted)?;
    if let Some(path) = &options.input {
        check_input(path, &progress, last.as_ref())?;
    }
    if progress.done {
        if let Target::Folder(dir) = &options.output {
            output::check_done(dir, &plan, &inputs, &progress.lengths)?;
        }
        if let Some(path) = &options.input {
            check_end(path, &progress)?;
        }
        info!(
            input = name,
            "all of this input is done, with this pipeline; --fresh deletes the results and starts over"
        );
        return progress.summary.judge(&plan, true);
    }
    let sink = match &options.output {
        Target::Folder(dir) => {
            Sink::folder(dir, &plan, options.envelope, &inputs, last.as_ref().map(|_| &progress.lengths))?
        }
        Target::Stdout => Sink::stdout(&plan, options.envelope, &inputs)?,
    };
    let total = options.input.as_ref().and_then(|path| path.metadata().ok()).map(|meta| meta.len());
    let before = progress.summary.totals.received;
    let meter = Meter::new(total, progress.offset, before);
    let start = Start { offset: progress.offset, line: engine.position().sequence, began: WallTime(progress.began_ms) };
    let reader = source::read(options.input.clone(), start)
        .map_err(|error| Failure::new(Exit::Environment, error).context(format!("reading {name}")))?;
    let (sender, receiver) = sync_channel(COMMITS_AHEAD);
    let is_new = last.is_none();
    let committer =
        std::thread::Builder::new().name("committer".into()).spawn(move || commit_all(&receiver, store, sink, last))?;
    let began = Instant::now();
    let keeps_state = options.output != Target::Stdout;
    let mut work = Work {
        engine,
        effects: Effects::default(),
        opened: Instant::now(),
        delta_bytes: 0,
        keeps_state,
        name,
        meter,
        plan,
    };
    let computed = work.compute(&reader, &sender, &mut progress, is_new, &options.stop);
    drop(sender);
    let committed =
        committer.join().map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer panicked")))?;
    work.meter.finish();
    committed?;
    computed?;
    let process = Process { events: progress.summary.totals.received - before, took: began.elapsed() };
    progress.summary.end(&work.plan, &process, progress.done)
}

/// A path without links, where it exists: tells one folder from another.
fn absolute(dir: &Path) -> String {
    let path = dir.canonicalize().or_else(|_| std::path::absolute(dir)).unwrap_or_else(|_| dir.to_owned());
    path.display().to_string()
}

/// Whether the file still holds what was consumed from it.
fn check_input(path: &Path, progress: &Progress, last: Option<&Marker>) -> Result<(), Failure> {
    let Some(last) = last.filter(|last| last.position.sequence > 0) else { return Ok(()) };
    let context =
        |error: io::Error| Failure::new(Exit::Environment, error).context(format!("reading {}", path.display()));
    let mut file = std::fs::File::open(path).map_err(context)?;
    file.seek(io::SeekFrom::Start(progress.line_start)).map_err(context)?;
    let mut line = Vec::new();
    file.take(progress.offset - progress.line_start).read_to_end(&mut line).map_err(context)?;
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if fingerprint(progress.began_ms, text) == last.position.fingerprint {
        return Ok(());
    }
    let message = format!(
        "line {} of {} is not the one that was consumed: the file was changed",
        last.position.sequence,
        path.display()
    );
    Err(Failure::halted(message).hint("bring the old input back, name another --output, or add --fresh to start over"))
}

/// Whether a finished input still ends where it ended: its end has closed all windows, nothing can come after it.
fn check_end(path: &Path, progress: &Progress) -> Result<(), Failure> {
    let found = path
        .metadata()
        .map_err(|error| Failure::new(Exit::Environment, error).context(format!("reading {}", path.display())))?;
    if found.len() <= progress.offset {
        return Ok(());
    }
    let message = format!(
        "{} has grown to {} bytes; the run was done at {}, and its end has closed all windows",
        path.display(),
        found.len(),
        progress.offset
    );
    Err(Failure::halted(message).hint("name another --output, or add --fresh to run all of it again"))
}

/// The computing side of a run.
struct Work {
    engine: Engine,
    effects: Effects,
    opened: Instant,
    delta_bytes: usize,
    /// Whether state is written: snapshots are of use.
    keeps_state: bool,
    name: String,
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
            match reader.recv_timeout(Duration::from_millis(100)) {
                Ok(Read::Chunk(chunk)) => {
                    let first = chunk.batch.events.first().map_or(0, |event| event.sequence);
                    self.finish_step(Input::Batch(chunk.batch), &chunk.ends, first, sender, progress)?;
                }
                Ok(Read::End) => {
                    self.finish_step(Input::End, &[], 0, sender, progress)?;
                    progress.done = true;
                    return self.cut(sender, progress);
                }
                Ok(Read::Failed(error)) => {
                    return Err(Failure::new(Exit::Environment, error).context(format!("reading {}", self.name)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Failed, anyhow::anyhow!("the reader ended without a word")));
                }
            }
            let (sum, open) = (&progress.summary.totals, &self.effects.totals);
            self.meter.update(progress.offset, || {
                let mut totals = *sum;
                totals.add(open);
                totals
            });
            if self.opened.elapsed() >= EPOCH_AGE && self.effects.totals.received > 0 {
                self.cut(sender, progress)?;
            }
        }
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
        let chunk_start = progress.offset;
        loop {
            let step = self.engine.step(input, &mut self.effects).map_err(failed)?;
            let taken = self.engine.position().sequence;
            if let Some(idx) = taken.checked_sub(first).filter(|_| !ends.is_empty()) {
                let idx = idx as usize;
                progress.line_start = if idx > 0 { ends[idx - 1] } else { chunk_start };
                progress.offset = ends[idx];
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
        let mut delta = Vec::new();
        let position = self.engine.cut(&mut delta);
        let totals = self.effects.totals;
        if !totals.balanced() {
            return Err(Failure::halted(format!("events do not add up: {totals:?}")));
        }
        let state = self.engine.state_bytes() as u64;
        if state > self.plan.limits.state {
            return Err(Failure::halted(format!(
                "state has {state} bytes, limit {} (`limits.state`)",
                self.plan.limits.state
            )));
        }
        self.delta_bytes += delta.len();
        let compact_bytes = bound("PELTON_TEST_COMPACT_BYTES", COMPACT_BYTES);
        let is_due = self.keeps_state && self.delta_bytes as u64 >= compact_bytes;
        let snapshot = is_due.then(|| self.engine.snapshot());
        if snapshot.is_some() {
            self.delta_bytes = 0;
        }
        progress.summary.add(&self.effects);
        let facts = Facts {
            nonce: 0,
            input: StreamIdentity { name: self.name.clone(), created: progress.began_ms },
            // Without a broker the files are the log.
            log: StreamIdentity { name: String::new(), created: 0 },
            position,
            seen: position.sequence,
            published: 0,
            watermark: self.engine.watermark().0,
            modules: self.engine.digests().to_vec(),
            layout: self.engine.layout(),
            lease: 0,
            totals,
        };
        let records = std::mem::take(&mut self.effects.records);
        self.effects.clear();
        self.opened = Instant::now();
        // An error means that the committer has ended: its own error is the one to show, and there is nothing to
        // compute for any more.
        let cut = Cut { facts, records, delta, progress: progress.clone(), snapshot };
        sender.send(cut).map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer has ended")))
    }
}

/// Commits epochs in order until the sender is gone.
fn commit_all(
    receiver: &Receiver<Cut>,
    mut store: Box<dyn Store>,
    mut sink: Sink,
    mut last: Option<Marker>,
) -> Result<(), Failure> {
    let session = u128::from(session()) << 64;
    let environment = |error: anyhow::Error| {
        Failure::new(Exit::Environment, error)
            .hint("nothing that was committed is lost: when the cause is gone, run the same command again")
    };
    while let Ok(mut cut) = receiver.recv() {
        pass("files.before");
        cut.progress.lengths = sink.append(&cut.records).map_err(|error| environment(error.into()))?;
        pass("files.after");
        cut.facts.nonce = session | u128::from(last.as_ref().map_or(0, |last| last.epoch) + 1);
        // The records are in the files: the store keeps none.
        let epoch = Epoch::seal(last.as_ref(), cut.facts, Records::default(), cut.delta);
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
    Ok(())
}

fn failed(error: pelton_engine::judge::StepError) -> Failure {
    match error {
        pelton_engine::judge::StepError::Retry { .. } => {
            Failure::new(Exit::Environment, error).hint("run the same command again")
        }
        pelton_engine::judge::StepError::Halt { .. } => Failure::halted(error.to_string()),
    }
}
