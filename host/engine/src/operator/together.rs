//! One event through several operators side by side: each computes what comes of it, and then all of it is kept or
//! nothing.

use crate::codes::Code;
use crate::effects::{Effects, letter_bytes};
use crate::event::RawBatch;
use crate::judge::StepError;
use crate::time::EventTime;
use crate::unit::{Context, Letter, Scale, Unit, keep_row, refuse_row, state_size};
use crate::watermark::Watermark;

use super::Operator;

/// Accounts for the unit's next event, as [`Operator::take`] does for one operator.
pub(crate) fn take(
    operators: &mut [Box<dyn Operator>],
    context: &Context,
    unit: &mut Unit,
    batch: &RawBatch,
    watermark: &mut Watermark,
    effects: &mut Effects,
) -> Result<bool, StepError> {
    let acts = unit.acts_of(unit.next, unit.next_act);
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); operators.len()];
    unit.rows_of(acts.clone()).for_each(|(operator, row)| rows[usize::from(operator)].push(row));
    let others = acts.start..acts.end - rows.iter().map(Vec::len).sum::<usize>();
    let (before, mut changes) = (watermark.current(), 0_usize);
    let mut refused: Option<Letter> = None;
    let mut faults = Vec::new();
    for (operator, rows) in operators.iter_mut().zip(&rows).filter(|(_, rows)| !rows.is_empty()) {
        let attempt = operator.attempt(context, unit, batch, rows, before)?;
        changes = changes.saturating_add(attempt.change_bytes);
        faults.push((operator.module().stage, attempt.faults));
        refused = attempt.refused;
        if refused.is_some() {
            break;
        }
    }
    let limit = context.room.change_bytes_at_once;
    if changes > limit {
        refused.get_or_insert_with(|| Letter::of(None, None, Code::StateSize, state_size(changes, limit)));
    }
    let weighed = Scale::weigh(context, |scale| {
        unit.put_on(context, batch, others.clone(), scale);
        for (operator, rows) in operators.iter().zip(&rows).filter(|(_, rows)| !rows.is_empty()) {
            operator.put_on(context, unit, batch, rows, scale);
        }
    });
    let (records, bytes) = match (&refused, weighed) {
        (Some(_), _) => (1, 0),
        (None, Ok(scale)) => {
            let letters = (scale.records - scale.outputs).saturating_mul(letter_bytes(&unit.events[unit.next]));
            (scale.records, scale.bytes.saturating_add(letters))
        }
        (None, Err(refusal)) => {
            let digest = |stage: usize| {
                let mut modules = operators.iter().map(|operator| operator.module());
                modules.find(|module| module.stage == stage).map(|module| module.digest)
            };
            let (stage, digest) = (refusal.stage, refusal.stage.and_then(digest));
            refused = Some(Letter::of(stage, digest, refusal.code, refusal.message));
            (1, 0)
        }
    };
    if !effects.fits_bytes(&context.room, records, bytes) && !effects.records.rows.is_empty() {
        return Ok(false);
    }
    faults.into_iter().for_each(|(stage, faults)| effects.count_faults(stage, faults));
    let time = unit.times[unit.next];
    match refused {
        Some(letter) => refuse_row(context, unit, batch, &letter, effects),
        None => {
            keep_row(context, unit, batch, effects, &mut |unit, operator, row, effects| {
                operators[usize::from(operator)].keep(context, unit, batch, row, before, effects)
            });
            // Not the others: what they have attempted last may be of an event that was refused.
            let took = operators.iter_mut().zip(&rows).filter(|(_, rows)| !rows.is_empty());
            took.for_each(|(operator, _)| operator.settle());
        }
    }
    if let Some(time) = time {
        watermark.observe(EventTime(time));
    }
    Ok(true)
}
