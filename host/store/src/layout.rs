//! The folder of one store: its lock, its pointer file, its generations and what was set aside.
//!
//! ```text
//! lock                       held by one process; tells which
//! making                     only while the very first generation is made
//! CURRENT                    one line: format, current generation, oldest one that may replace it, crc
//! gen-000003/                a sled; the current one and the one before
//! bad.1.checksum-of-a-value/ generations that were set aside, never deleted
//! ```
//! The pointer is switched by rename, so it names the old or the new generation. Its crc is the last word of the
//! line in every format, so that a newer format can be told from a damaged file.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pelton_engine::store::StoreError;

use crate::guard::io_error;

/// Format of the folder.
const FORMAT: u8 = 1;
const POINTER: &str = "CURRENT";
/// There from before the first generation until after the first pointer: tells a cut-short first start from a store
/// that lost its pointer.
const MAKING: &str = "making";
const REASON_CHARS_MAX: usize = 40;
/// A lock may outlive its handle for a moment: a process that dies, or one that is just being started by another thread
/// and has a copy of every file until it runs its own program.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Which generation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) current: u32,
    /// Older generations from here on may stand in for a damaged current one; those below belong to another past.
    pub(crate) floor: u32,
}

/// The folder, locked until drop.
pub(crate) struct Layout {
    dir: PathBuf,
    _lock: File,
}

