//! Header blocks of records: `name: value\r\n` per line, written straight into the arena of an epoch.
//!
//! What a producer put into an event never looks like something that the host or the broker says: such names are kept
//! under another one, and a value cannot begin a line of its own.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};

/// Put before the name of an event's header that would be a command to the server or a word of the host.
const KEPT: &str = "Pelton-Original-";
/// Headers that begin so are commands to the server (`Nats-Msg-Id`, expectations, `Nats-Rollup`), or what the host says.
const RESERVED: [&str; 2] = ["Nats-", "Pelton-"];
/// Stands for the name of a header line that has none.
const NAMELESS: &str = "Pelton-Original-Line";
/// Longest value of the host, bytes; the stages' messages are cut to this.
pub(super) const VALUE_MAX: usize = 1024;
/// Longest key that is written out.
const KEY_MAX: usize = 1024;
/// Most bytes that [`Headers::put_key`] writes: a byte that is no text becomes three, and a line break two.
pub(crate) const KEY_BYTES_MAX: usize = 3 * KEY_MAX + 64;

/// Builds a header block at the end of an arena.
pub(crate) struct Headers<'a> {
    data: &'a mut Vec<u8>,
}

/// Formats into bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Headers<'_> {
    pub(crate) fn new(data: &mut Vec<u8>) -> Headers<'_> {
        Headers { data }
    }

    /// Adds a header; line breaks in its value are made visible.
    pub(crate) fn put(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.put_at_most(usize::MAX, name, value)
    }

    /// Adds a header whose value is cut behind `max` bytes.
    pub(crate) fn put_at_most(&mut self, max: usize, name: &str, value: impl Display) -> &mut Self {
        self.data.extend_from_slice(name.as_bytes());
        self.data.extend_from_slice(b": ");
        let start = self.data.len();
        write!(Text(self.data), "{value}").expect("writing to memory does not fail");
        show_line_breaks(self.data, start);
        if self.data.len() - start > max {
            let end = text_end(&self.data[start..], max.saturating_sub("…".len()));
            self.data.truncate(start + end);
            self.data.extend_from_slice("…".as_bytes());
        }
        self.data.extend_from_slice(b"\r\n");
        self
    }

    /// The key of a record. A long one is shortened as in subjects, and its length stands beside it.
    pub(crate) fn put_key(&mut self, key: &[u8]) -> &mut Self {
        self.put("Pelton-Key", key_text(key));
        if key.len() > KEY_MAX {
            self.put("Pelton-Key-Bytes", key.len());
        }
        self
    }

    /// Adds lines that were checked: `name: value\r\n` each.
    pub(crate) fn append(&mut self, block: &[u8]) -> &mut Self {
        self.data.extend_from_slice(block);
        self
    }

    /// Bytes of the arena so far.
    pub(super) fn end(&self) -> usize {
        self.data.len()
    }

    pub(super) fn truncate(&mut self, end: usize) {
        self.data.truncate(end);
    }

    /// Adds the headers of an event, line by line, as long as the arena stays within `end`; lines that do not fit are
    /// left out. False when any was.
    pub(super) fn keep(&mut self, block: &[u8], end: usize) -> bool {
        let mut all = true;
        for line in block.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let before = self.data.len();
            // A line that is longer than the room for it need not be written to see that.
            if before.saturating_add(line.len()) <= end {
                keep_line(line, self.data);
            }
            if self.data.len() == before || self.data.len() > end {
                self.data.truncate(before);
                all = false;
            }
        }
        all
    }
}

/// One header of an event under a name and with a value that every client can read.
fn keep_line(line: &[u8], out: &mut Vec<u8>) {
    let (name, value) = match line.iter().position(|&byte| byte == b':') {
        Some(colon) if colon > 0 => (&line[..colon], &line[colon + 1..]),
        _ => (&b""[..], line),
    };
    let begins =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    if name.is_empty() {
        out.extend_from_slice(NAMELESS.as_bytes());
    } else if RESERVED.into_iter().any(begins) {
        out.extend_from_slice(KEPT.as_bytes());
    }
    for &byte in name {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            write!(Text(out), "%{byte:02X}").expect("writing to memory does not fail");
        }
    }
    out.extend_from_slice(b": ");
    let start = out.len();
    let value = value.strip_prefix(b" ").unwrap_or(value);
    out.extend_from_slice(String::from_utf8_lossy(value).as_bytes());
    show_line_breaks(out, start);
    out.extend_from_slice(b"\r\n");
}

/// Writes CR and LF behind `start` as `\r` and `\n`.
fn show_line_breaks(data: &mut Vec<u8>, start: usize) {
    if data[start..].iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let broken = data.split_off(start);
        for byte in broken {
            match byte {
                b'\r' => data.extend_from_slice(b"\\r"),
                b'\n' => data.extend_from_slice(b"\\n"),
                other => data.push(other),
            }
        }
    }
}

/// The largest end up to `max` that cuts no character of UTF-8 text; of other bytes it takes at most three more away.
pub(super) fn text_end(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    let is_inside = |at: usize| bytes[at] & 0xc0 == 0x80;
    (max.saturating_sub(3)..=max).rev().find(|&at| !is_inside(at)).unwrap_or(max)
}

/// A key as text: whole, or shortened like [`key_token`] when it is very long.
pub(crate) fn key_text(key: &[u8]) -> Cow<'_, str> {
    if key.len() > KEY_MAX { Cow::Owned(key_token(key)) } else { String::from_utf8_lossy(key) }
}

/// A key as one subject token: letters, digits, `-` and `_` stay, other bytes become `=XX`; never empty. Clients of
/// key-value buckets take it as (part of) a key, which they would not with `%`.
///
/// Of a key of more than 128 bytes it has the first 64, `==`, which no other token has, and half of the key's sha256.
#[must_use]
pub fn key_token(key: &[u8]) -> String {
    const KEPT: usize = 64;
    let is_long = key.len() > 2 * KEPT;
    let mut token = String::with_capacity(key.len().min(4 * KEPT));
    for &byte in key.iter().take(if is_long { KEPT } else { key.len() }) {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            token.push(byte as char);
        } else {
            write!(token, "={byte:02X}").expect("writing to a string does not fail");
        }
    }
    if is_long {
        token.push_str("==");
        token.push_str(&crate::hex::encode(&crate::epoch::sha256(key)[..16]));
    }
    if token.is_empty() { "=".into() } else { token }
}

#[cfg(test)]
mod tests;
