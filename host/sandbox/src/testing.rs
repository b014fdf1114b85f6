//! The checks of a module's bytes, replies and machine code for `tests/fuzz`, without a module or a compiler that would
//! say such things.
//!
//! What a guest says comes in the engine's own types, which have the same fields as those of the contract, and goes
//! through the code that every real reply goes through.

use std::io;
use std::path::Path;

use pelton_engine::event::{Events, Field, Kind, Need, Strings};
use pelton_engine::guest::{
    Addition, Aggregation, Bound, Change, Fault, Folded, Groups, Identity, Output, Panes, Reduced, Reject, Rewritten,
    Samples, Shape, World,
};

use crate::bindings::exports::pelton::guest::{meta, reducers, window_folds, window_rules};
use crate::bindings::pelton::guest::types as wit;
pub use crate::compile::Cost;
use crate::compile::{Child, Compiled, Id, cache, child, serve};
use crate::convert::{self, Rows};
use crate::error::LoadError;
use crate::lend::{Lend, LentEvents, LentPanes, groups, strings, to_wit};
use crate::limits::Limits;
use crate::{aggregation, describe, verify as bytes_of_module};

/// What a reply may refer to.
pub struct Call<'a> {
    /// Events or panes.
    pub rows: usize,
    /// Whether these rows have payloads.
    pub payloads: bool,
    /// Bytes of the input arena.
    pub arena_bytes: usize,
    /// Reducers only: where each group's run of due timers ends.
    pub timer_ends: &'a [u32],
    /// Output ports of the module.
    pub ports: usize,
    /// Counters of the module.
    pub counters: usize,
    pub limits: &'a Limits,
}

impl Call<'_> {
    fn rows(&self) -> Rows<'_> {
        Rows {
            count: self.rows,
            payloads: self.payloads,
            arena_bytes: self.arena_bytes,
            timer_ends: self.timer_ends,
            ports: self.ports,
            counters: self.counters,
            limits: self.limits,
        }
    }
}

/// What comes before the compiler.
///
/// # Errors
/// When the bytes are refused.
pub fn verify(bytes: &[u8], limits: &Limits) -> Result<World, LoadError> {
    bytes_of_module::verify(bytes, &limits.shape)
}

/// Has `child` verify and compile a module; with what it took, unless it was killed.
pub fn compile(child: &Child, bytes: &[u8], limits: &Limits) -> (Result<World, LoadError>, Option<Cost>) {
    let (result, cost) = child.compile(bytes, limits);
    (result.map(|compiled| compiled.world), cost)
}

/// What a module says of itself before it is configured.
///
/// # Errors
/// Says what is wrong with it.
pub fn identity(said: Identity) -> Result<Identity, String> {
    let optional = describe::Optional { migrations: said.migrates, erasures: said.erases };
    let world = said.world;
    let said = meta::Identity {
        name: said.name,
        version: said.version,
        state_version: said.state_version,
        config_schema: said.config_schema,
        attributes: said.attributes,
    };
    describe::identity(world, optional, said)
}

/// What a module says of itself when it is configured.
///
/// # Errors
/// Says what is wrong with it.
pub fn shape(said: Shape) -> Result<Shape, String> {
    let said = meta::Shape {
        fields: said.fields.into_iter().map(field).collect(),
        lanes: said.lanes,
        payload: said.payload,
        headers: said.headers,
        ports: said.ports,
        counters: said.counters,
        attributes: said.attributes,
    };
    describe::shape(said)
}

