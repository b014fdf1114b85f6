//! Compiled modules in a folder, so that the next start need not compile.
//!
//! What lies there is machine code that this process will run, so nothing is believed for its place: an entry counts
//! only with a keyed hash over what it was made from and every byte of it. The key lies beside the entries, readable by
//! this user alone. Any doubt means compiling again.
//!
//! ```text
//! FOLDER/key                        32 random bytes
//! FOLDER/modules/<build>/<module>   HMAC-SHA256, then the entry: world, length of the fast build, both builds
//! ```
//!
//! `build` is a hash of the compiler, its settings and the limits that the module passed; `module` is the sha256 of its
//! bytes. Everything is opened relative to the folder that was checked, without following links.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, Mac as _};
use pelton_engine::guest::World;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::Sha256;

use super::Compiled;

/// Changes with the form of an entry.
const VERSION: &[u8] = b"pelton compiled module 1";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// World and length of the fast build.
const HEAD_BYTES: usize = 1 + 8;
/// A larger entry is none of ours.
const ENTRY_BYTES_MAX: u64 = 1 << 30;
/// When the entries take more, the ones that were used longest ago go.
const FOLDER_BYTES_MAX: u64 = 512 << 20;

/// What an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) build: [u8; 32],
    pub(crate) module: [u8; 32],
}

/// A folder that only this user may write.
pub(crate) struct Cache {
    path: PathBuf,
    folder: OwnedFd,
    key: [u8; KEY_BYTES],
}

impl Cache {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// When it cannot be made, or when others could have written what is in it.
    pub(crate) fn open(path: &Path) -> io::Result<Cache> {
        let path = std::path::absolute(path)?;
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty())?;
        only_ours(&folder, 0o022)?;
        let key = match read_key(&folder)? {
            Some(key) => key,
            None => make_key(&folder)?,
        };
        Ok(Cache { path, folder, key })
    }

    /// An entry that this cache has stored and nobody has changed.
    pub(crate) fn get(&self, id: Id) -> Option<Compiled> {
        self.read(id)
            .inspect_err(|error| tracing::debug!(%error, "an entry of the module cache cannot be read"))
            .ok()?
            .filter(|bytes| bytes.len() >= TAG_BYTES + HEAD_BYTES)
            .and_then(|bytes| {
                let (tag, entry) = bytes.split_at(TAG_BYTES);
                if self.hash(id, entry).verify_slice(tag).is_err() {
                    tracing::warn!(cache = ?self.path, "an entry of the module cache is damaged; compiling again");
                    return None;
                }
                decode(entry)
            })
    }

    /// Keeps a module. Whoever opens the entry meanwhile finds the one before it, or none.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is there then.
    pub(crate) fn put(&self, id: Id, compiled: &Compiled) -> io::Result<()> {
        let entry = encode(compiled);
        let tag = self.tag(id, &entry);
        let folder = subfolder(&subfolder(&self.folder, "modules")?, &hex(&id.build))?;
        create(&folder, &hex(&id.module), &[&tag, &entry], Place::Replace)?;
        self.prune()
    }

    fn read(&self, id: Id) -> io::Result<Option<Vec<u8>>> {
        let folder = match existing(&self.folder, "modules").and_then(|modules| existing(&modules, &hex(&id.build))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            folder => folder?,
        };
        let Some(file) = open_file(&folder, &hex(&id.module))? else { return Ok(None) };
        // What is used stays: see `prune`. It is a hint only.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::new();
        file.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// What proves that this cache has written `entry` for `id`.
    pub(crate) fn tag(&self, id: Id, entry: &[u8]) -> [u8; TAG_BYTES] {
        self.hash(id, entry).finalize().into_bytes().into()
    }

    fn hash(&self, id: Id, entry: &[u8]) -> Hmac<Sha256> {
        let mut hash = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        hash.update(VERSION);
        hash.update(&id.build);
        hash.update(&id.module);
        hash.update(entry);
        hash
    }

    /// Deletes what was used longest ago, also what a kill left half written, until there is room.
    fn prune(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for build in std::fs::read_dir(self.path.join("modules"))? {
            for entry in std::fs::read_dir(build?.path())? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        entries.sort_unstable();
        for (_, bytes, path) in entries {
            if total <= FOLDER_BYTES_MAX {
                break;
            }
            std::fs::remove_file(&path)?;
            // Of a build that is no longer used; fails where others are left.
            let _ = path.parent().map(std::fs::remove_dir);
            total -= bytes;
        }
        Ok(())
    }
}

pub(crate) fn encode(compiled: &Compiled) -> Vec<u8> {
    let Compiled { world, fast, judge } = compiled;
    let world = World::ALL.iter().position(|one| one == world).expect("`ALL` has all") as u8;
    let mut entry = Vec::with_capacity(HEAD_BYTES + fast.len() + judge.len());
    entry.push(world);
    entry.extend_from_slice(&(fast.len() as u64).to_le_bytes());
    entry.extend_from_slice(fast);
    entry.extend_from_slice(judge);
    entry
}

fn decode(entry: &[u8]) -> Option<Compiled> {
    let (world, entry) = entry.split_first()?;
    let (length, code) = entry.split_first_chunk::<8>()?;
    let (fast, judge) = code.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Compiled { world: *World::ALL.get(usize::from(*world))?, fast: fast.to_vec(), judge: judge.to_vec() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a new file may take the place of another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Replace,
    Keep,
}

/// Writes a file and gives it its name when it is whole.
fn create(folder: &OwnedFd, name: &str, parts: &[&[u8]], place: Place) -> io::Result<()> {
    let temporary = format!("{name}.{:016x}", rand::random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let written = parts.iter().try_for_each(|part| File::from(file.try_clone()?).write_all(part));
    let named = written.and_then(|()| match place {
        Place::Replace => Ok(rustix::fs::renameat(folder, &temporary, folder, name)?),
        Place::Keep => Ok(rustix::fs::linkat(folder, &temporary, folder, name, AtFlags::empty())?),
    });
    if named.is_err() || place == Place::Keep {
        let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    }
    named
}

fn read_key(folder: &OwnedFd) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let Some(file) = open_file(folder, "key")? else { return Ok(None) };
    let mut key = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
    let wrong = |_| io::Error::other(format!("its file `key` has not {KEY_BYTES} bytes; delete it"));
    key.try_into().map(Some).map_err(wrong)
}

/// A new key; that of another process, where one was faster.
fn make_key(folder: &OwnedFd) -> io::Result<[u8; KEY_BYTES]> {
    let key: [u8; KEY_BYTES] = rand::random();
    match create(folder, "key", &[&key], Place::Keep) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_key(folder)?.ok_or_else(|| io::Error::other("its file `key` comes and goes"))
        }
        Err(error) => Err(error),
    }
}

