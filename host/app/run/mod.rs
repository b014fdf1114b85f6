//! `pelton run`: wires engine, sandbox, store and broker together. The only place where adapters meet.

mod bounded;
mod clock;
mod failpoint;
mod file;
mod input;
mod keeper;
mod lag;
mod made_by;
mod meter;
mod notices;
mod nowhere;
mod output;
mod progress;
mod restore;
mod seat;
mod stop;
mod stream;
mod summary;
mod timed;

use std::path::{Path, PathBuf};

use pelton_engine::effects::{Origin, Room};
use pelton_engine::guest::Guest;
use pelton_engine::judge::StepError;
use pelton_engine::step::{Engine, Envelope, HashKey, Options};
use pelton_engine::store::StoreError;
use pelton_files::FolderError;
use pelton_store::{SledStore, Unsafe};

pub(crate) use file::run as file;
pub(crate) use output::Target;
pub(crate) use stop::Stop;
pub(crate) use stream::run as stream;

use crate::cli::failure::{Exit, Failure};
use crate::pipeline::Pipeline;

/// Ways out of a file run whose inputs, files or state are not what it left.
const START_OVER: &str = "name another --output-dir, or add --fresh to delete the results and start over";

/// An engine with empty state for one partition; `hash_key` is for that state, one that is restored brings its own.
pub(crate) fn engine(
    pipeline: &Pipeline,
    guests: Vec<Box<dyn Guest>>,
    partition: u32,
    source: &str,
    room: Room,
    envelope: Envelope,
    hash_key: HashKey,
) -> Result<Engine, StepError> {
    let (plan, revision) = (&pipeline.plan, pipeline.revision);
    let origin = Origin { pipeline: plan.name.clone(), partition, source: source.to_owned(), revision };
    Engine::new(plan.clone(), guests, Options { origin, room, envelope, hash_key })
}

/// A folder for state as the user has named it, links followed; it may not be there yet.
///
/// # Errors
/// When it belongs to somebody else, or others may write to it.
fn state_folder(named: &Path) -> Result<PathBuf, Failure> {
    pelton_files::check_private(named).map_err(|error| refused_folder(&error).context("the state"))?;
    Ok(named.canonicalize().unwrap_or_else(|_| named.to_path_buf()))
}

/// A folder that is not to be trusted is for a person to correct; one that cannot be looked at may heal.
fn refused_folder(error: &FolderError) -> Failure {
    let failure = match error {
        FolderError::Io { .. } => Failure::environment(error.to_string()),
        _ => Failure::usage(error.to_string()),
    };
    match error.way_out() {
        Some(way_out) => failure.hint(way_out),
        None => failure,
    }
}

/// Opens the working store of one partition; `outbox` keeps the last epochs, to publish them again.
fn open_store(dir: &Path, outbox: bool) -> Result<SledStore, Failure> {
    pelton_store::check_folder(dir).map_err(|error| {
        let failure = match &error {
            Unsafe::Folder(error) => refused_folder(error),
            Unsafe::Link(_) => Failure::usage(error.to_string()).hint(error.way_out().unwrap_or_default()),
        };
        failure.context("the state")
    })?;
    SledStore::open(dir, pelton_store::Options { outbox, ..Default::default() }).map_err(|error| {
        let hint = match &error {
            StoreError::InUse(_) => {
                "another `pelton run` works on this folder; stop it, or name another one with --state-dir"
            }
            StoreError::Format(_) => "use the version of pelton that wrote it, or name another folder with --state-dir",
            _ => "check the folder's disk and permissions, or name another one with --state-dir",
        };
        Failure::new(Exit::Environment, error).context(format!("state folder {}", dir.display())).hint(hint)
    })
}

/// A number that no other start of a process has: part of every nonce.
fn session() -> u64 {
    rand::random()
}
