//! What the first bytes of an input say: how it is packed, and whether it can be lines of JSON at all.
//!
//! Only what surely has no events in it is refused. A file whose first line happens to be bad is a file with a dead
//! letter: what looks like text is judged by what follows it.

use serde::de::IgnoredAny;

/// How content is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

/// Content of another kind than lines of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// What it is.
    pub(super) name: &'static str,
    /// A command that writes lines of JSON to stdout, with `FILE` for the input.
    pub(super) convert: &'static str,
}

/// The longest beginning that tells a binary format, bytes.
pub(super) const MAGIC_BYTES: usize = 16;

/// UTF-8 text of some programs begins with it; it is no part of the first line.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the content that begins with `head` is packed.
pub(super) fn packing(head: &[u8]) -> Packing {
    // A frame of data, or one of those that readers skip: parallel compressors begin with such a one.
    let is_skippable = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if head.starts_with(b"\x1f\x8b\x08") {
        Packing::Gzip
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") || is_skippable {
        Packing::Zstd
    } else {
        Packing::None
    }
}

/// Beginnings with bytes that no JSON has.
const BINARY: [(&[u8], Foreign); 11] = [
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (b"\xfd7zXZ\0", Foreign { name: "an xz file", convert: "xzcat FILE" }),
    (b"\x04\x22\x4d\x18", Foreign { name: "an lz4 file", convert: "lz4 -dc FILE" }),
    (b"\xff\x06\0\0sNaPpY", Foreign { name: "a framed Snappy file", convert: "snzip -dc FILE" }),
    (b"\x1f\x9d", Foreign { name: "a file of `compress`", convert: "zcat FILE" }),
    (b"\x1f\x8b", Foreign { name: "a gzip file of an unknown method", convert: "zcat FILE" }),
    (b"7z\xbc\xaf\x27\x1c", Foreign { name: "a 7z archive", convert: "7z e -so FILE" }),
    (b"Obj\x01", Foreign { name: "an Avro file", convert: "avro-tools tojson FILE" }),
    (
        b"ARROW1\0\0",
        Foreign { name: "an Arrow file", convert: "duckdb -c \"copy (from 'FILE') to '/dev/stdout' (format json)\"" },
    ),
    (
        b"SQLite format 3\0",
        Foreign { name: "an SQLite database", convert: "sqlite3 -json FILE 'select * from TABLE' | jq -c '.[]'" },
    ),
];

/// Beginnings that a text could have by chance: no line behind them is an object.
const PRINTABLE: [(&[u8], Foreign); 4] = [
    (
        b"PAR1",
        Foreign { name: "a Parquet file", convert: "duckdb -c \"copy (from 'FILE') to '/dev/stdout' (format json)\"" },
    ),
    (b"ORC", Foreign { name: "an ORC file", convert: "orc-contents FILE" }),
    (b"BZh", Foreign { name: "a bzip2 file", convert: "bzcat FILE" }),
    (b"%PDF-", Foreign { name: "a PDF document", convert: "pdftotext FILE -" }),
];

const ZIP: Foreign = Foreign { name: "a zip archive", convert: "unzip -p FILE" };
const UTF_16: Foreign = Foreign { name: "text in UTF-16", convert: "iconv -f UTF-16 -t UTF-8 FILE" };
const UTF_16_LE: Foreign = Foreign { name: "text in UTF-16", convert: "iconv -f UTF-16LE -t UTF-8 FILE" };
const UTF_16_BE: Foreign = Foreign { name: "text in UTF-16", convert: "iconv -f UTF-16BE -t UTF-8 FILE" };
const TAR: Foreign = Foreign { name: "a tar archive", convert: "tar -xOf FILE" };
const LIST: Foreign = Foreign { name: "a JSON list", convert: "jq -c '.[]' FILE" };
const SPREAD: Foreign = Foreign { name: "JSON whose values span lines", convert: "jq -c . FILE" };
const CSV: Foreign = Foreign { name: "CSV", convert: "mlr --icsv --ojsonl cat FILE" };
const CSV_SEMICOLON: Foreign =
    Foreign { name: "CSV with semicolons", convert: "mlr --icsv --ifs ';' --ojsonl cat FILE" };
const TSV: Foreign = Foreign { name: "tab-separated values", convert: "mlr --itsv --ojsonl cat FILE" };

