//! What every stage needs to write records.

use std::sync::Arc;

use crate::effects::{Origin, Room};
use crate::plan::Plan;

/// Whether outputs carry headers. Dead letters and late events always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    Headers,
    /// For sinks that keep payloads only. Tombstones alone have a header, which says that they are.
    Bare,
}

/// What every part of a step needs to write records.
pub(crate) struct Context {
    pub(crate) plan: Arc<Plan>,
    pub(crate) origin: Origin,
    pub(crate) room: Room,
    pub(crate) envelope: Envelope,
    /// Per output: whether its subject ends with the key.
    pub(crate) keyed: Vec<bool>,
}

impl Context {
    /// Which output takes records of this stage and port.
    pub(crate) fn route(&self, stage: usize, port: u8) -> Option<usize> {
        self.plan.outputs.iter().position(|output| output.stage == stage && output.port == port)
    }
}
