//! Records of outputs: their subject, headers and ids, and whether they can be kept at all.
//!
//! What one event, pane or timer brings about is weighed before any of it is kept and before any state has changed, so
//! that it has one fate: all of its records, or one dead letter in their place.

use crate::codes::Code;
use crate::effects::{Effects, Headers, KEY_BYTES_MAX, key_token};
use crate::epoch::Channel;
use crate::guest::Panes;

use super::{Context, Envelope};

/// The message of [`Code::StateSize`].
pub(crate) fn state_size(bytes: usize, limit: usize) -> String {
    format!("{bytes} bytes of state would change at once, limit {limit}")
}

/// Most bytes of subject and headers besides the keys: names have at most 63 characters, numbers at most 20 digits.
const FRAME_BYTES_MAX: usize = 1024;
/// A record that deletes its key says so in the words of key-value buckets, so that it does when it is copied into one.
const TOMBSTONE: (&str, &str) = ("KV-Operation", "DEL");
/// Longest token of a key.
const TOKEN_BYTES_MAX: usize = 3 * 128;

/// A record of an output before it is made.
pub(crate) struct Outgoing<'a> {
    /// Index into the plan's outputs.
    pub(crate) output: usize,
    pub(crate) key: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// What the module adds to the host's headers: `name: value\r\n` per line.
    pub(crate) headers: &'a [u8],
    /// Whether it deletes its key.
    pub(crate) is_delete: bool,
    pub(crate) cause: Cause<'a>,
}

/// What a record comes of: the source of its id and headers. `nth` counts the records of one cause and stage.
#[derive(Clone, Copy)]
pub(crate) enum Cause<'a> {
    Event {
        sequence: u64,
        nth: usize,
        time: i64,
    },
    /// Due timers of a key, fired by the event at `sequence`: a key may set a timer of the same time again.
    Timer {
        key: &'a [u8],
        at: i64,
        sequence: u64,
        nth: usize,
        time: i64,
    },
    Pane {
        panes: &'a Panes,
        idx: usize,
        nth: usize,
    },
}

impl Outgoing<'_> {
    /// Makes the record.
    pub(crate) fn push(&self, context: &Context, effects: &mut Effects) {
        let output = &context.plan.outputs[self.output];
        let subject = |data: &mut Vec<u8>| {
            data.extend_from_slice(b"out.");
            data.extend_from_slice(output.name.as_bytes());
            if context.keyed[self.output] {
                data.push(b'.');
                data.extend_from_slice(key_token(self.key).as_bytes());
            }
        };
        let headers = |headers: &mut Headers<'_>| {
            match context.envelope {
                Envelope::Headers => self.put_headers(context, headers),
                // It has no payload that could say so.
                Envelope::Bare if self.is_delete => drop(headers.put(TOMBSTONE.0, TOMBSTONE.1)),
                Envelope::Bare => {}
            }
            self.payload.len()
        };
        effects.push(Channel::Output(self.output as u16), subject, headers, self.payload);
        effects.count_output(self.output);
    }

    fn put_headers(&self, context: &Context, headers: &mut Headers<'_>) {
        let stage = &context.plan.stages[context.plan.outputs[self.output].stage].name;
        let (pipeline, partition) = (&context.origin.pipeline, context.origin.partition);
        match self.cause {
            Cause::Event { sequence, nth, time } => {
                headers
                    .put("Pelton-Id", format_args!("{pipeline}/{partition}/{sequence}/{stage}/{nth}"))
                    .put_key(self.key)
                    .put("Pelton-Event-Time", time);
            }
            Cause::Timer { key, at, sequence, nth, time } => {
                let token = key_token(key);
                let id = format_args!("{pipeline}/{partition}/{stage}/{token}/timer/{at}/{sequence}/{nth}");
                headers.put("Pelton-Id", id).put_key(self.key).put("Pelton-Event-Time", time);
            }
            Cause::Pane { panes, idx, nth } => {
                let (token, start, end) = (key_token(panes.keys.get(idx)), panes.starts[idx], panes.ends[idx]);
                let number = panes.indexes[idx];
                let base = format_args!("{pipeline}/{partition}/{stage}/{token}/{start}/{end}");
                headers
                    .put("Pelton-Id", format_args!("{base}/{number}/{nth}"))
                    .put_key(self.key)
                    .put("Pelton-Window-Start", start)
                    .put("Pelton-Window-End", end)
                    .put("Pelton-Pane-Index", number)
                    .put("Pelton-Pane-Timing", panes.timings[idx].name())
                    .put("Pelton-Pane-Last", panes.lasts[idx])
                    .put("Pelton-Watermark", panes.watermarks[idx]);
                if let Some(before) = number.checked_sub(1) {
                    headers.put("Pelton-Replaces", format_args!("{base}/{before}/{nth}"));
                }
            }
        }
        if self.is_delete {
            headers.put(TOMBSTONE.0, TOMBSTONE.1);
        }
        headers.append(self.headers);
    }

    /// At least as much as subject and headers take, without making them.
    fn frame_bytes_max(&self) -> usize {
        let cause = match self.cause {
            Cause::Event { .. } => &[],
            Cause::Timer { key, .. } => key,
            Cause::Pane { panes, idx, .. } => panes.keys.get(idx),
        };
        frame_bytes_max(self.key, cause) + self.headers.len()
    }
}

