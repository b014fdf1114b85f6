//! From a unit's acts to records: outputs, dead letters, and the fate of each event.

use std::ops::Range;

use crate::effects::{DeadLetter, Effects, key_text, letter_bytes};
use crate::epoch::TEXT_BYTES_AT_ONCE_MAX;
use crate::event::RawBatch;
use crate::guest::{OF_SOURCE, Output, Panes};
use crate::judge::Verdict;

use super::Context;
use super::chain::{Act, ActKind, Bytes, Letter, Unit};
use super::output::{Cause, Outgoing, Refusal, STATE_SIZE, Scale, frame_bytes_max, state_size};

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

/// Numbers the records of one event per stage; acts of an event are ordered by stage.
#[derive(Default)]
struct Numbering {
    stage: usize,
    next: usize,
}

impl Numbering {
    fn take(&mut self, stage: usize) -> usize {
        if self.stage != stage {
            *self = Numbering { stage, next: 0 };
        }
        self.next += 1;
        self.next - 1
    }
}

/// Weighs what each event of a fresh unit brings about, and puts a dead letter in the place of records that cannot be
/// kept. `digests` are those of the stages' modules; `text_bytes` is what a row may add to the state besides its key.
pub(crate) fn weigh_unit(
    context: &Context,
    digests: &[[u8; 32]],
    unit: &mut Unit,
    batch: &RawBatch,
    text_bytes: &dyn Fn(&Unit, u32) -> usize,
) {
    let mut weights = std::mem::take(&mut unit.weights);
    weights.clear();
    let mut refused: Vec<(u32, Refusal)> = Vec::new();
    let mut first = 0;
    for (idx, event) in unit.events.iter().enumerate() {
        let acts = unit.acts_of(idx, first);
        first = acts.end;
        let letter = letter_bytes(event);
        let changes = unit.rows_of(acts.clone()).map(|row| unit.key(row).len().saturating_add(text_bytes(unit, row)));
        let changes = changes.fold(0, usize::saturating_add);
        if changes > TEXT_BYTES_AT_ONCE_MAX {
            refused.push((
                idx as u32,
                Refusal { code: STATE_SIZE, stage: None, message: state_size(changes, TEXT_BYTES_AT_ONCE_MAX) },
            ));
            weights.push(letter);
            continue;
        }
        // Mostly nothing comes near the bounds, and an upper bound tells so.
        if let Some(weight) = unit.light_weight(context, batch, acts.clone(), letter) {
            weights.push(weight);
            continue;
        }
        let weighed = Scale::weigh(context, |scale| unit.put_on(context, batch, acts.clone(), scale));
        weights.push(match weighed {
            Ok(scale) => {
                let letters = acts.len() - scale.outputs;
                scale.bytes.saturating_add(letter.saturating_mul(letters).min(context.room.bytes_at_once))
            }
            Err(refusal) => {
                refused.push((idx as u32, refusal));
                letter
            }
        });
    }
    unit.weights = weights;
    if refused.is_empty() {
        return;
    }
    unit.acts.retain(|act| refused.binary_search_by_key(&act.origin, |(origin, _)| *origin).is_err());
    for (origin, Refusal { code, stage, message }) in refused {
        let digest = stage.map(|stage| digests[stage]);
        unit.bury(origin, Letter { stage, digest, class: "limit", code: code.into(), message });
    }
    unit.acts.sort_by_key(|act| act.origin);
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
    let acts = unit.acts_of(unit.next, unit.next_act);
    if !effects.fits_bytes(&context.room, acts.len(), unit.weights[unit.next]) && !effects.records.rows.is_empty() {
        return false;
    }
    keep_acts(context, unit, batch, acts, effects, item);
    true
}

/// Keeps the acts of the unit's next event, for which there is room.
pub(crate) fn keep_row(
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    effects: &mut Effects,
    item: &mut dyn FnMut(&Unit, u32, &mut Effects) -> Fate,
) {
    let acts = unit.acts_of(unit.next, unit.next_act);
    keep_acts(context, unit, batch, acts, effects, item);
}

