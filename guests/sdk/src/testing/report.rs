//! What a rule gave, as JSON lines. Checks the contract on the way, as a host does.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::output::OF_SOURCE;
use crate::raw;

/// What records may refer to: the input arena, and per row its key and payload.
pub(super) struct Sources {
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
    /// Source of each line, and the line.
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
    payload: Value,
}

#[derive(Serialize)]
struct RejectLine<'a> {
    #[serde(flatten)]
    cause: CauseOf<'a>,
    reject: &'a str,
    detail: &'a str,
}

/// What one record or reject comes from.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum CauseOf<'a> {
    Source(usize),
    Timers(&'a [i64]),
}

impl<'a> Cause<'a> {
    fn of(self, row: usize) -> CauseOf<'a> {
        match self {
            Cause::Rows(first) => CauseOf::Source(first + row),
            Cause::Timers(due) => CauseOf::Timers(due),
        }
    }
}

impl Report {
    /// Adds one reply.
    pub(super) fn output(
        &mut self,
        output: &raw::Output,
        sources: &Sources,
        ports: &[&str],
        cause: Cause<'_>,
    ) -> Result<(), String> {
        let records = output.sources.len();
        if output.slices.len() != 4 * records || !output.sources.is_sorted() {
            return Err("broken contract: slices or sources".to_owned());
        }
        for record in 0..records {
            let row = output.sources[record] as usize;
            let (key, payload) =
                sources.rows.get(row).ok_or_else(|| format!("broken contract: a record of row {row}"))?;
            let slice = &output.slices[4 * record..][..4];
            let port = output.ports.get(record).map_or(0, |port| usize::from(*port));
            let line = RecordLine {
                cause: cause.of(row),
                port: ports.get(port).ok_or_else(|| format!("broken contract: port {port}"))?,
                key: Value::from(String::from_utf8_lossy(resolve(slice[0], slice[1], key, sources, output)?).as_ref()),
                time: output.timestamps.get(record).copied(),
                payload: readable(resolve(slice[2], slice[3], payload, sources, output)?),
            };
            self.push(row, &line);
        }
        self.rejects(&output.rejects, cause);
        Ok(())
    }

    /// Adds rejects.
    pub(super) fn rejects(&mut self, rejects: &[raw::Reject], cause: Cause<'_>) {
        for reject in rejects {
            let line =
                RejectLine { cause: cause.of(reject.source as usize), reject: &reject.code, detail: &reject.detail };
            self.push(reject.source as usize, &line);
        }
    }

    /// Adds the lines of another report, in order of their sources.
    pub(super) fn append(&mut self, mut other: Report) {
        other.lines.sort_by_key(|(source, _)| *source);
        self.lines.extend(other.lines.into_iter().map(|(_, line)| (0, line)));
    }

    /// All lines, in order of their sources; those that were appended in order of time.
    pub(super) fn text(mut self) -> String {
        self.lines.sort_by_key(|(source, _)| *source);
        self.lines.iter().fold(String::new(), |mut text, (_, line)| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    fn push(&mut self, source: usize, line: &impl Serialize) {
        self.lines.push((source, serde_json::to_string(line).expect("lines have a JSON form")));
    }
}

/// The bytes that a slice of a record means.
fn resolve<'a>(
    offset: u32,
    length: u32,
    of_source: &'a [u8],
    sources: &'a Sources,
    output: &'a raw::Output,
) -> Result<&'a [u8], String> {
    if offset == OF_SOURCE {
        return Ok(of_source);
    }
    let (start, end) = (offset as usize, offset as usize + length as usize);
    let border = sources.arena.len();
    let found = if end <= border {
        sources.arena.get(start..end)
    } else {
        start.checked_sub(border).and_then(|start| output.data.get(start..end - border))
    };
    found.ok_or_else(|| format!("broken contract: slice {start}..{end}"))
}

fn readable(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(payload).as_ref()))
}