/// What a window rule wants kept; `options` are those of its first aggregate, and `function`, if any, its function.
///
/// # Errors
/// Says what is wrong with it.
pub fn aggregation(
    said: Aggregation,
    function: Option<&str>,
    options: &[(String, String)],
    declared: &[Field],
) -> Result<Aggregation, String> {
    let aggregate = |(idx, aggregate): (usize, pelton_engine::guest::Aggregate)| window_rules::Aggregate {
        name: aggregate.name,
        function: function.filter(|_| idx == 0).unwrap_or_else(|| aggregate.function.name()).to_owned(),
        field: aggregate.field,
        limit: aggregate.limit,
        options: if idx == 0 { options.to_vec() } else { Vec::new() },
    };
    let bound = |bound| match bound {
        Bound::AtLeastInteger(least) => window_rules::Bound::AtLeastInteger(least),
        Bound::AtLeastNumber(least) => window_rules::Bound::AtLeastNumber(least),
        Bound::AtMostInteger(most) => window_rules::Bound::AtMostInteger(most),
        Bound::AtMostNumber(most) => window_rules::Bound::AtMostNumber(most),
    };
    let condition = |condition: pelton_engine::guest::Condition| window_rules::Condition {
        aggregate: condition.aggregate,
        bound: bound(condition.bound),
    };
    let said = window_rules::Aggregation {
        aggregates: said.aggregates.into_iter().enumerate().map(aggregate).collect(),
        derived: said.derived.into_iter().map(field).collect(),
        thresholds: said.thresholds.into_iter().map(|list| list.into_iter().map(condition).collect()).collect(),
        filters: said.filters,
    };
    aggregation::aggregation(said, declared)
}

fn field(field: Field) -> wit::Field {
    let kind = match field.kind {
        Kind::String => wit::Kind::String,
        Kind::Integer => wit::Kind::Integer,
        Kind::Number => wit::Kind::Number,
        Kind::Boolean => wit::Kind::Boolean,
        Kind::Decimal => wit::Kind::Decimal,
        Kind::Json => wit::Kind::Json,
        Kind::Bytes => wit::Kind::Bytes,
    };
    let need = match field.need {
        Need::Required => wit::Need::Required,
        Need::Optional => wit::Need::Optional,
        Need::Lenient => wit::Need::Lenient,
    };
    wit::Field { name: field.name, kind, need }
}

/// What `process`, `evaluate` or `finish` returned.
///
/// # Errors
/// The fault that a broken reply is.
pub fn output(said: Output, call: &Call<'_>) -> Result<Output, Fault> {
    let mut checked = Output::default();
    convert::output(output_to_wit(said), &call.rows(), &mut checked)?;
    Ok(checked)
}

/// What `extract` returned.
///
/// # Errors
/// The fault that a broken reply is.
pub fn samples(said: Samples, derived: &[Kind], call: &Call<'_>) -> Result<Samples, Fault> {
    let said = window_rules::Samples {
        rows: said.rows,
        columns: said.columns.into_iter().map(to_wit).collect(),
        rejects: rejects_to_wit(said.rejects),
        additions: additions_to_wit(&said.additions),
    };
    let mut checked = Samples::default();
    convert::samples(said, derived, &call.rows(), &mut checked)?;
    Ok(checked)
}

/// What `merge` returned for `count` keys.
///
/// # Errors
/// The fault that a broken reply is.
pub fn states(said: Strings, count: usize, limits: &Limits) -> Result<Strings, Fault> {
    let mut checked = Strings::default();
    convert::states(strings(said), count, limits, &mut checked)?;
    Ok(checked)
}

/// What `fold` returned for `groups` groups.
///
/// # Errors
/// The fault that a broken reply is.
pub fn folded(said: Folded, groups: usize, call: &Call<'_>) -> Result<Folded, Fault> {
    let said = window_folds::Folded {
        states: strings(said.states),
        rejects: rejects_to_wit(said.rejects),
        additions: additions_to_wit(&said.additions),
    };
    let mut checked = Folded::default();
    convert::folded(said, groups, &call.rows(), &mut checked)?;
    Ok(checked)
}

/// What `migrate` or `erase` returned for `keys` keys.
///
/// # Errors
/// The fault that a broken reply is.
pub fn rewritten(said: Rewritten, keys: usize, limits: &Limits) -> Result<Rewritten, Fault> {
    let said = wit::Rewritten { changes: said.changes.into_iter().map(change).collect(), states: strings(said.states) };
    let mut checked = Rewritten::default();
    convert::rewritten(said, keys, limits, &mut checked)?;
    Ok(checked)
}

