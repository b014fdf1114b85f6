//! From what `--input` names to one ordered list of inputs.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::failure::{Exit, Failure};

/// What stdin is called.
const STDIN: &str = "-";

/// How an input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Kind {
    /// It has a length and a time of writing, and can be read again.
    File,
    Stdin,
    /// A named pipe, a terminal, a device: what it gives, it gives once.
    Pipe,
    /// A Unix socket that is connected to.
    Socket,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) struct One {
    /// As it is opened and shown.
    pub(in crate::run) path: PathBuf,
    /// What it is known by in later runs.
    pub(super) identity: PathBuf,
    pub(in crate::run) kind: Kind,
}

impl One {
    /// Its name in messages and dead letters.
    pub(in crate::run) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Why it cannot be read at the moment.
    pub(super) fn unreadable(&self, error: io::Error) -> Failure {
        Failure::new(Exit::Environment, error).context(format!("reading {}", self.name()))
    }
}

/// All inputs, in the order in which their lines are numbered: as given, and within a pattern or folder by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::run) struct Inputs {
    pub(in crate::run) list: Vec<One>,
}

impl Inputs {
    /// Finds what is named: files, pipes, `-`, patterns, folders.
    ///
    /// # Errors
    /// When something is not there or named twice, or when a pattern or folder holds no file.
    pub(in crate::run) fn find(given: &[PathBuf]) -> Result<Inputs, Failure> {
        let mut finder = Finder::default();
        for path in given {
            finder.add(path)?;
        }
        Ok(finder.inputs)
    }

    /// What the input as a whole is called.
    pub(in crate::run) fn name(&self) -> String {
        match self.list.as_slice() {
            [] => "no input".into(),
            [one] => one.name(),
            [first, rest @ ..] => format!("{} and {} more", first.name(), rest.len()),
        }
    }

    /// Bytes of all files together; `None` when some input has no length.
    pub(in crate::run) fn bytes(&self) -> Option<u64> {
        self.list.iter().map(|one| one.path.metadata().ok().filter(|_| one.is_file()).map(|meta| meta.len())).sum()
    }

    /// What may be a file that must not be written to; of stdin nobody knows by its name.
    pub(in crate::run) fn files(&self) -> Vec<PathBuf> {
        let path = |one: &One| if one.kind == Kind::Stdin { "/dev/stdin".into() } else { one.path.clone() };
        self.list.iter().filter(|one| matches!(one.kind, Kind::File | Kind::Stdin)).map(path).collect()
    }

    /// Whether none of them lives: silence means nothing then.
    pub(in crate::run) fn are_files(&self) -> bool {
        self.list.iter().all(One::is_file)
    }
}

#[derive(Default)]
struct Finder {
    inputs: Inputs,
    /// Files by device and inode: a hard link or another path is the same file.
    files: BTreeMap<(u64, u64), usize>,
}

