//! Windows and aggregates of the native kit: small and obvious rather than fast.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::field::Field;
use crate::raw;
use crate::raw::window_rule::{Aggregate, AggregateValues, Operator, RulePlan, Samples, Tops};

use super::input::{Input, is_number, key, texts};
use super::report::Sources;

/// Which window of which key, ordered as windows fire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WindowOf {
    pub(super) end: i64,
    pub(super) key: Vec<u8>,
    pub(super) start: i64,
}

/// One pane with its aggregates.
pub(super) struct Row {
    window: WindowOf,
    number: u32,
    firing: raw::Firing,
    values: Vec<Aggregated>,
}

/// The value of one aggregate.
#[derive(Clone, Debug, PartialEq)]
enum Aggregated {
    Integer(i64),
    Number(f64),
    Top(Vec<(String, i64)>),
}

/// One value of a field.
enum Cell<'a> {
    Text(&'a [u8]),
    Integer(i64),
    Number(f64),
    Boolean(bool),
}

impl WindowOf {
    /// Appends this pane as the first and last of its window.
    pub(super) fn push(&self, panes: &mut raw::Panes) {
        push(panes, self, 0, raw::Firing::OnTime);
    }
}

impl Row {
    /// Whether the host would show this pane to the rule.
    pub(super) fn passes(&self, plan: &RulePlan) -> bool {
        plan.at_least.iter().all(|least| match &self.values[least.aggregate as usize] {
            Aggregated::Integer(value) => least.value <= *value,
            Aggregated::Number(_) | Aggregated::Top(_) => true,
        })
    }
}

/// No panes yet.
pub(super) fn no_panes() -> raw::Panes {
    raw::Panes {
        keys: texts([]),
        starts: Vec::new(),
        ends: Vec::new(),
        firings: Vec::new(),
        numbers: Vec::new(),
        finals: Vec::new(),
        watermarks: Vec::new(),
    }
}

/// Per window and key the events in it, in firing order.
pub(super) fn members(input: &Input, events: &raw::Events) -> Result<BTreeMap<WindowOf, Vec<u32>>, String> {
    let mut members: BTreeMap<WindowOf, Vec<u32>> = BTreeMap::new();
    if input.events.is_empty() {
        return Ok(members);
    }
    let window = input.window.ok_or("events need a line `{\"window\":{\"size_ms\":…}}`")?;
    let every = window.every_ms.unwrap_or(window.size_ms);
    if every < 1 || window.size_ms < every {
        return Err(format!("window of {} ms every {every} ms is none", window.size_ms));
    }
    for (row, time) in events.timestamps.iter().enumerate() {
        let mut start = time - time.rem_euclid(every);
        while time - window.size_ms < start {
            let window = WindowOf { end: start + window.size_ms, key: key(events, row).to_vec(), start };
            members.entry(window).or_default().push(row as u32);
            start -= every;
        }
    }
    Ok(members)
}

/// Aggregates events like the host does.
pub(super) fn aggregate(
    input: &Input,
    plan: &RulePlan,
    fields: &[Field],
    events: &raw::Events,
    samples: &Samples,
) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (window, members) in members(input, events)? {
        // Samples, not events, are what counts; several may come from one event.
        let inside: Vec<usize> = (0..samples.sources.len())
            .filter(|sample| members.binary_search(&samples.sources[*sample]).is_ok())
            .collect();
        if inside.is_empty() {
            continue;
        }
        let value = |aggregate: &Aggregate| {
            let cells: Vec<Cell<'_>> = inside
                .iter()
                .filter_map(|sample| cell(aggregate.field.as_deref()?, *sample, plan, fields, events, samples))
                .collect();
            compute(aggregate, inside.len(), &cells)
        };
        let values = plan.aggregates.iter().map(value).collect();
        rows.push(Row { window, number: 0, firing: raw::Firing::OnTime, values });
    }
    Ok(rows)
}

/// The panes that the input gives as they are.
pub(super) fn given(input: &Input, plan: &RulePlan) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for line in &input.panes {
        let pane = &line.pane;
        let value = |aggregate: &Aggregate| {
            let name = &aggregate.name;
            let value = line.values.get(name).ok_or_else(|| format!("pane of `{}` has no value `{name}`", pane.key))?;
            parse(aggregate, value).ok_or_else(|| format!("value `{name}` of pane `{}` is {value}", pane.key))
        };
        let firing = match (pane.firing.as_deref(), pane.number) {
            (Some("early"), _) => raw::Firing::Early,
            (Some("on-time"), _) | (None, 0) => raw::Firing::OnTime,
            (Some("late"), _) | (None, _) => raw::Firing::Late,
            (Some(other), _) => return Err(format!("firing is `{other}`, wanted early, on-time or late")),
        };
        rows.push(Row {
            window: WindowOf { end: pane.end, key: pane.key.clone().into_bytes(), start: pane.start },
            number: pane.number,
            firing,
            values: plan.aggregates.iter().map(value).collect::<Result<_, _>>()?,
        });
    }
    Ok(rows)
}

