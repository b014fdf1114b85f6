//! How much of what modules say is held at one time.

use std::ops::ControlFlow;

use crate::guest::Output;

/// Bytes of replies of modules that are held at one time: of a unit through all stages, a run of events, or panes. One
/// reply has a limit of its own, but many of them are held while a fault is bisected, and stages multiply. At the bound,
/// what is done is kept, and the rest follows.
const HELD_BYTES_MAX: usize = 32 << 20;
/// What a record of a reply takes besides its bytes.
const HELD_RECORD_BYTES: usize = 256;

/// What the replies of modules have taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    pub(crate) fn add(&mut self, records: usize, bytes: usize) -> ControlFlow<()> {
        self.0 = self.0.saturating_add(records * HELD_RECORD_BYTES + bytes);
        if self.is_too_much() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn is_too_much(self) -> bool {
        self.0 > HELD_BYTES_MAX
    }

    /// The bound, for people.
    pub(crate) fn limit() -> String {
        format!("limit {} MiB", HELD_BYTES_MAX >> 20)
    }

    pub(crate) fn add_output(&mut self, output: &Output) -> ControlFlow<()> {
        let rejects: usize = output.rejects.iter().map(|reject| reject.code.len() + reject.detail.len()).sum();
        self.add(output.sources.len() + output.rejects.len(), output.data.len() + rejects)
    }
}