/// Keeps the unit's next event, whose acts are `acts`.
fn keep_acts(
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    acts: Range<usize>,
    effects: &mut Effects,
    item: &mut dyn FnMut(&Unit, u32, &mut Effects) -> Fate,
) {
    effects.begin_event();
    unit.next_act = acts.end;
    let mut fate = Fate::Filtered;
    let mut numbering = Numbering::default();
    for idx in acts {
        fate = fate.max(match unit.acts[idx].kind {
            ActKind::Item { row } => item(unit, row, effects),
            _ => keep_act(context, unit, batch, &unit.acts[idx], &mut numbering, effects),
        });
    }
    fate.count(effects);
    unit.next += 1;
}

/// Keeps one dead letter in the place of everything that the unit's next event brings about.
pub(crate) fn refuse_row(
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    letter: &DeadLetter<'_>,
    effects: &mut Effects,
) {
    effects.begin_event();
    effects.push_dead(&context.room, &context.origin, letter, batch, &unit.events[unit.next]);
    Fate::Dead.count(effects);
    unit.next_act = unit.acts_of(unit.next, unit.next_act).end;
    unit.next += 1;
}

/// Keeps an act that needs no state.
fn keep_act(
    context: &Context,
    unit: &Unit,
    batch: &RawBatch,
    act: &Act,
    numbering: &mut Numbering,
    effects: &mut Effects,
) -> Fate {
    let stage_name = |stage: usize| context.plan.stages[stage].name.as_str();
    let letter = match &act.kind {
        ActKind::Refused(idx) => {
            let fault = &unit.refused[*idx as usize];
            let stage = fault.stage.map_or("source", stage_name);
            let (code, path, message) = (fault.code, fault.path.as_str(), fault.message.as_str());
            DeadLetter { stage, digest: None, class: "decode", code, path, message }
        }
        ActKind::Dead(idx) => {
            let letter = &unit.letters[*idx as usize];
            DeadLetter {
                stage: letter.stage.map_or("pipeline", stage_name),
                digest: letter.digest,
                class: letter.class,
                code: &letter.code,
                path: "",
                message: &letter.message,
            }
        }
        ActKind::Emit { .. } => {
            unit.outgoing(context, batch, act, numbering).expect("it is one").push(context, effects);
            return Fate::Processed;
        }
        ActKind::Item { .. } => return Fate::Filtered,
    };
    effects.push_dead(&context.room, &context.origin, &letter, batch, &unit.events[act.origin as usize]);
    Fate::Dead
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
}

