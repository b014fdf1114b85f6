//! Lines of a file, a mebibyte at a time, without a copy per line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const CHUNK: usize = 1 << 20;

/// Calls `line` for each line without its newline.
pub(super) fn each_line(path: &Path, mut line: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer: Vec<u8> = vec![0; CHUNK];
    let mut have = 0;
    loop {
        if have == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let count = file.read(&mut buffer[have..])?;
        have += count;
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &buffer[start..have]) {
            line(&buffer[start..start + end])?;
            start += end + 1;
        }
        if count == 0 {
            return if start < have { line(&buffer[start..have]) } else { Ok(()) };
        }
        buffer.copy_within(start..have, 0);
        have -= start;
    }
}
