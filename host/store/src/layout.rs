//! The folder of one store: its lock, its pointer file, its generations and what was set aside.
//!
//! ```text
//! lock                       held by one process; tells which
//! id                         a random number that stays while the content comes and goes
//! making                     only while the very first generation is made
//! CURRENT                    one line: format, current generation, oldest one that may replace it, crc
//! gen-000003/                a sled; the current one and the one before
//! bad.1.checksum-of-a-value/ generations that were set aside for people to look at; the newest two are kept
//! ```
//! The pointer is switched by rename, so it names the old or the new generation. Nothing here is a link: the folder is
//! refused when something is, or when others may write to it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pelton_engine::store::StoreError;
use pelton_files::{Links, ReadError};

use crate::disk::Disk;
use crate::folder::check_folder;
use crate::guard::io_error;
use crate::identity::Identity;
use crate::lock::Lock;
use crate::pointer::Pointer;

const POINTER: &str = "CURRENT";
const ID: &str = "id";
/// There from before the first generation until after the first pointer: tells a cut-short first start from a store
/// that lost its pointer.
const MAKING: &str = "making";
/// Files are written under such a name first.
const UNFINISHED: &str = ".new";
/// Most bytes of the pointer and the id file: each is one line.
const LINE_BYTES_MAX: usize = 4 << 10;
const REASON_CHARS_MAX: usize = 40;
/// How many of the `bad.*` are kept: enough to compare two, not enough to fill a disk.
const BAD_KEPT: usize = 2;

/// The folder, locked until drop.
pub(crate) struct Layout {
    dir: PathBuf,
    /// Device of the file system that it lies on.
    device: u64,
    lock: Lock,
    disk: Arc<dyn Disk>,
}

impl Layout {
    /// Makes the folder if needed and locks it.
    ///
    /// # Errors
    /// `InUse`; `Environment`, also for a folder that is not ours alone.
    pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Layout, StoreError> {
        let context = |error: io::Error| io_error(format_args!("folder {}", dir.display()), &error);
        let dir = std::path::absolute(dir).map_err(context)?;
        make_folder(&dir, &*disk)?;
        insist_on_safe(&dir)?;
        let dir = dir.canonicalize().map_err(context)?;
        let device = fs::metadata(&dir).map_err(context)?.dev();
        let lock = Lock::take(&dir.join("lock"))?;
        Ok(Layout { dir, device, lock, disk })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whether the folder is still the one that was locked.
    ///
    /// # Errors
    /// `Environment`: it was deleted, unmounted or replaced.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.lock.check()
    }

    /// Locks the folder that has taken the place of the locked one; makes it again when it was deleted.
    ///
    /// # Errors
    /// `Environment`, also when what is gone is the whole volume: the folder is not made on another one.
    pub(crate) fn open_again(&mut self) -> Result<(), StoreError> {
        let context = |error: io::Error| io_error(format_args!("folder {}", self.dir.display()), &error);
        if !self.dir.exists() {
            let ancestor = self.dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
            if fs::metadata(ancestor).map_err(context)?.dev() != self.device {
                let (dir, ancestor) = (self.dir.display(), ancestor.display());
                return Err(StoreError::Environment(format!(
                    "folder {dir} is gone, and {ancestor} is on another volume: is something not mounted?"
                )));
            }
            make_folder(&self.dir, &*self.disk)?;
        }
        insist_on_safe(&self.dir)?;
        self.lock = Lock::take(&self.dir.join("lock"))?;
        self.device = fs::metadata(&self.dir).map_err(context)?.dev();
        Ok(())
    }

    /// The id of this folder, made when there is none; `known` is what it had before it was deleted.
    pub(crate) fn id(&self, known: Option<u128>) -> Result<u128, StoreError> {
        let inode = self.lock.inode()?;
        let stored = self.read(ID)?.and_then(|bytes| Identity::parse(&bytes));
        if let Some(stored) = stored.filter(|stored| stored.inode == inode) {
            return Ok(stored.id);
        }
        let identity = known.map_or_else(|| Identity::random(inode), |id| Identity { id, inode });
        self.stage(ID, &identity.render())?;
        self.put_in_place(ID)?;
        self.sync()?;
        Ok(identity.id)
    }

