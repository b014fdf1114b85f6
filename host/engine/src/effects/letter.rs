//! Dead letters and late events: an input event kept with the reason, whatever its size.
//!
//! A record must fit into one message, and an event may be as large as a message: then the event is kept as far as it
//! fits, and headers tell the length and sha256 of what it was. Stream and sequence are always there, so that the
//! original can be found.

use base64::Engine as _;

use super::headers::{VALUE_MAX, text_end};
use super::{Effects, Headers, Origin, Room};
use crate::codes::Class;
use crate::epoch::{Channel, sha256};
use crate::event::{RawBatch, RawEvent, Whole};
use crate::hex;

/// Longest subject that is kept; the usual limit of a whole protocol line.
const SUBJECT_MAX: usize = 4096;
/// Most bytes of the marks that tell what was cut: two lengths, two digests.
const MARKS_BYTES: usize = 320;
/// The host's own headers of a dead letter at most: reason, place and marks.
pub(super) const OWN_BYTES_MAX: usize = SUBJECT_MAX + 3 * VALUE_MAX + 1024 + MARKS_BYTES;
/// Largest description of a pane or timer; its makers stay below.
const ROW_BYTES_MAX: usize = 16 << 10;

/// A data fault of one input event, on its way to the dead letters.
pub(crate) struct DeadLetter<'a> {
    pub(crate) stage: &'a str,
    /// sha256 of the module, when a module was involved.
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) class: Class,
    pub(crate) code: &'a str,
    pub(crate) path: &'a str,
    pub(crate) message: &'a str,
}

/// What is kept of an event.
struct Original<'a> {
    headers: &'a [u8],
    /// The headers are bytes that no client reads: they are kept as base64.
    unreadable: bool,
    payload: &'a [u8],
    /// What the payload is the beginning of.
    whole: Option<&'a Whole>,
}

impl<'a> Original<'a> {
    fn of(batch: &'a RawBatch, event: &'a RawEvent) -> Original<'a> {
        let (headers, payload) = (batch.slice(&event.headers), batch.slice(&event.payload));
        Original { headers, unreadable: event.unreadable, payload, whole: event.whole.as_deref() }
    }

    /// Adds the event's headers as far as they fit below `end`; false when something was left out.
    fn keep_headers(&self, prefix: &str, headers: &mut Headers<'_>, end: usize) -> bool {
        if !self.unreadable {
            return headers.keep(self.headers, end);
        }
        let frame = prefix.len() + "Headers: \r\n".len();
        let room = end.saturating_sub(headers.end() + frame) / 4 * 3;
        let kept = &self.headers[..self.headers.len().min(room)];
        if !kept.is_empty() {
            let text = base64::engine::general_purpose::STANDARD.encode(kept);
            headers.put(&format!("{prefix}Headers"), text);
        }
        kept.len() == self.headers.len()
    }

    /// Adds the event's headers below the host's, and marks for what does not fit; returns how much of the payload does.
    fn put(&self, prefix: &str, headers: &mut Headers<'_>, start: usize, bounds: Bounds) -> usize {
        let own_end = headers.end();
        let header_end = start.saturating_add(bounds.header.min(bounds.record));
        let record_end = start.saturating_add(bounds.record);
        if self.whole.is_none()
            && self.keep_headers(prefix, headers, header_end)
            && headers.end().saturating_add(self.payload.len()) <= record_end
        {
            return self.payload.len();
        }
        // Once more, with room for the marks, which stand before the event's headers.
        headers.truncate(own_end);
        let (header_end, record_end) = (header_end.saturating_sub(MARKS_BYTES), record_end.saturating_sub(MARKS_BYTES));
        let has_all = self.keep_headers(prefix, headers, header_end);
        let payload = text_end(self.payload, record_end.saturating_sub(headers.end()));
        headers.truncate(own_end);
        if !has_all {
            put_mark(prefix, "Headers", self.headers.len() as u64, &sha256(self.headers), headers);
        }
        if let Some(whole) = self.whole {
            put_mark(prefix, "Payload", whole.bytes, &whole.sha256, headers);
        } else if payload < self.payload.len() {
            put_mark(prefix, "Payload", self.payload.len() as u64, &sha256(self.payload), headers);
        }
        let marks = headers.end() - own_end;
        debug_assert!(marks <= MARKS_BYTES, "{marks} bytes of marks");
        self.keep_headers(prefix, headers, header_end + marks);
        payload
    }
}

/// What a letter may take.
#[derive(Clone, Copy)]
struct Bounds {
    header: usize,
    record: usize,
}

/// Length and sha256 of what is not there in full.
fn put_mark(prefix: &str, what: &str, bytes: u64, sha256: &[u8; 32], headers: &mut Headers<'_>) {
    headers.put(&format!("{prefix}{what}-Bytes"), bytes);
    headers.put(&format!("{prefix}{what}-Sha256"), hex::encode(sha256));
}

