//! Running over a file, without a broker: here the store is the commit.
//!
//! Three threads: one reads lines, this one computes (`bounded.rs`), one commits. An epoch is committed in this order: records are
//! appended to the files and synced, then delta, position and the files' lengths go into the store in one write, which
//! is synced too. A kill between the two leaves bytes behind the committed lengths; the next start cuts them off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use pelton_engine::epoch::{Epoch, Marker};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::step::{Envelope, HashKey};
use pelton_engine::store::Store;
use tracing::info;

use super::bounded::{Bounded, Cut, Start, failed, room};
use super::clock::Recorded;
use super::failpoint::{Watched, pass};
use super::input::{InputProgress, Inputs, Places, Reader};
use super::made_by::MadeBy;
use super::meter::Meter;
use super::nowhere::Nowhere;
use super::output::{self, InputFiles, Lengths, Sink, Target};
use super::progress::Progress;
use super::restore::{Begun, restore, start_over};
use super::summary::{Process, Summary};
use super::{engine, open_store, session, state_folder};
use crate::cli::failure::{Exit, Failure};
use crate::cli::run::FileOptions;

/// Name of the state in the output folder, when no other is named.
const STATE: &str = ".state";
/// Epochs that may wait for their commit.
const COMMITS_AHEAD: usize = 1;

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
    let clock = options.clock.as_deref().map(Recorded::read).transpose()?;
    if clock.is_some() && plan.source.partitions > 1 {
        let count = plan.source.partitions;
        let message =
            format!("--clock follows one partition, and the pipeline has {count}, each with a time of its own");
        return Err(Failure::usage(message));
    }
    let made_by = MadeBy::of(&plan, engine.digests(), options.envelope, clock.as_ref().map(|clock| clock.fingerprint));
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
    if plan.source.watermark.idle_timeout.is_some() && inputs.are_files() && clock.is_none() {
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
    let start = Start { engine, progress, inputs, places, clock, meter, keeps_state };
    let mut bounded = Bounded::new(start, sender);
    let computed = bounded.compute(&reader, is_new, &options.stop);
    let (progress, meter) = bounded.finish();
    let committed =
        committer.join().map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the committer panicked")))?;
    meter.finish();
    let committed = committed?;
    computed?;
    let process = Process { events: progress.summary.totals.received - before, took: began.elapsed() };
    let counters = committed.map_or_else(Vec::new, |last| last.counter_sums());
    progress.summary.end(&plan, &process, &counters, progress.done)
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
