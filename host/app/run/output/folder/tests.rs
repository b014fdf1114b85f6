//! What a folder of files refuses, and what it leaves as it is.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn names() -> Vec<String> {
    ["seen", "dlq", "late"].map(str::to_owned).to_vec()
}

fn none() -> InputFiles {
    InputFiles::default()
}

fn said<T>(result: Result<T, Failure>) -> String {
    result.err().expect("it is refused").to_string()
}

/// Writes these lines to `seen` and returns what is committed then.
fn write(folder: &mut Folder, text: &str) -> Lengths {
    folder.buffer(0).extend_from_slice(text.as_bytes());
    folder.write().unwrap()
}

#[test]
fn content_of_nobody_is_refused_and_stays() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("late.jsonl");
    fs::write(&path, "{\"mine\":1}\n").unwrap();
    let text = said(Folder::open(dir.path(), &names(), &none(), None));
    assert!(text.contains("late.jsonl` (11 bytes)"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"{\"mine\":1}\n");
    assert!(!dir.path().join("seen.jsonl").exists(), "refused, and yet something was made");
    // An empty file holds nothing to lose.
    fs::write(&path, "").unwrap();
    Folder::open(dir.path(), &names(), &none(), None).unwrap();
    // `--fresh` is leave to delete these names, and no others.
    fs::write(&path, "x").unwrap();
    fs::write(dir.path().join("other.jsonl"), "y").unwrap();
    guard::remove(dir.path(), &names(), &none()).unwrap();
    assert!(!path.exists());
    assert_eq!(fs::read(dir.path().join("other.jsonl")).unwrap(), b"y");
}

#[test]
fn what_is_no_plain_file_is_neither_written_nor_deleted() {
    for kind in ["link", "dangling link", "pipe", "folder"] {
        let dir = TempDir::new().unwrap();
        let (path, target) = (dir.path().join("seen.jsonl"), dir.path().join("precious"));
        match kind {
            "link" => {
                fs::write(&target, "gold").unwrap();
                symlink(&target, &path).unwrap();
            }
            "dangling link" => symlink(&target, &path).unwrap(),
            "pipe" => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
            _ => fs::create_dir(&path).unwrap(),
        }
        for text in [
            said(Folder::open(dir.path(), &names(), &none(), None)),
            said(guard::remove(dir.path(), &names(), &none())),
        ] {
            assert!(text.contains("expected a plain file"), "{kind}: {text}");
        }
        assert!(fs::symlink_metadata(&path).is_ok(), "{kind} is gone");
        assert_eq!(target.exists(), kind == "link", "{kind}");
        assert!(kind != "link" || fs::read(&target).unwrap() == b"gold");
        // Were it exchanged between the look and the opening, the opening refuses it as well.
        if kind != "folder" {
            let opened = Out::open("seen", path, Committed::default(), &none());
            assert!(opened.is_err() || kind == "pipe", "{kind} was opened");
        }
    }
}

#[test]
fn an_input_is_known_under_any_of_its_names() {
    let dir = TempDir::new().unwrap();
    let (input, path) = (dir.path().join("plays.jsonl"), dir.path().join("dlq.jsonl"));
    fs::write(&input, "{}\n").unwrap();
    fs::hard_link(&input, &path).unwrap();
    let inputs = InputFiles::look(std::slice::from_ref(&input)).unwrap();
    for text in
        [said(Folder::open(dir.path(), &names(), &inputs, None)), said(guard::remove(dir.path(), &names(), &inputs))]
    {
        assert!(text.contains("dlq.jsonl` is the input `") && text.contains("plays.jsonl`"), "{text}");
    }
    // Also when a state says that these bytes are a run's own.
    let committed = Lengths::from([("dlq".to_owned(), Committed { bytes: 3, tail: fingerprint(0, b"{}\n") })]);
    let text = said(Folder::open(dir.path(), &names(), &inputs, Some(&committed)));
    assert!(text.contains("is the input"), "{text}");
    // An input that is itself named through a link.
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let inputs = InputFiles::look(&[link]).unwrap();
    assert!(said(Folder::open(dir.path(), &names(), &inputs, None)).contains("is the input"));
    assert_eq!(fs::read(&input).unwrap(), b"{}\n");
    let missing = InputFiles::look(&[dir.path().join("missing")]);
    assert!(said(missing).contains("missing"));
}

#[test]
fn two_names_of_one_file_are_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("seen.jsonl"), "").unwrap();
    fs::hard_link(dir.path().join("seen.jsonl"), dir.path().join("late.jsonl")).unwrap();
    assert!(said(Folder::open(dir.path(), &names(), &none(), None)).contains("are one file"));
    // As names that differ in nothing, or on some file systems only in case.
    let twice = ["dlq", "seen", "dlq"].map(str::to_owned);
    let other = TempDir::new().unwrap();
    assert!(said(Folder::open(other.path(), &twice, &none(), None)).contains("are one file"));
}

#[test]
fn files_are_cut_back_to_what_is_committed_and_no_further() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("seen.jsonl");
    let mut folder = Folder::open(dir.path(), &names(), &none(), None).unwrap();
    let first = write(&mut folder, "one\n");
    let long = format!("{}\n", "x".repeat(2000));
    let second = write(&mut folder, &long);
    assert!(said(Folder::open(dir.path(), &names(), &none(), Some(&second))).contains("another `pelton run`"));
    drop(folder);
    let mut folder = Folder::open(dir.path(), &names(), &none(), Some(&first)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\n");
    assert_eq!(write(&mut folder, &long), second, "the same bytes have the same fingerprint");
    drop(folder);
    // Another file of this name, as long as this one or longer.
    for other in ["x".repeat(2005), "y".repeat(9000)] {
        fs::write(&path, &other).unwrap();
        assert!(said(Folder::open(dir.path(), &names(), &none(), Some(&second))).contains("somebody changed it"));
        assert_eq!(fs::read_to_string(&path).unwrap(), other);
    }
    fs::write(&path, "one\n").unwrap();
    assert!(said(Folder::open(dir.path(), &names(), &none(), Some(&second))).contains("has 4 bytes, but 2005"));
    fs::remove_file(&path).unwrap();
    assert!(said(Folder::open(dir.path(), &names(), &none(), Some(&second))).contains("is gone, but 2005"));
}

#[test]
fn what_goes_into_a_deleted_file_is_an_error() {
    for replaced in [false, true] {
        let dir = TempDir::new().unwrap();
        let mut folder = Folder::open(dir.path(), &names(), &none(), None).unwrap();
        write(&mut folder, "one\n");
        fs::remove_file(dir.path().join("seen.jsonl")).unwrap();
        if replaced {
            fs::write(dir.path().join("seen.jsonl"), "one\n").unwrap();
        }
        folder.buffer(0).extend_from_slice(b"two\n");
        let error = folder.write().unwrap_err().to_string();
        assert!(error.contains("seen.jsonl"), "{error}");
    }
}
