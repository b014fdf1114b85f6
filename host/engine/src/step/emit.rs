//! From a unit's acts to records: outputs, dead letters, and the fate of each event.

use crate::effects::{DeadLetter, Effects, Headers, key_token};
use crate::epoch::Channel;
use crate::event::RawBatch;
use crate::guest::{OF_SOURCE, Output, Panes};
use crate::judge::Verdict;

use super::Context;
use super::chain::{Act, ActKind, Bytes, Unit};

/// Whether outputs carry headers. Dead letters and late rows always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    Headers,
    /// For sinks that keep payloads only.
    Bare,
}

/// What became of an event; the largest one of its acts counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Filtered,
    Late,
    Processed,
    Dead,
}

impl Fate {
    pub(crate) fn count(self, effects: &mut Effects) {
        effects.totals.received += 1;
        match self {
            Fate::Filtered => effects.totals.filtered += 1,
            Fate::Late => effects.totals.late += 1,
            Fate::Processed => effects.totals.processed += 1,
            Fate::Dead => effects.totals.dead += 1,
        }
    }
}

/// Keeps the acts of the unit's next event. `item` places a row that reached the stage with state.
/// False when they do not fit into the epoch: then nothing has happened.
pub(crate) fn take_row(
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    effects: &mut Effects,
    item: &mut dyn FnMut(&Unit, u32, &mut Effects) -> Fate,
) -> bool {
    let count = next_acts(unit);
    if !effects.fits(&context.room, count) && !effects.records.rows.is_empty() {
        return false;
    }
    keep_row(context, unit, batch, effects, item);
    true
}

/// How many acts the unit's next event has.
fn next_acts(unit: &Unit) -> usize {
    unit.acts[unit.next_act..].iter().take_while(|act| act.origin as usize == unit.next).count()
}

/// Keeps the acts of the unit's next event, for which there is room.
pub(crate) fn keep_row(
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    effects: &mut Effects,
    item: &mut dyn FnMut(&Unit, u32, &mut Effects) -> Fate,
) {
    let (first, count) = (unit.next_act, next_acts(unit));
    let mut fate = Fate::Filtered;
    if count > context.room.records {
        let message = too_many(context, count);
        let letter =
            DeadLetter { stage: "pipeline", digest: None, class: "limit", code: TOO_MANY, path: "", message: &message };
        effects.push_dead(&context.origin, &letter, batch, &unit.events[unit.next]);
        fate = Fate::Dead;
    } else {
        let mut nth = 0;
        for idx in first..first + count {
            fate = fate.max(match unit.acts[idx].kind {
                ActKind::Item { row } => item(unit, row, effects),
                _ => keep_act(context, unit, batch, &unit.acts[idx], &mut nth, effects),
            });
        }
    }
    fate.count(effects);
    unit.next += 1;
    unit.next_act = first + count;
}

/// Code of what gives more records than an epoch may hold.
pub(crate) const TOO_MANY: &str = "too-many-records";

pub(crate) fn too_many(context: &Context, count: usize) -> String {
    format!("{count} records come of it, limit {}", context.room.records)
}

/// Keeps an act that needs no state.
pub(crate) fn keep_act(
    context: &Context,
    unit: &Unit,
    batch: &RawBatch,
    act: &Act,
    nth: &mut u32,
    effects: &mut Effects,
) -> Fate {
    let event = &unit.events[act.origin as usize];
    match &act.kind {
        ActKind::Refused(idx) => {
            let fault = &unit.refused[*idx as usize];
            let stage = fault.stage.map_or("source", |stage| &context.plan.stages[stage].name);
            let (code, path, message) = (fault.code, fault.path.as_str(), fault.message.as_str());
            let letter = DeadLetter { stage, digest: None, class: "decode", code, path, message };
            effects.push_dead(&context.origin, &letter, batch, event);
            Fate::Dead
        }
        ActKind::Dead(idx) => {
            let letter = &unit.letters[*idx as usize];
            let letter = DeadLetter {
                stage: &context.plan.stages[letter.stage].name,
                digest: Some(letter.digest),
                class: letter.class,
                code: &letter.code,
                path: "",
                message: &letter.message,
            };
            effects.push_dead(&context.origin, &letter, batch, event);
            Fate::Dead
        }
        ActKind::Emit { output, key, payload, time } => {
            let key = unit.bytes(*key, batch);
            let payload = unit.bytes(*payload, batch);
            let mut headers = Headers::default();
            if context.envelope == Envelope::Headers {
                let origin = &context.origin;
                let id = format_args!("{}/{}/{}/{nth}", origin.pipeline, origin.partition, event.sequence);
                headers.put("Pelton-Id", id).put("Pelton-Key", String::from_utf8_lossy(key)).put("Pelton-Time", time);
            }
            *nth += 1;
            push_output(context, usize::from(*output), key, headers.bytes(), payload, effects);
            Fate::Processed
        }
        ActKind::Item { .. } => Fate::Filtered,
    }
}

