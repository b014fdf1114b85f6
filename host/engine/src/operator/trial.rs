//! A rule tried before any event is read: does it judge with the aggregates that its plan has?

use crate::event::TextColumn;
use crate::guest::{AggregateData, Fault, Firing, Guest, Metering, Output, Panes, RulePlan};
use crate::plan::FieldRead;
use crate::window::column_of_nothing;

use super::window_rule::{input_of, shape_of};

/// What is wrong with a rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It cannot run: its plan does not hold together, or it asks for an aggregate that the plan does not have.
    Wrong(String),
    /// It failed with a window in which nothing had happened. A good rule may, for instance by dividing by a count that
    /// is never 0 when an event has made the window.
    Doubtful(String),
}

/// Calls `plan`, and `evaluate` with one pane in which nothing was seen but what `at_least` promises.
///
/// # Errors
/// What a run would fail with, or may.
pub fn try_rule(guest: &mut dyn Guest, fields: &[FieldRead]) -> Result<(), Trial> {
    let rule = guest.plan().map_err(|fault| Trial::Wrong(text_of(fault)))?;
    let mut panes = empty_pane(&rule, fields).map_err(Trial::Wrong)?;
    match guest.evaluate(Metering::Fuel, &mut panes, &mut Output::default()) {
        Ok(()) => Ok(()),
        Err(Fault::Trap(text)) if asks_for_another(&text) => Err(Trial::Wrong(text)),
        Err(fault) => Err(Trial::Doubtful(text_of(fault))),
    }
}

/// The words of the SDK's `Pane`, when a rule names an aggregate that is not there or of another kind.
fn asks_for_another(trap: &str) -> bool {
    let is_other = trap.contains("` is not a") || trap.contains("` is neither count nor distinct");
    trap.contains("no aggregate `") || trap.contains("aggregate `") && is_other
}

/// One pane of the first hour of 1970 for the key `key`.
fn empty_pane(rule: &RulePlan, fields: &[FieldRead]) -> Result<Panes, String> {
    let mut values = Vec::new();
    for (idx, aggregate) in rule.aggregates.iter().enumerate() {
        let (kind, _) = input_of(aggregate, rule, fields)?;
        let promised = rule.at_least.iter().filter(|(of, _)| *of as usize == idx).map(|(_, least)| *least).max();
        let mut value = column_of_nothing(shape_of(aggregate, kind));
        if let (AggregateData::Integers(values), Some(promised)) = (&mut value.data, promised) {
            (*values, value.missing) = (vec![promised], Vec::new());
        }
        values.push(value);
    }
    if let Some((of, _)) = rule.at_least.iter().find(|(of, _)| *of as usize >= values.len()) {
        return Err(format!("its plan has a threshold on aggregate {of}, but only {} aggregates", values.len()));
    }
    let mut keys = TextColumn::default();
    keys.push(b"key");
    Ok(Panes {
        keys,
        starts: vec![0],
        ends: vec![3_600_000],
        firings: vec![Firing::OnTime],
        numbers: vec![0],
        finals: vec![true],
        watermarks: vec![3_600_000],
        values,
    })
}

/// What a person reads of a fault.
fn text_of(fault: Fault) -> String {
    match fault {
        Fault::Trap(text)
        | Fault::Limit(text)
        | Fault::Contract(text)
        | Fault::Retry(text)
        | Fault::Halt(text)
        | Fault::Host(text) => text,
        Fault::Timeout => "it takes too long".to_owned(),
        Fault::Fuel => "it needs more than `limits.fuel_per_event`".to_owned(),
    }
}
