//! A rule tried before any event is read: does it evaluate with the aggregates that it declares?

use crate::event::Strings;
use crate::guest::{AggregateData, Aggregation, Bound, Condition, Fault, Guest, Metering, Output, Panes, Timing};
use crate::plan::FieldRead;
use crate::window::column_of_nothing;

use super::window_rule::{check_thresholds, input_of};

/// What is wrong with a rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It cannot run: its aggregates do not hold together, or it asks for one that it does not declare.
    Wrong(String),
    /// It failed with a window in which nothing had happened. A good rule may, for instance by dividing by a count that
    /// is never 0 when an event has made the window.
    Doubtful(String),
}

/// Calls `aggregates`, and `evaluate` with a pane in which nothing was seen but what a list of thresholds promises: once
/// for each list.
///
/// # Errors
/// What a run would fail with, or may.
pub fn try_rule(guest: &mut dyn Guest, fields: &[FieldRead]) -> Result<(), Trial> {
    let rule = guest.aggregates().map_err(|fault| Trial::Wrong(text_of(fault)))?;
    check_thresholds(&rule).map_err(Trial::Wrong)?;
    let nothing = Vec::new();
    let lists = if rule.thresholds.is_empty() { std::slice::from_ref(&nothing) } else { &rule.thresholds };
    for promised in lists {
        let mut panes = empty_pane(&rule, promised, fields).map_err(Trial::Wrong)?;
        match guest.evaluate(Metering::Fuel, &mut panes, &mut Output::default()) {
            Ok(()) => {}
            Err(Fault::Trap(text)) if asks_for_another(&text) => return Err(Trial::Wrong(text)),
            Err(fault) => return Err(Trial::Doubtful(text_of(fault))),
        }
    }
    Ok(())
}

/// The words of the SDK's `Pane`, when a rule names an aggregate that is not there or of another kind.
fn asks_for_another(trap: &str) -> bool {
    let is_other = trap.contains("` is not a") || trap.contains("` is neither count nor distinct");
    trap.contains("no aggregate `") || trap.contains("aggregate `") && is_other
}

/// One pane of the first hour of 1970 for the key `key`.
fn empty_pane(rule: &Aggregation, promised: &[Condition], fields: &[FieldRead]) -> Result<Panes, String> {
    let mut values = Vec::new();
    for (idx, aggregate) in rule.aggregates.iter().enumerate() {
        let (shape, _) = input_of(aggregate, rule, fields)?;
        let mut value = column_of_nothing(shape);
        for condition in promised.iter().filter(|condition| condition.aggregate as usize == idx) {
            let is_missing = !value.missing.is_empty();
            match (&mut value.data, condition.bound) {
                (AggregateData::Integers(values), Bound::AtLeastInteger(least)) if is_missing || values[0] < least => {
                    values[0] = least;
                }
                (AggregateData::Integers(values), Bound::AtMostInteger(most)) if is_missing || values[0] > most => {
                    values[0] = most;
                }
                (AggregateData::Numbers(values), Bound::AtLeastNumber(least)) if is_missing || values[0] < least => {
                    values[0] = least;
                }
                (AggregateData::Numbers(values), Bound::AtMostNumber(most)) if is_missing || values[0] > most => {
                    values[0] = most;
                }
                _ => {}
            }
            value.missing.clear();
        }
        values.push(value);
    }
    let mut keys = Strings::default();
    keys.push(b"key");
    Ok(Panes {
        keys,
        starts: vec![0],
        ends: vec![3_600_000],
        timings: vec![Timing::OnTime],
        indexes: vec![0],
        lasts: vec![true],
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
