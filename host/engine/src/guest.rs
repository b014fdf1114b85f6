//! The guest contract as the engine sees it: plain columns in, plain columns out, a fault or not.
//!
//! `sandbox` implements [`Guest`] over wasm components; tests implement it natively.
//! A guest owns no state. It may be replaced by a fresh instance between any two calls.

pub use pelton_aggregates::Operator;

use crate::event::{Column, Events, Field, TextColumn};

/// What kind of module this is: which functions it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// `process`: stateless map, filter, route, validate.
    Transform,
    /// `plan`, `extract`, `evaluate`: windows over aggregates that the host keeps.
    WindowRule,
    /// `reduce`: state bytes and timers per key.
    Reducer,
    /// `fold`, `merge`, `finish`: windows over the guest's own accumulator.
    WindowFold,
}

impl World {
    /// All of them; stored by their place in it.
    pub const ALL: [World; 4] = [World::Transform, World::WindowRule, World::Reducer, World::WindowFold];

    /// The name of the WIT world.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            World::Transform => "transform",
            World::WindowRule => "window-rule",
            World::Reducer => "reducer",
            World::WindowFold => "window-fold",
        }
    }
}

/// What a module says of itself, before and after configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    pub world: World,
    pub name: String,
    pub version: String,
    /// Rises when stored accumulators or state bytes change shape.
    pub state_version: u32,
    /// JSON Schema of the configuration text.
    pub config_schema: Option<String>,
    pub fields: Vec<Field>,
    /// Whether events carry their payload.
    pub payload: bool,
    /// Whether events carry their headers.
    pub headers: bool,
    /// Output ports; never empty, port 0 is the main one.
    pub ports: Vec<String>,
    /// Hints that a later host may understand.
    pub attributes: Vec<(String, String)>,
}

/// An aggregate that the host keeps per key and window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub name: String,
    pub operator: Operator,
    /// The declared or derived field it reads; `None` only for `Count`.
    pub field: Option<String>,
    /// For `Distinct`: counting stops here. For `TopK`: how many items. Else unused.
    pub limit: u32,
}

/// What a window rule wants kept, after `configure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlan {
    pub aggregates: Vec<Aggregate>,
    /// Fields that `extract` adds to each event; when empty, `extract` is never called.
    pub derived: Vec<Field>,
    /// Panes below one of these are not evaluated: (index of an integer aggregate, smallest value).
    pub at_least: Vec<(u32, i64)>,
    /// Whether `extract` must run although no field is derived (it filters or rejects).
    pub filters: bool,
}

impl RulePlan {
    /// Whether guest code runs per event.
    #[must_use]
    pub fn extracts(&self) -> bool {
        self.filters || !self.derived.is_empty()
    }
}

/// What `extract` returns: which events count, with their derived fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Event of each sample, never descending; an event may give none or many samples.
    pub sources: Vec<u32>,
    /// One per derived field, one row per sample.
    pub columns: Vec<Column>,
    pub rejects: Vec<Reject>,
}

/// Why a pane fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firing {
    Early,
    OnTime,
    Late,
}

impl Firing {
    /// The word used in headers and WIT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Firing::Early => "early",
            Firing::OnTime => "on-time",
            Firing::Late => "late",
        }
    }
}

/// Panes that fired, one row each, in firing order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panes {
    pub keys: TextColumn,
    /// First instant of the window; `i64::MIN` for the global window.
    pub starts: Vec<i64>,
    /// First instant after the window; `i64::MAX` for the global window.
    pub ends: Vec<i64>,
    pub firings: Vec<Firing>,
    /// 0 for the first pane of a key and window, then 1, 2, …
    pub numbers: Vec<u32>,
    /// Whether no further pane can follow.
    pub finals: Vec<bool>,
    /// The watermark that fired the pane.
    pub watermarks: Vec<i64>,
    /// One per aggregate of the plan. Empty for `finish`, which gets accumulators instead.
    pub values: Vec<AggregateColumn>,
}

impl Panes {
    /// Number of panes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are no panes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

/// One aggregate of every pane.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateColumn {
    /// Panes for which nothing was seen, ascending; their value is 0, or no item. Never those of count and distinct.
    pub missing: Vec<u32>,
    /// Panes whose integer sum left 64 bits, ascending; their value is the end of 64 bits that is nearest.
    pub clipped: Vec<u32>,
    pub data: AggregateData,
}

/// The values of one aggregate, one per pane.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregateData {
    /// Count, distinct, and sum, min, max over integer fields.
    Integers(Vec<i64>),
    /// Sum, min, max over number fields.
    Numbers(Vec<f64>),
    /// Top-k: items with their counts, highest count first, ties by bytes. A count is never too low, and too high by at
    /// most its error.
    Tops { items: TextColumn, counts: Vec<i64>, errors: Vec<i64>, pane_ends: Vec<u32> },
}

impl AggregateColumn {
    /// Values of which none is missing or clipped.
    #[must_use]
    pub fn new(data: AggregateData) -> AggregateColumn {
        AggregateColumn { missing: Vec::new(), clipped: Vec::new(), data }
    }

