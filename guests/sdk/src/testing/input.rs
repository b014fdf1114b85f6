//! JSON lines of a case as the columns of the contract.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::field::{empty_columns, no_strings};
use crate::raw::{self, Kind, Need};

use super::report::Rows;

/// The lines of one case.
#[derive(Default)]
pub(super) struct Input {
    pub(super) events: Vec<Line>,
    pub(super) panes: Vec<PaneLine>,
    pub(super) window: Option<Window>,
    pub(super) watermark: WatermarkSpec,
    /// Whether the input ends; else more may come.
    pub(super) end: bool,
}

/// An event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default)]
    key: String,
    #[serde(default)]
    time: i64,
    event: Option<Value>,
    raw: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// A pane as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaneLine {
    pub(super) pane: PaneHead,
    #[serde(default)]
    pub(super) values: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaneHead {
    pub(super) key: String,
    pub(super) start: i64,
    pub(super) end: i64,
    #[serde(default)]
    pub(super) label: String,
    #[serde(default)]
    pub(super) index: u32,
    pub(super) timing: Option<String>,
    #[serde(rename = "last")]
    pub(super) is_last: Option<bool>,
    pub(super) watermark: Option<i64>,
}

/// How events are cut into windows.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    pub(super) size_ms: Option<i64>,
    pub(super) slide_ms: Option<i64>,
    #[serde(default)]
    pub(super) global: bool,
}

/// How far the watermark stays behind the newest event.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatermarkSpec {
    pub(super) delay_ms: i64,
}

impl Default for WatermarkSpec {
    /// What a pipeline has that says nothing of it.
    fn default() -> WatermarkSpec {
        WatermarkSpec { delay_ms: 10_000 }
    }
}

/// The host takes no event further from 1970 than this.
const TIME_MAX: u64 = 1 << 53;

impl Input {
    pub(super) fn parse(text: &str) -> Result<Input, String> {
        let mut input = Input::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |error: serde_json::Error| format!("input line {}: {error}", index + 1);
            let value: Value = serde_json::from_str(line).map_err(wrong)?;
            if input.end {
                return Err(format!("input line {}: nothing comes after the end of the input", index + 1));
            }
            if let Some(end) = value.get("end") {
                input.end = bool::deserialize(end).map_err(wrong)?;
            } else if let Some(watermark) = value.get("watermark") {
                input.watermark = WatermarkSpec::deserialize(watermark).map_err(wrong)?;
            } else if let Some(window) = value.get("window") {
                input.window = Some(Window::deserialize(window).map_err(wrong)?);
            } else if value.get("pane").is_some() {
                input.panes.push(PaneLine::deserialize(value).map_err(wrong)?);
            } else {
                let event = Line::deserialize(value).map_err(wrong)?;
                if event.time.unsigned_abs() > TIME_MAX {
                    return Err(format!(
                        "input line {}: the time {} is out of range, the host would not show the event to the rule",
                        index + 1,
                        event.time
                    ));
                }
                input.events.push(event);
            }
        }
        Ok(input)
    }
}

impl Line {
    pub(super) fn time(&self) -> i64 {
        self.time
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        match (&self.raw, &self.event) {
            (Some(raw), _) => raw.clone().into_bytes(),
            (None, Some(event)) => event.to_string().into_bytes(),
            (None, None) => Vec::new(),
        }
    }
}

