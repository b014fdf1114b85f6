//! From a unit's acts to records: outputs, dead letters, and the fate of each event.

use std::ops::Range;

use crate::codes::Code;
use crate::effects::{DeadLetter, Effects, letter_bytes};
use crate::epoch::TEXT_BYTES_AT_ONCE_MAX;
use crate::event::RawBatch;

use super::outgoing::{Cause, Outgoing, Refusal, Scale, frame_bytes_max, state_size};
use super::{Act, ActKind, Context, Letter, Unit};

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

/// How many bytes of keys and texts rows of a unit may bring to the states.
pub(crate) trait Changes {
    /// One row of the flow that a stage with state reads.
    fn of_row(&self, unit: &Unit, operator: u8, row: u32) -> usize;

    /// At least those of all rows.
    fn of_all(&self, unit: &Unit) -> usize;
}

/// Weighs what each event of a fresh unit brings about, and puts a dead letter in the place of records that cannot be
/// kept. `digests` are those of the stages' modules.
pub(crate) fn weigh_unit(
    context: &Context,
    digests: &[[u8; 32]],
    unit: &mut Unit,
    batch: &RawBatch,
    changes: &dyn Changes,
) {
    let mut weights = std::mem::take(&mut unit.weights);
    weights.clear();
    let mut refused: Vec<(u32, Refusal)> = Vec::new();
    let mut first = 0;
    // Mostly all keys and texts of the unit together are less than one event may bring.
    let is_light = changes.of_all(unit) <= TEXT_BYTES_AT_ONCE_MAX;
    for (idx, event) in unit.events.iter().enumerate() {
        let acts = unit.acts_of(idx, first);
        first = acts.end;
        let letter = letter_bytes(event);
        let of_row = |(operator, row)| changes.of_row(unit, operator, row);
        let brought = || unit.rows_of(acts.clone()).map(of_row).fold(0, usize::saturating_add);
        let brought = if is_light { 0 } else { brought() };
        if brought > TEXT_BYTES_AT_ONCE_MAX {
            refused.push((
                idx as u32,
                Refusal { code: Code::StateSize, stage: None, message: state_size(brought, TEXT_BYTES_AT_ONCE_MAX) },
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
        unit.bury(origin, Letter::of(stage, digest, code, message));
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
    item: &mut dyn FnMut(&Unit, u8, u32, &mut Effects) -> Fate,
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
    item: &mut dyn FnMut(&Unit, u8, u32, &mut Effects) -> Fate,
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
    item: &mut dyn FnMut(&Unit, u8, u32, &mut Effects) -> Fate,
) {
    effects.begin_event();
    unit.next_act = acts.end;
    let mut fate = Fate::Filtered;
    let mut numbering = Numbering::default();
    for idx in acts {
        fate = fate.max(match unit.acts[idx].kind {
            ActKind::Item { operator, row } => item(unit, operator, row, effects),
            _ => keep_act(context, unit, batch, &unit.acts[idx], &mut numbering, effects),
        });
    }
    fate.count(effects);
    if fate == Fate::Dead {
        unit.dead.push(unit.next as u32);
    }
    let counts = unit.counts_of_next();
    if fate != Fate::Dead {
        unit.counts[counts.clone()].iter().for_each(|count| effects.add(count.counter, count.add));
    }
    (unit.next, unit.next_count) = (unit.next + 1, counts.end);
}

/// Keeps one dead letter in the place of everything that the unit's next event brings about.
pub(crate) fn refuse_row(context: &Context, unit: &mut Unit, batch: &RawBatch, letter: &Letter, effects: &mut Effects) {
    effects.begin_event();
    let letter = context.dead_letter(letter);
    effects.push_dead(&context.room, &context.origin, &letter, batch, &unit.events[unit.next]);
    Fate::Dead.count(effects);
    unit.dead.push(unit.next as u32);
    unit.next_act = unit.acts_of(unit.next, unit.next_act).end;
    (unit.next, unit.next_count) = (unit.next + 1, unit.counts_of_next().end);
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
            let (code, path, message) = (fault.code.name(), fault.path.as_str(), fault.message.as_str());
            DeadLetter { stage, digest: None, class: fault.code.class(), code, path, message }
        }
        ActKind::Dead(idx) => context.dead_letter(&unit.letters[*idx as usize]),
        ActKind::Emit { .. } => {
            unit.outgoing(context, batch, act, numbering).expect("it is one").push(context, effects);
            return Fate::Processed;
        }
        ActKind::Item { .. } => return Fate::Filtered,
    };
    effects.push_dead(&context.room, &context.origin, &letter, batch, &unit.events[act.origin as usize]);
    Fate::Dead
}

impl Unit {
    /// At least as much as acts of one event weigh, when that is within all bounds; `letter` is the weight of a letter.
    fn light_weight(&self, context: &Context, batch: &RawBatch, acts: Range<usize>, letter: usize) -> Option<usize> {
        let room = &context.room;
        let (count, mut letters, mut records) = (acts.len(), 0, 0);
        for act in &self.acts[acts] {
            let ActKind::Emit { key, payload, headers, .. } = act.kind else {
                letters += 1;
                continue;
            };
            let frame = frame_bytes_max(self.bytes(key, batch), &[]) + self.bytes(headers, batch).len();
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
        let ActKind::Emit { output, key, payload, headers, is_delete, time } = act.kind else { return None };
        let output = usize::from(output);
        let nth = numbering.take(context.plan.outputs[output].stage);
        let sequence = self.events[act.origin as usize].sequence;
        Some(Outgoing {
            output,
            key: self.bytes(key, batch),
            payload: self.bytes(payload, batch),
            headers: self.bytes(headers, batch),
            is_delete,
            cause: Cause::Event { sequence, nth, time },
        })
    }
}
