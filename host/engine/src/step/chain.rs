//! A unit of events through the decoder and the transforms: column-wise, before any of its effects are kept.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::decode::{DecodeFault, Decoded, Decoder};
use crate::event::{Events, RawBatch, RawEvent, TextColumn};
use crate::flow::Flow;
use crate::guest::{Descriptor, Fault, Guest, Metering, OF_SOURCE, Output};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};

use super::Context;
use super::held::Held;

/// Up to [`super::UNIT_EVENTS`] events and everything the stateless stages made of them.
#[derive(Default)]
pub(crate) struct Unit {
    pub(crate) events: Vec<RawEvent>,
    /// Event time of each event; `None` for one that cannot be read: it moves no watermark.
    pub(crate) times: Vec<Option<i64>>,
    pub(crate) flows: Vec<Flow>,
    /// Bytes that modules made.
    pub(crate) arena: Vec<u8>,
    pub(crate) refused: Vec<DecodeFault>,
    pub(crate) letters: Vec<Letter>,
    /// Faults of modules, by stage.
    pub(crate) faults: Vec<(usize, u64)>,
    pub(crate) held: Held,
    /// The stage at which the unit became too large to be held; the rest of it was not computed.
    pub(crate) too_much: Option<usize>,
    /// What each event brings about, ordered by event.
    pub(crate) acts: Vec<Act>,
    /// Next event to account for, and its first act.
    pub(crate) next: usize,
    pub(crate) next_act: usize,
    /// Per event, about how many bytes it brings about.
    pub(crate) weights: Vec<usize>,
    /// Samples of a window rule that extracts, see `rule`.
    pub(crate) samples: super::rule::UnitSamples,
}

/// A dead letter of an event that could be read.
pub(crate) struct Letter {
    /// `None` when no stage is to blame.
    pub(crate) stage: Option<usize>,
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) class: &'static str,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// One thing that an event brings about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    /// Event within the unit.
    pub(crate) origin: u32,
    pub(crate) kind: ActKind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ActKind {
    /// Index into `Unit::refused`.
    Refused(u32),
    /// Index into `Unit::letters`.
    Dead(u32),
    Emit {
        output: u16,
        key: Bytes,
        payload: Bytes,
        time: i64,
    },
    /// Row of the last flow that reaches the stage with state.
    Item {
        row: u32,
    },
}

/// Where bytes of an act lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes {
    /// In the unit's arena, which may outgrow 32 bits when a module writes much for every event.
    Own {
        start: usize,
        end: usize,
    },
    Payload {
        flow: u32,
        row: u32,
    },
    Key {
        flow: u32,
        row: u32,
    },
}

/// Decoder and transforms.
pub(crate) struct Chain {
    decoder: Decoder,
    stages: Vec<Transform>,
    /// Whether rows go on to a stage with state behind the last transform.
    has_tail: bool,
    spare: Vec<Unit>,
    events: Events,
    output: Output,
}

struct Transform {
    guest: Box<dyn Guest>,
    /// Decoder column of each declared field.
    columns: Vec<usize>,
    /// For records that it makes new.
    behind: Decoder,
    digest: [u8; 32],
}

/// A record that goes on to the next stage.
struct Onward {
    row: u32,
    key: Bytes,
    payload: Bytes,
    time: i64,
}

impl Chain {
    pub(crate) fn new(
        plan: &Arc<Plan>,
        partition: u32,
        guests: Vec<Box<dyn Guest>>,
        fields: Vec<FieldRead>,
        descriptors: &[Descriptor],
    ) -> Chain {
        let has_tail = plan.stages.len() > guests.len();
        let stages = guests
            .into_iter()
            .enumerate()
            .map(|(stage, guest)| Transform {
                columns: columns_of(guest.as_ref(), &fields),
                behind: decoder_behind(stage, &fields, descriptors, plan.limits.payload),
                digest: guest.digest(),
                guest,
            })
            .collect();
        Chain {
            decoder: Decoder::new(&plan.source, fields, plan.limits.payload).in_partition(&plan.source, partition),
            stages,
            has_tail,
            spare: Vec::new(),
            events: Events::default(),
            output: Output::default(),
        }
    }