    /// The pointer, `None` when there is no such file.
    pub(crate) fn pointer(&self) -> Result<Option<Pointer>, StoreError> {
        self.read(POINTER)?.map(|bytes| Pointer::parse(&bytes)).transpose()
    }

    /// A file of one line; `None` when there is no such file, no bytes when it is larger than any that we write.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match pelton_files::read(&self.dir.join(name), LINE_BYTES_MAX, Links::Refuse) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::TooLarge { .. }) => Ok(Some(Vec::new())),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Environment(format!("reading file `{name}`: {error}"))),
        }
    }

    /// Lets the pointer name another generation. It survives a power cut after [`Layout::sync`].
    pub(crate) fn switch(&self, pointer: Pointer) -> Result<(), StoreError> {
        self.stage(POINTER, &pointer.render())?;
        self.put_in_place(POINTER)
    }

    /// Writes the next content of a file beside it, durably: the name must never lead to bytes that are not there.
    fn stage(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let context = |error: io::Error| io_error(format_args!("writing file `{name}`"), &error);
        let path = self.dir.join(format!("{name}{UNFINISHED}"));
        self.disk.write(&path, text.as_bytes()).map_err(context)?;
        self.disk.sync_file(&path).map_err(context)
    }

    fn put_in_place(&self, name: &str) -> Result<(), StoreError> {
        let from = self.dir.join(format!("{name}{UNFINISHED}"));
        self.disk
            .rename(&from, &self.dir.join(name))
            .map_err(|error| io_error(format_args!("replacing file `{name}`"), &error))
    }

    /// Says that the first generation is being made.
    pub(crate) fn begin_making(&self) -> Result<(), StoreError> {
        self.disk.write(&self.dir.join(MAKING), b"").map_err(|error| io_error("starting a store", &error))?;
        self.sync()
    }

    /// Whether the first generation was being made when everything stopped.
    pub(crate) fn is_making(&self) -> bool {
        fs::symlink_metadata(self.dir.join(MAKING)).is_ok()
    }

    /// The first pointer is written. Has to be done before the first epoch is.
    pub(crate) fn end_making(&self) -> Result<(), StoreError> {
        match self.disk.remove_file(&self.dir.join(MAKING)) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("starting a store", &error)),
        }
    }

    /// Folder of a generation.
    pub(crate) fn generation_dir(&self, number: u32) -> PathBuf {
        self.dir.join(format!("gen-{number:06}"))
    }

    /// Numbers of all generations, ascending.
    pub(crate) fn generations(&self) -> Result<Vec<u32>, StoreError> {
        let mut numbers: Vec<u32> = names(&self.dir)?.iter().filter_map(|name| generation_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A number that no generation has, set aside or not.
    pub(crate) fn next_number(&self, pointer: Option<Pointer>) -> Result<u32, StoreError> {
        let mut highest = pointer.map_or(0, |pointer| pointer.current);
        highest = highest.max(self.generations()?.last().copied().unwrap_or(0));
        for (_, bad) in self.bad()? {
            for name in names(&self.dir.join(bad))? {
                highest = highest.max(generation_number(&name).unwrap_or(0));
            }
        }
        Ok(highest + 1)
    }

    /// How many `bad.*` there are.
    pub(crate) fn quarantined(&self) -> usize {
        self.bad().map_or(0, |names| names.len())
    }

    /// Number and name of each `bad.*`, ascending.
    fn bad(&self) -> Result<Vec<(u32, String)>, StoreError> {
        let numbered = names(&self.dir)?.into_iter().filter_map(|name| Some((bad_number(&name)?, name)));
        let mut found: Vec<(u32, String)> = numbered.collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Moves generations into a folder of their own. Repeatable: what is not there is skipped.
    pub(crate) fn quarantine(&self, numbers: &[u32], reason: &str) -> Result<(), StoreError> {
        let context = |error: io::Error| io_error("setting a generation aside", &error);
        let present: Vec<u32> = self.generations()?.into_iter().filter(|number| numbers.contains(number)).collect();
        if present.is_empty() {
            return Ok(());
        }
        let number = self.bad()?.last().map_or(0, |(number, _)| *number) + 1;
        let bad = self.dir.join(format!("bad.{number}.{}", slug(reason)));
        self.disk.create_dir(&bad).map_err(context)?;
        for number in present {
            let from = self.generation_dir(number);
            let name = from.file_name().expect("a generation folder has a name");
            self.disk.rename(&from, &bad.join(name)).map_err(context)?;
        }
        tracing::warn!(folder = %bad.display(), reason, "store content was set aside");
        self.sync_dir(&bad)?;
        self.sync()?;
        self.clear_bad(BAD_KEPT)
    }

    /// Deletes all but the newest `kept` of the `bad.*`, and what a kill left empty.
    pub(crate) fn clear_bad(&self, kept: usize) -> Result<(), StoreError> {
        let mut filled = 0;
        for (_, name) in self.bad()?.into_iter().rev() {
            let dir = self.dir.join(&name);
            if !names(&dir)?.is_empty() {
                filled += 1;
                if filled <= kept {
                    continue;
                }
                tracing::info!(folder = %dir.display(), kept, "store content that was set aside is deleted");
            }
            self.disk.remove_dir(&dir).map_err(|error| io_error(format_args!("removing {name}"), &error))?;
        }
        Ok(())
    }

    /// Clears away what a kill left behind: half-written files and content that was set aside and is too old.
    pub(crate) fn clear_leftovers(&self) -> Result<(), StoreError> {
        for name in [POINTER, ID].map(|name| format!("{name}{UNFINISHED}")) {
            match self.disk.remove_file(&self.dir.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(format_args!("removing `{name}`"), &error));
                }
                _ => {}
            }
        }
        self.clear_bad(BAD_KEPT)
    }

    /// Deletes a generation that nothing needs any more.
    pub(crate) fn remove(&self, number: u32) -> Result<(), StoreError> {
        match self.disk.remove_dir(&self.generation_dir(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(format_args!("removing generation {number}"), &error))
            }
            _ => Ok(()),
        }
    }

    /// Makes new names in the folder survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.sync_dir(&self.dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        sync_dir(&*self.disk, dir)
    }

    /// Bytes that may still be written.
    pub(crate) fn free_bytes(&self) -> Result<u64, StoreError> {
        self.disk.free_bytes(&self.dir).map_err(|error| io_error("asking for free space", &error))
    }

    /// Bytes of all files of the generations, quarantine not included.
    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        let numbers = self.generations()?;
        Ok(numbers.into_iter().map(|number| file_bytes(&self.generation_dir(number))).sum())
    }
}