/// What content that begins with `head` is, when it surely has no event in it; `is_all` when nothing follows.
pub(super) fn foreign(head: &[u8], is_all: bool) -> Option<Foreign> {
    // Archives may hold lines of JSON as they are, between headers of their own.
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(ZIP);
    }
    if head.get(257..262) == Some(b"ustar") && head[..257].contains(&0) {
        return Some(TAR);
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let spread = match text.trim_ascii_start().first() {
        Some(b'[') => Some((LIST, spread(text, is_all))),
        Some(b'{') => Some((SPREAD, spread(text, is_all))),
        _ => None,
    };
    // What follows has to be one value with the first line, so that line is none by itself.
    if let Some((foreign, Spread::Whole)) = spread {
        return Some(foreign);
    }
    // One event is enough for the rest to be dead letters.
    if whole_lines(text, is_all).any(is_object) {
        return None;
    }
    if let Some((_, foreign)) = BINARY.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(*foreign);
    }
    if let Some((_, foreign)) = PRINTABLE.iter().find(|(magic, _)| text.starts_with(magic)) {
        return (!is_text(text)).then_some(*foreign);
    }
    wide_text(head).or_else(|| match spread {
        Some((foreign, found)) => (found == Spread::Likely).then_some(foreign),
        None => separated(text, is_all),
    })
}

/// Whether it is UTF-8 without control characters; a character may be cut at the end.
fn is_text(bytes: &[u8]) -> bool {
    let is_utf8 = std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 && bytes.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace())
}

/// Text of two bytes a character, without a mark.
fn wide_text(head: &[u8]) -> Option<Foreign> {
    let pairs = head.get(..MAGIC_BYTES)?.as_chunks::<2>().0;
    if pairs.iter().all(|pair| pair[0] != 0 && pair[1] == 0) {
        Some(UTF_16_LE)
    } else if pairs.iter().all(|pair| pair[0] == 0 && pair[1] != 0) {
        Some(UTF_16_BE)
    } else {
        None
    }
}

/// Lines that are not empty; the last one only when it is whole.
fn whole_lines(text: &[u8], is_all: bool) -> impl Iterator<Item = &[u8]> {
    let end = if is_all { text.len() } else { memchr::memrchr(b'\n', text).map_or(0, |at| at + 1) };
    text[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn is_object(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// How sure it is that lines are parts of one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    No,
    /// So it is, unless one of the lines is an object.
    Likely,
    Whole,
}

fn spread(text: &[u8], is_all: bool) -> Spread {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let first = values.next();
    let end = values.byte_offset();
    match first {
        Some(Ok(_)) if text[..end].trim_ascii_start().contains(&b'\n') => Spread::Whole,
        // Each line may be a value, and nothing else follows.
        Some(Ok(_)) if is_all => Spread::Likely,
        // Cut off by the end of what was looked at. At the end of all content it is a line that was cut instead.
        Some(Err(error)) if error.is_eof() && !is_all => {
            let text = text.trim_ascii_start();
            let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let is_alone = text.len() >= LIST_BYTES && !text.contains(&b'\n');
            // One line break may be chance; a comma or an opening bracket before a second one is not.
            let goes_on = lines.by_ref().skip(1).any(|line| matches!(line.last(), Some(b',' | b'[' | b'{')));
            if goes_on || (text.starts_with(b"[") && is_alone) { Spread::Likely } else { Spread::No }
        }
        _ => Spread::No,
    }
}

/// A list that goes on for so long without a line break is the whole input.
pub(super) const LIST_BYTES: usize = 1 << 20;

/// Whether all lines have as many cells as the first one, by the separators in use.
fn separated(text: &[u8], is_all: bool) -> Option<Foreign> {
    let lines = || whole_lines(text, is_all).take(20);
    // Two lines can be alike by chance as long as others follow.
    if lines().count() < if is_all { 2 } else { 3 } || lines().any(|line| line.starts_with(b"{")) {
        return None;
    }
    let kinds = [(b'\t', TSV), (b';', CSV_SEMICOLON), (b',', CSV)];
    let found = kinds.into_iter().find(|(separator, _)| {
        let mut counts = lines().map(|line| separators(line, *separator));
        let first = counts.next().unwrap_or(0);
        first > 0 && counts.all(|count| count == first)
    });
    found.map(|(_, foreign)| foreign)
}

/// How often a separator stands outside of quotes.
fn separators(line: &[u8], separator: u8) -> usize {
    let mut is_quoted = false;
    let mut count = 0;
    for byte in line {
        is_quoted ^= *byte == b'"';
        count += usize::from(*byte == separator && !is_quoted);
    }
    count
}

#[cfg(test)]
mod tests;
