//! A unit of events through the decoder and the transforms, before any of its effects are kept.

use std::ops::Range;

use crate::codes::Code;
use crate::decode::Decoder;
use crate::event::RawBatch;
use crate::flow::View;
use crate::guest::{Descriptor, Guest, World};
use crate::judge::StepError;
use crate::operator::Transform;
use crate::plan::{FieldRead, Plan};
use crate::unit::{Act, ActKind, Context, Held, Letter, Unit, outlet};

/// Decoder and transforms.
pub(super) struct Chain {
    decoder: Decoder,
    /// In the order of the plan: each reads the source, or one before it.
    transforms: Vec<Transform>,
    /// The outlet that each stage with state reads.
    inlets: Vec<usize>,
    spare: Vec<Unit>,
}

impl Chain {
    pub(super) fn new(
        plan: &Plan,
        partition: u32,
        transforms: Vec<(usize, Box<dyn Guest>)>,
        fields: Vec<FieldRead>,
        descriptors: &[Descriptor],
    ) -> Chain {
        let has_state = |stage: &usize| descriptors[*stage].identity.world != World::Transform;
        let transform = |(stage, guest)| Transform::new(guest, stage, plan, &fields, descriptors);
        Chain {
            transforms: transforms.into_iter().map(transform).collect(),
            inlets: (0..plan.stages.len()).filter(has_state).map(|stage| outlet(plan.stages[stage].from)).collect(),
            decoder: Decoder::new(&plan.source, fields, plan.limits.max_payload).in_partition(&plan.source, partition),
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
        for (operator, &inlet) in (0..).zip(&self.inlets) {
            for row in unit.rows(inlet) {
                let origin = unit.flow(inlet).origins[row as usize];
                unit.acts.push(Act { origin, kind: ActKind::Item { operator, row } });
            }
        }
        // Each stage appended its acts in order of events; stable, so that stages keep their order within an event.
        unit.acts.sort_by_key(|act| act.origin);
        unit.counts.sort_by_key(|count| count.origin);
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
        unit.views.push(View::default());
    }
}