/// The panes and values as columns.
pub(super) fn columns(
    rows: &[Row],
    plan: &RulePlan,
    fields: &[Field],
) -> Result<(raw::Panes, Vec<AggregateValues>), String> {
    let mut panes = no_panes();
    for row in rows {
        push(&mut panes, &row.window, row.number, row.firing);
    }
    let column = |(index, aggregate): (usize, &Aggregate)| {
        let values = rows.iter().map(|row| &row.values[index]);
        match aggregate.operator {
            Operator::TopK => {
                let mut tops = Tops { items: texts([]), counts: Vec::new(), pane_ends: Vec::new() };
                for value in values {
                    if let Aggregated::Top(items) = value {
                        for (item, count) in items {
                            tops.items.data.extend_from_slice(item.as_bytes());
                            tops.items.ends.push(tops.items.data.len() as u32);
                            tops.counts.push(*count);
                        }
                    }
                    tops.pane_ends.push(tops.counts.len() as u32);
                }
                AggregateValues::Tops(tops)
            }
            _ if numeric(aggregate, plan, fields) => AggregateValues::Numbers(
                values
                    .map(|value| match value {
                        Aggregated::Number(value) => *value,
                        Aggregated::Integer(value) => *value as f64,
                        Aggregated::Top(_) => 0.0,
                    })
                    .collect(),
            ),
            _ => AggregateValues::Integers(
                values.map(|value| if let Aggregated::Integer(value) = value { *value } else { 0 }).collect(),
            ),
        }
    };
    let values = plan.aggregates.iter().enumerate().map(column).collect();
    Ok((panes, values))
}

/// What records of these panes refer to.
pub(super) fn sources(panes: &raw::Panes) -> Sources {
    let keys = super::input::rows(&panes.keys);
    Sources { arena: panes.keys.data.clone(), rows: keys.into_iter().map(|key| (key, Vec::new())).collect() }
}

fn push(panes: &mut raw::Panes, window: &WindowOf, number: u32, firing: raw::Firing) {
    panes.keys.data.extend_from_slice(&window.key);
    panes.keys.ends.push(panes.keys.data.len() as u32);
    panes.starts.push(window.start);
    panes.ends.push(window.end);
    panes.firings.push(firing);
    panes.numbers.push(number);
    panes.finals.push(false);
    panes.watermarks.push(window.end);
}

/// Whether the aggregate is over a number field.
fn numeric(aggregate: &Aggregate, plan: &RulePlan, fields: &[Field]) -> bool {
    let Some(name) = aggregate.field.as_deref() else { return false };
    let declared = fields.iter().find(|field| field.name == name).map(|field| field.kind);
    let kind = plan.derived.iter().find(|field| field.name == name).map(|field| field.kind).or(declared);
    matches!(aggregate.operator, Operator::Sum | Operator::Min | Operator::Max) && kind.is_some_and(is_number)
}

/// The value of a field for a sample; none where it is missing.
fn cell<'a>(
    name: &str,
    sample: usize,
    plan: &RulePlan,
    fields: &[Field],
    events: &'a raw::Events,
    samples: &'a Samples,
) -> Option<Cell<'a>> {
    let derived = plan.derived.iter().position(|field| field.name == name);
    let (column, row) = match derived {
        Some(index) => (&samples.columns[index], sample),
        None => {
            let index = fields.iter().position(|field| field.name == name)?;
            (&events.columns[index], samples.sources[sample] as usize)
        }
    };
    if column.missing.contains(&(row as u32)) {
        return None;
    }
    Some(match &column.values {
        raw::Values::Text(texts) => Cell::Text(crate::pane::slice(texts, row)),
        raw::Values::Integers(values) => Cell::Integer(values[row]),
        raw::Values::Numbers(values) => Cell::Number(values[row]),
        raw::Values::Booleans(values) => Cell::Boolean(values[row]),
    })
}

fn compute(aggregate: &Aggregate, count: usize, cells: &[Cell<'_>]) -> Aggregated {
    let text = |cell: &Cell<'_>| match cell {
        Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Cell::Integer(value) => value.to_string(),
        Cell::Number(value) => value.to_string(),
        Cell::Boolean(value) => value.to_string(),
    };
    let integers = || cells.iter().filter_map(|cell| if let Cell::Integer(value) = cell { Some(*value) } else { None });
    let numbers = || cells.iter().filter_map(|cell| if let Cell::Number(value) = cell { Some(*value) } else { None });
    let over_numbers = matches!(cells.first(), Some(Cell::Number(_)));
    match aggregate.operator {
        Operator::Count => Aggregated::Integer(count as i64),
        Operator::Sum if over_numbers => Aggregated::Number(numbers().sum()),
        Operator::Min if over_numbers => Aggregated::Number(numbers().fold(f64::INFINITY, f64::min)),
        Operator::Max if over_numbers => Aggregated::Number(numbers().fold(f64::NEG_INFINITY, f64::max)),
        Operator::Sum => Aggregated::Integer(integers().fold(0, i64::saturating_add)),
        Operator::Min => Aggregated::Integer(integers().min().unwrap_or(0)),
        Operator::Max => Aggregated::Integer(integers().max().unwrap_or(0)),
        Operator::Distinct => {
            let distinct: BTreeSet<String> = cells.iter().map(text).collect();
            Aggregated::Integer((distinct.len() as i64).min(i64::from(aggregate.limit)))
        }
        Operator::TopK => {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            cells.iter().for_each(|cell| *counts.entry(text(cell)).or_default() += 1);
            let mut items: Vec<(String, i64)> = counts.into_iter().collect();
            items.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
            items.truncate(aggregate.limit as usize);
            Aggregated::Top(items)
        }
    }
}

fn parse(aggregate: &Aggregate, value: &Value) -> Option<Aggregated> {
    if aggregate.operator == Operator::TopK {
        let item = |item: &Value| Some((item.get(0)?.as_str()?.to_owned(), item.get(1)?.as_i64()?));
        return value.as_array()?.iter().map(item).collect::<Option<_>>().map(Aggregated::Top);
    }
    value.as_i64().map(Aggregated::Integer).or_else(|| value.as_f64().map(Aggregated::Number))
}