/// A batch, as the host would make it; `first` is the number of its first event in the whole input.
pub(super) fn events(lines: &[Line], first: usize, shape: &raw::Shape) -> Result<raw::Events, String> {
    let mut events = raw::Events {
        data: Vec::new(),
        ends: Vec::new(),
        timestamps: Vec::new(),
        sequences: Vec::new(),
        lanes: Vec::new(),
        columns: empty_columns(shape.fields.iter().map(|field| field.kind)),
        headers: Vec::new(),
        header_ends: Vec::new(),
    };
    for (row, line) in lines.iter().enumerate() {
        events.data.extend_from_slice(line.key.as_bytes());
        events.ends.push(events.data.len() as u32);
        if shape.payload {
            events.data.extend_from_slice(&line.payload());
        }
        events.ends.push(events.data.len() as u32);
        events.timestamps.push(line.time);
        events.sequences.push((first + row) as u64 + 1);
        for (field, column) in shape.fields.iter().zip(&mut events.columns) {
            let value = line.event.as_ref().and_then(|event| match field.name.starts_with('/') {
                true => event.pointer(&field.name),
                false => event.get(&field.name),
            });
            push(field, value, row, column).map_err(|problem| format!("event {}: {problem}", first + row))?;
        }
        if shape.headers {
            for (name, value) in &line.headers {
                events.headers.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            events.header_ends.push(events.headers.len() as u32);
        }
    }
    Ok(events)
}

fn push(field: &raw::Field, value: Option<&Value>, row: usize, column: &mut raw::Column) -> Result<(), String> {
    let is_lenient = field.need == Need::Lenient;
    let is_there = value.is_some();
    let value = value.filter(|value| !value.is_null() && (!is_lenient || is_of(field.kind, value)));
    if value.is_none() {
        if is_there && is_lenient {
            column.unlike.push(row as u32);
        }
        if field.need == Need::Required {
            return Err(format!("field `{}` is missing, the host would not show it to the rule", field.name));
        }
        column.missing.push(row as u32);
    }
    let mistyped =
        |wanted: &str| format!("field `{}` is {}, wanted {wanted}", field.name, value.unwrap_or(&Value::Null));
    match &mut column.values {
        raw::Values::Strings(strings) => {
            let text = value.map_or(Some(""), Value::as_str).ok_or_else(|| mistyped("a string"))?;
            crate::field::push(strings, text.as_bytes());
        }
        raw::Values::Decimals(strings) => {
            let digits = match value {
                None => Some(String::new()),
                Some(Value::Number(number)) => Some(number.to_string()),
                Some(Value::String(text)) => {
                    serde_json::from_str::<serde_json::Number>(text).is_ok().then(|| text.clone())
                }
                Some(_) => None,
            };
            crate::field::push(strings, digits.ok_or_else(|| mistyped("a decimal"))?.as_bytes());
        }
        raw::Values::Jsons(strings) => {
            crate::field::push(strings, value.map_or_else(String::new, Value::to_string).as_bytes());
        }
        raw::Values::Blobs(blobs) => {
            let text = value.map_or(Some(""), Value::as_str).ok_or_else(|| mistyped("a string in base64"))?;
            crate::field::push(blobs, &base64(text).ok_or_else(|| mistyped("a string in base64"))?);
        }
        raw::Values::Integers(values) => {
            values.push(value.map_or(Some(0), integer).ok_or_else(|| mistyped("an integer"))?);
        }
        raw::Values::Numbers(values) => {
            values.push(value.map_or(Some(0.0), Value::as_f64).ok_or_else(|| mistyped("a number"))?);
        }
        raw::Values::Booleans(values) => {
            values.push(value.map_or(Some(false), Value::as_bool).ok_or_else(|| mistyped("a boolean"))?);
        }
    }
    Ok(())
}

/// Whether a value is of a kind that a lenient field may have, as the host reads it.
fn is_of(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::String => value.is_string(),
        Kind::Integer => integer(value).is_some(),
        Kind::Number => value.is_number(),
        Kind::Boolean => value.is_boolean(),
        Kind::Decimal | Kind::Json | Kind::Bytes => false,
    }
}

/// An integer as the host reads it: `1.0` is one, up to where every integer has a float of its own.
fn integer(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    let whole = |value: &f64| value.fract() == 0.0 && value.abs() <= EXACT;
    value.as_i64().or_else(|| value.as_f64().filter(whole).map(|value| value as i64))
}

/// Base64 as the host reads it: with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// What records of this batch refer to.
pub(super) fn input_rows(lines: &[Line], events: &raw::Events) -> Rows {
    let rows = lines[..events.timestamps.len()].iter();
    Rows {
        arena: events.data.clone(),
        rows: rows.map(|line| (line.key.clone().into_bytes(), line.payload())).collect(),
    }
}

/// The rows of a column of strings.
pub(super) fn rows(strings: &raw::Strings) -> Vec<Vec<u8>> {
    (0..strings.ends.len()).map(|row| crate::pane::slice(strings, row).to_vec()).collect()
}

/// A column of strings.
pub(super) fn strings<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> raw::Strings {
    let mut strings = no_strings();
    for row in rows {
        crate::field::push(&mut strings, row);
    }
    strings
}

/// One key with its state, and either one event or due timers.
pub(super) fn reducer_group(key: &[u8], state: &[u8], members: Vec<u32>, timers: Vec<i64>) -> raw::Groups {
    raw::Groups {
        keys: strings([key]),
        states: strings([state]),
        member_ends: vec![members.len() as u32],
        members,
        timer_ends: vec![timers.len() as u32],
        timers,
    }
}

/// One key with these events and no state yet.
pub(super) fn group(key: &[u8], members: &[u32]) -> raw::Groups {
    raw::Groups {
        keys: strings([key]),
        states: strings([&[][..]]),
        member_ends: vec![members.len() as u32],
        members: members.to_vec(),
        timer_ends: Vec::new(),
        timers: Vec::new(),
    }
}

/// The key of event `row`.
pub(super) fn key(events: &raw::Events, row: usize) -> &[u8] {
    let start = if row == 0 { 0 } else { events.ends[2 * row - 1] as usize };
    &events.data[start..events.ends[2 * row] as usize]
}