impl Layout {
    /// Makes the folder if needed and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Layout, StoreError> {
        let context = |error: io::Error| io_error(format_args!("folder {}", dir.display()), &error);
        fs::create_dir_all(dir).map_err(context)?;
        let dir = dir.canonicalize().map_err(context)?;
        let lock = lock(&dir.join("lock"))?;
        Ok(Layout { dir, _lock: lock })
    }

    /// The pointer, `None` when there is no such file.
    pub(crate) fn pointer(&self) -> Result<Option<Pointer>, StoreError> {
        match fs::read(self.dir.join(POINTER)) {
            Ok(bytes) => parse_pointer(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading the pointer file", &error)),
        }
    }

    /// Lets the pointer name another generation, durably.
    pub(crate) fn switch(&self, pointer: Pointer) -> Result<(), StoreError> {
        let context = |error: io::Error| io_error("switching the pointer file", &error);
        let temporary = self.dir.join("CURRENT.new");
        let mut file = File::create(&temporary).map_err(context)?;
        file.write_all(render_pointer(pointer).as_bytes()).map_err(context)?;
        file.sync_all().map_err(context)?;
        fs::rename(&temporary, self.dir.join(POINTER)).map_err(context)?;
        sync_dir(&self.dir)
    }

    /// Says that the first generation is being made.
    pub(crate) fn begin_making(&self) -> Result<(), StoreError> {
        File::create(self.dir.join(MAKING)).map_err(|error| io_error("starting a store", &error))?;
        sync_dir(&self.dir)
    }

    /// Whether the first generation was being made when everything stopped.
    pub(crate) fn is_making(&self) -> bool {
        self.dir.join(MAKING).exists()
    }

    /// The first pointer is written. Has to be done before the first epoch is.
    pub(crate) fn end_making(&self) -> Result<(), StoreError> {
        match fs::remove_file(self.dir.join(MAKING)) {
            Ok(()) => sync_dir(&self.dir),
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

    /// A number that no generation had, set aside or not.
    pub(crate) fn next_number(&self, pointer: Option<Pointer>) -> Result<u32, StoreError> {
        let mut highest = pointer.map_or(0, |pointer| pointer.current);
        highest = highest.max(self.generations()?.last().copied().unwrap_or(0));
        for bad in self.bad()? {
            for name in names(&self.dir.join(bad))? {
                highest = highest.max(generation_number(&name).unwrap_or(0));
            }
        }
        Ok(highest + 1)
    }

    /// How many times something was set aside.
    pub(crate) fn quarantined(&self) -> usize {
        self.bad().map_or(0, |names| names.len())
    }

    fn bad(&self) -> Result<Vec<String>, StoreError> {
        let mut names = names(&self.dir)?;
        names.retain(|name| bad_number(name).is_some());
        Ok(names)
    }

    /// Moves generations into a folder of their own. Repeatable: what is not there is skipped.
    pub(crate) fn quarantine(&self, numbers: &[u32], reason: &str) -> Result<(), StoreError> {
        let context = |error: io::Error| io_error("setting a generation aside", &error);
        let present: Vec<u32> = self.generations()?.into_iter().filter(|number| numbers.contains(number)).collect();
        if present.is_empty() {
            return Ok(());
        }
        let number = self.bad()?.iter().filter_map(|name| bad_number(name)).max().unwrap_or(0) + 1;
        let bad = self.dir.join(format!("bad.{number}.{}", slug(reason)));
        fs::create_dir(&bad).map_err(context)?;
        for number in present {
            let from = self.generation_dir(number);
            let name = from.file_name().expect("a generation folder has a name");
            fs::rename(&from, bad.join(name)).map_err(context)?;
        }
        tracing::warn!(folder = %bad.display(), reason, "store content was set aside");
        sync_dir(&bad)?;
        sync_dir(&self.dir)
    }

    /// Deletes a generation that nothing needs any more.
    pub(crate) fn remove(&self, number: u32) -> Result<(), StoreError> {
        fs::remove_dir_all(self.generation_dir(number))
            .map_err(|error| io_error(format_args!("removing generation {number}"), &error))
    }

    /// Makes new names in the folder survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir)
    }

    /// Bytes that may still be written.
    pub(crate) fn available_bytes(&self) -> Result<u64, StoreError> {
        let stats = rustix::fs::statvfs(&self.dir)
            .map_err(|error| io_error("asking for free space", &io::Error::from(error)))?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    /// Bytes of all files of the generations, quarantine not included.
    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        let numbers = self.generations()?;
        Ok(numbers.into_iter().map(|number| file_bytes(&self.generation_dir(number))).sum())
    }
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
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error(format_args!("syncing folder {}", dir.display()), &error))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let context = |error: io::Error| io_error("opening the lock file", &error);
    let mut options = File::options();
    let mut file = options.create(true).truncate(false).read(true).write(true).open(path).map_err(context)?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                return Err(StoreError::InUse(format!("{} is held by {}", path.display(), holder.trim())));
            }
            Err(TryLockError::Error(error)) => return Err(context(error)),
        }
    }
    // Only for people: the lock itself is the kernel's and ends with the process.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let holder = format!("process {} of boot {}\n", std::process::id(), boot.trim());
    if let Err(error) = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())) {
        tracing::debug!(%error, "lock file does not tell its holder");
    }
    Ok(file)
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

fn render_pointer(pointer: Pointer) -> String {
    let line = format!("pelton-store format={FORMAT} current={} floor={}", pointer.current, pointer.floor);
    format!("{line} crc={:08x}\n", crc32c::crc32c(line.as_bytes()))
}

fn parse_pointer(bytes: &[u8]) -> Result<Pointer, StoreError> {
    let damaged = || StoreError::Damaged(format!("pointer file of {} bytes does not parse", bytes.len()));
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let (line, crc) = text.trim_end_matches('\n').rsplit_once(" crc=").ok_or_else(damaged)?;
    if crc != format!("{:08x}", crc32c::crc32c(line.as_bytes())) {
        return Err(damaged());
    }
    let mut words = line.split(' ');
    let mut number = |name: &str| words.next().and_then(|word| word.strip_prefix(name)).map(str::to_string);
    number("pelton-store").ok_or_else(damaged)?;
    let found: u8 = number("format=").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    if FORMAT < found {
        return Err(StoreError::Newer { found, known: FORMAT });
    }
    let mut number = |name: &str| number(name).and_then(|text| text.parse().ok()).ok_or_else(damaged);
    Ok(Pointer { current: number("current=")?, floor: number("floor=")? })
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
