//! What a rule gave, as JSON lines. Checks the contract on the way, as a host does.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::output::OF_ROW;
use crate::raw;

/// What records may refer to: the input arena, and per row its key and payload.
pub(super) struct Rows {
    pub(super) arena: Vec<u8>,
    pub(super) rows: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a reply answers.
#[derive(Clone, Copy)]
pub(super) enum Cause<'a> {
    /// Events or panes; the number of the first one in the whole input.
    Rows(usize),
    /// Due timers of one key.
    Timers(&'a [i64]),
}

/// Collects lines.
#[derive(Default)]
pub(super) struct Report {
    /// Row of each line, and the line.
    lines: Vec<(usize, String)>,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    #[serde(flatten)]
    cause: CauseOf<'a>,
    port: &'a str,
    key: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a str>,
    /// Of a tombstone there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    delete: bool,
}

#[derive(Serialize)]
struct CountLine<'a> {
    #[serde(flatten)]
    cause: CauseOf<'a>,
    counter: &'a str,
    add: i64,
}

#[derive(Serialize)]
struct RejectLine<'a> {
    #[serde(flatten)]
    cause: CauseOf<'a>,
    reject: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
}

/// What one record or reject comes from.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum CauseOf<'a> {
    Row(usize),
    Timers(&'a [i64]),
}

impl<'a> Cause<'a> {
    fn of(self, row: usize) -> CauseOf<'a> {
        match self {
            Cause::Rows(first) => CauseOf::Row(first + row),
            Cause::Timers(due) => CauseOf::Timers(due),
        }
    }
}

impl Report {
    /// Adds one reply.
    pub(super) fn output(
        &mut self,
        output: &raw::Output,
        input: &Rows,
        shape: &raw::Shape,
        cause: Cause<'_>,
    ) -> Result<(), String> {
        let records = output.rows.len();
        if output.slices.len() != 4 * records || !output.rows.is_sorted() {
            return Err("broken contract: slices or rows".to_owned());
        }
        for record in 0..records {
            let row = output.rows[record] as usize;
            let (key, payload) =
                input.rows.get(row).ok_or_else(|| format!("broken contract: a record of row {row}"))?;
            let slice = &output.slices[4 * record..][..4];
            let port = output.ports.get(record).map_or(0, |port| usize::from(*port));
            let line = RecordLine {
                cause: cause.of(row),
                port: shape.ports.get(port).ok_or_else(|| format!("broken contract: port {port}"))?,
                key: Value::from(String::from_utf8_lossy(resolve(slice[0], slice[1], key, input, output)?).as_ref()),
                time: output.timestamps.get(record).copied(),
                headers: headers_of(output, record),
                payload: match output.deletes.contains(&(record as u32)) {
                    false => Some(readable(resolve(slice[2], slice[3], payload, input, output)?)),
                    true => None,
                },
                delete: output.deletes.contains(&(record as u32)),
            };
            self.push(row, &line);
        }
        self.rejects(&output.rejects, cause);
        self.additions(&output.additions, shape, cause)
    }

    /// Adds rejects.
    pub(super) fn rejects(&mut self, rejects: &[raw::Reject], cause: Cause<'_>) {
        for reject in rejects {
            let (cause, place) = (cause.of(reject.row as usize), reject.place.as_deref());
            let line = RejectLine { cause, reject: &reject.code, detail: &reject.detail, place };
            self.push(reject.row as usize, &line);
        }
    }

    /// Adds what was counted.
    pub(super) fn additions(
        &mut self,
        additions: &[raw::Addition],
        shape: &raw::Shape,
        cause: Cause<'_>,
    ) -> Result<(), String> {
        for addition in additions {
            let row = addition.row as usize;
            let counter = shape.counters.get(usize::from(addition.counter));
            let counter = counter.ok_or_else(|| format!("broken contract: counter {}", addition.counter))?;
            self.push(row, &CountLine { cause: cause.of(row), counter, add: addition.add });
        }
        Ok(())
    }

    /// Adds the lines of another report, in order of their rows.
    pub(super) fn append(&mut self, mut other: Report) {
        other.lines.sort_by_key(|(row, _)| *row);
        self.lines.extend(other.lines.into_iter().map(|(_, line)| (0, line)));
    }

    /// All lines, in order of their rows; those that were appended in order of time.
    pub(super) fn text(mut self) -> String {
        self.lines.sort_by_key(|(row, _)| *row);
        self.lines.iter().fold(String::new(), |mut text, (_, line)| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    fn push(&mut self, row: usize, line: &impl Serialize) {
        self.lines.push((row, serde_json::to_string(line).expect("lines have a JSON form")));
    }
}

/// The bytes that a slice of a record means.
fn resolve<'a>(
    offset: u32,
    length: u32,
    of_row: &'a [u8],
    input: &'a Rows,
    output: &'a raw::Output,
) -> Result<&'a [u8], String> {
    if offset == OF_ROW {
        return Ok(of_row);
    }
    let (start, end) = (offset as usize, offset as usize + length as usize);
    let border = input.arena.len();
    let found = if end <= border {
        input.arena.get(start..end)
    } else {
        start.checked_sub(border).and_then(|start| output.data.get(start..end - border))
    };
    found.ok_or_else(|| format!("broken contract: slice {start}..{end}"))
}

/// The header block of a record; `None` when it has none.
fn headers_of(output: &raw::Output, record: usize) -> Option<&str> {
    let end = *output.header_ends.get(record)? as usize;
    let start = if record == 0 { 0 } else { output.header_ends[record - 1] as usize };
    Some(crate::field::text(&output.headers[start..end])).filter(|block| !block.is_empty())
}

fn readable(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(payload).as_ref()))
}
