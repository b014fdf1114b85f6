//! JSON-lines files of a run without a broker: one per output, `dlq.jsonl`, `late.jsonl`.
//!
//! Their committed lengths are part of the store's record of each epoch; at a restart the files are cut back to them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use pelton_engine::epoch::{Channel, Record, Records};
use pelton_engine::plan::Plan;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What the store keeps of the run besides the engine's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The input as it was named; `-` for stdin.
    pub(super) input: String,
    /// Byte offset behind the last committed line, and where that line begins.
    pub(super) offset: u64,
    pub(super) line_start: u64,
    pub(super) began_ms: i64,
    /// Committed bytes of each file, in the order of [`Sink::names`].
    pub(super) lengths: Vec<u64>,
    pub(super) done: bool,
}

/// The files of a run.
pub(super) struct Sink {
    files: Vec<Out>,
    outputs: usize,
}

struct Out {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    length: u64,
}

impl Sink {
    /// Opens or creates the files and cuts them back to `lengths`.
    ///
    /// # Errors
    /// When a file is shorter than what was committed to it: somebody else changed it.
    pub(super) fn open(dir: &Path, plan: &Plan, lengths: &[u64]) -> io::Result<Sink> {
        std::fs::create_dir_all(dir)?;
        let mut files = Vec::new();
        for (idx, name) in Sink::names(plan).into_iter().enumerate() {
            let path = dir.join(format!("{name}.jsonl"));
            let length = lengths.get(idx).copied().unwrap_or(0);
            let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            let found = file.metadata()?.len();
            if found < length {
                let message = format!("{} has {found} bytes, but {length} were committed to it", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            file.set_len(length)?;
            files.push(Out { path, file, buffer: Vec::new(), length });
        }
        let mut sink = Sink { files, outputs: plan.outputs.len() };
        for out in &mut sink.files {
            io::Seek::seek(&mut out.file, io::SeekFrom::Start(out.length))?;
        }
        Ok(sink)
    }

    fn names(plan: &Plan) -> Vec<String> {
        let outputs = plan.outputs.iter().map(|output| output.name.clone());
        outputs.chain(["dlq".to_owned(), "late".to_owned()]).collect()
    }

    /// Appends the records of an epoch and makes them durable; returns the new lengths.
    pub(super) fn append(&mut self, records: &Records) -> io::Result<Vec<u64>> {
        for record in &records.rows {
            let payload = records.slice(&record.payload);
            match record.channel {
                Channel::Output(idx) => push_line(&mut self.files[usize::from(idx)].buffer, payload),
                Channel::DeadLetter => envelope(records, record, &mut self.files[self.outputs].buffer),
                Channel::Late => envelope(records, record, &mut self.files[self.outputs + 1].buffer),
            }
        }
        for out in &mut self.files {
            if !out.buffer.is_empty() {
                let context =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", out.path.display()));
                out.file.write_all(&out.buffer).map_err(context)?;
                out.file.sync_data().map_err(context)?;
                out.length += out.buffer.len() as u64;
                out.buffer.clear();
            }
        }
        Ok(self.files.iter().map(|out| out.length).collect())
    }
}

/// A payload as one line; a raw line break in JSON can only be white space.
fn push_line(buffer: &mut Vec<u8>, payload: &[u8]) {
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    if memchr::memchr(b'\n', payload).is_some() {
        for byte in &mut buffer[start..] {
            if *byte == b'\n' {
                *byte = b' ';
            }
        }
    }
    buffer.push(b'\n');
}

/// A dead letter or late row with its reason: headers as fields, the original bytes as text, or base64 where they are
/// not UTF-8.
fn envelope(records: &Records, record: &Record, buffer: &mut Vec<u8>) {
    let headers = String::from_utf8_lossy(records.slice(&record.headers));
    let mut row = Map::new();
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        let name = name.trim_start_matches("Pelton-").trim_start_matches("Dlq-").trim_start_matches("Late-");
        row.insert(name.to_ascii_lowercase().replace('-', "_"), json!(value));
    }
    let payload = records.slice(&record.payload);
    match std::str::from_utf8(payload) {
        Ok(text) => row.insert("payload".into(), json!(text)),
        Err(_) => row.insert("payload_base64".into(), json!(base64::engine::general_purpose::STANDARD.encode(payload))),
    };
    serde_json::to_writer(&mut *buffer, &Value::Object(row)).expect("writing to memory does not fail");
    buffer.push(b'\n');
}
