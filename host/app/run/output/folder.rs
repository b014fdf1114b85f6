//! The files of a run: opened behind what is committed, appended to epoch by epoch, synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pelton_engine::epoch::fingerprint;
use rustix::fs::OFlags;
use tracing::info;

use super::guard::{self, InputFiles, TAIL_BYTES};
use super::{Committed, Lengths, file_path};
use crate::cli::failure::{Exit, Failure};

/// The open files, in the order of [`super::names`].
pub(super) struct Folder {
    files: Vec<Out>,
}

struct Out {
    name: String,
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    identity: (u64, u64),
    buffer: Vec<u8>,
    bytes: u64,
    /// The last bytes of the file, at most [`TAIL_BYTES`].
    tail: Vec<u8>,
}

impl Folder {
    /// Opens or creates the files and cuts them back to what is committed.
    pub(super) fn open(
        dir: &Path,
        names: &[String],
        inputs: &InputFiles,
        committed: Option<&Lengths>,
    ) -> Result<Folder, Failure> {
        guard::check(dir, names, inputs, committed, false)?;
        fs::create_dir_all(dir).map_err(|error| guard::environment(dir, error))?;
        let mut files: Vec<Out> = Vec::new();
        for name in names {
            let path = file_path(dir, name);
            let wanted = committed.and_then(|committed| committed.get(name)).copied().unwrap_or_default();
            let out = Out::open(name, path, wanted, inputs)?;
            // Names that differ in case only are one file on some file systems, which shows when both are open.
            if let Some(other) = files.iter().find(|other| other.identity == out.identity) {
                let message = format!("the outputs `{}` and `{}` are one file", other.name, out.name);
                return Err(Failure::usage(message).hint("rename one of the outputs, or name another --output-dir"));
            }
            out.lock()?;
            files.push(out);
        }
        for out in &mut files {
            out.cut_back().map_err(|error| guard::environment(&out.path, error))?;
        }
        // The names have to survive a power cut, too.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| guard::environment(dir, error))?;
        Ok(Folder { files })
    }

    /// What is written next to a file.
    pub(super) fn buffer(&mut self, idx: usize) -> &mut Vec<u8> {
        &mut self.files[idx].buffer
    }

    /// Writes all buffers and syncs; what the files hold then.
    pub(super) fn write(&mut self) -> io::Result<Lengths> {
        for out in &mut self.files {
            out.write().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", out.path.display())))?;
        }
        Ok(self.files.iter().map(|out| (out.name.clone(), out.committed())).collect())
    }
}

impl Out {
    fn open(name: &str, path: PathBuf, wanted: Committed, inputs: &InputFiles) -> Result<Out, Failure> {
        // Were it exchanged since the look at it: a link is not followed, and a pipe is not waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let context = |error| guard::environment(&path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .custom_flags(flags)
            .open(&path)
            .map_err(context)?;
        let found = file.metadata().map_err(context)?;
        guard::refuse_foreign(&path, &found)?;
        inputs.refuse(&path, &found)?;
        let tail = guard::tail_of(&mut file, wanted.bytes).map_err(context)?;
        let identity = (found.dev(), found.ino());
        Ok(Out { name: name.to_owned(), path, file, identity, buffer: Vec::new(), bytes: wanted.bytes, tail })
    }

    /// Keeps a second run away, whatever state folder it has.
    fn lock(&self) -> Result<(), Failure> {
        match self.file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                let message = format!("another `pelton run` writes to {}", self.path.display());
                Err(Failure::new(Exit::Environment, anyhow::Error::msg(message))
                    .hint("wait for it, stop it, or name another --output-dir"))
            }
            // Some file systems have no locks.
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(()),
        }
    }

    /// Cuts off what an epoch has left that was not committed.
    fn cut_back(&mut self) -> io::Result<()> {
        let beyond = self.file.metadata()?.len().saturating_sub(self.bytes);
        if beyond > 0 {
            info!(file = %self.path.display(), bytes = beyond, "cut off behind what is committed");
            self.file.set_len(self.bytes)?;
        }
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.bytes)).map(drop)
    }

    fn write(&mut self) -> io::Result<()> {
        self.insist()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.bytes += self.buffer.len() as u64;
        self.tail.extend_from_slice(&self.buffer[self.buffer.len().saturating_sub(TAIL_BYTES as usize)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES as usize));
        self.buffer.clear();
        Ok(())
    }

    /// Refuses to write into a file that has lost its name: what goes there is lost.
    fn insist(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.path)?;
        if (found.dev(), found.ino()) == self.identity {
            return Ok(());
        }
        Err(io::Error::other("was replaced while it was written"))
    }

    fn committed(&self) -> Committed {
        Committed { bytes: self.bytes, tail: fingerprint(0, &self.tail) }
    }
}

#[cfg(test)]
mod tests;
