//! A transform: a module without state, over the rows of a unit, column-wise.

use std::ops::ControlFlow;

use crate::decode::{Decoded, Decoder};
use crate::event::{Events, Need, RawBatch, Strings};
use crate::flow::{Flow, View};
use crate::guest::{Descriptor, Fault, Guest, Metering, OF_ROW, Output};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::unit::{Act, ActKind, Bytes, Context, Letter, Unit, letter_of, outlet};

use super::columns_of;

/// The module and what it is given.
pub(crate) struct Transform {
    guest: Box<dyn Guest>,
    stage: usize,
    /// The outlet that it reads.
    inlet: usize,
    /// Whether further stages read what comes out of its first port.
    goes_on: bool,
    /// The first stage that does; itself when there is none.
    reader: usize,
    /// Decoder column of each declared field.
    columns: Vec<usize>,
    /// For records that it makes new.
    behind: Decoder,
    digest: [u8; 32],
    events: Events,
    output: Output,
}

/// A record that goes on to the next stage.
struct Onward {
    row: u32,
    key: Bytes,
    payload: Bytes,
    time: i64,
}

impl Transform {
    /// `fields` are those of all stages, `descriptors` those of all modules, in order of stages.
    pub(crate) fn new(
        guest: Box<dyn Guest>,
        stage: usize,
        plan: &Plan,
        fields: &[FieldRead],
        descriptors: &[Descriptor],
    ) -> Transform {
        Transform {
            columns: columns_of(guest.as_ref(), fields),
            behind: decoder_behind(stage, plan, fields, descriptors),
            digest: guest.digest(),
            guest,
            stage,
            inlet: outlet(plan.stages[stage].from),
            goes_on: plan.reader_of(stage).is_some(),
            reader: plan.reader_of(stage).unwrap_or(stage),
            events: Events::default(),
            output: Output::default(),
        }
    }