impl Effects {
    /// Keeps an input event as a dead letter: its bytes and headers untouched where they fit, the reason beside them.
    pub(crate) fn push_dead(
        &mut self,
        room: &Room,
        origin: &Origin,
        letter: &DeadLetter<'_>,
        batch: &RawBatch,
        event: &RawEvent,
    ) {
        let original = Original::of(batch, event);
        let own = |headers: &mut Headers<'_>| {
            put_reason(headers, origin, letter);
            headers
                .put_at_most(VALUE_MAX, "Pelton-Dlq-Stream", &origin.source)
                .put("Pelton-Dlq-Sequence", event.sequence);
            let subject = batch.slice(&event.subject);
            if !subject.is_empty() {
                headers.put_at_most(SUBJECT_MAX, "Pelton-Dlq-Subject", String::from_utf8_lossy(subject));
            }
            headers.put("Pelton-Dlq-Timestamp", event.published.0);
        };
        self.push_original(room, Channel::DeadLetter, &dead_subject(letter), "Pelton-Dlq-", own, &original);
        self.count_dead(letter);
    }

    /// Keeps a row that is not an input event (a pane, a timer) as a dead letter; `payload` describes it as JSON, in at
    /// most [`ROW_BYTES_MAX`] bytes.
    pub(crate) fn push_dead_row(&mut self, origin: &Origin, letter: &DeadLetter<'_>, payload: &[u8]) {
        debug_assert!(payload.len() <= ROW_BYTES_MAX, "{} bytes", payload.len());
        let subject = dead_subject(letter);
        let headers = |headers: &mut Headers<'_>| {
            put_reason(headers, origin, letter);
            text_end(payload, ROW_BYTES_MAX)
        };
        self.push(Channel::DeadLetter, |data| data.extend_from_slice(subject.as_bytes()), headers, payload);
        self.count_dead(letter);
        *self.dead_firings_by_code.entry(letter.code.to_string()).or_default() += 1;
    }

    fn count_dead(&mut self, letter: &DeadLetter<'_>) {
        *self.dead_by_code.entry(letter.code.to_string()).or_default() += 1;
        *self.dead_by_class.entry(letter.class).or_default() += 1;
    }

    /// Keeps an input event that came too late for every window.
    #[expect(clippy::too_many_arguments, reason = "where it is kept, what it is, and why it is late")]
    pub(crate) fn push_late(
        &mut self,
        room: &Room,
        origin: &Origin,
        stage: &str,
        time: i64,
        watermark: i64,
        batch: &RawBatch,
        event: &RawEvent,
    ) {
        let original = Original::of(batch, event);
        let Origin { pipeline, partition, source, revision: _ } = origin;
        let (sequence, nth) = (event.sequence, self.event_late);
        self.event_late += 1;
        let own = |headers: &mut Headers<'_>| {
            headers
                .put("Pelton-Id", format_args!("{pipeline}/{partition}/{sequence}/{stage}/late/{nth}"))
                .put("Pelton-Late-Stage", stage)
                .put("Pelton-Event-Time", time)
                .put("Pelton-Watermark", watermark)
                .put_at_most(VALUE_MAX, "Pelton-Stream", source)
                .put("Pelton-Sequence", sequence);
        };
        self.push_original(room, Channel::Late, &format!("late.{stage}"), "Pelton-Late-", own, &original);
    }

    fn push_original(
        &mut self,
        room: &Room,
        channel: Channel,
        subject: &str,
        prefix: &str,
        own: impl FnOnce(&mut Headers<'_>),
        original: &Original<'_>,
    ) {
        // All that one event brings about must fit into one epoch: its later letters may have to keep less of it.
        let before = self.records.data.len().saturating_sub(self.event_start);
        let left = room.bytes_at_once.saturating_sub(before).max(OWN_BYTES_MAX);
        let bounds = Bounds { header: room.header_bytes, record: room.record_bytes.min(left) };
        let headers = |headers: &mut Headers<'_>| {
            let start = headers.end();
            own(headers);
            original.put(prefix, headers, start, bounds)
        };
        self.push(channel, |data| data.extend_from_slice(subject.as_bytes()), headers, original.payload);
    }
}

fn dead_subject(letter: &DeadLetter<'_>) -> String {
    format!("dlq.{}.{}", letter.stage, letter.code)
}

fn put_reason(headers: &mut Headers<'_>, origin: &Origin, letter: &DeadLetter<'_>) {
    headers
        .put("Pelton-Dlq-Pipeline", &origin.pipeline)
        .put("Pelton-Dlq-Partition", origin.partition)
        .put("Pelton-Dlq-Stage", letter.stage)
        .put("Pelton-Dlq-Class", letter.class)
        .put("Pelton-Dlq-Code", letter.code);
    if !letter.path.is_empty() {
        headers.put_at_most(VALUE_MAX, "Pelton-Dlq-Path", letter.path);
    }
    headers.put_at_most(VALUE_MAX, "Pelton-Dlq-Message", letter.message);
    if let Some(digest) = &letter.digest {
        headers.put("Pelton-Dlq-Module", hex::encode(digest));
    }
}

#[cfg(test)]
mod tests;