/// At least as much as subject and headers of a record take; `cause` is the key of the pane or timer that it comes of.
pub(crate) fn frame_bytes_max(key: &[u8], cause: &[u8]) -> usize {
    let token = |key: &[u8]| (3 * key.len()).min(TOKEN_BYTES_MAX);
    FRAME_BYTES_MAX + (3 * key.len()).min(KEY_BYTES_MAX) + token(key) + 2 * token(cause)
}

/// Why records cannot be kept.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// The stage whose record it is; `None` when it is about all records together.
    pub(crate) stage: Option<usize>,
    pub(crate) message: String,
}

/// Counts and weighs what one event, pane or timer brings about.
pub(crate) struct Scale<'a> {
    context: &'a Context,
    /// Makes each header block in order to measure it, instead of taking an upper bound.
    exact: bool,
    scratch: Vec<u8>,
    /// Records of outputs, dead letters and late events.
    pub(crate) records: usize,
    /// Records of outputs, and their bytes.
    pub(crate) outputs: usize,
    pub(crate) bytes: usize,
    refusal: Option<Refusal>,
}

impl<'a> Scale<'a> {
    /// Weighs all that `add` puts on the scale. The second time, if there has to be one, it has to put on the same.
    pub(crate) fn weigh(context: &'a Context, mut add: impl FnMut(&mut Scale<'a>)) -> Result<Scale<'a>, Refusal> {
        // Mostly nothing comes near the bounds, and an upper bound tells so.
        for exact in [false, true] {
            let mut scale =
                Scale { context, exact, scratch: Vec::new(), records: 0, outputs: 0, bytes: 0, refusal: None };
            add(&mut scale);
            if scale.records > context.room.records && scale.refusal.is_none() {
                scale.refuse_all(format!("{} records come of it, limit {}", scale.records, context.room.records));
            }
            match scale.refusal.take() {
                None => return Ok(scale),
                Some(refusal) if exact => return Err(refusal),
                Some(_) => {}
            }
        }
        unreachable!("an exact measure is the last word")
    }

    /// Adds a dead letter or a late event: these keep what fits, so only their number counts.
    pub(crate) fn add_letters(&mut self, count: usize) {
        self.records += count;
    }

    /// Adds a record of an output.
    pub(crate) fn add(&mut self, record: &Outgoing<'_>) {
        self.records += 1;
        self.outputs += 1;
        let room = &self.context.room;
        let headers = if self.exact { self.header_bytes(record) } else { record.frame_bytes_max() };
        let bytes = headers.saturating_add(record.payload.len());
        self.bytes = self.bytes.saturating_add(bytes);
        if self.refusal.is_some() {
            return;
        }
        if headers > room.header_bytes || bytes > room.record_bytes {
            let output = &self.context.plan.outputs[record.output];
            let message = format!(
                "a record of output `{}` has {} bytes and {headers} bytes of headers, limit {} for both together",
                output.name,
                record.payload.len(),
                room.record_bytes,
            );
            self.refusal = Some(Refusal { code: Code::RecordSize, stage: Some(output.stage), message });
        } else if self.bytes > room.bytes_at_once {
            self.refuse_all(format!("more than {} bytes of records come of it", room.bytes_at_once));
        }
    }

    fn refuse_all(&mut self, message: String) {
        self.refusal = Some(Refusal { code: Code::TooManyRecords, stage: None, message });
    }

    fn header_bytes(&mut self, record: &Outgoing<'_>) -> usize {
        self.scratch.clear();
        if self.context.envelope == Envelope::Headers {
            record.put_headers(self.context, &mut Headers::new(&mut self.scratch));
        }
        self.scratch.len()
    }
}
