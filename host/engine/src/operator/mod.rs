//! What stages do: one file per kind of operator, those with state behind one trait; and what the host does with events
//! before any stage.
//!
//! An operator knows the unit of events, effects and windows, not the engine that drives it. Whatever it keeps is a
//! function of the events that it took, in their order, and of the watermark at each of them.

mod dedupe;
mod layout;
mod module;
mod order;
mod panes;
mod reducer;
mod run;
mod together;
mod transform;
mod trial;
mod window_fold;
mod window_rule;

use std::sync::Arc;

use pelton_aggregates::HashKey;

use crate::codec::{Damaged, Reader};
use crate::effects::Effects;
use crate::event::RawBatch;
use crate::guest::{Guest, World};
use crate::judge::StepError;
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::totals::Faults;
use crate::unit::{Context, Fate, Letter, Scale, Unit};
use crate::watermark::Watermark;

pub(crate) use dedupe::{DUPLICATES, Dedupe};
pub(crate) use module::StageModule;
pub(crate) use order::{Agenda, Arrival, Order, Phase};
pub(crate) use reducer::{EXPIRED, expired};
pub(crate) use together::take as take_together;
pub(crate) use transform::Transform;
pub use trial::{Trial, try_rule};

/// What has made something due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// The last event before.
    pub(crate) sequence: u64,
    /// Bytes of the delta that are not this operator's.
    pub(crate) change_bytes: usize,
}

/// What came of an attempt.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Why the whole event is a dead letter.
    pub(crate) refused: Option<Letter>,
    /// At least what the state delta would grow by.
    pub(crate) change_bytes: usize,
    /// Faults of the module.
    pub(crate) faults: Faults,
}

/// A named part of the state of a partition.
pub(crate) trait Stateful: Send {
    /// What tells it from other sections, and how its bytes are read.
    fn section(&self) -> Head<'_>;

    /// Counts texts by hashes with this key; called before anything is kept or applied.
    fn set_hash_key(&mut self, _: HashKey) {}

    /// Appends what has changed since the last call, or with `all` the whole state, and what is due either way.
    fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>);

    /// Applies what [`Stateful::encode`] wrote.
    fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged>;

    /// Forgets its state.
    fn clear(&mut self);

    /// After the last [`Stateful::apply`].
    fn restored(&mut self) {}

    /// Rough memory of the state.
    fn bytes(&self) -> usize;

    /// At least what [`Stateful::encode`] would append of what has changed; cheap, asked after every event.
    fn change_bytes(&self) -> usize;
}

/// The head of a section of the state.
pub(crate) struct Head<'a> {
    pub(crate) name: &'a str,
    /// Kind of the operator that keeps it.
    pub(crate) operator: &'static str,
    /// All that decides how its bytes are read and what they mean, as JSON.
    pub(crate) layout: &'a str,
    /// Format of its bytes, with which they begin.
    pub(crate) format: u8,
}

/// A stage with state.
///
/// After an error its state is void.
pub(crate) trait Operator: Stateful {
    /// Its module.
    fn module(&self) -> &StageModule;

    /// Computes what it needs of a fresh unit before any event is taken.
    fn prepare(&mut self, _: &mut Unit, _: &RawBatch) -> Result<(), StepError> {
        Ok(())
    }

    /// Bytes of texts that a row of the unit may add to the state besides its key; without a row, at least those of all.
    fn text_bytes(&self, _: &Unit, _: Option<u32>) -> usize {
        0
    }

    /// Accounts for the unit's next event, or for a run of events between which nothing becomes due; then it has moved the
    /// watermark over them. False when the next event does not fit into the epoch: then nothing has happened.
    fn take(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError>;

    /// Whether something may be due at this watermark; cheap, asked after every event.
    fn has_due(&self, watermark: EventTime) -> bool;

    /// The earliest instant at which something is due.
    fn next_due(&self) -> Option<EventTime>;

    /// Judges what is due at the watermark; false when the epoch is full before all is judged.
    fn drain(
        &mut self,
        context: &Context,
        watermark: EventTime,
        due_to: Due,
        effects: &mut Effects,
    ) -> Result<bool, StepError>;

    /// Computes what rows of the next event bring about, beside what is kept. Their number and bytes are put on the scale
    /// by [`Operator::put_on`]; then [`Operator::keep`] is called for each row, and [`Operator::settle`] once, or nothing of
    /// it happens. Used where several operators take one event.
    fn attempt(
        &mut self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        rows: &[u32],
        watermark: EventTime,
    ) -> Result<Attempt, StepError>;

    /// Puts what comes of rows that were attempted on the scale.
    fn put_on(&self, context: &Context, unit: &Unit, batch: &RawBatch, rows: &[u32], scale: &mut Scale<'_>);

    /// Keeps what comes of a row that was attempted.
    fn keep(
        &mut self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        row: u32,
        watermark: EventTime,
        effects: &mut Effects,
    ) -> Fate;

    /// Changes the state as the rows that were attempted say.
    fn settle(&mut self);
}

/// The operator of a stage with state. `fields` are those of all stages.
///
/// # Errors
/// When a window rule's plan cannot be had or does not fit its fields.
pub(crate) fn stateful(
    guest: Box<dyn Guest>,
    stage: usize,
    plan: &Arc<Plan>,
    fields: &[FieldRead],
) -> Result<Box<dyn Operator>, StepError> {
    Ok(match guest.descriptor().identity.world {
        World::WindowRule => Box::new(window_rule::WindowRule::new(guest, stage, plan, fields)?),
        World::WindowFold => Box::new(window_fold::WindowFold::new(guest, stage, plan, fields)),
        World::Reducer => Box::new(reducer::Reducer::new(guest, stage, plan, fields)),
        World::Transform => unreachable!("a transform has no state"),
    })
}

/// Decoder column of each field that the module declares.
fn columns_of(guest: &dyn Guest, fields: &[FieldRead]) -> Vec<usize> {
    let declared = guest.descriptor().shape.fields.iter();
    let position =
        |field| fields.iter().position(|read| read.is_for(field)).expect("the plan reads every declared field");
    declared.map(position).collect()
}
