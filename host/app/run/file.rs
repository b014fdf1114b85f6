//! Running over a file, without a broker: here the store is the commit.
//!
//! Three threads: one reads lines, this one computes, one commits. An epoch is committed in this order: records are
//! appended to the files and synced, then delta, position and the files' lengths go into the store in one write, which
//! is synced too. A kill between the two leaves bytes behind the committed lengths; the next start cuts them off.

use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use pelton_engine::effects::{Effects, Room};
use pelton_engine::epoch::{Epoch, Facts, Marker, Records, StreamIdentity, fingerprint};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::plan::Plan;
use pelton_engine::step::{Engine, Envelope, Input, Progress as Step};
use pelton_engine::store::Store;
use pelton_engine::time::WallTime;
use pelton_engine::totals::Totals;
use tracing::info;

use super::failpoint::{Watched, bound, pass};
use super::sink::{Progress, Sink};
use super::source::{self, Read, Start};
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

/// What a run has brought about.
#[derive(Default)]
struct Summary {
    totals: Totals,
    records: Vec<u64>,
    dead: std::collections::BTreeMap<String, u64>,
}

/// Runs a pipeline over a file until it ends, or a signal comes.
pub(crate) fn run(options: FileOptions) -> Result<(), Failure> {
    let plan = Arc::new(options.pipeline.plan.clone());
    let mut store = Watched(open_store(&options.state)?);
    let name = options.input.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
    let guests = guests(&options.pipeline).map_err(failed)?;
    let mut engine = engine(&plan, guests, 0, &name, ROOM, Envelope::Bare).map_err(failed)?;
    let (last, mut progress) = restore(&mut store, &mut engine, &name)?;
    if let Some(path) = &options.input {
        check_input(path, &progress, last.as_ref())?;
    }
    let sink = Sink::open(&options.output, &plan, &progress.lengths).map_err(|error| {
        Failure::new(exit_of(&error), error).hint("to start over, remove both the output and its state folder")
    })?;
    if progress.done {
        if let Some(path) = &options.input {
            check_end(path, &progress)?;
        }
        info!(input = name, "all of this input is done; remove the state folder to run it again");
        return Ok(());
    }
    let bar = progress_bar(options.input.as_deref(), progress.offset);
    let start = Start { offset: progress.offset, line: engine.position().sequence, began: WallTime(progress.began_ms) };
    let reader = source::read(options.input.clone(), start)
        .map_err(|error| Failure::new(Exit::Environment, error).context(format!("reading {name}")))?;
    let (sender, receiver) = sync_channel(COMMITS_AHEAD);
    let committer =
        std::thread::Builder::new().name("committer".into()).spawn(move || commit_all(&receiver, store, sink, last))?;
    let began = Instant::now();
    let mut summary = Summary::default();
    let mut work =
        Work { engine, effects: Effects::default(), opened: Instant::now(), delta_bytes: 0, name, bar, plan };
    let computed = work.compute(&reader, &sender, &mut progress, &mut summary, &options.stop);
    drop(sender);
    let committed =
        committer.join().map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer panicked")))?;
    work.bar.finish_and_clear();
    committed?;
    computed?;
    report(&summary, &work.plan, began.elapsed(), progress.done);
    Ok(())
}

/// Puts back what an earlier run committed.
fn restore(store: &mut dyn Store, engine: &mut Engine, name: &str) -> Result<(Option<Marker>, Progress), Failure> {
    let halted = |what: String| Failure::halted(what).hint("remove the output and its state folder to start over");
    let local = store.load().map_err(|error| halted(error.to_string()))?;
    let Some(local) = local else {
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
        let fresh =
            Progress { input: name.to_owned(), offset: 0, line_start: 0, began_ms, lengths: Vec::new(), done: false };
        return Ok((None, fresh));
    };
    let progress: Progress = serde_json::from_slice(&local.sink)
        .map_err(|error| halted(format!("the state is not that of a file run: {error}")))?;
    if progress.input != name {
        return Err(Failure::usage(format!("the state belongs to input `{}`, not `{name}`", progress.input))
            .hint("name another --output, or another --state"));
    }
    if local.head.marker.layout != engine.layout() {
        return Err(halted("window, aggregates or state version changed since the state was written".into()));
    }
    let snapshot = local.snapshot.map(|snapshot| snapshot.state);
    for delta in snapshot.iter().chain(&local.deltas) {
        engine.restore(delta).map_err(|error| halted(error.to_string()))?;
    }
    engine.resume(local.head.marker.position);
    Ok((Some(local.head.marker), progress))
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
    Err(Failure::halted(message).hint("remove the output and its state folder to start over"))
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
    Err(Failure::halted(message).hint("remove the output and its state folder to run all of it again"))
}

