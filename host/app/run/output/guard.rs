//! What a run may touch: plain files of its own, that are nobody's input and hold nothing that it did not write.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use pelton_engine::epoch::fingerprint;
use tracing::info;

use super::{Committed, Lengths, file_path};
use crate::cli::failure::{Exit, Failure};
use crate::run::{START_OVER, refused_folder};

/// How much of the end of a file is remembered.
pub(super) const TAIL_BYTES: u64 = 512;

/// The input files, by what they are rather than by their names: links and mounts give one file many.
#[derive(Debug, Default)]
pub(in crate::run) struct InputFiles(BTreeMap<(u64, u64), PathBuf>);

impl InputFiles {
    /// Looks at each input. What is no plain file (a pipe, a terminal) cannot be overwritten and does not count.
    ///
    /// # Errors
    /// When one is not there.
    pub(in crate::run) fn look(paths: &[PathBuf]) -> Result<InputFiles, Failure> {
        let mut inputs = InputFiles::default();
        for path in paths {
            let found = fs::metadata(path).map_err(|error| {
                Failure::new(Exit::Environment, error).context(format!("reading {}", path.display()))
            })?;
            if found.is_file() {
                inputs.0.insert((found.dev(), found.ino()), path.clone());
            }
        }
        Ok(inputs)
    }

    fn find(&self, found: &Metadata) -> Option<&Path> {
        self.0.get(&(found.dev(), found.ino())).map(PathBuf::as_path)
    }

    /// Refuses to write to `path`, which is `found`, when it is one of the inputs.
    pub(super) fn refuse(&self, path: &Path, found: &Metadata) -> Result<(), Failure> {
        let Some(input) = self.find(found) else { return Ok(()) };
        let message = format!("the output `{}` is the input `{}`: it would be lost", path.display(), input.display());
        Err(Failure::usage(message).hint("name another --output-dir"))
    }

    /// Refuses a stdout that leads into an input: the run would read what it writes, without end.
    pub(super) fn refuse_stdout(&self) -> Result<(), Failure> {
        // A copy of the descriptor, so that closing it does not close stdout.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        let found =
            stdout.and_then(|stdout| stdout.metadata()).map_err(|error| environment(Path::new("stdout"), error))?;
        match self.find(&found) {
            None => Ok(()),
            Some(input) => Err(Failure::usage(format!("stdout is the input `{}`", input.display()))
                .hint("redirect stdout to another file")),
        }
    }
}

/// Checks everything in `dir` that the run would write, without touching it. `committed` is `None` for a run that has
/// committed nothing; `may_hold` lets such a run find content all the same (`--fresh` deletes it).
pub(super) fn check(
    dir: &Path,
    names: &[String],
    inputs: &InputFiles,
    committed: Option<&Lengths>,
    may_hold: bool,
) -> Result<(), Failure> {
    if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        let message = format!("the output `{}` is a file, not a folder", dir.display());
        return Err(Failure::usage(message).hint("name a folder, or `-` for stdout"));
    }
    // Somebody else's folder: whatever is written could be exchanged before the next run reads it back.
    pelton_files::check_owner(dir).map_err(|error| refused_folder(&error).context("the output"))?;
    let mut seen: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut foreign = Vec::new();
    for name in names {
        let path = file_path(dir, name);
        let wanted = committed.and_then(|committed| committed.get(name)).copied().unwrap_or_default();
        let Some(found) = look(&path)? else {
            if wanted.bytes > 0 {
                let message = format!("{} is gone, but {} bytes were committed to it", path.display(), wanted.bytes);
                return Err(Failure::halted(message).hint(format!("bring the file back, or {START_OVER}")));
            }
            continue;
        };
        refuse_odd(&path, &found)?;
        refuse_foreign(&path, &found)?;
        inputs.refuse(&path, &found)?;
        if let Some(other) = seen.insert((found.dev(), found.ino()), path.clone()) {
            let message = format!("the outputs `{}` and `{}` are one file", other.display(), path.display());
            return Err(Failure::usage(message).hint("remove one of the links, or name another --output-dir"));
        }
        match committed {
            Some(_) => refuse_changed(&path, &found, wanted)?,
            None if found.len() > 0 => foreign.push(format!("`{}` ({} bytes)", path.display(), found.len())),
            None => {}
        }
    }
    if foreign.is_empty() || may_hold {
        return Ok(());
    }
    let message = format!("there are results without the state of the run that wrote them: {}", foreign.join(", "));
    Err(Failure::usage(message).hint(
        "name another --output-dir, add --fresh to delete these files and start over, or name that run's state with \
         --state-dir",
    ))
}

