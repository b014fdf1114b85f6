//! The guest contract as the engine sees it: plain columns in, plain columns out, a fault or not.
//!
//! `sandbox` implements [`Guest`] over wasm components; tests implement it natively.
//! A guest owns no state. It may be replaced by a fresh instance between any two calls.

pub use pelton_aggregates::{Bound, Function, Shape as AggregateShape};

use crate::event::{Column, Events, Field, Kind, Strings};

/// What kind of module this is: which functions it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// `process`: stateless map, filter, route, validate.
    Transform,
    /// `aggregates`, `extract`, `evaluate`: windows over aggregates that the host keeps.
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

/// What a module is, whatever its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub world: World,
    pub name: String,
    pub version: String,
    /// Rises when stored accumulators or state bytes change shape.
    pub state_version: u32,
    /// JSON Schema of the configuration text.
    pub config_schema: Option<String>,
    /// Hints that a later host may understand.
    pub attributes: Vec<(String, String)>,
    /// Whether it rewrites states of an earlier state version.
    pub migrates: bool,
    /// Whether it takes a person out of states that it keeps under other keys.
    pub erases: bool,
}

impl Identity {
    /// A module of this world that says nothing else of itself.
    #[must_use]
    pub fn new(world: World, name: &str, version: &str) -> Identity {
        Identity {
            world,
            name: name.to_owned(),
            version: version.to_owned(),
            state_version: 0,
            config_schema: None,
            attributes: Vec::new(),
            migrates: false,
            erases: false,
        }
    }
}

/// What a module reads and gives, as its configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub fields: Vec<Field>,
    /// Lanes of the input that it tells apart.
    pub lanes: Vec<String>,
    /// Whether events carry their payload.
    pub payload: bool,
    /// Whether events carry their headers.
    pub headers: bool,
    /// Output ports; never empty, port 0 is the main one.
    pub ports: Vec<String>,
    /// Counters that it adds to.
    pub counters: Vec<String>,
    /// Hints that a later host may understand.
    pub attributes: Vec<(String, String)>,
}

/// A configured module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub identity: Identity,
    pub shape: Shape,
}

/// An aggregate that the host keeps per key and window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub name: String,
    pub function: Function,
    /// The declared or derived field it reads; `None` only for `Count`.
    pub field: Option<String>,
    /// For `Distinct`: counting stops here. For `TopK`: how many items. Else unused.
    pub limit: u32,
}

impl Aggregate {
    /// What is kept of it over a field of this kind.
    ///
    /// # Errors
    /// Why it cannot be computed.
    pub fn shape(&self, kind: Option<Kind>) -> Result<AggregateShape, String> {
        let wrong = |reason| format!("aggregate `{}` {reason}", self.name);
        AggregateShape::new(self.function, kind, self.limit).map_err(wrong)
    }
}

/// Holds for a pane in which the aggregate has a value within the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Index into [`Aggregation::aggregates`].
    pub aggregate: u32,
    pub bound: Bound,
}

/// What a window rule wants kept, after `configure`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aggregation {
    pub aggregates: Vec<Aggregate>,
    /// Fields that `extract` adds to each event; when empty, `extract` is never called.
    pub derived: Vec<Field>,
    /// Panes are evaluated for which all conditions of any of these lists hold; all of them where there is no list.
    pub thresholds: Vec<Vec<Condition>>,
    /// Whether `extract` must run although no field is derived (it filters or rejects).
    pub filters: bool,
}

impl Aggregation {
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
    pub rows: Vec<u32>,
    /// One per derived field, one row per sample.
    pub columns: Vec<Column>,
    pub rejects: Vec<Reject>,
    pub additions: Vec<Addition>,
}

/// Why a pane fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    Early,
    OnTime,
    Late,
}

impl Timing {
    /// The word used in headers and WIT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Timing::Early => "early",
            Timing::OnTime => "on-time",
            Timing::Late => "late",
        }
    }
}

/// Panes that fired, one row each, in firing order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panes {
    pub keys: Strings,
    /// First instant of the window; `i64::MIN` for the global window.
    pub starts: Vec<i64>,
    /// First instant after the window; `i64::MAX` for the global window.
    pub ends: Vec<i64>,
    pub timings: Vec<Timing>,
    /// 0 for the first pane of a key and window, then 1, 2, …
    pub indexes: Vec<u32>,
    /// Whether no further pane can follow.
    pub lasts: Vec<bool>,
    /// The watermark that fired the pane.
    pub watermarks: Vec<i64>,
    /// One per aggregate of the aggregation. Empty for `finish`, which gets accumulators instead.
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
    Tops { items: Strings, counts: Vec<i64>, errors: Vec<i64>, pane_ends: Vec<u32> },
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
pub type States = Strings;

