//! A payload as a member of a JSON object, exact whatever it holds.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;

/// Appends the payload of a record: as `"payload"` when it is JSON, digit for digit and on one line; as
/// `"payload_text"` when it is other text; as `"payload_base64"` when it is not UTF-8.
pub(crate) fn put_payload(payload: &[u8], line: &mut Vec<u8>) {
    match std::str::from_utf8(payload) {
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => {
            line.extend_from_slice(b"\"payload\":");
            put_on_one_line(payload, line);
        }
        Ok(text) => {
            line.extend_from_slice(b"\"payload_text\":");
            put_text(text, line);
        }
        Err(_) => put_base64("payload_base64", payload, line),
    }
}

/// Appends the bytes of somebody's event, as dead letters and late events keep them: as the text `"payload"`, or as
/// `"payload_base64"` when they are not UTF-8. Never as JSON, which may hold names twice or lists without end.
pub(crate) fn put_original(payload: &[u8], line: &mut Vec<u8>) {
    match std::str::from_utf8(payload) {
        Ok(text) => {
            line.extend_from_slice(b"\"payload\":");
            put_text(text, line);
        }
        Err(_) => put_base64("payload_base64", payload, line),
    }
}

/// Appends bytes as a member in base64.
fn put_base64(name: &str, bytes: &[u8], line: &mut Vec<u8>) {
    write!(line, "\"{name}\":\"{}\"", STANDARD.encode(bytes)).expect("writing to memory does not fail");
}

/// Appends text as a JSON string.
pub(crate) fn put_text(text: &str, line: &mut Vec<u8>) {
    serde_json::to_writer(line, text).expect("writing to memory does not fail");
}

/// Appends JSON with its line breaks as blanks: raw ones can only be white space between its tokens.
pub(crate) fn put_on_one_line(json: &[u8], line: &mut Vec<u8>) {
    let start = line.len();
    line.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        for byte in &mut line[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_others_are_text() {
        for (payload, member) in [
            (&b"{\"a\":1,\"a\":[[]]}\r"[..], "\"payload\":\"{\\\"a\\\":1,\\\"a\\\":[[]]}\\r\""),
            (b"", "\"payload\":\"\""),
            (b"\xff\n", "\"payload_base64\":\"/wo=\""),
        ] {
            let mut line = Vec::new();
            put_original(payload, &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), member);
        }
    }

    #[test]
    fn payloads_stay_as_they_are_on_one_line() {
        for (payload, member) in [
            (&br#"{"a":1.50}"#[..], r#""payload":{"a":1.50}"#),
            (b"[1e400,\r\n-0.0]", "\"payload\":[1e400,  -0.0]"),
            (b"184467440737095516160", "\"payload\":184467440737095516160"),
            (b"\"text\"", r#""payload":"text""#),
            (b"{\"a\":", r#""payload_text":"{\"a\":""#),
            (b"u1 played 3\ntracks\0\x1b", r#""payload_text":"u1 played 3\ntracks\u0000\u001b""#),
            (b"", r#""payload_text":"""#),
            (b"\xff", r#""payload_base64":"/w==""#),
        ] {
            let mut line = Vec::new();
            put_payload(payload, &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), member);
        }
    }
}
