//! What one epoch brings about: records, counts, and at its end the state delta.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::epoch::{Channel, EPOCH_BYTES_MAX, EPOCH_RECORDS_MAX, Records};
use crate::event::{RawBatch, RawEvent};
use crate::totals::Totals;

/// How much one epoch may bring about before it must be cut.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub records: usize,
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { records: EPOCH_RECORDS_MAX, bytes: EPOCH_BYTES_MAX }
    }
}

/// The effects of an epoch while it is being computed.
#[derive(Debug, Default)]
pub struct Effects {
    pub records: Records,
    pub totals: Totals,
    /// Dead letters by code.
    pub dead_by_code: BTreeMap<String, u64>,
    /// Records per output of the plan.
    pub records_by_output: Vec<u64>,
    /// Guest faults by stage: traps, limits and broken replies, before any retry.
    pub faults_by_stage: BTreeMap<usize, u64>,
}

impl Effects {
    /// Forgets everything and keeps allocations.
    pub fn clear(&mut self) {
        self.records.clear();
        self.totals = Totals::default();
        self.dead_by_code.clear();
        self.records_by_output.clear();
        self.faults_by_stage.clear();
    }

    /// Whether `records` more records still fit.
    #[must_use]
    pub fn fits(&self, room: &Room, records: usize) -> bool {
        self.records.rows.len() + records <= room.records && self.records.data.len() < room.bytes
    }

    /// Counts guest faults of a stage.
    pub(crate) fn count_faults(&mut self, stage: usize, faults: u64) {
        if faults > 0 {
            *self.faults_by_stage.entry(stage).or_default() += faults;
        }
    }

    pub(crate) fn count_output(&mut self, output: usize) {
        if self.records_by_output.len() <= output {
            self.records_by_output.resize(output + 1, 0);
        }
        self.records_by_output[output] += 1;
    }
}

/// Builds header blocks: `name: value\r\n`, with line breaks in values made visible.
#[derive(Default)]
pub(crate) struct Headers {
    text: String,
}

impl Headers {
    pub(crate) fn clear(&mut self) -> &mut Headers {
        self.text.clear();
        self
    }

    pub(crate) fn put(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Headers {
        self.text.push_str(name);
        self.text.push_str(": ");
        let start = self.text.len();
        write!(self.text, "{value}").expect("writing to a string does not fail");
        if self.text[start..].contains(['\r', '\n']) {
            let clean = self.text[start..].replace('\r', "\\r").replace('\n', "\\n");
            self.text.truncate(start);
            self.text.push_str(&clean);
        }
        self.text.push_str("\r\n");
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Who writes: the parts of ids and headers that are the same for every record of a partition.
#[derive(Clone, Debug)]
pub struct Origin {
    pub pipeline: String,
    pub partition: u32,
    /// Name of the source stream, or of the input file.
    pub source: String,
}

/// A data fault of one input event, on its way to the dead letters.
pub(crate) struct DeadLetter<'a> {
    pub(crate) stage: &'a str,
    /// sha256 of the module, when a module was involved.
    pub(crate) digest: Option<[u8; 32]>,
    /// decode, schema, reject, trap, limit, contract.
    pub(crate) class: &'a str,
    pub(crate) code: &'a str,
    pub(crate) path: &'a str,
    pub(crate) message: &'a str,
}

/// Longest message kept in a header, bytes.
const MESSAGE_MAX: usize = 1024;

impl Effects {
    /// Keeps an input event as a dead letter: its bytes and headers untouched, the reason beside them.
    pub(crate) fn push_dead(&mut self, origin: &Origin, letter: &DeadLetter<'_>, batch: &RawBatch, event: &RawEvent) {
        let mut headers = Headers::default();
        put_reason(&mut headers, origin, letter);
        headers.put("Pelton-Dlq-Stream", &origin.source).put("Pelton-Dlq-Sequence", event.sequence);
        let subject = batch.slice(&event.subject);
        if !subject.is_empty() {
            headers.put("Pelton-Dlq-Subject", String::from_utf8_lossy(subject));
        }
        headers.put("Pelton-Dlq-Seen", event.published.0);
        let mut block = headers.bytes().to_vec();
        block.extend_from_slice(batch.slice(&event.headers));
        let payload = batch.slice(&event.payload);
        self.push_letter(letter, &block, payload);
    }

    /// Keeps a row that is not an input event (a pane, a timer) as a dead letter; `payload` describes it as JSON.
    pub(crate) fn push_dead_row(&mut self, origin: &Origin, letter: &DeadLetter<'_>, payload: &[u8]) {
        let mut headers = Headers::default();
        put_reason(&mut headers, origin, letter);
        self.push_letter(letter, headers.bytes(), payload);
    }

    fn push_letter(&mut self, letter: &DeadLetter<'_>, headers: &[u8], payload: &[u8]) {
        let subject = format!("dlq.{}.{}", letter.stage, letter.code);
        self.records.push(Channel::DeadLetter, subject.as_bytes(), headers, payload);
        *self.dead_by_code.entry(letter.code.to_string()).or_default() += 1;
    }

    /// Keeps an input event that came too late for every window.
    pub(crate) fn push_late(
        &mut self,
        origin: &Origin,
        stage: &str,
        time: i64,
        watermark: i64,
        batch: &RawBatch,
        event: &RawEvent,
    ) {
        let mut headers = Headers::default();
        headers
            .put("Pelton-Id", format_args!("{}/{}/{}", origin.pipeline, origin.partition, event.sequence))
            .put("Pelton-Late-Stage", stage)
            .put("Pelton-Time", time)
            .put("Pelton-Watermark", watermark)
            .put("Pelton-Stream", &origin.source)
            .put("Pelton-Sequence", event.sequence);
        let mut block = headers.bytes().to_vec();
        block.extend_from_slice(batch.slice(&event.headers));
        let subject = format!("late.{stage}");
        self.records.push(Channel::Late, subject.as_bytes(), &block, batch.slice(&event.payload));
    }
}

fn put_reason(headers: &mut Headers, origin: &Origin, letter: &DeadLetter<'_>) {
    headers
        .put("Pelton-Dlq-Pipeline", &origin.pipeline)
        .put("Pelton-Dlq-Partition", origin.partition)
        .put("Pelton-Dlq-Stage", letter.stage)
        .put("Pelton-Dlq-Class", letter.class)
        .put("Pelton-Dlq-Code", letter.code);
    if !letter.path.is_empty() {
        headers.put("Pelton-Dlq-Path", letter.path);
    }
    let mut end = letter.message.len().min(MESSAGE_MAX);
    while !letter.message.is_char_boundary(end) {
        end -= 1;
    }
    headers.put("Pelton-Dlq-Message", &letter.message[..end]);
    if let Some(digest) = &letter.digest {
        headers.put("Pelton-Dlq-Module", crate::hex::encode(digest));
    }
}

/// A key as one subject token: letters, digits, `-` and `_` stay, other bytes become `%XX`; never empty.
/// A very long key keeps its first 64 bytes and a hash.
#[must_use]
pub fn key_token(key: &[u8]) -> String {
    const KEPT: usize = 64;
    let mut token = String::with_capacity(key.len());
    for &byte in key.iter().take(if key.len() > 2 * KEPT { KEPT } else { key.len() }) {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            token.push(byte as char);
        } else {
            write!(token, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    if key.len() > 2 * KEPT {
        write!(token, "%{:016x}", crate::epoch::fingerprint(0, key)).expect("writing to a string does not fail");
    }
    if token.is_empty() { "%".into() } else { token }
}