    /// Number of panes.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.data {
            AggregateData::Integers(values) => values.len(),
            AggregateData::Numbers(values) => values.len(),
            AggregateData::Tops { pane_ends, .. } => pane_ends.len(),
        }
    }

    /// Whether there are no panes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One byte string per key: reducer states or window accumulators.
pub type States = TextColumn;

/// The events of a batch grouped by key, with what the host keeps for each key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    pub keys: TextColumn,
    /// State bytes per group; empty means none yet.
    pub states: States,
    /// Per group, where its run in `members` ends.
    pub member_ends: Vec<u32>,
    /// Event rows, grouped by key, in order of arrival.
    pub members: Vec<u32>,
    /// Per group, where its run in `timers` ends. Only reducers have timers.
    pub timer_ends: Vec<u32>,
    /// Due timers, ascending. A group has either events or due timers, never both.
    pub timers: Vec<i64>,
}

/// What becomes of a group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Keep,
    Replace,
    Delete,
}

/// What `reduce` returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reduced {
    /// One per group.
    pub changes: Vec<Change>,
    /// One per group; read only where the change is `Replace`.
    pub states: States,
    /// Timers that were set: (group, event time), also those that were cancelled later in the call: event time may have
    /// reached them in between. Setting a timer that is set changes nothing.
    pub timers: Vec<(u32, i64)>,
    /// Timers that stand cancelled at the end: (group, event time); taken away after `timers` were added.
    pub cancels: Vec<(u32, i64)>,
    /// Sources are event rows; a record caused by a timer has the source `events.len() + group`.
    pub output: Output,
}

/// In [`Output::slices`]: take the key or the payload of the source as it is.
pub const OF_SOURCE: u32 = u32::MAX;

/// Records that a guest emits, as columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub data: Vec<u8>,
    /// Row that each record came from, never descending.
    pub sources: Vec<u32>,
    /// Index into `Descriptor::ports` per record; empty means all 0.
    pub ports: Vec<u8>,
    /// Four per record: key offset, key length, payload offset, payload length.
    /// Offsets address the input arena followed by `data`, as one space; [`OF_SOURCE`] as offset takes the source's.
    pub slices: Vec<u32>,
    /// Event time per record; empty means the source's.
    pub timestamps: Vec<i64>,
    pub rejects: Vec<Reject>,
}

/// One row that a module refuses: it becomes a dead letter, and the batch goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub source: u32,
    /// `[a-z0-9-]`, at most 64 bytes: part of the dead letter's subject.
    pub code: String,
    pub detail: String,
}

/// Why a call gave no result. The engine decides what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Data fault: the guest trapped (panic, stack, bounds). Bisect.
    Trap(String),
    /// The tripwire: the call took longer than its time. Run again one by one under fuel.
    Timeout,
    /// Data fault: one event used more than `fuel_per_event`. The verdict under fuel.
    Fuel,
    /// Data fault: memory, output size or host-call bytes exceeded.
    Limit(String),
    /// Data fault: the reply breaks the contract (offsets, counts, unknown port).
    Contract(String),
    /// Environment fault, said by the guest: try the same batch again later.
    Retry(String),
    /// Integrity fault, said by the guest: stop this partition.
    Halt(String),
    /// Environment fault of the host: no instance could be made. Pause and retry.
    Host(String),
}

/// How a call is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metering {
    /// Epoch deadline: cheap, depends on the machine's speed, so its verdict is only a suspicion.
    Deadline,
    /// Fuel: slower, deterministic; the verdict counts. For calls of one row.
    Fuel,
}

/// One configured module instance of one stage and partition.
///
/// After any fault the next call runs on a fresh instance; the engine need not ask for it.
///
/// # Determinism
/// The reply must be a function of the arguments and the configuration alone.
pub trait Guest: Send {
    /// What the module is.
    fn descriptor(&self) -> &Descriptor;
    /// sha256 of the module's bytes.
    fn digest(&self) -> [u8; 32];
    /// `transform`: `events` is borrowed mutably so that its vectors can be lent to the sandbox; it comes back unchanged.
    fn process(&mut self, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault>;
    /// `window-rule`: once after configuration.
    fn plan(&mut self) -> Result<RulePlan, Fault>;
    /// `window-rule`: called only when the plan extracts.
    fn extract(&mut self, metering: Metering, events: &mut Events, samples: &mut Samples) -> Result<(), Fault>;
    /// `window-rule`: judges panes.
    fn evaluate(&mut self, metering: Metering, panes: &mut Panes, output: &mut Output) -> Result<(), Fault>;
    /// `reducer`.
    fn reduce(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        reduced: &mut Reduced,
    ) -> Result<(), Fault>;
    /// `window-fold`: new accumulator per group.
    fn fold(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        states: &mut States,
    ) -> Result<(), Fault>;
    /// `window-fold`: merges `right[i]` into `left[i]`.
    fn merge(
        &mut self,
        metering: Metering,
        left: &mut States,
        right: &mut States,
        states: &mut States,
    ) -> Result<(), Fault>;
    /// `window-fold`: judges panes by their accumulators.
    fn finish(
        &mut self,
        metering: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault>;
}