impl Judged {
    /// Keeps the records of judged panes while they fit; returns how many panes are done by this call.
    pub(crate) fn keep(&mut self, context: &Context, stage: usize, digest: [u8; 32], effects: &mut Effects) -> usize {
        let first = self.next;
        while self.next < self.results.len() {
            let (count, bytes) = self.weigh_next(context, stage);
            if count > 0 && !effects.fits_bytes(&context.room, count, bytes) && !effects.records.rows.is_empty() {
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

    /// How many records the next pane has, and their bytes. Records that cannot be kept become one dead letter.
    fn weigh_next(&mut self, context: &Context, stage: usize) -> (usize, usize) {
        let idx = self.next;
        let PaneResult::Records(records) = &self.results[idx] else { return (1, 0) };
        let weighed = Scale::weigh(context, |scale| {
            self.outgoing(context, stage, idx, records).for_each(|record| scale.add(&record));
        });
        match weighed {
            Ok(scale) => (scale.records, scale.bytes),
            Err(Refusal { code, message, .. }) => {
                self.results[idx] = PaneResult::Dead { class: "limit", code: code.into(), message };
                (1, 0)
            }
        }
    }

    /// The records of a pane that an output takes.
    fn outgoing<'a>(
        &'a self,
        context: &'a Context,
        stage: usize,
        idx: usize,
        records: &'a [PaneRecord],
    ) -> impl Iterator<Item = Outgoing<'a>> {
        records.iter().enumerate().filter_map(move |(nth, record)| {
            Some(Outgoing {
                output: context.route(stage, record.port)?,
                key: record.key.as_deref().unwrap_or_else(|| self.panes.keys.get(idx)),
                payload: &record.payload,
                cause: Cause::Pane { panes: &self.panes, idx, nth },
            })
        })
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
                self.outgoing(context, stage, idx, records).for_each(|record| record.push(context, effects));
            }
        }
    }

    /// A pane as JSON: the payload of its dead letter.
    fn describe(&self, idx: usize) -> Vec<u8> {
        let panes = &self.panes;
        serde_json::json!({
            "key": key_text(panes.keys.get(idx)),
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
    /// The acts of event `event`, of which `first` is the first, if it has any.
    pub(crate) fn acts_of(&self, event: usize, first: usize) -> Range<usize> {
        let count = self.acts[first..].iter().take_while(|act| act.origin as usize == event).count();
        first..first + count
    }

    /// The rows that reach the stage with state, among some acts.
    fn rows_of(&self, acts: Range<usize>) -> impl Iterator<Item = u32> {
        self.acts[acts].iter().filter_map(|act| match act.kind {
            ActKind::Item { row } => Some(row),
            _ => None,
        })
    }

    /// The key of a row that reaches the stage with state.
    fn key(&self, row: u32) -> &[u8] {
        self.flows.last().expect("decoding made one").decoded.keys.get(row as usize)
    }

    /// At least as much as acts of one event weigh, when that is within all bounds; `letter` is the weight of a letter.
    fn light_weight(&self, context: &Context, batch: &RawBatch, acts: Range<usize>, letter: usize) -> Option<usize> {
        let room = &context.room;
        let (count, mut letters, mut records) = (acts.len(), 0, 0);
        for act in &self.acts[acts] {
            let ActKind::Emit { key, payload, .. } = act.kind else {
                letters += 1;
                continue;
            };
            let frame = frame_bytes_max(self.bytes(key, batch), &[]);
            let record = frame + self.bytes(payload, batch).len();
            if frame > room.header_bytes || record > room.record_bytes {
                return None;
            }
            records += record;
        }
        let bytes_at_once = room.bytes_at_once;
        (count <= room.records && records <= bytes_at_once)
            .then(|| records.saturating_add(letter.saturating_mul(letters).min(bytes_at_once)))
    }

    /// Puts what one event brings about on the scale, as far as it is known without the stage with state.
    pub(crate) fn put_on(&self, context: &Context, batch: &RawBatch, acts: Range<usize>, scale: &mut Scale<'_>) {
        let mut numbering = Numbering::default();
        for act in &self.acts[acts] {
            match self.outgoing(context, batch, act, &mut numbering) {
                Some(record) => scale.add(&record),
                None => scale.add_letters(1),
            }
        }
    }

    /// The record that an act is, when it is one.
    fn outgoing<'a>(
        &'a self,
        context: &Context,
        batch: &'a RawBatch,
        act: &Act,
        numbering: &mut Numbering,
    ) -> Option<Outgoing<'a>> {
        let ActKind::Emit { output, key, payload, time } = act.kind else { return None };
        let output = usize::from(output);
        let nth = numbering.take(context.plan.outputs[output].stage);
        let sequence = self.events[act.origin as usize].sequence;
        Some(Outgoing {
            output,
            key: self.bytes(key, batch),
            payload: self.bytes(payload, batch),
            cause: Cause::Event { sequence, nth, time },
        })
    }

    /// Resolves bytes of an act.
    pub(crate) fn bytes<'a>(&'a self, bytes: Bytes, batch: &'a RawBatch) -> &'a [u8] {
        match bytes {
            Bytes::Own { start, end } => &self.arena[start..end],
            Bytes::Payload { flow, row } => self.flows[flow as usize].payload(row as usize, batch, &self.events),
            Bytes::Key { flow, row } => self.flows[flow as usize].decoded.keys.get(row as usize),
        }
    }
}
