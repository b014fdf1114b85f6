//! A unit of events through the decoder and the transforms, before any of its effects are kept.

use std::ops::Range;

use crate::codes::Code;
use crate::decode::Decoder;
use crate::event::RawBatch;
use crate::guest::{Descriptor, Guest};
use crate::judge::StepError;
use crate::operator::Transform;
use crate::plan::{FieldRead, Plan};
use crate::unit::{Act, ActKind, Context, Held, Letter, Unit};

/// Decoder and transforms.
pub(super) struct Chain {
    decoder: Decoder,
    transforms: Vec<Transform>,
    /// Whether rows go on to a stage with state behind the last transform.
    has_tail: bool,
    spare: Vec<Unit>,
}

impl Chain {
    pub(super) fn new(
        plan: &Plan,
        partition: u32,
        guests: Vec<Box<dyn Guest>>,
        fields: Vec<FieldRead>,
        descriptors: &[Descriptor],
    ) -> Chain {
        let has_tail = plan.stages.len() > guests.len();
        let payload_max = plan.limits.payload;
        let guests = guests.into_iter().enumerate();
        Chain {
            transforms: guests
                .map(|(stage, guest)| Transform::new(guest, stage, &fields, descriptors, payload_max))
                .collect(),
            decoder: Decoder::new(&plan.source, fields, payload_max).in_partition(&plan.source, partition),
            has_tail,
            spare: Vec::new(),
        }
    }

    /// Gives a worked-off unit's allocations back.
    pub(super) fn recycle(&mut self, unit: Unit) {
        self.spare.push(unit);
    }

    /// Decodes and transforms one unit, unless it becomes too large.
    pub(super) fn compute(
        &mut self,
        context: &Context,
        batch: &RawBatch,
        range: Range<usize>,
    ) -> Result<Unit, StepError> {
        let mut unit = self.spare.pop().unwrap_or_default();
        unit.reset(&batch.events[range], Held::new(&context.plan.limits));
        self.decode(&mut unit, batch);
        for transform in &mut self.transforms {
            transform.apply(context, &mut unit, batch)?;
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
    pub(super) fn refuse(&mut self, context: &Context, unit: &mut Unit, batch: &RawBatch, stage: usize) {
        let (events, faults) = (std::mem::take(&mut unit.events), std::mem::take(&mut unit.faults));
        unit.reset(&events, Held::new(&context.plan.limits));
        unit.faults = faults;
        self.decode(unit, batch);
        let name = &context.plan.stages[stage].name;
        let message =
            format!("the stages up to `{name}` make more of this event than can be held, {}", unit.held.limit());
        let letter = Letter::of(Some(stage), None, Code::TooManyRecords, message);
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
}