    /// Gives a worked-off unit's allocations back.
    pub(crate) fn recycle(&mut self, unit: Unit) {
        self.spare.push(unit);
    }

    /// Decodes and transforms one unit, unless it becomes too large.
    pub(crate) fn compute(
        &mut self,
        context: &Context,
        batch: &RawBatch,
        range: Range<usize>,
    ) -> Result<Unit, StepError> {
        let mut unit = self.spare.pop().unwrap_or_default();
        unit.reset(&batch.events[range], Held::new(&context.plan.limits));
        self.decode(&mut unit, batch);
        for stage in 0..self.stages.len() {
            self.transform(context, stage, &mut unit, batch)?;
            if unit.too_much.is_some() {
                return Ok(unit);
            }
        }
        if self.has_tail {
            let flow = unit.flows.last().expect("decoding made one");
            for row in flow.rows() {
                unit.acts.push(Act { origin: flow.origins[row as usize], kind: ActKind::Item { row } });
            }
        }
        // Each stage appended its acts in order of events; stable, so that stages keep their order within an event.
        unit.acts.sort_by_key(|act| act.origin);
        Ok(unit)
    }

    /// Makes a dead letter of the only event of a unit that became too large.
    pub(crate) fn refuse(&mut self, context: &Context, unit: &mut Unit, batch: &RawBatch, stage: usize) {
        let (events, faults) = (std::mem::take(&mut unit.events), std::mem::take(&mut unit.faults));
        unit.reset(&events, Held::new(&context.plan.limits));
        unit.faults = faults;
        self.decode(unit, batch);
        let name = &context.plan.stages[stage].name;
        let message =
            format!("the stages up to `{name}` make more of this event than can be held, {}", unit.held.limit());
        let letter =
            Letter { stage: Some(stage), digest: None, class: "limit", code: "too-many-records".into(), message };
        unit.bury(0, letter);
    }

    fn decode(&mut self, unit: &mut Unit, batch: &RawBatch) {
        let mut flow = unit.spare_flow();
        if flow.decoded.columns.is_empty() {
            flow.decoded.columns = self.decoder.columns();
        }
        for (origin, event) in unit.events.iter().enumerate() {
            let (subject, headers) = (batch.slice(&event.subject), batch.slice(&event.headers));
            match self.decoder.decode(event, subject, headers, batch.slice(&event.payload), &mut flow.decoded) {
                Ok(()) => {
                    flow.origins.push(origin as u32);
                    unit.times.push(flow.decoded.timestamps.last().copied());
                }
                Err(fault) => {
                    unit.acts.push(Act { origin: origin as u32, kind: ActKind::Refused(unit.refused.len() as u32) });
                    unit.refused.push(fault);
                    unit.times.push(None);
                }
            }
        }
        unit.flows.push(flow);
    }

    fn transform(
        &mut self,
        context: &Context,
        stage: usize,
        unit: &mut Unit,
        batch: &RawBatch,
    ) -> Result<(), StepError> {
        let goes_on = stage + 1 < self.stages.len() || self.has_tail;
        let Transform { guest, columns, digest, .. } = &mut self.stages[stage];
        let flow_idx = unit.flows.len() as u32 - 1;
        let flow = unit.flows.pop().expect("decoding made one");
        let rows = flow.rows();
        let descriptor = guest.descriptor().clone();
        let (events, output, raw) = (&mut self.events, &mut self.output, &unit.events);
        // The replies of all calls of this stage, in order of rows.
        let mut replies: Vec<Reply> = Vec::with_capacity(1);
        let held = &mut unit.held;
        let judgement = judge(
            &context.plan.stages[stage].name,
            &rows,
            &mut |metering, rows| {
                flow.fill(rows, &descriptor, columns, batch, raw, events);
                call(guest.as_mut(), metering, events, output)?;
                let input = forwarded_input(events, output);
                Ok((std::mem::take(output), events.data.len(), input))
            },
            &mut |rows, reply| {
                let more = match &reply {
                    Ok((output, _, input)) => {
                        let more = held.add(0, input.len());
                        if more.is_break() { more } else { held.add_output(output) }
                    }
                    Err(_) => ControlFlow::Continue(()),
                };
                replies.push(Reply { rows: rows.to_vec(), result: reply });
                more
            },
        )?;
        unit.faults.push((stage, judgement.faults));
        unit.flows.push(flow);
        if unit.held.is_too_much() {
            unit.too_much = Some(stage);
            return Ok(());
        }
        let digest = *digest;
        let mut onward = Vec::new();
        for reply in replies {
            unit.take_reply(context, stage, digest, reply, goes_on, &mut onward);
        }
        if goes_on { self.pass_on(stage, unit, flow_idx, batch, &onward) } else { Ok(()) }
    }

