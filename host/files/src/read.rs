//! Reads a whole file: a regular one, and no more of it than the caller expects.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::folder::{is_ours, is_writable_by_others};

/// What a link in the last part of a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// The file behind it: the path was named by the user.
    Follow,
    /// An error: the path lies in a folder of ours, in which we make no links.
    Refuse,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or may not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no regular file; with what it is.
    #[error("it is {0}, not a regular file")]
    Kind(&'static str),
    /// Somebody else may have written what is in it.
    #[error("others may write to it (owner {owner}, mode {mode:04o})")]
    Others { owner: u32, mode: u32 },
    /// It has more bytes than the limit.
    #[error("it is larger than {}", size(*limit))]
    TooLarge { limit: usize },
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// When it is of another kind, larger, not there, or not readable. No more than `limit` + 1 bytes are read or held.
pub fn read(path: &Path, limit: usize, links: Links) -> Result<Vec<u8>, ReadError> {
    let (file, bytes) = open(path, links)?;
    read_open(file, bytes, limit)
}

/// As [`read`], of a file that decides who may do what: one that only its owner, us or root, may write to.
///
/// # Errors
/// As [`read`], and when others may have written it.
pub fn read_trusted(path: &Path, limit: usize, links: Links) -> Result<Vec<u8>, ReadError> {
    let (file, bytes) = open(path, links)?;
    let found = file.metadata()?;
    if !is_ours(&found) || is_writable_by_others(&found) {
        return Err(ReadError::Others { owner: found.uid(), mode: found.mode() & 0o7777 });
    }
    read_open(file, bytes, limit)
}

fn read_open(file: File, bytes: u64, limit: usize) -> Result<Vec<u8>, ReadError> {
    let too_large = || ReadError::TooLarge { limit };
    if bytes > limit as u64 {
        return Err(too_large());
    }
    // The length is only what the file had a moment ago.
    let mut read = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default() + 1);
    file.take((limit as u64).saturating_add(1)).read_to_end(&mut read)?;
    if read.len() > limit { Err(too_large()) } else { Ok(read) }
}

/// Opens a regular file for reading; with its length.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path, links: Links) -> Result<(File, u64), ReadError> {
    let looked = match links {
        Links::Follow => fs::metadata(path)?,
        Links::Refuse => fs::symlink_metadata(path)?,
    };
    // Before it is opened: opening a device may move its tape, and a socket has no better word for it than ENXIO.
    refuse_odd(looked.file_type())?;
    // Were it exchanged since: a pipe is not waited for, and a terminal does not become ours.
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let opened = file.metadata()?;
    refuse_odd(opened.file_type())?;
    Ok((file, opened.len()))
}

fn refuse_odd(found: FileType) -> Result<(), ReadError> {
    if found.is_file() { Ok(()) } else { Err(ReadError::Kind(kind(found))) }
}

/// What something in a folder is, for a message: "a folder", "a named pipe", …
#[must_use]
pub fn kind(found: FileType) -> &'static str {
    if found.is_file() {
        "a regular file"
    } else if found.is_dir() {
        "a folder"
    } else if found.is_symlink() {
        "a link"
    } else if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// A number of bytes for people.
fn size(bytes: usize) -> String {
    const MIB: usize = 1 << 20;
    if bytes >= MIB && bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    #[track_caller]
    fn refused(path: &Path, says: &str) {
        let error = read(path, 1 << 20, Links::Follow).unwrap_err().to_string();
        assert!(error.contains(says), "{}: {error}", path.display());
    }

    #[test]
    fn what_is_no_regular_file_is_named_and_not_waited_for() {
        let dir = TempDir::new().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, Kind::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        refused(&pipe, "a named pipe");
        refused(&socket, "a socket");
        refused(dir.path(), "a folder");
        refused(Path::new("/dev/zero"), "a device");
        refused(&link, "a device");
        refused(&dir.path().join("nothing"), "No such file");
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        for bytes in [0, 1, 9, 10] {
            fs::write(&path, vec![7; bytes]).unwrap();
            assert_eq!(read(&path, 10, Links::Follow).unwrap(), vec![7; bytes]);
        }
        fs::write(&path, [7; 11]).unwrap();
        let error = read(&path, 10, Links::Follow).unwrap_err().to_string();
        assert_eq!(error, "it is larger than 10 bytes");
        // Larger than any memory, and without a byte on the disk.
        File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        refused(&path, "larger than 1 MiB");
    }

    #[test]
    fn a_file_whose_length_says_nothing_is_bounded_too() {
        // Files of /proc have the length 0 and hold something all the same.
        assert!(!read(Path::new("/proc/self/maps"), 1 << 20, Links::Follow).unwrap().is_empty());
        assert!(matches!(
            read(Path::new("/proc/self/maps"), 10, Links::Follow),
            Err(ReadError::TooLarge { limit: 10 })
        ));
    }

    #[test]
    fn links_are_followed_only_where_that_is_said() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        let link = dir.path().join("link");
        symlink("file", &link).unwrap();
        assert_eq!(read(&link, 100, Links::Follow).unwrap(), b"content");
        assert!(matches!(read(&link, 100, Links::Refuse), Err(ReadError::Kind("a link"))));
    }
}
