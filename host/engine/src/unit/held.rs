//! How much of what modules say is held at one time.

use std::ops::ControlFlow;

use super::Refusal;
use crate::codes::Code;
use crate::guest::{Output, Reject};
use crate::plan::Limits;

/// What a record of a reply takes besides its bytes.
const HELD_RECORD_BYTES: usize = 256;

/// What the replies of modules have taken so far, of what may be held at one time: of a unit through all stages, a run of
/// events, or panes. One reply has a limit of its own, but many of them are held while a fault is bisected, and stages
/// multiply. At the bound, what is done is kept, and the rest follows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    bytes_max: usize,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn new(limits: &Limits) -> Held {
        Held { bytes: 0, bytes_max: limits.held_bytes() as usize }
    }

    pub(crate) fn add(&mut self, records: usize, bytes: usize) -> ControlFlow<()> {
        self.bytes = self.bytes.saturating_add(records * HELD_RECORD_BYTES + bytes);
        if self.is_too_much() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn is_too_much(self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Why an event of which that much is said cannot be kept.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        let message = || format!("the module makes more of this event than can be held, {}", self.limit());
        self.is_too_much().then(|| Refusal { code: Code::TooManyRecords, stage: None, message: message() })
    }

    /// The bound, for people.
    pub(crate) fn limit(self) -> String {
        format!("limit {} MiB", self.bytes_max >> 20)
    }

    pub(crate) fn add_output(&mut self, output: &Output) -> ControlFlow<()> {
        let rejects: usize = output.rejects.iter().map(Reject::bytes).sum();
        let bytes = output.data.len() + output.headers.len() + rejects;
        self.add(output.rows.len() + output.rejects.len() + output.additions.len(), bytes)
    }
}