    /// Makes the next flow: the same rows when the stage forwarded them untouched, new rows otherwise.
    fn pass_on(
        &mut self,
        stage: usize,
        unit: &mut Unit,
        flow_idx: u32,
        batch: &RawBatch,
        onward: &[Onward],
    ) -> Result<(), StepError> {
        let flow = &mut unit.flows[flow_idx as usize];
        let untouched = onward.windows(2).all(|pair| pair[0].row < pair[1].row)
            && onward.iter().all(|record| {
                matches!((record.key, record.payload), (Bytes::Key { .. }, Bytes::Payload { .. }))
                    && record.time == flow.decoded.timestamps[record.row as usize]
            });
        if untouched {
            let all = onward.len() == flow.decoded.len();
            flow.selected = (!all).then(|| onward.iter().map(|record| record.row).collect());
            return Ok(());
        }
        let behind = &mut self.stages[stage].behind;
        let mut next = Flow { decoded: Decoded { columns: behind.columns(), ..Decoded::default() }, ..Flow::default() };
        let mut payloads = TextColumn::default();
        for record in onward {
            let origin = unit.flows[flow_idx as usize].origins[record.row as usize];
            let (key, payload) = (unit.bytes(record.key, batch), unit.bytes(record.payload, batch));
            match behind.decode_record(key, record.time, payload, &mut next.decoded) {
                Ok(()) => {
                    next.origins.push(origin);
                    payloads.push(payload);
                }
                Err(mut fault) => {
                    fault.stage.get_or_insert(stage + 1);
                    unit.acts.push(Act { origin, kind: ActKind::Refused(unit.refused.len() as u32) });
                    unit.refused.push(fault);
                }
            }
        }
        next.payloads = Some(payloads);
        unit.flows.push(next);
        Ok(())
    }
}

/// One call's answer over some rows of a flow. The input arena is kept only when a slice needs it.
struct Reply {
    rows: Vec<u32>,
    result: Result<(Output, usize, Vec<u8>), Verdict>,
}