/// A file of ours that nobody else may read; `None` when there is none.
fn open_file(folder: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    // A pipe under this name would let us wait for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => File::from(file?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("`{name}` is no regular file")));
    }
    only_ours(&file, 0o077)?;
    Ok(Some(file))
}

fn subfolder(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => existing(folder, name),
        Err(error) => Err(error.into()),
    }
}

fn existing(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    only_ours(&folder, 0o022)?;
    Ok(folder)
}

/// Refuses what belongs to another user, or what others have one of these rights to.
fn only_ours(file: &impl std::os::fd::AsFd, rights: u32) -> io::Result<()> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(io::Error::other(format!("it belongs to user {}, not to user {user}", metadata.uid())));
    }
    if metadata.mode() & rights != 0 {
        let (what, mode) = if metadata.is_dir() { ("folder", 0o700) } else { ("file", 0o600) };
        let found = metadata.mode() & 0o777;
        return Err(io::Error::other(format!("a {what} in it has mode {found:04o}, must have {mode:04o}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn compiled(text: &str) -> Compiled {
        Compiled { world: World::Reducer, fast: text.into(), judge: b"judge".into() }
    }

    fn id(module: u8) -> Id {
        Id { build: [1; 32], module: [module; 32] }
    }

    fn entry(folder: &Path, id: Id) -> PathBuf {
        folder.join("modules").join(hex(&id.build)).join(hex(&id.module))
    }

    #[test]
    fn what_was_kept_is_found_by_every_later_process() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.get(id(1)).is_none());
        for text in ["one", "", "another"] {
            cache.put(id(1), &compiled(text)).unwrap();
            let again = Cache::open(folder.path()).unwrap();
            assert_eq!(again.get(id(1)), Some(compiled(text)));
        }
        assert!(cache.get(Id { build: [2; 32], ..id(1) }).is_none());
    }

    #[test]
    fn an_entry_with_any_byte_changed_cut_or_added_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.put(id(1), &compiled("code")).unwrap();
        let path = entry(folder.path(), id(1));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(cache.get(id(1)).is_none(), "{at} changed");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(cache.get(id(1)).is_none(), "cut at {at}");
        }
        std::fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(cache.get(id(1)).is_none());
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(cache.get(id(1)), Some(compiled("code")));
    }

    #[test]
    fn an_entry_in_the_place_of_another_one_is_not_believed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, foreign) = (Cache::open(folder.path()).unwrap(), Cache::open(other.path()).unwrap());
        for module in [1, 2] {
            cache.put(id(module), &compiled("code")).unwrap();
            foreign.put(id(module), &compiled("foreign")).unwrap();
        }
        std::fs::copy(entry(folder.path(), id(2)), entry(folder.path(), id(1))).unwrap();
        assert!(cache.get(id(1)).is_none(), "of another module");
        std::fs::copy(entry(other.path(), id(1)), entry(folder.path(), id(1))).unwrap();
        assert!(cache.get(id(1)).is_none(), "of another key");
        let older = Id { build: [2; 32], ..id(2) };
        std::fs::create_dir(entry(folder.path(), older).parent().unwrap()).unwrap();
        std::fs::set_permissions(entry(folder.path(), older).parent().unwrap(), PermissionsExt::from_mode(0o700))
            .unwrap();
        std::fs::copy(entry(folder.path(), id(2)), entry(folder.path(), older)).unwrap();
        assert!(cache.get(older).is_none(), "of another build");
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        drop(Cache::open(&path).unwrap());
        for (file, mode, fine) in
            [("", 0o755, true), ("", 0o775, false), ("", 0o777, false), ("key", 0o644, false), ("key", 0o660, false)]
        {
            let file = path.join(file);
            let before = std::fs::metadata(&file).unwrap().permissions();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(Cache::open(&path).is_ok(), fine, "{} {mode:o}", file.display());
            std::fs::set_permissions(&file, before).unwrap();
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let error = Cache::open(&path).err().unwrap().to_string();
            assert!(error.contains("belongs to user 65534"), "{error}");
        }
    }

    #[test]
    fn links_and_pipes_in_it_are_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(folder.path()).unwrap();
        cache.put(id(1), &compiled("code")).unwrap();
        let path = entry(folder.path(), id(1));
        std::fs::rename(&path, outside.path().join("entry")).unwrap();
        symlink(outside.path().join("entry"), &path).unwrap();
        assert!(cache.get(id(1)).is_none(), "a link");
        // To keep it again replaces the link and leaves alone what is behind it.
        std::fs::write(outside.path().join("entry"), "precious").unwrap();
        cache.put(id(1), &compiled("code")).unwrap();
        assert_eq!(std::fs::read(outside.path().join("entry")).unwrap(), b"precious");
        assert_eq!(cache.get(id(1)), Some(compiled("code")));
        std::fs::remove_dir_all(folder.path().join("modules")).unwrap();
        symlink(outside.path(), folder.path().join("modules")).unwrap();
        assert!(cache.get(id(1)).is_none() && cache.put(id(1), &compiled("code")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        std::fs::remove_file(folder.path().join("key")).unwrap();
        symlink("/dev/zero", folder.path().join("key")).unwrap();
        assert!(Cache::open(folder.path()).is_err());
    }

    #[test]
    fn processes_that_start_together_have_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<[u8; KEY_BYTES]> = std::thread::scope(|scope| {
            let open = || Cache::open(folder.path()).unwrap().key;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        for module in [1, 2, 3] {
            cache.put(id(module), &compiled("code")).unwrap();
            let file = File::options().write(true).open(entry(folder.path(), id(module))).unwrap();
            // Sparse: they only look large.
            file.set_len(FOLDER_BYTES_MAX / 2 - 1024).unwrap();
            let hours = u64::from(10 - module);
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
        }
        cache.prune().unwrap();
        let left = [1, 2, 3].map(|module| entry(folder.path(), id(module)).exists());
        assert_eq!(left, [false, true, true]);
    }
}