/// Appends a record of an output.
pub(crate) fn push_output(
    context: &Context,
    output: usize,
    key: &[u8],
    headers: &[u8],
    payload: &[u8],
    effects: &mut Effects,
) {
    let plan = &context.plan.outputs[output];
    let channel = Channel::Output(output as u16);
    if plan.publish.as_ref().is_some_and(|publish| publish.subject.contains("{key}")) {
        let subject = format!("out.{}.{}", plan.name, key_token(key));
        effects.records.push(channel, subject.as_bytes(), headers, payload);
    } else {
        // Without an allocation: this is every record of a pipeline with plain outputs.
        let start = effects.records.data.len() as u32;
        effects.records.data.extend_from_slice(b"out.");
        effects.records.data.extend_from_slice(plan.name.as_bytes());
        effects.records.push_behind(start, channel, headers, payload);
    }
    effects.count_output(output);
}

/// Records of judged panes that wait for room in an epoch.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) panes: Panes,
    /// One per pane.
    pub(crate) results: Vec<PaneResult>,
    /// Next pane whose records are kept.
    pub(crate) next: usize,
}

/// What a module said of one pane.
pub(crate) enum PaneResult {
    Records(Vec<PaneRecord>),
    Dead { class: &'static str, code: String, message: String },
}

/// One record that a pane gave.
pub(crate) struct PaneRecord {
    port: u8,
    /// `None`: the pane's key.
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

/// Splits the output of a call over panes `rows` into results per pane; `input` is the arena that offsets start in.
pub(crate) fn split_output(rows: &[u32], output: &Output, input: &[u8], results: &mut [PaneResult]) {
    let slice = |offset: u32, len: u32| -> Vec<u8> {
        let (offset, len) = (offset as usize, len as usize);
        match offset.checked_sub(input.len()) {
            None => input[offset..offset + len].to_vec(),
            Some(offset) => output.data[offset..offset + len].to_vec(),
        }
    };
    for &row in rows {
        results[row as usize] = PaneResult::Records(Vec::new());
    }
    for (idx, &source) in output.sources.iter().enumerate() {
        let [key, key_len, payload, payload_len] = output.slices[4 * idx..4 * idx + 4] else {
            unreachable!("a slice of four has four parts")
        };
        let record = PaneRecord {
            port: output.ports.get(idx).copied().unwrap_or(0),
            key: (key != OF_SOURCE).then(|| slice(key, key_len)),
            // A pane has no payload of its own to forward.
            payload: if payload == OF_SOURCE { Vec::new() } else { slice(payload, payload_len) },
        };
        if let PaneResult::Records(records) = &mut results[rows[source as usize] as usize] {
            records.push(record);
        }
    }
    for reject in &output.rejects {
        let row = rows[reject.source as usize] as usize;
        results[row] = PaneResult::Dead { class: "reject", code: reject.code.clone(), message: reject.detail.clone() };
    }
}

impl PaneResult {
    pub(crate) fn of_verdict(verdict: &Verdict) -> PaneResult {
        PaneResult::Dead { class: verdict.class, code: verdict.code.into(), message: verdict.message.clone() }
    }