fn call(guest: &mut dyn Guest, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault> {
    guest.process(metering, events, output)
}

/// The input arena, when some slice points into it; mostly modules forward whole sources, which need no copy.
fn forwarded_input(events: &Events, output: &Output) -> Vec<u8> {
    let len = events.data.len() as u32;
    let points = output.slices.chunks_exact(2).any(|slice| slice[0] != OF_SOURCE && slice[0] < len);
    if points { events.data.clone() } else { Vec::new() }
}

/// Decodes what a stage makes new: only for the fields that later stages declare, as they require them.
fn decoder_behind(stage: usize, fields: &[FieldRead], descriptors: &[Descriptor], payload_max: u64) -> Decoder {
    let mut fields = fields.to_vec();
    let mut needed = vec![false; fields.len()];
    for (field, needed) in fields.iter_mut().zip(&mut needed) {
        field.required = false;
        for (later, descriptor) in descriptors.iter().enumerate().skip(stage + 1) {
            if let Some(declared) = descriptor.fields.iter().find(|declared| declared.name == field.name) {
                if !*needed {
                    field.stage = later;
                }
                *needed = true;
                field.required |= declared.required;
            }
        }
    }
    Decoder::between_stages(fields, &needed, payload_max)
}

/// Decoder column of each field that the module declares.
pub(crate) fn columns_of(guest: &dyn Guest, fields: &[FieldRead]) -> Vec<usize> {
    let position =
        |name: &str| fields.iter().position(|field| field.name == name).expect("the plan reads every declared field");
    guest.descriptor().fields.iter().map(|field| position(&field.name)).collect()
}

impl Unit {
    fn reset(&mut self, events: &[RawEvent], held: Held) {
        self.events.clear();
        self.events.extend_from_slice(events);
        self.times.clear();
        // The first flow's columns keep their allocations; others are made new when a module makes new rows.
        self.flows.truncate(1);
        self.arena.clear();
        self.refused.clear();
        self.letters.clear();
        self.acts.clear();
        self.faults.clear();
        (self.held, self.too_much) = (held, None);
        (self.next, self.next_act) = (0, 0);
        self.samples.clear();
    }

    fn spare_flow(&mut self) -> Flow {
        let mut flow = self.flows.pop().unwrap_or_default();
        flow.decoded.clear();
        flow.origins.clear();
        (flow.payloads, flow.selected) = (None, None);
        flow
    }

    /// Appends bytes that a module made.
    fn own(&mut self, bytes: &[u8]) -> Bytes {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Bytes::Own { start, end: self.arena.len() }
    }

    /// Adds a dead letter by a stage.
    pub(crate) fn bury(&mut self, origin: u32, letter: Letter) {
        self.acts.push(Act { origin, kind: ActKind::Dead(self.letters.len() as u32) });
        self.letters.push(letter);
    }

    fn take_reply(
        &mut self,
        context: &Context,
        stage: usize,
        digest: [u8; 32],
        reply: Reply,
        goes_on: bool,
        onward: &mut Vec<Onward>,
    ) {
        let flow = self.flows.len() as u32 - 1;
        let rows = reply.rows;
        let origin_of = |unit: &Unit, row: u32| unit.flows[flow as usize].origins[row as usize];
        let (output, input_len, input) = match reply.result {
            Ok(reply) => reply,
            Err(Verdict { class, code, message }) => {
                let origin = origin_of(self, rows[0]);
                let (stage, digest) = (Some(stage), Some(digest));
                return self.bury(origin, Letter { stage, digest, class, code: code.into(), message });
            }
        };
        let mut rejects = output.rejects.iter().peekable();
        for (idx, &source) in output.sources.iter().enumerate() {
            while let Some(reject) = rejects.next_if(|reject| reject.source <= source) {
                let origin = origin_of(self, rows[reject.source as usize]);
                self.bury(origin, letter_of(stage, digest, reject));
            }
            let row = rows[source as usize];
            let slices = &output.slices[4 * idx..4 * idx + 4];
            let mut bytes = |offset: u32, len: u32, of_source: Bytes| {
                if offset == OF_SOURCE {
                    return of_source;
                }
                let (offset, len) = (offset as usize, len as usize);
                match offset.checked_sub(input_len) {
                    None => self.own(&input[offset..offset + len]),
                    Some(offset) => self.own(&output.data[offset..offset + len]),
                }
            };
            let key = bytes(slices[0], slices[1], Bytes::Key { flow, row });
            let payload = bytes(slices[2], slices[3], Bytes::Payload { flow, row });
            let time = output
                .timestamps
                .get(idx)
                .copied()
                .unwrap_or(self.flows[flow as usize].decoded.timestamps[row as usize]);
            let port = output.ports.get(idx).copied().unwrap_or(0);
            if port == 0 && goes_on {
                onward.push(Onward { row, key, payload, time });
            } else if let Some(target) = context.route(stage, port) {
                let origin = origin_of(self, row);
                self.acts.push(Act { origin, kind: ActKind::Emit { output: target as u16, key, payload, time } });
            }
        }
        for reject in rejects {
            let origin = origin_of(self, rows[reject.source as usize]);
            self.bury(origin, letter_of(stage, digest, reject));
        }
    }
}

/// The dead letter of a reject.
pub(crate) fn letter_of(stage: usize, digest: [u8; 32], reject: &crate::guest::Reject) -> Letter {
    let (code, message) = (reject.code.clone(), reject.detail.clone());
    Letter { stage: Some(stage), digest: Some(digest), class: "reject", code, message }
}