fn insist_on_safe(dir: &Path) -> Result<(), StoreError> {
    check_folder(dir).map_err(|error| StoreError::Environment(error.to_string()))
}

/// Makes a folder and those above it, each with its name made durable.
fn make_folder(dir: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match disk.create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error(format_args!("making folder {}", path.display()), &error));
            }
            _ => {}
        }
        if let Some(parent) = path.parent() {
            sync_dir(disk, parent)?;
        }
    }
    Ok(())
}

/// Bytes of all files in `dir`, as far as they can be read.
fn file_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => file_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Makes the names in `dir` survive a power cut.
pub(crate) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    disk.sync_dir(dir).map_err(|error| io_error(format_args!("syncing folder {}", dir.display()), &error))
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let context = |error: io::Error| io_error(format_args!("listing folder {}", dir.display()), &error);
    let entries = fs::read_dir(dir).map_err(context)?.collect::<Result<Vec<_>, _>>().map_err(context)?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn generation_number(name: &str) -> Option<u32> {
    name.strip_prefix("gen-")?.parse().ok()
}

fn bad_number(name: &str) -> Option<u32> {
    name.strip_prefix("bad.")?.split_once('.')?.0.parse().ok()
}

/// A reason as part of a folder name.
fn slug(reason: &str) -> String {
    let words = reason.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    let slug: String = slug.chars().take(REASON_CHARS_MAX).collect();
    match slug.trim_end_matches('-') {
        "" => "unknown".into(),
        slug => slug.into(),
    }
}
