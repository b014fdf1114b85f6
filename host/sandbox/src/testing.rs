//! The checks of a module's bytes and replies for `tests/fuzz`, without a module that would say such things.
//!
//! What a guest says comes in the engine's own types, which have the same fields as those of the contract, and goes
//! through the code that every real reply goes through.

use pelton_engine::event::{Events, Field, Kind, TextColumn};
use pelton_engine::guest::{
    Change, Descriptor, Fault, Groups, Operator, Output, Panes, Reduced, RulePlan, Samples, World,
};

use crate::bindings::exports::pelton::guest::{meta, reducers, window_rules};
use crate::bindings::pelton::guest::types as wit;
use crate::compile::Child;
pub use crate::compile::Cost;
use crate::convert::{self, Rows};
use crate::error::LoadError;
use crate::lend::{Lend, LentEvents, LentPanes, groups, to_wit};
use crate::limits::Limits;
use crate::{describe, plan as rule_plan, verify as bytes_of_module};

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

/// What a module says of itself.
///
/// # Errors
/// Says what is wrong with it.
pub fn descriptor(said: Descriptor) -> Result<Descriptor, String> {
    let world = said.world;
    let said = meta::Descriptor {
        name: said.name,
        version: said.version,
        state_version: said.state_version,
        config_schema: said.config_schema,
        fields: said.fields.into_iter().map(field).collect(),
        payload: said.payload,
        headers: said.headers,
        ports: said.ports,
        attributes: said.attributes,
    };
    describe::descriptor(world, said)
}

/// What a window rule wants kept.
///
/// # Errors
/// Says what is wrong with it.
pub fn plan(said: RulePlan, declared: &[Field]) -> Result<RulePlan, String> {
    let aggregate = |aggregate: pelton_engine::guest::Aggregate| window_rules::Aggregate {
        name: aggregate.name,
        operator: match aggregate.operator {
            Operator::Count => window_rules::Operator::Count,
            Operator::Sum => window_rules::Operator::Sum,
            Operator::Min => window_rules::Operator::Min,
            Operator::Max => window_rules::Operator::Max,
            Operator::Distinct => window_rules::Operator::Distinct,
            Operator::TopK => window_rules::Operator::TopK,
        },
        field: aggregate.field,
        limit: aggregate.limit,
    };
    let threshold = |(aggregate, value)| window_rules::Threshold { aggregate, value };
    let said = window_rules::RulePlan {
        aggregates: said.aggregates.into_iter().map(aggregate).collect(),
        derived: said.derived.into_iter().map(field).collect(),
        at_least: said.at_least.into_iter().map(threshold).collect(),
        filters: said.filters,
    };
    rule_plan::plan(said, declared)
}

fn field(field: Field) -> wit::Field {
    let kind = match field.kind {
        Kind::Text => wit::Kind::Text,
        Kind::Integer => wit::Kind::Integer,
        Kind::Number => wit::Kind::Number,
        Kind::Boolean => wit::Kind::Boolean,
    };
    wit::Field { name: field.name, kind, required: field.required }
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
        sources: said.sources,
        columns: said.columns.into_iter().map(to_wit).collect(),
        rejects: rejects_to_wit(said.rejects),
    };
    let mut checked = Samples::default();
    convert::samples(said, derived, &call.rows(), &mut checked)?;
    Ok(checked)
}

/// What `fold` or `merge` returned for `count` keys.
///
/// # Errors
/// The fault that a broken reply is.
pub fn states(said: TextColumn, count: usize, limits: &Limits) -> Result<TextColumn, Fault> {
    let mut checked = TextColumn::default();
    convert::states(texts_to_wit(said), count, limits, &mut checked)?;
    Ok(checked)
}

/// What `reduce` returned for `groups` groups.
///
/// # Errors
/// The fault that a broken reply is.
pub fn reduced(said: Reduced, groups: usize, call: &Call<'_>) -> Result<Reduced, Fault> {
    let timer = |(group, at)| reducers::Timer { group, at };
    let change = |change| match change {
        Change::Keep => reducers::Change::Keep,
        Change::Replace => reducers::Change::Replace,
        Change::Delete => reducers::Change::Delete,
    };
    let said = reducers::Reduced {
        changes: said.changes.into_iter().map(change).collect(),
        states: texts_to_wit(said.states),
        timers: said.timers.into_iter().map(timer).collect(),
        cancels: said.cancels.into_iter().map(timer).collect(),
        output: output_to_wit(said.output),
    };
    let mut checked = Reduced::default();
    convert::reduced(said, groups, &call.rows(), &mut checked)?;
    Ok(checked)
}

fn output_to_wit(output: Output) -> wit::Output {
    wit::Output {
        data: output.data,
        sources: output.sources,
        ports: output.ports,
        slices: output.slices,
        timestamps: output.timestamps,
        rejects: rejects_to_wit(output.rejects),
    }
}

fn rejects_to_wit(rejects: Vec<pelton_engine::guest::Reject>) -> Vec<wit::Reject> {
    let reject = |reject: pelton_engine::guest::Reject| wit::Reject {
        source: reject.source,
        code: reject.code,
        detail: reject.detail,
    };
    rejects.into_iter().map(reject).collect()
}

fn texts_to_wit(texts: TextColumn) -> wit::Texts {
    wit::Texts { data: texts.data, ends: texts.ends }
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
