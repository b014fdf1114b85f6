//! Header blocks of others: which of them a NATS client can read, and how ours go out.
//!
//! The server stores whatever bytes a publisher puts between the header length and the payload. The client library
//! ends the connection over a block that it cannot parse, and its task panics over some. So everything that is read
//! without a connection's parser (base64 of `STREAM.MSG.GET`) is judged here first, by the same rules.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;
use serde::de::IntoDeserializer;

const VERSION: &str = "NATS/1.0";
/// Headers with this prefix are commands to the server.
const COMMAND: &str = "Nats-";
/// Put before the name of a kept header that would be a command: a dead letter that carries the `Nats-Msg-Id` or the
/// expectations of its event must not make the server refuse the batch.
const KEPT: &str = "Pelton-Original-";
/// Base64 of a whole header block that cannot go out as it is.
const KEPT_BLOCK: &str = "Pelton-Original-Headers";

/// Reads a stored block as the client library does; the error says why it cannot.
pub(crate) fn read(block: &[u8]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines(block)? {
        let name: HeaderName = name.parse().map_err(|_| format!("the header name {name:?} is not plain ASCII"))?;
        let value: HeaderValue =
            value.parse().map_err(|_| format!("the value of the header `{name}` has a line break in it"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Names and values of a block, with folded lines joined.
fn lines(block: &[u8]) -> Result<Vec<(&str, String)>, String> {
    if block.is_empty() {
        return Ok(Vec::new());
    }
    let text = std::str::from_utf8(block).map_err(|_| "the headers are not UTF-8".to_string())?;
    let mut lines = text.lines().peekable();
    let suffix = lines.next().and_then(|line| line.strip_prefix(VERSION)).map(str::trim);
    let suffix = suffix.ok_or_else(|| format!("the headers do not begin with `{VERSION}`"))?;
    let status = suffix.split_once(' ').map_or(suffix, |(status, _)| status.trim());
    if !status.is_empty() && status.parse::<async_nats::StatusCode>().is_err() {
        return Err(format!("the headers begin with the status {status:?}, which is no number of three digits"));
    }
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("the header line {line:?} has no colon"))?;
        let mut value = value.trim_start().to_string();
        while let Some(folded) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(folded);
        }
        value.truncate(value.trim_end().len());
        all.push((name, value));
    }
    Ok(all)
}

/// `name: value\r\n` per header, in the order of names: the same message gives the same bytes every time. (The client
/// library hands headers out without the order that they were sent in.)
pub(crate) fn write(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut sorted: Vec<(&str, _)> = headers.iter().map(|(name, values)| (name.as_ref(), values)).collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    for (name, values) in sorted {
        for value in values {
            for part in [name, ": ", value.as_str(), "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

/// Appends the block of a record to `out`, line by line as it is; commands to the server become plain headers.
///
/// Nothing is refused: what is no list of headers goes out whole, as base64 of one.
pub(crate) fn keep(out: &mut String, block: &[u8]) {
    let Some(text) = plain(block) else {
        out.extend([KEPT_BLOCK, ": ", &STANDARD.encode(block), "\r\n"]);
        return;
    };
    for line in text.split_inclusive("\r\n") {
        let is_command = line.get(..COMMAND.len()).is_some_and(|start| start.eq_ignore_ascii_case(COMMAND));
        if is_command {
            out.push_str(KEPT);
        }
        out.push_str(line);
    }
}

/// The block as text when each of its lines is a header that every client can read.
fn plain(block: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(block).ok()?;
    let is_header = |line: &str| {
        line.strip_suffix("\r\n").is_some_and(|line| {
            let name = line.split_once(':').map(|(name, _)| name);
            !line.contains(['\r', '\n']) && name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
        })
    };
    text.split_inclusive("\r\n").all(is_header).then_some(text)
}

/// Headers that go out as exactly these lines, in this order: `name: first line\r\n` and so on, the last line without
/// its line break.
///
/// The client's own map forgets the order of what is put into it. A map with one entry has only one order, and the
/// client writes a value out as it is; so all further lines stand in the value of the first. A value may be made with
/// line breaks in it by deserializing it only.
pub(crate) fn verbatim(name: &'static str, lines: String) -> Result<HeaderMap, String> {
    type Error = serde::de::value::Error;
    let value = HeaderValue::deserialize(IntoDeserializer::<Error>::into_deserializer(lines))
        .map_err(|error| format!("the client does not take a block of headers: {error}"))?;
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(block: &[u8]) -> Result<String, String> {
        let mut out = Vec::new();
        write(&mut out, &read(block)?);
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn what_a_client_reads_is_read_as_it_does() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"NATS/1.0\r\n\r\n", ""),
            (b"NATS/1.0 503\r\n\r\n", ""),
            (b"NATS/1.0 409 Some Words\r\nB: 2\r\nA: 1\r\nB: 1\r\n\r\n", "A: 1\r\nB: 2\r\nB: 1\r\n"),
            (b"NATS/1.0\r\nA:  1\r\n  2\t\r\n\r\n", "A: 1  2\r\n"),
            (b"NATS/1.0\nA:1\n\n", "A: 1\r\n"),
            (b"NATS/1.0\r\nA: end\r\r\n\r\n", "A: end\r\n"),
            (b"NATS/1.0\r\n: no name\r\n\r\n", ": no name\r\n"),
            ("NATS/1.0\r\nA: caf\u{e9}\r\n\r\n".as_bytes(), "A: caf\u{e9}\r\n"),
        ];
        for (block, expected) in cases {
            assert_eq!(written(block).as_deref(), Ok(*expected), "{:?}", String::from_utf8_lossy(block));
        }
    }

    #[test]
    fn what_ends_a_client_is_told() {
        let cases: &[(&[u8], &str)] = &[
            (b"NATS/1.0\r\nA: caf\xe9\r\n\r\n", "not UTF-8"),
            ("NATS/1.0\r\nL\u{e4}nge: 1\r\n\r\n".as_bytes(), "not plain ASCII"),
            (b"NATS/1.0\r\nA B: 1\r\n\r\n", "not plain ASCII"),
            (b"NATS/1.0\r\nno colon\r\n\r\n", "no colon"),
            (b"NATS/1.0\r\nA: x\ny\r\n\r\n", "no colon"),
            (b"NATS/1.0\r\nA: x\ry\r\n\r\n", "line break"),
            (b"A: 1\r\n\r\n", "NATS/1.0"),
            (b"\r\n", "NATS/1.0"),
            (b"NATS/1.0 5x3\r\n\r\n", "status"),
        ];
        for (block, expected) in cases {
            let error = read(block).expect_err("not readable");
            assert!(error.contains(expected), "{:?}: {error}", String::from_utf8_lossy(block));
        }
    }

    #[test]
    fn a_block_is_kept_line_by_line_in_its_order() {
        let mut out = String::new();
        keep(&mut out, b"Zeta: 1\r\nAlpha:  2\r\nNats-Msg-Id: 1\r\nnats-rollup: all\r\nNatsish: 2\r\nZeta: 3\r\n");
        let expected = "Zeta: 1\r\nAlpha:  2\r\nPelton-Original-Nats-Msg-Id: 1\r\nPelton-Original-nats-rollup: all\r\n\
                        Natsish: 2\r\nZeta: 3\r\n";
        assert_eq!(out, expected);
        let broken: &[&[u8]] =
            &[b"no colon\r\n", b"A: \xe9\r\n", b"A: 1\r2\r\n", b"A: 1\n\r\n", b"A B: 1\r\n", b"A: 1"];
        for block in broken {
            out.clear();
            keep(&mut out, block);
            assert_eq!(out, format!("Pelton-Original-Headers: {}\r\n", STANDARD.encode(block)));
        }
    }

    #[test]
    fn lines_in_a_value_are_not_judged() {
        let headers = verbatim("A", "1\r\nB: 2".to_string()).expect("taken");
        assert_eq!(headers.get("A").map(HeaderValue::as_str), Some("1\r\nB: 2"));
    }
}
