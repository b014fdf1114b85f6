//! Results as rows, from the yardstick's CSV and from pipeline output, and whether both are the same.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// One row of jobs A, B and D: who, end of the window, how many.
pub type Row = (String, i64, u64);

/// The yardstick's rows `id,window_end,count`, sorted.
///
/// # Errors
/// When the file does not read as such.
pub fn from_csv(path: &Path) -> Result<Vec<Row>> {
    sorted(path, |line| {
        let mut cells = line.split(',');
        let mut cell = || cells.next().context("three cells expected");
        Ok((cell()?.to_owned(), cell()?.parse()?, cell()?.parse()?))
    })
}

/// Rows of a pipeline's output file, sorted.
///
/// # Errors
/// When the file does not read as such.
pub fn from_output(path: &Path) -> Result<Vec<Row>> {
    sorted(path, |line| {
        let row: OutputRow = serde_json::from_str(line)?;
        Ok((row.key, row.window_end, row.count))
    })
}

/// What the counting modules emit.
#[derive(Deserialize)]
struct OutputRow {
    key: String,
    window_end: i64,
    count: u64,
}

fn sorted(path: &Path, row: impl Fn(&str) -> Result<Row>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (idx, line) in open(path)?.lines().enumerate() {
        let line = line.with_context(|| format!("reading `{}`", path.display()))?;
        rows.push(row(&line).with_context(|| format!("{}:{}: `{line}`", path.display(), idx + 1))?);
    }
    rows.sort_unstable();
    Ok(rows)
}

/// Fails unless both hold the same rows; returns how many.
///
/// # Errors
/// With the first row that differs.
pub fn same_rows(expected: &[Row], found: &[Row]) -> Result<u64> {
    if let Some(idx) = expected.iter().zip(found).position(|(a, b)| a != b) {
        bail!("row {} of {} is {:?}, expected {:?}", idx + 1, found.len(), found[idx], expected[idx]);
    }
    if expected.len() != found.len() {
        bail!("{} rows, expected {}", found.len(), expected.len());
    }
    Ok(found.len() as u64)
}

/// Fails unless both files hold the same lines in the same order; returns how many.
///
/// # Errors
/// With the first line that differs.
pub fn same_lines(expected: &Path, found: &Path) -> Result<u64> {
    same(expected, found, |line| Ok(line.to_vec()))
}

/// Fails unless the dead letters of `found` carry the lines of `expected`, in order; returns how many.
///
/// # Errors
/// With the first one that differs.
pub fn same_originals(expected: &Path, found: &Path) -> Result<u64> {
    same(expected, found, |line| {
        let value: Value = serde_json::from_slice(line)?;
        if let Some(text) = value["payload"].as_str() {
            return Ok(text.as_bytes().to_vec());
        }
        let text = value["payload_base64"].as_str().context("a dead letter has `payload` or `payload_base64`")?;
        Ok(STANDARD.decode(text)?)
    })
}

fn same(expected: &Path, found: &Path, original: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<u64> {
    let (mut left, mut right) = (open(expected)?, open(found)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut count = 0;
    loop {
        let more = (next(&mut left, &mut a)?, next(&mut right, &mut b)?);
        match more {
            (false, false) => return Ok(count),
            (true, false) => bail!("`{}` ends after {count} lines", found.display()),
            (false, true) => bail!("`{}` has more than {count} lines", found.display()),
            (true, true) => {}
        }
        count += 1;
        if original(&b).with_context(|| format!("{}:{count}", found.display()))? != a {
            bail!("{}:{count} is `{}`, expected `{}`", found.display(), text(&b), text(&a));
        }
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// Reads a line without its newline; `false` at the end.
fn next(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> Result<bool> {
    line.clear();
    let count = reader.read_until(b'\n', line).context("reading a line")?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(count != 0)
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn rows_are_compared_whatever_their_order() {
        let expected = from_csv(file("u1,300,7\nu2,300,8\n").path()).unwrap();
        let output =
            "{\"key\":\"u2\",\"window_end\":300,\"count\":8}\n{\"key\":\"u1\",\"window_end\":300,\"count\":7}\n";
        assert_eq!(same_rows(&expected, &from_output(file(output).path()).unwrap()).unwrap(), 2);
        let (less, other) = ([("u1".to_owned(), 300, 7)], [("u1".to_owned(), 300, 7), ("u2".to_owned(), 300, 9)]);
        assert!(same_rows(&expected, &less).is_err());
        assert!(same_rows(&expected, &other).is_err());
    }

    #[test]
    fn lines_are_compared_in_order_and_to_the_end() {
        let lines = file("a\nb\n");
        assert_eq!(same_lines(lines.path(), file("a\nb").path()).unwrap(), 2);
        for text in ["a\n", "a\nb\nc\n", "b\na\n"] {
            assert!(same_lines(lines.path(), file(text).path()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn dead_letters_are_compared_by_their_original_bytes() {
        let dead = file("{\"payload_base64\":\"e30=\"}\n");
        assert_eq!(same_originals(file("{}\n").path(), dead.path()).unwrap(), 1);
        assert!(same_originals(file("[]\n").path(), dead.path()).is_err());
    }
}