impl Finder {
    fn add(&mut self, given: &Path) -> Result<(), Failure> {
        if given.as_os_str() == STDIN {
            return self.push(given, Kind::Stdin, given.to_owned());
        }
        match given.metadata() {
            Ok(meta) if meta.is_dir() => self.add_folder(given),
            Ok(meta) => self.add_one(given, &meta),
            // A file may well be called `a*`: only what is not there is a pattern.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match given.to_str().filter(|text| has_pattern(text)) {
                    Some(pattern) => self.add_pattern(pattern),
                    None => Err(unreadable(given, error)),
                }
            }
            Err(error) => Err(unreadable(given, error)),
        }
    }

    /// The files directly in a folder, by the bytes of their names; hidden ones, and so our own state, are left out.
    fn add_folder(&mut self, folder: &Path) -> Result<(), Failure> {
        let entries = folder.read_dir().and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| unreadable(folder, error))?;
        entries.retain(|entry| !entry.file_name().as_bytes().starts_with(b"."));
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        if self.add_files(&paths)? == 0 {
            return Err(Failure::usage(format!("the folder `{}` holds no files", folder.display())).hint(
                "folders within it are not looked into: name them too, or use a pattern such as `DIR/**/*.jsonl`",
            ));
        }
        Ok(())
    }

    fn add_pattern(&mut self, pattern: &str) -> Result<(), Failure> {
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
        let wrong = |error: glob::PatternError| Failure::usage(format!("`{pattern}` is no pattern: {error}"));
        let found = glob::glob_with(pattern, options).map_err(wrong)?;
        let paths = quietly(|| found.collect::<Result<Vec<PathBuf>, _>>()).map_err(|_| {
            Failure::usage(format!("`{pattern}` leads to a name that is not UTF-8"))
                .hint("name the folder, or the files one by one")
        })?;
        let mut paths = paths.map_err(|error| {
            let path = error.path().to_owned();
            unreadable(&path, error.into())
        })?;
        paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        if self.add_files(&paths)? == 0 {
            return Err(Failure::usage(format!("no file matches `{pattern}`")));
        }
        Ok(())
    }

    /// Adds those that are files; how many that were. Nothing is passed over because it cannot be looked at.
    fn add_files(&mut self, paths: &[PathBuf]) -> Result<usize, Failure> {
        let mut count = 0;
        for path in paths {
            let meta = path.metadata().map_err(|error| unreadable(path, error))?;
            if meta.is_file() {
                self.add_one(path, &meta)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn add_one(&mut self, given: &Path, meta: &Metadata) -> Result<(), Failure> {
        if meta.is_file() {
            let key = (meta.dev(), meta.ino());
            if let Some(earlier) = self.files.insert(key, self.inputs.list.len()) {
                return Err(named_twice(given, &self.inputs.list[earlier].path));
            }
            let identity = given.canonicalize().map_err(|error| unreadable(given, error))?;
            return self.push(given, Kind::File, identity);
        }
        if ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|stdin| given == Path::new(stdin)) {
            return self.push(Path::new(STDIN), Kind::Stdin, STDIN.into());
        }
        // The shell numbers the pipes of `<(…)` anew each time.
        let is_numbered = given.starts_with("/dev/fd") || given.starts_with("/proc/self/fd");
        let identity = if is_numbered { PathBuf::from("/dev/fd") } else { given.to_owned() };
        let kind = if meta.file_type().is_socket() { Kind::Socket } else { Kind::Pipe };
        self.push(given, kind, identity)
    }

    fn push(&mut self, path: &Path, kind: Kind, identity: PathBuf) -> Result<(), Failure> {
        if kind != Kind::File
            && let Some(earlier) = self.inputs.list.iter().find(|one| one.path == path)
        {
            return Err(named_twice(path, &earlier.path));
        }
        self.inputs.list.push(One { path: path.to_owned(), identity, kind });
        Ok(())
    }
}

fn has_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    // As with a pattern that finds nothing, a name that is not there is most likely wrong.
    let exit = if error.kind() == io::ErrorKind::NotFound { Exit::Usage } else { Exit::Environment };
    Failure::new(exit, error).context(format!("reading {}", path.display()))
}

fn named_twice(path: &Path, earlier: &Path) -> Failure {
    let (path, earlier) = (path.display(), earlier.display());
    Failure::usage(format!("an input is named twice: `{path}` and `{earlier}` are the same"))
        .hint("each event counts once: name each input once")
}