    /// Lets the module make what it makes of the unit's rows, unless that becomes too much to be held.
    ///
    /// # Errors
    /// The step did not happen.
    pub(crate) fn apply(&mut self, context: &Context, unit: &mut Unit, batch: &RawBatch) -> Result<(), StepError> {
        let Transform { guest, columns, digest, stage, inlet, goes_on, events, output, .. } = self;
        let (stage, inlet, goes_on) = (*stage, *inlet, *goes_on);
        let flow_idx = unit.views[inlet].flow;
        let rows = unit.rows(inlet);
        let flow = std::mem::take(&mut unit.flows[flow_idx]);
        let shape = guest.descriptor().shape.clone();
        let raw = &unit.events;
        // The replies of all calls of this stage, in order of rows.
        let mut replies: Vec<Reply> = Vec::with_capacity(1);
        let held = &mut unit.held;
        let judgement = judge(
            &context.plan.stages[stage].name,
            &rows,
            &mut |metering, rows| {
                flow.fill(rows, &shape, columns, batch, raw, events);
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
        unit.flows[flow_idx] = flow;
        if unit.held.is_too_much() {
            unit.too_much = Some(stage);
            return Ok(());
        }
        let digest = *digest;
        let mut onward = Vec::new();
        for reply in replies {
            unit.take_reply(context, (stage, digest), flow_idx, reply, goes_on, &mut onward);
        }
        if goes_on {
            let view = self.pass_on(unit, flow_idx, batch, &onward);
            let outlet = outlet(Some(stage));
            unit.views.resize_with(unit.views.len().max(outlet + 1), View::default);
            unit.views[outlet] = view;
        }
        Ok(())
    }

    /// What comes out: rows of the same flow when the stage forwarded them untouched, a new flow otherwise.
    fn pass_on(&mut self, unit: &mut Unit, flow_idx: usize, batch: &RawBatch, onward: &[Onward]) -> View {
        let flow = &unit.flows[flow_idx];
        let untouched = onward.windows(2).all(|pair| pair[0].row < pair[1].row)
            && onward.iter().all(|record| {
                matches!((record.key, record.payload), (Bytes::Key { .. }, Bytes::Payload { .. }))
                    && record.time == flow.decoded.timestamps[record.row as usize]
            });
        if untouched {
            let all = onward.len() == flow.decoded.len();
            let selected = (!all).then(|| onward.iter().map(|record| record.row).collect());
            return View { flow: flow_idx, selected };
        }
        let (behind, reader) = (&mut self.behind, self.reader);
        let mut next = Flow { decoded: Decoded { columns: behind.columns(), ..Decoded::default() }, ..Flow::default() };
        let mut payloads = Strings::default();
        for record in onward {
            let origin = unit.flows[flow_idx].origins[record.row as usize];
            let (key, payload) = (unit.bytes(record.key, batch), unit.bytes(record.payload, batch));
            match behind.decode_record(key, record.time, payload, &mut next.decoded) {
                Ok(()) => {
                    next.origins.push(origin);
                    payloads.push(payload);
                }
                Err(mut fault) => {
                    fault.stage.get_or_insert(reader);
                    unit.acts.push(Act { origin, kind: ActKind::Refused(unit.refused.len() as u32) });
                    unit.refused.push(fault);
                }
            }
        }
        next.payloads = Some(payloads);
        unit.flows.push(next);
        View { flow: unit.flows.len() - 1, selected: None }
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
    let points = output.slices.chunks_exact(2).any(|slice| slice[0] != OF_ROW && slice[0] < len);
    if points { events.data.clone() } else { Vec::new() }
}

/// Decodes what a stage makes new: only for the fields that later stages declare, as they require them.
fn decoder_behind(stage: usize, plan: &Plan, fields: &[FieldRead], descriptors: &[Descriptor]) -> Decoder {
    let mut fields = fields.to_vec();
    let mut needed = vec![false; fields.len()];
    for (field, needed) in fields.iter_mut().zip(&mut needed) {
        field.need = field.need.max(Need::Optional);
        for (later, descriptor) in descriptors.iter().enumerate().filter(|(later, _)| plan.is_behind(*later, stage)) {
            if let Some(declared) = descriptor.shape.fields.iter().find(|declared| field.is_for(declared)) {
                if !*needed {
                    field.stage = later;
                }
                *needed = true;
                field.need = field.need.min(declared.need);
            }
        }
    }
    Decoder::between_stages(fields, &needed, plan.limits.max_payload)
}

impl Unit {
    fn take_reply(
        &mut self,
        context: &Context,
        (stage, digest): (usize, [u8; 32]),
        flow_idx: usize,
        reply: Reply,
        goes_on: bool,
        onward: &mut Vec<Onward>,
    ) {
        let flow = flow_idx as u32;
        let rows = reply.rows;
        let origin_of = |unit: &Unit, row: u32| unit.flows[flow as usize].origins[row as usize];
        let (output, input_len, input) = match reply.result {
            Ok(reply) => reply,
            Err(Verdict { code, message }) => {
                let origin = origin_of(self, rows[0]);
                let (stage, digest) = (Some(stage), Some(digest));
                return self.bury(origin, Letter::of(stage, digest, code, message));
            }
        };
        let mut rejects = output.rejects.iter().peekable();
        for (idx, &of) in output.rows.iter().enumerate() {
            while let Some(reject) = rejects.next_if(|reject| reject.row <= of) {
                let origin = origin_of(self, rows[reject.row as usize]);
                self.bury(origin, letter_of(stage, digest, reject));
            }
            let row = rows[of as usize];
            let slices = &output.slices[4 * idx..4 * idx + 4];
            let mut bytes = |offset: u32, len: u32, of_source: Bytes| {
                if offset == OF_ROW {
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
            let is_delete = output.deletes(idx);
            if port == 0 && goes_on {
                // Stages read events: a tombstone is none, and headers are for outputs.
                if !is_delete {
                    onward.push(Onward { row, key, payload, time });
                }
            } else if let Some(target) = context.route(stage, port) {
                let (origin, headers) = (origin_of(self, row), self.own(output.headers_of(idx)));
                let kind = ActKind::Emit { output: target as u16, key, payload, headers, is_delete, time };
                self.acts.push(Act { origin, kind });
            }
        }
        for reject in rejects {
            let origin = origin_of(self, rows[reject.row as usize]);
            self.bury(origin, letter_of(stage, digest, reject));
        }
        for addition in &output.additions {
            self.count(origin_of(self, rows[addition.row as usize]), stage, addition);
        }
    }
}