/// The events of a batch grouped by key, with what the host keeps for each key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    pub keys: Strings,
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
    /// Rows are event rows; a record or addition caused by a timer has the row `events.len() + group`.
    pub output: Output,
}

/// In [`Output::slices`]: take the key or the payload of the row as it is.
pub const OF_ROW: u32 = u32::MAX;

/// Records that a guest emits, as columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub data: Vec<u8>,
    /// Row that each record came from, never descending.
    pub rows: Vec<u32>,
    /// Index into [`Shape::ports`] per record; empty means all 0.
    pub ports: Vec<u8>,
    /// Four per record: key offset, key length, payload offset, payload length.
    /// Offsets address the input arena followed by `data`, as one space; [`OF_ROW`] as offset takes the row's.
    pub slices: Vec<u32>,
    /// Event time per record; empty means the row's.
    pub timestamps: Vec<i64>,
    /// Records that delete their key, ascending.
    pub deletes: Vec<u32>,
    /// `name: value\r\n` blocks, one per record; empty where no record has any.
    pub headers: Vec<u8>,
    /// Per record, where its header block ends; empty where no record has any.
    pub header_ends: Vec<u32>,
    pub rejects: Vec<Reject>,
    pub additions: Vec<Addition>,
}

impl Output {
    /// The header block of a record.
    #[must_use]
    pub fn headers_of(&self, record: usize) -> &[u8] {
        let Some(&end) = self.header_ends.get(record) else { return &[] };
        let start = if record == 0 { 0 } else { self.header_ends[record - 1] };
        &self.headers[start as usize..end as usize]
    }

    /// Whether a record deletes its key.
    #[must_use]
    pub fn deletes(&self, record: usize) -> bool {
        !self.deletes.is_empty() && self.deletes.binary_search(&(record as u32)).is_ok()
    }
}

/// One row that a module refuses: it becomes a dead letter, and the batch goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub row: u32,
    /// `[a-z0-9-]`, at most 64 bytes: part of the dead letter's subject.
    pub code: String,
    pub detail: String,
    /// Where in the payload: a JSON pointer (RFC 6901).
    pub place: Option<String>,
}

impl Reject {
    /// Bytes of its texts.
    pub(crate) fn bytes(&self) -> usize {
        self.code.len() + self.detail.len() + self.place.as_ref().map_or(0, String::len)
    }
}

/// Adds to a counter of the module, when its row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    pub row: u32,
    /// Index into [`Shape::counters`].
    pub counter: u16,
    pub add: i64,
}

/// What `fold` returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    /// New accumulator per group.
    pub states: States,
    pub rejects: Vec<Reject>,
    pub additions: Vec<Addition>,
}

/// Who wrote states that are migrated.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub state_version: u32,
    /// Its configuration, JSON.
    pub config: &'a str,
}

/// New states of some keys: what a migration or an erasure returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewritten {
    /// One per key.
    pub changes: Vec<Change>,
    /// One per key; read only where the change is `Replace`.
    pub states: States,
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
    fn aggregates(&mut self) -> Result<Aggregation, Fault>;
    /// `window-rule`: called only when the aggregation extracts.
    fn extract(&mut self, metering: Metering, events: &mut Events, samples: &mut Samples) -> Result<(), Fault>;
    /// `window-rule`: evaluates panes.
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
        folded: &mut Folded,
    ) -> Result<(), Fault>;
    /// `window-fold`: merges `right[i]` into `left[i]`.
    fn merge(
        &mut self,
        metering: Metering,
        left: &mut States,
        right: &mut States,
        states: &mut States,
    ) -> Result<(), Fault>;
    /// `window-fold`: evaluates panes by their accumulators.
    fn finish(
        &mut self,
        metering: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault>;
    /// Where [`Identity::migrates`]: what an earlier state version kept, as this one keeps it.
    fn migrate(
        &mut self,
        metering: Metering,
        before: &Before<'_>,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        let _ = (metering, before, keys, states, rewritten);
        Err(Fault::Contract("the module does not export `migrations`".into()))
    }
    /// Where [`Identity::erases`]: states without what they hold of a person.
    fn erase(
        &mut self,
        metering: Metering,
        subject: &str,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        let _ = (metering, subject, keys, states, rewritten);
        Err(Fault::Contract("the module does not export `erasures`".into()))
    }
}
