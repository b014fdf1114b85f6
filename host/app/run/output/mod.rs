//! Where a file run writes: a folder with one file of JSON lines per output, `dlq.jsonl` and `late.jsonl`, or stdout.
//!
//! `guard` says what may be touched, `folder` keeps the files, `row` makes the lines.

mod folder;
mod guard;
mod row;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pelton_engine::epoch::{Channel, Records};
use pelton_engine::plan::Plan;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::input::Places;
use crate::cli::failure::Failure;
use crate::payload::put_on_one_line;

use folder::Folder;
pub(super) use guard::InputFiles;

/// Names of the host's own files; no output may be called so.
const DEAD: &str = "dlq";
const LATE: &str = "late";

/// Where results go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A folder of files, with a state beside them: can be resumed.
    Folder(PathBuf),
    /// Lines on stdout: nothing is kept, so nothing can be resumed.
    Stdout,
}

/// What is committed of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Committed {
    pub(super) bytes: u64,
    /// Fingerprint of the last of these bytes: tells the file from another one of its name.
    pub(super) tail: u64,
}

/// What is committed of each file, by name without `.jsonl`.
pub(super) type Lengths = BTreeMap<String, Committed>;

/// Takes the records of a run.
pub(super) struct Sink {
    to: To,
    lines: Lines,
}

enum To {
    Folder(Folder),
    Stdout,
}

/// How records become lines.
struct Lines {
    outputs: Vec<String>,
    /// Outputs with what their headers say.
    envelope: bool,
    /// All rows go to one place: `output` says in each what it is, and without envelope only outputs are written.
    together: bool,
}

impl Sink {
    /// Opens the files behind what was committed to them, and cuts off what was not. `committed` is `None` for a run
    /// that has committed nothing yet.
    ///
    /// # Errors
    /// When a file is not what the run has left, belongs to somebody else, or cannot be written. Nothing was changed
    /// then, except that missing files may have been made.
    pub(super) fn folder(
        dir: &Path,
        plan: &Plan,
        envelope: bool,
        inputs: &InputFiles,
        committed: Option<&Lengths>,
    ) -> Result<Sink, Failure> {
        let folder = Folder::open(dir, &names(plan), inputs, committed)?;
        Ok(Sink { to: To::Folder(folder), lines: Lines::new(plan, envelope, false) })
    }

    /// Rows on stdout.
    ///
    /// # Errors
    /// When nobody could tell the rows of several outputs apart, or stdout is an input.
    pub(super) fn stdout(plan: &Plan, envelope: bool, inputs: &InputFiles) -> Result<Sink, Failure> {
        if plan.outputs.len() > 1 && !envelope {
            let message = format!("`--output-dir -` would mix the rows of {} outputs", plan.outputs.len());
            return Err(Failure::usage(message)
                .hint("add --envelope, which names the output of each row, or write to a folder"));
        }
        inputs.refuse_stdout()?;
        Ok(Sink { to: To::Stdout, lines: Lines::new(plan, envelope, true) })
    }

    /// What to do when writing has failed.
    pub(super) fn way_out(&self) -> &'static str {
        match self.to {
            To::Folder(_) => "nothing that was committed is lost: when the cause is gone, run the same command again",
            To::Stdout => "a run to stdout keeps nothing: when the cause is gone, run it again from the beginning",
        }
    }

    /// Writes the records of an epoch and makes them durable; returns what the files hold then. `places` says of dead
    /// letters and late events which file and line they came from.
    ///
    /// # Errors
    /// With the file's name. What was written of the epoch is cut off by the next [`Sink::folder`].
    pub(super) fn append(&mut self, records: &Records, places: &Places) -> io::Result<Lengths> {
        match &mut self.to {
            To::Folder(folder) => {
                for record in &records.rows {
                    let (idx, channel) = (self.lines.file(record.channel), record.channel);
                    let (headers, payload) = (records.slice(&record.headers), records.slice(&record.payload));
                    self.lines.put(channel, headers, payload, places, folder.buffer(idx));
                }
                folder.write()
            }
            To::Stdout => {
                let mut buffer = Vec::new();
                for record in &records.rows {
                    let (headers, payload) = (records.slice(&record.headers), records.slice(&record.payload));
                    self.lines.put(record.channel, headers, payload, places, &mut buffer);
                }
                let mut out = io::stdout().lock();
                let written = out.write_all(&crate::terminal::rows(&buffer)).and_then(|()| out.flush());
                written.map_err(|error| io::Error::new(error.kind(), format!("stdout: {error}")))?;
                Ok(Lengths::new())
            }
        }
    }
}

impl Lines {
    fn new(plan: &Plan, envelope: bool, together: bool) -> Lines {
        Lines { outputs: plan.outputs.iter().map(|output| output.name.clone()).collect(), envelope, together }
    }

    /// Index into [`names`].
    fn file(&self, channel: Channel) -> usize {
        match channel {
            Channel::Output(idx) => usize::from(idx),
            Channel::DeadLetter => self.outputs.len(),
            Channel::Late => self.outputs.len() + 1,
        }
    }

    fn put(&self, channel: Channel, headers: &[u8], payload: &[u8], places: &Places, line: &mut Vec<u8>) {
        let name = match channel {
            Channel::Output(idx) if self.envelope => {
                return row::put_output(&self.outputs[usize::from(idx)], headers, payload, line);
            }
            Channel::Output(_) => {
                // Without the envelope only tombstones have a header.
                put_on_one_line(if headers.is_empty() { payload } else { b"null" }, line);
                return line.push(b'\n');
            }
            Channel::DeadLetter => DEAD,
            Channel::Late => LATE,
        };
        if self.envelope || !self.together {
            row::put_letter(self.together.then_some(name), headers, payload, places, line);
        }
    }
}

/// Names of a pipeline's files without `.jsonl`: its outputs in order, then those of the host.
fn names(plan: &Plan) -> Vec<String> {
    let outputs = plan.outputs.iter().map(|output| output.name.clone());
    outputs.chain([DEAD.to_owned(), LATE.to_owned()]).collect()
}

fn file_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.jsonl"))
}

/// Checks a folder before anything is made in it; `may_hold`: its files may hold something, which is for later to judge.
///
/// # Errors
/// When a file is none that a run may write to.
pub(super) fn check_new(dir: &Path, plan: &Plan, inputs: &InputFiles, may_hold: bool) -> Result<(), Failure> {
    guard::check(dir, &names(plan), inputs, None, may_hold)
}

/// Checks the files of a run that is done, and leaves them as they are; what others have added to them is told.
///
/// # Errors
/// When one does not hold what was committed to it.
pub(super) fn check_done(dir: &Path, plan: &Plan, inputs: &InputFiles, committed: &Lengths) -> Result<(), Failure> {
    guard::check(dir, &names(plan), inputs, Some(committed), true)?;
    for name in names(plan) {
        let path = file_path(dir, &name);
        let written = committed.get(&name).copied().unwrap_or_default().bytes;
        let more = path.metadata().map_or(0, |found| found.len()).saturating_sub(written);
        if more > 0 {
            warn!(file = %path.display(), bytes = more, "holds more than the run wrote: somebody added to it");
        }
    }
    Ok(())
}

/// Deletes the files of this pipeline and `earlier` ones in `dir`, for `--fresh`.
///
/// # Errors
/// When one of them is not a plain file, or is an input: then none was deleted.
pub(super) fn start_over(dir: &Path, plan: &Plan, earlier: &Lengths, inputs: &InputFiles) -> Result<(), Failure> {
    let mut names = names(plan);
    names.extend(earlier.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    guard::remove(dir, &names, inputs)
}
