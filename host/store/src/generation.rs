//! One sled: opened with a time limit, written in batches, read back in whole values.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_engine::store::StoreError;

use crate::disk::Disk;
use crate::envelope::{self, Assembler, Place, Value};
use crate::guard::{bounded, caught, close, io_error, sled_error};
use crate::layout::sync_dir;
use crate::scan::{self, Content};

/// Nothing is read back while running, so a cache would only cost memory. sled keeps at least one node in each of its 256
/// parts.
const CACHE_BYTES: u64 = 1 << 20;
/// sled reads the whole log when it opens: a slow disk must not look like a hang.
const OPEN_BYTES_PER_SECOND: u64 = 16 << 20;
/// A handle that was just closed may hold its file for a moment, on sled's own threads.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Where sled keeps everything but its settings and its index.
const DATA_FILE: &str = "db";

/// An open sled and the number that its values carry.
pub(crate) struct Generation {
    pub(crate) number: u32,
    dir: PathBuf,
    db: sled::Db,
    /// Device and inode of its data file.
    file: Option<(u64, u64)>,
    disk: Arc<dyn Disk>,
}

impl Generation {
    /// Makes a new, empty generation. Nothing refers to it before the pointer is switched.
    pub(crate) fn create(
        dir: &Path,
        number: u32,
        limit: Duration,
        disk: &Arc<dyn Disk>,
    ) -> Result<Generation, StoreError> {
        let db = {
            let dir = dir.to_path_buf();
            bounded("creating a generation", limit, move || open_db(&dir))?
        };
        Ok(Generation { number, dir: dir.to_path_buf(), db, file: data_file(dir), disk: disk.clone() })
    }

    /// After a kill the tail is only in the page cache. sled writes and syncs an index of it on open; were the tail lost
    /// later, the index would point into nothing.
    ///
    /// # Errors
    /// `Environment`; the next attempt must not believe a sync that works.
    pub(crate) fn sync_before_open(dir: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
        match disk.sync_file(&dir.join(DATA_FILE)) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(io_error("syncing the data file", &error))
            }
            _ => Ok(()),
        }
    }

    /// Opens a generation and checks all of it; `None` content when it holds nothing at all.
    ///
    /// # Errors
    /// `Damaged` on any doubt, a panic or a hang of sled included.
    pub(crate) fn open(
        dir: &Path,
        number: u32,
        limit: Duration,
        disk: &Arc<dyn Disk>,
    ) -> Result<(Generation, Option<Content>), StoreError> {
        let file = dir.join(DATA_FILE);
        let bytes = match std::fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(StoreError::Damaged(format!("generation {number} has no data file")));
            }
            Err(error) => return Err(io_error(format_args!("generation {number}"), &error)),
        };
        let limit = limit + Duration::from_secs(bytes / OPEN_BYTES_PER_SECOND);
        let path = dir.to_path_buf();
        let (db, content) = bounded("opening a generation", limit, move || {
            let db = caught("opening a generation", || open_db(&path))?;
            match caught("reading a generation", || scan::read(&db, number)) {
                Ok(content) => Ok((db, content)),
                Err(error) => {
                    close(db);
                    Err(error)
                }
            }
        })?;
        Ok((Generation { number, dir: dir.to_path_buf(), db, file: data_file(dir), disk: disk.clone() }, content))
    }

    /// Whether the data file is still the one that was opened: what goes into a deleted one is lost.
    ///
    /// # Errors
    /// `Damaged`.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.file.is_some() && data_file(&self.dir) == self.file {
            return Ok(());
        }
        Err(StoreError::Damaged(format!(
            "data file of generation {} was deleted or replaced while in use",
            self.number
        )))
    }

    /// Reads everything once more.
    pub(crate) fn content(&self, limit: Duration) -> Result<Option<Content>, StoreError> {
        let (db, number) = (self.db.clone(), self.number);
        bounded("reading a generation", limit, move || scan::read(&db, number))
    }

    /// Adds a value to a batch.
    pub(crate) fn put(&self, batch: &mut sled::Batch, place: Place, tag: u64, bytes: &[u8]) {
        for (key, value) in envelope::seal(self.number, place, tag, bytes) {
            batch.insert(&key[..], value);
        }
    }

    /// Writes a batch: all of it or nothing is found again.
    pub(crate) fn write(&self, batch: sled::Batch) -> Result<(), StoreError> {
        caught("writing a batch", || self.db.apply_batch(batch).map_err(|error| sled_error("writing a batch", error)))
    }

    /// One whole value.
    pub(crate) fn read(&self, place: Place, limit: Duration) -> Result<Option<Value>, StoreError> {
        let (db, number) = (self.db.clone(), self.number);
        bounded("reading a value", limit, move || {
            let mut assembler = Assembler::new(number);
            let mut found = None;
            for entry in db.range(envelope::chunks(place)) {
                let (key, value) = entry.map_err(|error| sled_error("reading a value", error))?;
                if let Some(value) = assembler.push(&key, &value)? {
                    found = Some(value);
                }
            }
            assembler.end()?;
            Ok(found)
        })
    }

    /// Hands everything written so far to the disk. sled's own flush stops at the file system's cache.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        caught("flushing", || self.db.flush().map(drop).map_err(|error| sled_error("flushing", error)))
    }

    /// Makes what was flushed survive a power cut. After a failure the kernel may have dropped the pages: never repeat.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.sync_file(&self.dir.join(DATA_FILE))
    }

    /// Makes a new generation durable: its content and its names. sled does not sync its settings, which it cannot be
    /// opened without.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        self.flush()?;
        let context = |error: io::Error| io_error(format_args!("listing folder {}", self.dir.display()), &error);
        let entries = std::fs::read_dir(&self.dir).map_err(context)?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(context)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().map_err(context)?.is_file() {
                self.sync_file(&entry.path())?;
            }
        }
        sync_dir(&*self.disk, &self.dir)
    }

    fn sync_file(&self, path: &Path) -> Result<(), StoreError> {
        self.disk.sync_file(path).map_err(|error| io_error(format_args!("syncing {}", path.display()), &error))
    }

    pub(crate) fn close(self) {
        close(self.db);
    }
}

fn data_file(dir: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(dir.join(DATA_FILE)).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn open_db(dir: &Path) -> Result<sled::Db, StoreError> {
    remove_unfinished_index(dir)?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        let config = sled::Config::new()
            .path(dir)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput);
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) if is_locked(&error) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if is_locked(&error) => return Err(StoreError::InUse(error.to_string())),
            Err(error) => return Err(sled_error("opening a generation", error)),
        }
    }
}

/// sled indexes its log in `snap.*`, written under a temporary name first. It takes one that a kill or a full disk left
/// unfinished for the newest index, and gives up on the store. Without it the log is read from the index before.
fn remove_unfinished_index(dir: &Path) -> Result<(), StoreError> {
    let context = |error: io::Error| io_error("removing an unfinished index", &error);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(context(error)),
    };
    for entry in entries {
        let entry = entry.map_err(context)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path()).map_err(context)?;
        }
    }
    Ok(())
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}