/// The computing side of a run.
struct Work {
    engine: Engine,
    effects: Effects,
    opened: Instant,
    delta_bytes: usize,
    name: String,
    bar: ProgressBar,
    plan: Arc<Plan>,
}

impl Work {
    fn compute(
        &mut self,
        reader: &Receiver<Read>,
        sender: &SyncSender<Cut>,
        progress: &mut Progress,
        summary: &mut Summary,
        stop: &Stop,
    ) -> Result<(), Failure> {
        // What was due at the last commit comes before any further line.
        self.finish_step(Input::Continue, &[], 0, sender, progress, summary)?;
        loop {
            if stop.is_asked() {
                info!("stopped; run the same command again to go on");
                return Ok(());
            }
            match reader.recv_timeout(Duration::from_millis(100)) {
                Ok(Read::Chunk(chunk)) => {
                    let first = chunk.batch.events.first().map_or(0, |event| event.sequence);
                    self.finish_step(Input::Batch(chunk.batch), &chunk.ends, first, sender, progress, summary)?;
                    self.bar.set_position(chunk.ends.last().copied().unwrap_or(progress.offset));
                }
                Ok(Read::End) => {
                    self.finish_step(Input::End, &[], 0, sender, progress, summary)?;
                    progress.done = true;
                    return self.cut(sender, progress, summary);
                }
                Ok(Read::Failed(error)) => {
                    return Err(Failure::new(Exit::Environment, error).context(format!("reading {}", self.name)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Failed, anyhow::anyhow!("the reader ended without a word")));
                }
            }
            if self.opened.elapsed() >= EPOCH_AGE && self.effects.totals.received > 0 {
                self.cut(sender, progress, summary)?;
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
        summary: &mut Summary,
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
                self.cut(sender, progress, summary)?;
            }
            if step == Step::NeedInput {
                return Ok(());
            }
            input = Input::Continue;
        }
    }

    /// Seals the open epoch and hands it to the committer.
    fn cut(&mut self, sender: &SyncSender<Cut>, progress: &Progress, summary: &mut Summary) -> Result<(), Failure> {
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
        let snapshot = (self.delta_bytes as u64 >= compact_bytes).then(|| self.engine.snapshot());
        if snapshot.is_some() {
            self.delta_bytes = 0;
        }
        summary.add(&self.effects);
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
        // An error means that the committer has ended: its own error is the one to show.
        drop(sender.send(Cut { facts, records, delta, progress: progress.clone(), snapshot }));
        Ok(())
    }
}

impl Summary {
    fn add(&mut self, effects: &Effects) {
        self.totals.add(&effects.totals);
        self.records.resize(self.records.len().max(effects.records_by_output.len()), 0);
        for (sum, count) in self.records.iter_mut().zip(&effects.records_by_output) {
            *sum += count;
        }
        for (code, count) in &effects.dead_by_code {
            *self.dead.entry(code.clone()).or_default() += count;
        }
    }
}

/// Commits epochs in order until the sender is gone.
fn commit_all(
    receiver: &Receiver<Cut>,
    mut store: impl Store,
    mut sink: Sink,
    mut last: Option<Marker>,
) -> Result<(), Failure> {
    let session = u128::from(session()) << 64;
    let environment = |error: anyhow::Error| {
        Failure::new(Exit::Environment, error).hint("make room, then run the same command again")
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

fn exit_of(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::InvalidData { Exit::Halted } else { Exit::Environment }
}

fn progress_bar(input: Option<&Path>, offset: u64) -> ProgressBar {
    let style = |template: &str| ProgressStyle::with_template(template).expect("the template is fixed");
    let bar = match input.and_then(|path| path.metadata().ok()) {
        Some(meta) => {
            ProgressBar::new(meta.len()).with_style(style("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left"))
        }
        None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {bytes_per_sec}")),
    };
    bar.set_position(offset);
    bar
}

/// The last words, on stderr.
fn report(summary: &Summary, plan: &Plan, took: Duration, done: bool) {
    let totals = &summary.totals;
    let rate = totals.received as f64 / took.as_secs_f64().max(1e-9);
    let outputs: Vec<String> = plan
        .outputs
        .iter()
        .enumerate()
        .map(|(idx, output)| format!("{} {}", output.name, summary.records.get(idx).unwrap_or(&0)))
        .collect();
    let dead: Vec<String> = summary.dead.iter().map(|(code, count)| format!("{code} {count}")).collect();
    info!(
        events = totals.received,
        processed = totals.processed,
        filtered = totals.filtered,
        late = totals.late,
        dead = totals.dead,
        outputs = outputs.join(", "),
        dead_letters = dead.join(", "),
        seconds = format!("{:.2}", took.as_secs_f64()),
        events_per_second = rate as u64,
        "{}",
        if done { "done" } else { "stopped" }
    );
}