/// Deletes the files of `names` in `dir`, after a look at all of them.
pub(super) fn remove(dir: &Path, names: &[String], inputs: &InputFiles) -> Result<(), Failure> {
    check(dir, names, inputs, None, true)?;
    for name in names {
        let path = file_path(dir, name);
        let Some(found) = look(&path)? else { continue };
        fs::remove_file(&path).map_err(|error| environment(&path, error))?;
        info!(file = %path.display(), bytes = found.len(), "deleted, to start over");
    }
    Ok(())
}

/// What lies under a name, links not followed.
fn look(path: &Path) -> Result<Option<Metadata>, Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(environment(path, error)),
    }
}

/// Refuses what is no plain file.
fn refuse_odd(path: &Path, found: &Metadata) -> Result<(), Failure> {
    let kind = found.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_symlink() {
        "a link, and links are not followed"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe, which cannot be cut back after a kill"
    } else {
        "a device or socket"
    };
    let message = format!("the output `{}` is {what}; expected a plain file or nothing", path.display());
    Err(Failure::usage(message).hint("remove it, or name another --output-dir; `--output-dir -` writes to stdout"))
}

/// Refuses a file that somebody else has made: it would be theirs with all that is written to it.
pub(super) fn refuse_foreign(path: &Path, found: &Metadata) -> Result<(), Failure> {
    if pelton_files::is_ours(found) {
        return Ok(());
    }
    let message = format!("the output `{}` belongs to the user with id {}", path.display(), found.uid());
    Err(Failure::usage(message).hint("remove it, or name another --output-dir"))
}

/// Refuses a file that no longer begins with what was committed to it.
fn refuse_changed(path: &Path, found: &Metadata, wanted: Committed) -> Result<(), Failure> {
    if found.len() < wanted.bytes {
        let (found, wanted) = (found.len(), wanted.bytes);
        let message = format!("{} has {found} bytes, but {wanted} were committed to it", path.display());
        return Err(Failure::halted(message).hint(format!("bring the file back, or {START_OVER}")));
    }
    let read = || File::open(path).and_then(|mut file| tail_of(&mut file, wanted.bytes));
    if wanted.bytes == 0 || fingerprint(0, &read().map_err(|error| environment(path, error))?) == wanted.tail {
        return Ok(());
    }
    let message = format!("{} does not hold what was committed to it: somebody changed it", path.display());
    Err(Failure::halted(message).hint(format!("bring the file back, or {START_OVER}")))
}

/// The last of the first `end` bytes.
pub(super) fn tail_of(file: &mut File, end: u64) -> io::Result<Vec<u8>> {
    let length = end.min(TAIL_BYTES);
    file.seek(SeekFrom::Start(end - length))?;
    let mut tail = vec![0; length as usize];
    file.read_exact(&mut tail)?;
    Ok(tail)
}

/// The disk does not do it now.
pub(super) fn environment(path: &Path, error: io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there, then run the same command again",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make it writable, or name another --output-dir"
        }
        _ => "when the cause is gone, run the same command again",
    };
    Failure::new(Exit::Environment, error).context(path.display().to_string()).hint(hint)
}
