//! Rows of the files: an output beside what its headers say, dead letters and late events.
//!
//! The headers that the engine makes are the one source: a file says under the same names what the pipeline stream says.

use std::io::Write as _;

use serde_json::{Map, Value};

use super::super::input::Places;
use crate::headers;
use crate::payload::{put_original, put_payload, put_text};

/// Headers whose values are numbers.
const NUMBERS: [&str; 10] = [
    "partition",
    "sequence",
    "timestamp",
    "event_time",
    "watermark",
    "pane_index",
    "key_bytes",
    "payload_bytes",
    "headers_bytes",
    "window_start",
];

/// Appends an output's record as one line: name, headers and payload (`--envelope`).
///
/// Headers that the module gave are `headers`; a tombstone has `"delete":true` in place of a payload. A record of a window
/// has `window`, `pane_index`, `pane_timing`, `pane_last` and `watermark`; any other one has `event_time`, that of its
/// event or timer.
pub(super) fn put_output(output: &str, headers: &[u8], payload: &[u8], line: &mut Vec<u8>) {
    let headers = String::from_utf8_lossy(headers);
    let value = |name: &str| pairs(&headers).find(|(found, _)| *found == name).map(|(_, value)| value);
    line.extend_from_slice(b"{\"output\":");
    put_text(output, line);
    let text = |name: &str, header: &str, line: &mut Vec<u8>| {
        if let Some(value) = value(header) {
            write!(line, ",\"{name}\":").expect("writing to memory does not fail");
            put_text(value, line);
        }
    };
    // What is a number or a truth value in JSON, as the host wrote it.
    let plain = |name: &str, header: &str, line: &mut Vec<u8>| {
        if let Some(value) = value(header) {
            write!(line, ",\"{name}\":{value}").expect("writing to memory does not fail");
        }
    };
    text("key", "Pelton-Key", line);
    plain("key_bytes", "Pelton-Key-Bytes", line);
    if let (Some(start), Some(end)) = (value("Pelton-Window-Start"), value("Pelton-Window-End")) {
        write!(line, ",\"window\":{{\"start\":{start},\"end\":{end}}}").expect("writing to memory does not fail");
    }
    plain("pane_index", "Pelton-Pane-Index", line);
    text("pane_timing", "Pelton-Pane-Timing", line);
    plain("pane_last", "Pelton-Pane-Last", line);
    plain("watermark", "Pelton-Watermark", line);
    text("id", "Pelton-Id", line);
    text("replaces", "Pelton-Replaces", line);
    plain("event_time", "Pelton-Event-Time", line);
    let is_of_module = |(name, _): &(&str, &str)| !name.starts_with("Pelton-") && *name != "KV-Operation";
    let of_module = headers::object(pairs(&headers).filter(is_of_module));
    if !of_module.is_empty() {
        write!(line, ",\"headers\":{}", Value::Object(of_module)).expect("writing to memory does not fail");
    }
    line.push(b',');
    match value("KV-Operation") {
        Some(_) => line.extend_from_slice(b"\"delete\":true"),
        None => put_payload(payload, line),
    }
    line.extend_from_slice(b"}\n");
}

/// Appends a dead letter or late event as one line: the reason, then the original bytes as `payload`, or as
/// `payload_base64` when they are not UTF-8. `output` names the file where several share a stream of lines; `places`
/// knows the input's file and line.
pub(super) fn put_letter(output: Option<&str>, headers: &[u8], payload: &[u8], places: &Places, line: &mut Vec<u8>) {
    let headers = String::from_utf8_lossy(headers);
    let mut row = Map::new();
    if let Some(output) = output {
        row.insert("output".into(), output.into());
    }
    for (name, value) in pairs(&headers) {
        let name = name.trim_start_matches("Pelton-").trim_start_matches("Dlq-").trim_start_matches("Late-");
        let name = name.to_ascii_lowercase().replace('-', "_");
        let number = || value.parse::<i64>().ok().filter(|_| NUMBERS.contains(&name.as_str()));
        // The host's words come first: a header of the event cannot take their place.
        row.entry(name.clone()).or_insert_with(|| number().map_or_else(|| Value::from(value), Value::from));
    }
    if let Some((file, place)) = row.get("sequence").and_then(Value::as_u64).and_then(|sequence| places.find(sequence))
    {
        row.insert("file".into(), file.into());
        row.insert("line".into(), place.into());
    }
    serde_json::to_writer(&mut *line, &Value::Object(row)).expect("writing to memory does not fail");
    line.pop();
    if !line.ends_with(b"{") {
        line.push(b',');
    }
    put_original(payload, line);
    line.extend_from_slice(b"}\n");
}

