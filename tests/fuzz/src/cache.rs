//! Files of the cache of compiled modules, and answers of a compiler in a child process: none, or exactly what was written.
//! Both become machine code of this process.

use std::fs;
use std::path::{Path, PathBuf};

use pelton_engine::guest::World;
use pelton_sandbox::testing::{Cache, Code, answer, cache_entry, write_answer};

use crate::bytes::Bytes;

/// The module whose file is changed, and another one in the same cache.
const MODULE: u8 = 1;
const OTHER: u8 = 2;
/// The first line of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'a' => check_answer(&script.rest()),
        b'f' => file(&script.rest()),
        b'k' => key(&script.rest()),
        b's' => sealed(&script.rest()),
        _ => changed(&mut script),
    }
}

fn check_answer(bytes: &[u8]) {
    let Some(said) = answer(bytes) else { return };
    if let Err(error) = &said {
        assert!(!error.message.contains(char::is_control), "{error:?}");
    }
    let written = write_answer(&said).expect("memory takes it");
    let again = answer(&written);
    // What cannot be printed takes more bytes when it is shown, and a first line has a bound.
    assert!(again == Some(said) || again.is_none() && written.len() > HEAD_BYTES_MAX, "an answer comes back");
    assert!((0..written.len()).all(|end| answer(&written[..end]).is_none()), "half an answer is none");
}

/// A folder with entries of two modules.
struct Filled {
    folder: tempfile::TempDir,
    cache: Cache,
    code: Code,
}

impl Filled {
    fn new() -> Filled {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let cache = Cache::open(folder.path()).expect("a new folder is a cache");
        let code = |fast: &[u8]| Code { world: World::Reducer, fast: fast.to_vec(), judge: b"judge build".to_vec() };
        let filled = Filled { folder, cache, code: code(b"fast build") };
        filled.cache.put(MODULE, &filled.code).expect("a new entry is written");
        filled.cache.put(OTHER, &code(b"another fast build")).expect("a new entry is written");
        filled
    }

    fn path(&self, module: u8) -> PathBuf {
        let builds = self.folder.path().join("modules");
        let build = fs::read_dir(builds).expect("a folder").next().expect("of one build").expect("readable");
        build.path().join(format!("{module:02x}").repeat(32))
    }

    fn read(&self, module: u8) -> Vec<u8> {
        fs::read(self.path(module)).expect("an entry is a file")
    }

    /// What comes of an entry whose file holds these bytes now.
    fn get(&self, bytes: &[u8]) -> Option<Code> {
        write(&self.path(MODULE), bytes);
        self.cache.get(MODULE)
    }
}

/// Writes into a file that is there, so that its rights stay.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file of ours is writable");
}

/// Nobody without the key can write an entry.
fn file(bytes: &[u8]) {
    assert_eq!(Filled::new().get(bytes), None, "these bytes were never put");
}

/// Another key is another cache, and what is no key is told.
fn key(bytes: &[u8]) {
    let filled = Filled::new();
    write(&filled.folder.path().join("key"), bytes);
    match Cache::open(filled.folder.path()) {
        Ok(cache) => assert_eq!(cache.get(MODULE), None, "the entry is of another key"),
        Err(error) => assert!(error.to_string().contains("key") && bytes.len() != 32, "{error}"),
    }
    assert_eq!(filled.cache.get(MODULE).as_ref(), Some(&filled.code), "who has the key needs no file");
}

/// Bytes behind a hash that fits, so that the reader itself is reached.
fn sealed(entry: &[u8]) {
    let filled = Filled::new();
    if let Some(code) = filled.get(&filled.cache.sealed(MODULE, entry)) {
        assert_eq!(cache_entry(&code), entry, "what is accepted is what would be written");
    }
    assert_eq!(filled.get(&filled.cache.sealed(OTHER, entry)), None, "the hash is of another module");
}

/// A true file with a few changes, some of them pieces of another one.
fn changed(script: &mut Bytes) {
    let filled = Filled::new();
    let (whole, other) = (filled.read(MODULE), filled.read(OTHER));
    let mut bytes = whole.clone();
    while !script.is_empty() {
        let (what, at) = (script.byte(), script.below(bytes.len() + 1));
        let end = bytes.len().min(at + 1 + script.below(48));
        match what % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (what >> 5),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, script.short())),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..end, other.get(at..end.min(other.len())).unwrap_or_default().to_vec())),
            _ => bytes.extend_from_slice(&whole),
        }
    }
    let expected = (bytes == whole).then(|| filled.code.clone());
    assert_eq!(filled.get(&bytes), expected, "{bytes:?} of {whole:?}");
}
