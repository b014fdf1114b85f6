//! The beginning of a file run: what an earlier one has committed is put back, or deleted when that is asked for.

use std::path::Path;

use pelton_engine::epoch::Marker;
use pelton_engine::partition::{holds_all, is_compatible};
use pelton_engine::plan::Plan;
use pelton_engine::step::Engine;
use pelton_engine::store::{Discard, Local, Store, StoreError};

use super::START_OVER;
use super::made_by::MadeBy;
use super::output::{self, InputFiles, Lengths};
use super::progress::Progress;
use crate::cli::failure::{Exit, Failure};

/// What a run begins with.
pub(super) struct Begun {
    /// The last committed epoch; `None` for a run that has committed nothing.
    pub(super) last: Option<Marker>,
    pub(super) progress: Progress,
}

/// Puts back what an earlier run committed. `wanted` is the progress of a run that begins now: its inputs, with
/// what and where.
///
/// # Errors
/// When the state is damaged, of another kind, or of a run with another pipeline.
pub(super) fn restore(store: &mut dyn Store, engine: &mut Engine, wanted: Progress) -> Result<Begun, Failure> {
    let Some(local) = store.load().map_err(unreadable)? else {
        return Ok(Begun { last: None, progress: wanted });
    };
    let mut progress = parse(&local)?;
    check_made_by(&progress.made_by, &wanted.made_by)?;
    let damaged = |what: String| Failure::halted(what).hint(START_OVER);
    is_compatible(&local.head.marker, 0, engine, None).map_err(|halted| damaged(halted.evidence))?;
    let snapshot = local.snapshot.map(|snapshot| snapshot.state);
    for delta in snapshot.iter().chain(&local.deltas) {
        engine.restore(delta).map_err(|error| damaged(error.to_string()))?;
    }
    engine.resume(local.head.marker.position);
    holds_all(&local.head.marker, engine).map_err(|halted| damaged(halted.evidence))?;
    progress.folder = wanted.folder;
    Ok(Begun { last: Some(local.head.marker), progress })
}

/// Refuses to go on, or to call it done, with another pipeline than before.
fn check_made_by(before: &MadeBy, now: &MadeBy) -> Result<(), Failure> {
    let changes = before.changes(now);
    if changes.is_empty() {
        return Ok(());
    }
    let message = format!("the pipeline is not the one that this run began with; changed: {}", changes.join(", "));
    Err(Failure::usage(message).hint(
        "take the change back to go on, name another --output-dir for new results, or add --fresh to delete these and \
         start over",
    ))
}

/// Deletes results and state of an earlier run in `dir`, for `--fresh`.
///
/// # Errors
/// When the state is not that of a file run, or a file in `dir` is not one that a run may delete.
pub(super) fn start_over(
    store: &mut dyn Store,
    dir: &Path,
    plan: &Plan,
    inputs: &InputFiles,
    folder: &str,
) -> Result<(), Failure> {
    let (earlier, why) = match store.load() {
        Ok(None) => (Lengths::new(), Discard::Outdated("--fresh")),
        Ok(Some(local)) => {
            let progress = parse(&local)?;
            // Names that only the earlier pipeline had are its files in its folder, and anybody's elsewhere.
            let lengths = if progress.folder == folder { progress.lengths } else { Lengths::new() };
            (lengths, Discard::Outdated("--fresh"))
        }
        Err(StoreError::Damaged(_)) => (Lengths::new(), Discard::Damaged("--fresh")),
        Err(error) => return Err(unreadable(error)),
    };
    output::start_over(dir, plan, &earlier, inputs)?;
    store.rebase(None, why).map_err(unreadable)
}

fn parse(local: &Local) -> Result<Progress, Failure> {
    serde_json::from_slice(&local.sink).map_err(|error| {
        Failure::new(Exit::Usage, error)
            .context("the state is not that of a run over a file")
            .hint("name another folder with --state-dir")
    })
}

fn unreadable(error: StoreError) -> Failure {
    match error {
        StoreError::Damaged(_) => Failure::halted(error.to_string()).hint(START_OVER),
        StoreError::Format(_) => Failure::new(Exit::Environment, error).hint("use the version of pelton that wrote it"),
        StoreError::InUse(_) | StoreError::Environment(_) => Failure::new(Exit::Environment, error)
            .hint("when the cause is gone, run the same command again; --state-dir names another folder"),
    }
}
