//! What every stage needs to write records.

use std::sync::Arc;

use crate::codes::{Class, Code};
use crate::effects::{DeadLetter, Origin, Room};
use crate::plan::Plan;

/// Whether outputs carry headers. Dead letters and late rows always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    Headers,
    /// For sinks that keep payloads only.
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

    /// The host says so, of something at stage `stage`, whose module has this digest.
    pub(crate) fn letter<'a>(&'a self, stage: usize, digest: [u8; 32], code: Code, message: &'a str) -> DeadLetter<'a> {
        let stage = &self.plan.stages[stage].name;
        DeadLetter { stage, digest: Some(digest), class: code.class(), code: code.name(), path: "", message }
    }

    /// The module of stage `stage`, which has this digest, refuses something.
    pub(crate) fn reject<'a>(
        &'a self,
        stage: usize,
        digest: [u8; 32],
        code: &'a str,
        message: &'a str,
    ) -> DeadLetter<'a> {
        let stage = &self.plan.stages[stage].name;
        DeadLetter { stage, digest: Some(digest), class: Class::Reject, code, path: "", message }
    }
}
