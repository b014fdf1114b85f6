//! The layout of the state: all that decides how its bytes are read and what they mean, as text.
//!
//! State of another layout cannot be read, so the text lives as long as state does. It is spelled out here, word by word,
//! and pinned by a golden test: nothing in it may follow a name of this code. What comes before the stage (fields
//! of transforms, filters, units of time) is no part of it, and may change what the same bytes mean.

use serde::Serialize;

use crate::guest::{Aggregate, Aggregation, Identity, World};
use crate::plan::{FieldRead, Plan, WindowKind, declared};

/// Format of an operator's own bytes, with which they begin. It rises when they change.
pub(super) fn format(world: World) -> u8 {
    match world {
        World::Transform => unreachable!("a transform keeps nothing"),
        World::WindowRule => 5,
        World::WindowFold => 2,
        World::Reducer => 2,
    }
}

#[derive(Serialize)]
struct Layout<'a> {
    operator: &'static str,
    format: u8,
    /// Of the module.
    state_version: u32,
    /// Whether keys have a time to live, so that each has the time of its newest event.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ttl: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregates: Option<Vec<Kept<'a>>>,
}

/// Times in milliseconds.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Window {
    Tumbling { size: i64 },
    Sliding { size: i64, slide: i64 },
    Global,
}

#[derive(Serialize)]
struct Kept<'a> {
    name: &'a str,
    aggregate: &'static str,
    /// Where its values come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Values<'a>>,
    /// Of a distinct count or a top-k.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Values<'a> {
    /// Kind, and the way to it in an event.
    Field(&'static str, &'a [String]),
    /// Kind, and name among what the module derives.
    Derived(&'static str, &'a str),
}

/// The layout of what the stage of this module keeps. `rule` is what a window rule wants kept, checked against
/// its fields.
pub(super) fn text(plan: &Plan, stage: usize, module: &Identity, rule: Option<(&Aggregation, &[FieldRead])>) -> String {
    let window = plan.stages[stage].window.map(|window| match window.kind {
        WindowKind::Tumbling { size } => Window::Tumbling { size: size.0 },
        WindowKind::Sliding { size, slide } => Window::Sliding { size: size.0, slide: slide.0 },
        WindowKind::Global => Window::Global,
    });
    let aggregates =
        rule.map(|(rule, fields)| rule.aggregates.iter().map(|aggregate| kept(aggregate, rule, fields)).collect());
    let (operator, format, state_version) = (module.world.name(), format(module.world), module.state_version);
    let ttl = plan.stages[stage].ttl.is_some();
    let layout = Layout { operator, format, state_version, ttl, window, aggregates };
    serde_json::to_string(&layout).expect("it holds only numbers, texts and lists")
}

fn kept<'a>(aggregate: &'a Aggregate, rule: &'a Aggregation, fields: &'a [FieldRead]) -> Kept<'a> {
    let values = aggregate.field.as_deref().and_then(|name| {
        // As the rule reads it: what it derives hides what is declared.
        let derived = rule.derived.iter().find(|field| field.name == name);
        match derived {
            Some(field) => Some(Values::Derived(field.kind.name(), name)),
            None => declared(fields, name).map(|idx| Values::Field(fields[idx].kind.name(), &fields[idx].pointer)),
        }
    });
    let limit = aggregate.function.has_limit().then_some(aggregate.limit);
    Kept { name: &aggregate.name, aggregate: aggregate.function.name(), values, limit }
}