/// Names and values of a header block.
fn pairs(headers: &str) -> impl Iterator<Item = (&str, &str)> {
    headers.split("\r\n").filter_map(|line| line.split_once(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(headers: &str, payload: &[u8]) -> String {
        let mut line = Vec::new();
        put_output("alerts", headers.as_bytes(), payload, &mut line);
        String::from_utf8(line).unwrap()
    }

    fn letter(output: Option<&str>, headers: &str, payload: &[u8]) -> String {
        let mut line = Vec::new();
        let places = Places::default();
        places.begin(340, "plays.jsonl".into());
        put_letter(output, headers.as_bytes(), payload, &places, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_window_and_an_event_say_what_their_headers_say() {
        let pane = "Pelton-Id: p/0/s/u/-60/1/0\r\nPelton-Key: u\"\\n1\r\nPelton-Window-Start: -60\r\n\
                    Pelton-Window-End: 0\r\nPelton-Pane-Index: 1\r\nPelton-Pane-Timing: late\r\n\
                    Pelton-Pane-Last: false\r\nPelton-Watermark: 7\r\nPelton-Replaces: p/0/s/u/-60/0/0\r\n";
        let expected = concat!(
            r#"{"output":"alerts","key":"u\"\\n1","window":{"start":-60,"end":0},"pane_index":1,"pane_timing":"late","#,
            r#""pane_last":false,"watermark":7,"id":"p/0/s/u/-60/1/0","replaces":"p/0/s/u/-60/0/0","payload":{"n":1.0}}"#,
            "\n"
        );
        assert_eq!(output(pane, br#"{"n":1.0}"#), expected);
        let event = "Pelton-Id: p/0/9/s/0\r\nPelton-Key: \r\nPelton-Key-Bytes: 5000\r\nPelton-Event-Time: -5\r\n";
        let expected = concat!(
            r#"{"output":"alerts","key":"","key_bytes":5000,"id":"p/0/9/s/0","event_time":-5,"payload_text":"no JSON"}"#,
            "\n"
        );
        assert_eq!(output(event, b"no JSON"), expected);
    }

    #[test]
    fn numbers_of_a_letter_are_numbers_and_its_bytes_are_exact() {
        let headers = "Pelton-Dlq-Partition: 0\r\nPelton-Dlq-Code: 404\r\nPelton-Dlq-Sequence: 341\r\n\
                       Pelton-Dlq-Timestamp: -1\r\nPartition: forged\r\n";
        assert_eq!(
            letter(None, headers, b"\0\x7f\r\n\"\xe2\x80\xae"),
            "{\"code\":\"404\",\"file\":\"plays.jsonl\",\"line\":1,\"partition\":0,\"sequence\":341,\
             \"timestamp\":-1,\"payload\":\"\\u0000\u{7f}\\r\\n\\\"\u{202e}\"}\n"
        );
        let late = "Pelton-Late-Stage: s\r\nPelton-Event-Time: 5\r\n";
        assert_eq!(
            letter(Some("late"), late, b"\xff\n"),
            "{\"event_time\":5,\"output\":\"late\",\"stage\":\"s\",\"payload_base64\":\"/wo=\"}\n"
        );
        assert_eq!(letter(None, "", b""), "{\"payload\":\"\"}\n");
    }
}