/// What `reduce` returned for `groups` groups.
///
/// # Errors
/// The fault that a broken reply is.
pub fn reduced(said: Reduced, groups: usize, call: &Call<'_>) -> Result<Reduced, Fault> {
    let timer = |(group, at)| reducers::Timer { group, at };
    let said = reducers::Reduced {
        changes: said.changes.into_iter().map(change).collect(),
        states: strings(said.states),
        timers: said.timers.into_iter().map(timer).collect(),
        cancels: said.cancels.into_iter().map(timer).collect(),
        output: output_to_wit(said.output),
    };
    let mut checked = Reduced::default();
    convert::reduced(said, groups, &call.rows(), &mut checked)?;
    Ok(checked)
}

fn change(change: Change) -> wit::Change {
    match change {
        Change::Keep => wit::Change::Keep,
        Change::Replace => wit::Change::Replace,
        Change::Delete => wit::Change::Delete,
    }
}

pub(crate) fn output_to_wit(output: Output) -> wit::Output {
    wit::Output {
        data: output.data,
        rows: output.rows,
        ports: output.ports,
        slices: output.slices,
        timestamps: output.timestamps,
        deletes: output.deletes,
        headers: output.headers,
        header_ends: output.header_ends,
        rejects: rejects_to_wit(output.rejects),
        additions: additions_to_wit(&output.additions),
    }
}

fn rejects_to_wit(rejects: Vec<Reject>) -> Vec<wit::Reject> {
    let reject = |Reject { row, code, detail, place }: Reject| wit::Reject { row, code, detail, place };
    rejects.into_iter().map(reject).collect()
}

fn additions_to_wit(additions: &[Addition]) -> Vec<wit::Addition> {
    additions.iter().map(|&Addition { row, counter, add }| wit::Addition { row, counter, add }).collect()
}

/// Lends events to a call and takes them back.
pub fn lend_events(events: &mut Events) {
    let mut lent = LentEvents::new();
    lent.lend(events);
    lent.take_back(events);
}

/// Lends panes to a call and takes them back.
pub fn lend_panes(panes: &mut Panes) {
    let mut lent = LentPanes::new();
    lent.lend(panes);
    lent.take_back(panes);
}

/// Lends groups to a call and takes them back.
pub fn lend_groups(ours: &mut Groups) {
    let mut lent = groups();
    lent.swap_with(ours);
    lent.swap_with(ours);
}

/// A module in machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    pub world: World,
    pub fast: Vec<u8>,
    pub judge: Vec<u8>,
}

impl From<Compiled> for Code {
    fn from(Compiled { world, fast, judge }: Compiled) -> Code {
        Code { world, fast, judge }
    }
}

impl From<Code> for Compiled {
    fn from(Code { world, fast, judge }: Code) -> Compiled {
        Compiled { world, fast, judge }
    }
}

/// The cache of compiled modules; here a module is one byte.
pub struct Cache(cache::Cache);

impl Cache {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(folder: &Path) -> io::Result<Cache> {
        cache::Cache::open(folder).map(Cache)
    }

    #[must_use]
    pub fn get(&self, module: u8) -> Option<Code> {
        self.0.get(id(module)).map(Code::from)
    }

    /// Keeps a module.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, module: u8, code: &Code) -> io::Result<()> {
        self.0.put(id(module), &code.clone().into())
    }

    /// These bytes as the file of an entry, with the hash that the cache itself would put before them.
    #[must_use]
    pub fn sealed(&self, module: u8, entry: &[u8]) -> Vec<u8> {
        [&self.0.tag(id(module), entry), entry].concat()
    }
}

fn id(module: u8) -> Id {
    Id { build: [0; 32], module: [module; 32] }
}

/// What is in an entry, without the hash.
#[must_use]
pub fn cache_entry(code: &Code) -> Vec<u8> {
    cache::encode(&code.clone().into())
}

/// What a compiler in a child process answered; `None` when that is no answer.
#[must_use]
pub fn answer(bytes: &[u8]) -> Option<Result<Code, LoadError>> {
    child::parse(bytes).map(|(answer, _)| answer.map(Code::from))
}

/// The answer as such a compiler writes it.
///
/// # Errors
/// When it cannot be written.
pub fn write_answer(answer: &Result<Code, LoadError>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    serve::write(&mut bytes, &answer.clone().map(Compiled::from))?;
    Ok(bytes)
}