    fn len(&self) -> usize {
        match self {
            PaneResult::Records(records) => records.len(),
            PaneResult::Dead { .. } => 1,
        }
    }
}

impl Judged {
    /// Keeps the records of judged panes while they fit; returns how many panes are done by this call.
    pub(crate) fn keep(&mut self, context: &Context, stage: usize, digest: [u8; 32], effects: &mut Effects) -> usize {
        let first = self.next;
        while self.next < self.results.len() {
            let count = self.results[self.next].len();
            if count > context.room.records {
                let message = too_many(context, count);
                self.results[self.next] = PaneResult::Dead { class: "limit", code: TOO_MANY.into(), message };
            }
            let result = &self.results[self.next];
            if result.len() > 0 && !effects.fits(&context.room, result.len()) && !effects.records.rows.is_empty() {
                break;
            }
            self.keep_pane(context, stage, digest, effects);
            self.next += 1;
        }
        self.next - first
    }

    /// Whether every judged pane's records are kept.
    pub(crate) fn is_done(&self) -> bool {
        self.next == self.results.len()
    }

    fn keep_pane(&self, context: &Context, stage: usize, digest: [u8; 32], effects: &mut Effects) {
        let idx = self.next;
        match &self.results[idx] {
            PaneResult::Dead { class, code, message } => {
                let letter = DeadLetter {
                    stage: &context.plan.stages[stage].name,
                    digest: Some(digest),
                    class,
                    code,
                    path: "",
                    message,
                };
                effects.push_dead_row(&context.origin, &letter, &self.describe(idx));
            }
            PaneResult::Records(records) => {
                let mut headers = Headers::default();
                for (nth, record) in records.iter().enumerate() {
                    let Some(output) = context.route(stage, record.port) else { continue };
                    let key = record.key.as_deref().unwrap_or_else(|| self.panes.keys.get(idx));
                    if context.envelope == Envelope::Headers {
                        self.head(context, stage, (idx, nth), key, headers.clear());
                    }
                    push_output(context, output, key, headers.bytes(), &record.payload, effects);
                }
            }
        }
    }

    /// The pane contract: what any sink needs to upsert correctly.
    fn head(&self, context: &Context, stage: usize, (idx, nth): (usize, usize), key: &[u8], headers: &mut Headers) {
        let panes = &self.panes;
        let pane_key = key_token(panes.keys.get(idx));
        let (start, number) = (panes.starts[idx], panes.numbers[idx]);
        let origin = &context.origin;
        let stage = &context.plan.stages[stage].name;
        let base = format!("{}/{}/{stage}/{pane_key}/{start}", origin.pipeline, origin.partition);
        headers
            .put("Pelton-Id", format_args!("{base}/{number}/{nth}"))
            .put("Pelton-Key", String::from_utf8_lossy(key))
            .put("Pelton-Window-Start", start)
            .put("Pelton-Window-End", panes.ends[idx])
            .put("Pelton-Pane", number)
            .put("Pelton-Firing", panes.firings[idx].name())
            .put("Pelton-Final", panes.finals[idx])
            .put("Pelton-Watermark", panes.watermarks[idx]);
        if let Some(before) = number.checked_sub(1) {
            headers.put("Pelton-Replaces", format_args!("{base}/{before}/{nth}"));
        }
    }

    /// A pane as JSON: the payload of its dead letter.
    fn describe(&self, idx: usize) -> Vec<u8> {
        let panes = &self.panes;
        serde_json::json!({
            "key": String::from_utf8_lossy(panes.keys.get(idx)),
            "window_start": panes.starts[idx],
            "window_end": panes.ends[idx],
            "pane": panes.numbers[idx],
            "firing": panes.firings[idx].name(),
        })
        .to_string()
        .into_bytes()
    }
}

impl Context {
    /// Which output takes records of this stage and port.
    pub(crate) fn route(&self, stage: usize, port: u8) -> Option<usize> {
        self.plan.outputs.iter().position(|output| output.stage == stage && output.port == port)
    }
}

impl Unit {
    /// Resolves bytes of an act.
    pub(crate) fn bytes<'a>(&'a self, bytes: Bytes, batch: &'a RawBatch) -> &'a [u8] {
        match bytes {
            Bytes::Own { start, end } => &self.arena[start as usize..end as usize],
            Bytes::Payload { flow, row } => self.flows[flow as usize].payload(row as usize, batch, &self.events),
            Bytes::Key { flow, row } => self.flows[flow as usize].decoded.keys.get(row as usize),
        }
    }
}