/// Catches a panic and says nothing of it: the glob library panics over names that are not UTF-8, which the caller tells
/// better. What other threads say meanwhile is heard.
fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let (here, told) = (std::thread::current().id(), Arc::new(take_hook()));
    let others = told.clone();
    set_hook(Box::new(move |panic| {
        if std::thread::current().id() != here {
            others(panic);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(Box::new(move |panic| told(panic)));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(inputs: &Inputs, dir: &Path) -> Vec<String> {
        let name = |one: &One| one.path.strip_prefix(dir).unwrap_or(&one.path).display().to_string();
        inputs.list.iter().map(name).collect()
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(file), "{}\n").unwrap();
        }
        dir
    }

    fn find(dir: &Path, given: &[&str]) -> Result<Inputs, Failure> {
        Inputs::find(&given.iter().map(|name| dir.join(name)).collect::<Vec<_>>())
    }

    #[test]
    fn a_pattern_that_leads_to_a_name_that_is_not_utf_8_is_refused() {
        use std::ffi::OsStr;

        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(OsStr::from_bytes(b"d\xff.jsonl")), "{}\n").unwrap();
        let error = Inputs::find(&[dir.path().join("*.jsonl")]).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
        assert_eq!(Inputs::find(&[dir.path().to_owned()]).unwrap().list.len(), 1);
    }

    #[test]
    fn inputs_come_as_given_and_within_folders_and_patterns_by_name() {
        let dir = folder(&[
            "b.jsonl",
            "logs/10.jsonl",
            "logs/9.jsonl",
            "logs/B",
            "logs/a",
            "logs/.hidden",
            "logs/sub/x.jsonl",
        ]);
        let inputs = find(dir.path(), &["logs", "b.jsonl"]).unwrap();
        assert_eq!(names(&inputs, dir.path()), ["logs/10.jsonl", "logs/9.jsonl", "logs/B", "logs/a", "b.jsonl"]);
        let inputs = find(dir.path(), &["b.jsonl", "logs/*.jsonl"]).unwrap();
        assert_eq!(names(&inputs, dir.path()), ["b.jsonl", "logs/10.jsonl", "logs/9.jsonl"]);
        let inputs = find(dir.path(), &["logs/**/*.jsonl"]).unwrap();
        assert_eq!(names(&inputs, dir.path()), ["logs/10.jsonl", "logs/9.jsonl", "logs/sub/x.jsonl"]);
        // `*` as the shell would take it: no hidden files, and here no folders.
        let inputs = find(dir.path(), &["logs/*"]).unwrap();
        assert_eq!(names(&inputs, dir.path()), ["logs/10.jsonl", "logs/9.jsonl", "logs/B", "logs/a"]);
        assert!(inputs.are_files() && inputs.bytes() == Some(12));
    }

    #[test]
    fn a_file_that_is_called_like_a_pattern_is_a_file() {
        let dir = folder(&["a*", "ab", "[x]"]);
        assert_eq!(names(&find(dir.path(), &["a*", "[x]"]).unwrap(), dir.path()), ["a*", "[x]"]);
    }

    #[test]
    fn one_file_is_one_input_whatever_its_path() {
        let dir = folder(&["a.jsonl", "sub/b.jsonl"]);
        std::os::unix::fs::symlink(dir.path().join("a.jsonl"), dir.path().join("link")).unwrap();
        std::fs::hard_link(dir.path().join("a.jsonl"), dir.path().join("hard")).unwrap();
        for second in ["a.jsonl", "sub/../a.jsonl", "link", "hard", "*.jsonl", ""] {
            let said = find(dir.path(), &["a.jsonl", second]).unwrap_err().to_string();
            assert!(said.contains("named twice"), "{second}: {said}");
        }
        assert!(Inputs::find(&["-".into(), "-".into()]).is_err());
        let plain = find(dir.path(), &["a.jsonl"]).unwrap();
        let winding = find(dir.path(), &["sub/../link"]).unwrap();
        assert_eq!(plain.list[0].identity, winding.list[0].identity);
    }

    #[test]
    fn what_holds_no_file_is_refused() {
        let dir = folder(&["sub/deep/x.jsonl", "only/.hidden"]);
        for (given, expected) in [
            ("nothing.jsonl", "No such file"),
            ("nothing/*.jsonl", "no file matches"),
            ("sub", "holds no files"),
            ("only", "holds no files"),
            ("[", "is no pattern"),
            ("***", "is no pattern"),
        ] {
            let said = find(dir.path(), &[given]).unwrap_err().to_string();
            assert!(said.contains(expected), "{given}: {said}");
        }
        std::os::unix::fs::symlink("nowhere", dir.path().join("sub/broken")).unwrap();
        assert!(find(dir.path(), &["sub"]).unwrap_err().to_string().contains("broken"));
    }

    #[test]
    fn ten_thousand_files_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for idx in (0..10_000).rev() {
            std::fs::write(dir.path().join(format!("{idx:05}")), "").unwrap();
        }
        let inputs = Inputs::find(&[dir.path().to_owned()]).unwrap();
        assert_eq!(inputs.list.len(), 10_000);
        assert!(inputs.list.is_sorted_by_key(|one| &one.path));
        assert!(inputs.name().ends_with("00000 and 9999 more"));
    }
}
