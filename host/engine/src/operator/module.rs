//! A module at its stage: what every operator with state has of it.

use crate::event::Events;
use crate::guest::{Aggregation, Guest};
use crate::plan::{FieldRead, Plan};
use crate::unit::{Held, outlet};

use super::{Head, layout};

/// The module of a stage with state, and what is known of it there.
pub(crate) struct StageModule {
    pub(crate) guest: Box<dyn Guest>,
    pub(crate) digest: [u8; 32],
    /// Place of the stage in the plan.
    pub(crate) stage: usize,
    /// The outlet that it reads.
    pub(crate) inlet: usize,
    /// Name of the stage.
    pub(crate) name: String,
    /// All that decides how the bytes of its state are read and what they mean, as JSON.
    pub(crate) layout: String,
    /// Format of the operator's own bytes.
    pub(crate) format: u8,
    /// Decoder column of each field that the module declares.
    pub(super) columns: Vec<usize>,
    /// What may be held at one time, with nothing in it.
    pub(super) held: Held,
    /// Filled anew for each call.
    pub(super) events: Events,
}

impl StageModule {
    pub(super) fn section(&self) -> Head<'_> {
        let operator = self.guest.descriptor().identity.world.name();
        Head { name: &self.name, operator, layout: &self.layout, format: self.format }
    }

    /// `fields` are those of all stages; `rule` is the plan of a window rule, whose aggregates were checked.
    pub(super) fn new(
        guest: Box<dyn Guest>,
        stage: usize,
        plan: &Plan,
        fields: &[FieldRead],
        rule: Option<&Aggregation>,
    ) -> StageModule {
        let identity = &guest.descriptor().identity;
        StageModule {
            digest: guest.digest(),
            stage,
            inlet: outlet(plan.stages[stage].from),
            name: plan.stages[stage].name.clone(),
            layout: layout::text(plan, stage, identity, rule.map(|rule| (rule, fields))),
            format: layout::format(identity.world),
            columns: super::columns_of(guest.as_ref(), fields),
            held: Held::new(&plan.limits),
            events: Events::default(),
            guest,
        }
    }
}
