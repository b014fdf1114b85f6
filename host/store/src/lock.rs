//! The lock on the folder of a store: one process at a time, and only while the folder is the one that was locked.
//!
//! A lock belongs to a file, not to a path: when the folder is deleted or replaced, it goes on holding a file that
//! nobody can open any more. So the path is compared with the locked file before each use.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pelton_engine::store::StoreError;
use pelton_files::Links;
use rustix::fs::OFlags;

use crate::guard::io_error;

/// A lock may outlive its handle for a moment: a process that dies, or one that is just being started by another thread
/// and has a copy of every file until it runs its own program.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a lock file that are shown: one line of ours.
const HOLDER_BYTES: usize = 256;

/// A locked file; the lock is the kernel's and ends with the process.
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Makes the file if needed and locks it.
    pub(crate) fn take(path: &Path) -> Result<Lock, StoreError> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let file = lock(path, give_up)?;
            let lock = Lock { path: path.to_path_buf(), file };
            // Between opening and locking somebody may have removed the file.
            if lock.holds_its_path() || give_up < Instant::now() {
                lock.tell_holder();
                return Ok(lock);
            }
        }
    }

    /// Number of the locked file within its file system.
    pub(crate) fn inode(&self) -> Result<u64, StoreError> {
        self.file.metadata().map(|metadata| metadata.ino()).map_err(|error| io_error(self.path.display(), &error))
    }

    /// Whether the path still leads to the locked file.
    ///
    /// # Errors
    /// `Environment`, with the folder and what became of it.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let folder = self.path.parent().unwrap_or(&self.path).display();
        match fs::symlink_metadata(&self.path) {
            Ok(found) if self.is_same(&found) => Ok(()),
            Ok(_) => Err(StoreError::Environment(format!("folder {folder} was replaced by another one while in use"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Environment(format!(
                "folder {folder} is gone: deleted, or its volume was unmounted while in use"
            ))),
            Err(error) => Err(io_error(format_args!("folder {folder}"), &error)),
        }
    }

    fn holds_its_path(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| self.is_same(&found))
    }

    fn is_same(&self, found: &Metadata) -> bool {
        self.file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (found.dev(), found.ino()))
    }

    /// Only for people.
    fn tell_holder(&self) {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let holder = format!("process {} of boot {}\n", std::process::id(), boot.trim());
        if let Err(error) = self.file.set_len(0).and_then(|()| (&self.file).write_all(holder.as_bytes())) {
            tracing::debug!(%error, "lock file does not tell its holder");
        }
    }
}

fn lock(path: &Path, give_up: Instant) -> Result<File, StoreError> {
    let context = |error: io::Error| io_error(format_args!("opening the lock file {}", path.display()), &error);
    let file = open(path).map_err(context)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let holder = pelton_files::read(path, HOLDER_BYTES, Links::Refuse).unwrap_or_default();
                let holder = String::from_utf8_lossy(&holder);
                return Err(StoreError::InUse(format!("{} is held by {}", path.display(), holder.trim())));
            }
            Err(TryLockError::Error(error)) => return Err(context(error)),
        }
    }
}

/// The file as it is, or a new one. A link is not followed: what is written into the file would go elsewhere.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(flags);
    let file = match options.open(path) {
        // Two may come here at once; the one that is too late opens what the other has made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
            created => created?,
        },
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(io::Error::other(format!("it is {}", pelton_files::kind(kind)))) }
}
