//! What the store does to the file system by itself, as a trait: tests count, refuse and forget these operations.
//!
//! sled writes and renames its own files and is not seen here. What it hands to the file system is made durable only
//! by a sync of ours, so the order of these calls decides what a power cut leaves.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Operations on the files of a store. Each one either is done or answers with the reason why not.
pub trait Disk: Debug + Send + Sync {
    /// Makes one folder.
    ///
    /// # Errors
    /// As of the file system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes or replaces a file; a link of this name is replaced, not followed. It survives a power cut after [`Disk::sync_file`] and a sync of its folder.
    ///
    /// # Errors
    /// As of the file system.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes what is in a file survive a power cut.
    ///
    /// # Errors
    /// As of the file system. After a failure nobody knows what the disk holds, and a repeated call may lie.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder survive a power cut.
    ///
    /// # Errors
    /// As [`Disk::sync_file`].
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name; a file of that name is replaced.
    ///
    /// # Errors
    /// As of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As of the file system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with everything in it.
    ///
    /// # Errors
    /// As of the file system.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written into a folder.
    ///
    /// # Errors
    /// As of the file system.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Never into something that is there: it may be a link, or what a kill has left.
        let create = || File::options().write(true).create_new(true).open(path);
        let mut file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                create()?
            }
            created => created?,
        };
        file.write_all(bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(path)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }
}
