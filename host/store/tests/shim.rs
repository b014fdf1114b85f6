//! A disk for tests: keeps a list of what the store does to it, refuses single operations, and knows what a power cut
//! would leave.
//!
//! A file survives with the bytes of its last sync, a folder with the names of its last sync. A disk may also have done
//! more than it was asked to, so there are three [`Cut`]s. Files that sled makes, writes and syncs by itself (`snap.*`)
//! count as synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use pelton_store::disk::{Disk, RealDisk};

/// What a power cut leaves besides what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Synced,
    /// Names are as they were last seen, bytes are not.
    NewNames,
    /// Bytes are as they were last written, names are not.
    NewBytes,
}

pub(crate) const CUTS: [Cut; 3] = [Cut::Synced, Cut::NewNames, Cut::NewBytes];

/// Looks at the disk before each operation.
type Watcher = Box<dyn FnMut(&Shim, &str) + Send>;

/// A disk over one folder.
pub(crate) struct Shim {
    root: PathBuf,
    state: Mutex<State>,
    watcher: Mutex<Option<Watcher>>,
}

#[derive(Default)]
struct State {
    /// What was done, such as `rename CURRENT.new`.
    done: Vec<String>,
    /// Operations from here on, by number, fail once.
    fail_at: Option<usize>,
    /// All operations that begin with this fail.
    refused: Option<&'static str>,
    free: Option<u64>,
    /// By inode: bytes of files, names of folders with their inodes.
    files: BTreeMap<u64, Vec<u8>>,
    folders: BTreeMap<u64, BTreeMap<String, u64>>,
    /// Files whose sync failed: until they are written anew, no later sync reaches the disk, whatever it says.
    poisoned: BTreeSet<u64>,
    /// The same for folders: names that were new or gone when their sync failed stay so on the disk until they change
    /// again.
    lost_names: BTreeSet<(u64, String, Option<u64>)>,
    /// Open files and folders, so that no inode gets another meaning.
    held: BTreeMap<u64, File>,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shim({})", self.root.display())
    }
}

impl Shim {
    pub(crate) fn new(root: &Path) -> Shim {
        let root = root.canonicalize().unwrap();
        Shim { root, state: Mutex::default(), watcher: Mutex::default() }
    }

    /// The operation with this number fails, counted from 0.
    pub(crate) fn fail_at(&self, number: usize) {
        self.lock().fail_at = Some(number);
    }

    /// The next operation that begins with this fails, and all after it, until `None`.
    pub(crate) fn refuse(&self, what: Option<&'static str>) {
        self.lock().refused = what;
    }

    pub(crate) fn set_free(&self, bytes: u64) {
        self.lock().free = Some(bytes);
    }

    pub(crate) fn done(&self) -> Vec<String> {
        self.lock().done.clone()
    }

    pub(crate) fn watch(&self, watcher: impl FnMut(&Shim, &str) + Send + 'static) {
        *self.watcher.lock().unwrap() = Some(Box::new(watcher));
    }

    /// Writes into `target` what a power cut would leave now.
    pub(crate) fn power_cut(&self, cut: Cut, target: &Path) {
        let root = fs::metadata(&self.root).unwrap().ino();
        self.lock().restore(cut, root, &self.root, target);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn begin(&self, what: &str, path: &Path) -> io::Result<()> {
        let name = format!("{what} {}", path.strip_prefix(&self.root).unwrap_or(path).display());
        if let Some(watcher) = self.watcher.lock().unwrap().as_mut() {
            watcher(self, &name);
        }
        let mut state = self.lock();
        let number = state.done.len();
        let refused = state.refused.is_some_and(|refused| name.starts_with(refused));
        state.done.push(name);
        if refused || state.fail_at == Some(number) {
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }
}

impl State {
    fn hold(&mut self, path: &Path) -> Option<u64> {
        let file = File::open(path).ok()?;
        let inode = file.metadata().ok()?.ino();
        self.held.entry(inode).or_insert(file);
        Some(inode)
    }

    fn names(&mut self, path: &Path) -> BTreeMap<String, u64> {
        let Ok(entries) = fs::read_dir(path) else { return BTreeMap::new() };
        let entries = entries.map(|entry| entry.unwrap().path());
        entries.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), self.hold(&path)?))).collect()
    }

    fn bytes(&mut self, inode: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let file = self.held.get_mut(&inode).unwrap();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn restore(&mut self, cut: Cut, inode: u64, now: &Path, target: &Path) {
        fs::create_dir_all(target).unwrap();
        let names = match cut {
            Cut::NewNames => self.names(now),
            Cut::Synced | Cut::NewBytes => self.folders.get(&inode).cloned().unwrap_or_default(),
        };
        for (name, inode) in names {
            let target = target.join(&name);
            if self.held[&inode].metadata().unwrap().is_dir() {
                self.restore(cut, inode, &now.join(&name), &target);
                continue;
            }
            let bytes = match cut {
                _ if name.starts_with("snap.") => self.bytes(inode),
                Cut::NewBytes => self.bytes(inode),
                Cut::Synced | Cut::NewNames => self.files.get(&inode).cloned().unwrap_or_default(),
            };
            fs::write(target, bytes).unwrap();
        }
    }
}

impl Disk for Shim {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.begin("create_dir", path)?;
        RealDisk.create_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let begun = self.begin("write", path);
        let written = if begun.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        RealDisk.write(path, written)?;
        let mut state = self.lock();
        let inode = state.hold(path).unwrap();
        state.poisoned.remove(&inode);
        begun
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let begun = self.begin("sync_file", path);
        File::open(path)?;
        let mut state = self.lock();
        let inode = state.hold(path).unwrap();
        if begun.is_err() {
            state.poisoned.insert(inode);
        } else if !state.poisoned.contains(&inode) {
            let bytes = state.bytes(inode);
            state.files.insert(inode, bytes);
        }
        begun
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let begun = self.begin("sync_dir", path);
        File::open(path)?;
        let mut state = self.lock();
        let inode = state.hold(path).unwrap();
        let now = state.names(path);
        let before = state.folders.get(&inode).cloned().unwrap_or_default();
        let mut synced = before.clone();
        for name in now.keys().chain(before.keys()) {
            let (new, old) = (now.get(name).copied(), before.get(name));
            let change = (inode, name.clone(), new);
            if new.as_ref() == old {
                continue;
            } else if begun.is_err() {
                state.lost_names.insert(change);
            } else if !state.lost_names.contains(&change) {
                match new {
                    Some(new) => synced.insert(name.clone(), new),
                    None => synced.remove(name),
                };
            }
        }
        state.folders.insert(inode, synced);
        begun
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin("rename", from)?;
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.begin("remove_file", path)?;
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.begin("remove_dir", path)?;
        RealDisk.remove_dir(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.lock().free.map_or_else(|| RealDisk.free_bytes(path), Ok)
    }
}
