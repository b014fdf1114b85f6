//! Windows of the native kit: small and obvious rather than fast. The aggregates are those of the host.

use std::collections::{BTreeMap, BTreeSet};

use pelton_aggregates::{Accumulators, Finished, HashKey, Merged, Operator as HostOperator, Shape, Value as Cell};
use serde_json::Value;

use crate::field::{Field, Kind};
use crate::raw;
use crate::raw::window_rule::{Aggregate, AggregateData, AggregateValues, Operator, RulePlan, Samples, Tops};

use super::input::{Input, key, texts};
use super::report::Sources;

/// Which window of which key, ordered as windows fire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WindowOf {
    pub(super) end: i64,
    pub(super) key: Vec<u8>,
    pub(super) start: i64,
}

/// Which slice of which key, in order of time for each key.
type SliceOf = (Vec<u8>, i64);

/// How time is cut: into slices, and windows over them.
#[derive(Clone, Copy)]
pub(super) enum Slicing {
    Sliding {
        size: i64,
        slide: i64,
    },
    /// One slice and one window that closes at the end of the input.
    Global,
}

/// One pane with its aggregates.
pub(super) struct Row {
    window: WindowOf,
    number: u32,
    firing: raw::Firing,
    is_final: bool,
    watermark: i64,
    values: Vec<Aggregated>,
}

/// The value of one aggregate; see [`Finished`].
#[derive(Clone, Debug, PartialEq)]
enum Aggregated {
    Integer {
        value: Option<i64>,
        clipped: bool,
    },
    Number(Option<f64>),
    /// Item, count, error.
    Top(Vec<(String, i64, i64)>),
}

impl Slicing {
    /// How the input cuts time.
    pub(super) fn of(input: &Input) -> Result<Slicing, String> {
        let window = input
            .window
            .ok_or("events need a line `{\"window\":{\"size_ms\":…}}` or `{\"window\":{\"global\":true}}`")?;
        let Some(size) = window.size_ms else {
            let is_global = window.global && window.slide_ms.is_none();
            return if is_global { Ok(Slicing::Global) } else { Err("the window has no `size_ms`".to_owned()) };
        };
        let slide = window.slide_ms.unwrap_or(size);
        if window.global {
            return Err("a global window has no `size_ms`".to_owned());
        }
        if slide < 1 || size < slide || size % slide != 0 {
            return Err(format!("`slide_ms` is {slide} and `size_ms` is {size}, wanted one that divides the other"));
        }
        Ok(Slicing::Sliding { size, slide })
    }

    /// Start of the slice at `time`.
    fn slice(self, time: i64) -> i64 {
        match self {
            Slicing::Sliding { slide, .. } => time.div_euclid(slide) * slide,
            Slicing::Global => i64::MIN,
        }
    }

    /// All windows over the slices, in firing order.
    fn windows<'a>(self, slices: impl Iterator<Item = &'a SliceOf>) -> BTreeSet<WindowOf> {
        let mut windows = BTreeSet::new();
        for (key, slice) in slices {
            match self {
                Slicing::Global => {
                    windows.insert(WindowOf { end: i64::MAX, key: key.clone(), start: i64::MIN });
                }
                Slicing::Sliding { size, slide } => {
                    windows.extend((slice + slide..=slice + size).step_by(slide as usize).map(|end| WindowOf {
                        end,
                        key: key.clone(),
                        start: end - size,
                    }));
                }
            }
        }
        windows
    }
}

impl WindowOf {
    /// Appends this pane as the first and last of its window.
    pub(super) fn push(&self, panes: &mut raw::Panes) {
        push(panes, self, 0, raw::Firing::OnTime, true, self.end);
    }

    fn slices(&self) -> std::ops::Range<SliceOf> {
        (self.key.clone(), self.start)..(self.key.clone(), self.end)
    }
}

impl Row {
    /// Whether the host would show this pane to the rule.
    pub(super) fn passes(&self, plan: &RulePlan) -> bool {
        plan.at_least.iter().all(|least| match &self.values[least.aggregate as usize] {
            Aggregated::Integer { value, .. } => value.is_some_and(|value| least.value <= value),
            Aggregated::Number(_) | Aggregated::Top(_) => false,
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

/// What the host says of a plan that it refuses.
pub(super) fn check(plan: &RulePlan, fields: &[Field]) -> Result<(), String> {
    for aggregate in &plan.aggregates {
        let name = &aggregate.name;
        let kind = kind(aggregate, plan, fields);
        match aggregate.operator {
            Operator::Distinct | Operator::TopK if aggregate.limit == 0 => {
                return Err(format!("aggregate `{name}` needs a limit above 0"));
            }
            Operator::TopK if kind == Some(Kind::Number) => {
                return Err(format!("aggregate `{name}` cannot rank numbers; use text or integers"));
            }
            _ => {}
        }
    }
    for threshold in &plan.at_least {
        let aggregate = &plan.aggregates[threshold.aggregate as usize];
        if aggregate.operator == Operator::TopK || shape(aggregate, plan, fields).is_number() {
            return Err(format!("threshold on aggregate `{}` that is not an integer", aggregate.name));
        }
    }
    Ok(())
}

/// Aggregates events as the host does: per key and slice, then slice by slice over each window.
pub(super) fn aggregate(
    input: &Input,
    plan: &RulePlan,
    fields: &[Field],
    events: &raw::Events,
    samples: &Samples,
) -> Result<Vec<Row>, String> {
    if input.events.is_empty() {
        return Ok(Vec::new());
    }
    let slicing = Slicing::of(input)?;
    let shapes: Vec<Shape> = plan.aggregates.iter().map(|aggregate| shape(aggregate, plan, fields)).collect();
    let mut slices: BTreeMap<SliceOf, Vec<Accumulators>> = BTreeMap::new();
    // Samples, not events, are what counts; several may come from one event.
    for (sample, event) in samples.sources.iter().enumerate() {
        let event = *event as usize;
        let place = (key(events, event).to_vec(), slicing.slice(events.timestamps[event]));
        let accumulators = slices.entry(place).or_insert_with(|| shapes.iter().map(|shape| one_row(*shape)).collect());
        for ((accumulator, shape), aggregate) in accumulators.iter_mut().zip(&shapes).zip(&plan.aggregates) {
            // The key decides nothing but which texts would share a fingerprint.
            let key = HashKey::default();
            accumulator.add(0, *shape, cell(aggregate, sample, plan, fields, events, samples), key);
        }
    }
    let row = |window: WindowOf| {
        let value = |(idx, shape): (usize, &Shape)| {
            let mut merged = Merged::new(*shape);
            slices.range(window.slices()).for_each(|(_, slice)| merged.merge(*shape, &slice[idx], 0));
            Aggregated::from(merged.finish(*shape))
        };
        let values = shapes.iter().enumerate().map(value).collect();
        let watermark = window.end;
        Row { window, number: 0, firing: raw::Firing::OnTime, is_final: true, watermark, values }
    };
    Ok(slicing.windows(slices.keys()).into_iter().map(row).collect())
}

fn one_row(shape: Shape) -> Accumulators {
    let mut accumulators = Accumulators::new(shape);
    accumulators.push_empty();
    accumulators
}

impl From<Finished<'_>> for Aggregated {
    fn from(finished: Finished<'_>) -> Aggregated {
        match finished {
            Finished::Integer { value, clipped } => Aggregated::Integer { value, clipped },
            Finished::Number(value) => Aggregated::Number(value),
            Finished::Top(items) => {
                let text = |item: &[u8]| String::from_utf8_lossy(item).into_owned();
                Aggregated::Top(items.iter().map(|top| (text(top.item), top.count, top.error)).collect())
            }
        }
    }
}

/// Folds events as the host does: `fold` per key and slice, then `merge` slice by slice over each window.
pub(super) fn fold(
    input: &Input,
    events: &raw::Events,
    mut fold: impl FnMut(&[u8], &[u32]) -> Result<raw::Texts, String>,
    mut merge: impl FnMut(&raw::Texts, &raw::Texts) -> Result<raw::Texts, String>,
) -> Result<(raw::Panes, raw::Texts), String> {
    let (mut panes, mut accumulators) = (no_panes(), texts([]));
    if input.events.is_empty() {
        return Ok((panes, accumulators));
    }
    let slicing = Slicing::of(input)?;
    let mut members: BTreeMap<SliceOf, Vec<u32>> = BTreeMap::new();
    for (row, time) in events.timestamps.iter().enumerate() {
        members.entry((key(events, row).to_vec(), slicing.slice(*time))).or_default().push(row as u32);
    }
    let slices = members
        .iter()
        .map(|(place, members)| Ok((place.clone(), fold(&place.0, members)?)))
        .collect::<Result<BTreeMap<_, _>, String>>()?;
    for window in slicing.windows(slices.keys()) {
        let mut inside = slices.range(window.slices()).map(|(_, folded)| folded);
        let mut folded = inside.next().cloned().unwrap_or_else(|| texts([]));
        for right in inside {
            folded = merge(&folded, right)?;
        }
        window.push(&mut panes);
        accumulators.data.extend_from_slice(&folded.data);
        accumulators.ends.push(accumulators.data.len() as u32);
    }
    Ok((panes, accumulators))
}

/// The panes that the input gives as they are.
pub(super) fn given(input: &Input, plan: &RulePlan, fields: &[Field]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for line in &input.panes {
        let pane = &line.pane;
        let value = |aggregate: &Aggregate| {
            let name = &aggregate.name;
            let value = line.values.get(name).ok_or_else(|| {
                format!(
                    "pane of `{}` has no value `{name}`; `null` is for an aggregate that has seen nothing",
                    pane.key
                )
            })?;
            parse(shape(aggregate, plan, fields), value)
                .ok_or_else(|| format!("value `{name}` of pane `{}` is {value}", pane.key))
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
            is_final: pane.is_final.unwrap_or(true),
            watermark: pane.watermark.unwrap_or(pane.end),
            values: plan.aggregates.iter().map(value).collect::<Result<_, _>>()?,
        });
    }
    Ok(rows)
}

fn parse(shape: Shape, value: &Value) -> Option<Aggregated> {
    let is_missing = value.is_null();
    match shape.operator {
        HostOperator::TopK if is_missing => Some(Aggregated::Top(Vec::new())),
        HostOperator::TopK => {
            let item = |item: &Value| {
                let error = item.get(2).map_or(Some(0), Value::as_i64)?;
                Some((item.get(0)?.as_str()?.to_owned(), item.get(1)?.as_i64()?, error))
            };
            value.as_array()?.iter().map(item).collect::<Option<_>>().map(Aggregated::Top)
        }
        HostOperator::Sum | HostOperator::Min | HostOperator::Max if shape.numbers => match is_missing {
            true => Some(Aggregated::Number(None)),
            false => value.as_f64().map(|value| Aggregated::Number(Some(value))),
        },
        HostOperator::Count | HostOperator::Distinct if is_missing => None,
        _ if is_missing => Some(Aggregated::Integer { value: None, clipped: false }),
        // An integer beyond 64 bits.
        HostOperator::Sum if value.as_i64().is_none() => {
            let sum = value.as_f64().filter(|sum| sum.fract() == 0.0)?;
            Some(Aggregated::Integer { value: Some(if sum < 0.0 { i64::MIN } else { i64::MAX }), clipped: true })
        }
        _ => value.as_i64().map(|value| Aggregated::Integer { value: Some(value), clipped: false }),
    }
}

/// The panes and values as columns.
pub(super) fn columns(rows: &[Row], plan: &RulePlan, fields: &[Field]) -> (raw::Panes, Vec<AggregateValues>) {
    let mut panes = no_panes();
    for row in rows {
        push(&mut panes, &row.window, row.number, row.firing, row.is_final, row.watermark);
    }
    let column = |(index, aggregate): (usize, &Aggregate)| {
        let (mut missing, mut clipped) = (Vec::new(), Vec::new());
        let (mut integers, mut numbers) = (Vec::new(), Vec::new());
        let mut tops = Tops { items: texts([]), counts: Vec::new(), errors: Vec::new(), pane_ends: Vec::new() };
        for (pane, row) in (0..).zip(rows) {
            let is_missing = match &row.values[index] {
                Aggregated::Integer { value, clipped: is_clipped } => {
                    integers.push(value.unwrap_or(0));
                    clipped.extend(is_clipped.then_some(pane));
                    value.is_none()
                }
                Aggregated::Number(value) => {
                    numbers.push(value.unwrap_or(0.0));
                    value.is_none()
                }
                Aggregated::Top(items) => {
                    for (item, count, error) in items {
                        tops.items.data.extend_from_slice(item.as_bytes());
                        tops.items.ends.push(tops.items.data.len() as u32);
                        tops.counts.push(*count);
                        tops.errors.push(*error);
                    }
                    tops.pane_ends.push(tops.counts.len() as u32);
                    items.is_empty()
                }
            };
            missing.extend(is_missing.then_some(pane));
        }
        let data = match aggregate.operator {
            Operator::TopK => AggregateData::Tops(tops),
            _ if shape(aggregate, plan, fields).is_number() => AggregateData::Numbers(numbers),
            _ => AggregateData::Integers(integers),
        };
        AggregateValues { missing, clipped, data }
    };
    let values = plan.aggregates.iter().enumerate().map(column).collect();
    (panes, values)
}

/// What records of these panes refer to.
pub(super) fn sources(panes: &raw::Panes) -> Sources {
    let keys = super::input::rows(&panes.keys);
    Sources { arena: panes.keys.data.clone(), rows: keys.into_iter().map(|key| (key, Vec::new())).collect() }
}

fn push(panes: &mut raw::Panes, window: &WindowOf, number: u32, firing: raw::Firing, is_final: bool, watermark: i64) {
    panes.keys.data.extend_from_slice(&window.key);
    panes.keys.ends.push(panes.keys.data.len() as u32);
    panes.starts.push(window.start);
    panes.ends.push(window.end);
    panes.firings.push(firing);
    panes.numbers.push(number);
    panes.finals.push(is_final);
    panes.watermarks.push(watermark);
}

/// The kind of the field of an aggregate, if it has one.
fn kind(aggregate: &Aggregate, plan: &RulePlan, fields: &[Field]) -> Option<Kind> {
    let name = aggregate.field.as_deref()?;
    let derived = plan.derived.iter().find(|field| field.name == name).map(|field| field.kind);
    derived.or_else(|| fields.iter().find(|field| field.name == name).map(|field| field.kind))
}

fn shape(aggregate: &Aggregate, plan: &RulePlan, fields: &[Field]) -> Shape {
    let operator = match aggregate.operator {
        Operator::Count => HostOperator::Count,
        Operator::Sum => HostOperator::Sum,
        Operator::Min => HostOperator::Min,
        Operator::Max => HostOperator::Max,
        Operator::Distinct => HostOperator::Distinct,
        Operator::TopK => HostOperator::TopK,
    };
    let numbers = kind(aggregate, plan, fields) == Some(Kind::Number);
    Shape { operator, numbers, limit: aggregate.limit }
}

/// The value of an aggregate's field for a sample; 1 for a plain count.
fn cell<'a>(
    aggregate: &Aggregate,
    sample: usize,
    plan: &RulePlan,
    fields: &[Field],
    events: &'a raw::Events,
    samples: &'a Samples,
) -> Cell<'a> {
    let Some(name) = aggregate.field.as_deref() else { return Cell::Integer(1) };
    let derived = plan.derived.iter().position(|field| field.name == name);
    let declared = || fields.iter().position(|field| field.name == name);
    let (column, row) = match (derived, declared()) {
        (Some(index), _) => (&samples.columns[index], sample),
        (None, Some(index)) => (&events.columns[index], samples.sources[sample] as usize),
        (None, None) => return Cell::Missing,
    };
    if column.missing.contains(&(row as u32)) {
        return Cell::Missing;
    }
    match &column.values {
        raw::Values::Text(texts) => Cell::Text(crate::pane::slice(texts, row)),
        raw::Values::Integers(values) => Cell::Integer(values[row]),
        raw::Values::Numbers(values) => Cell::Number(values[row]),
        raw::Values::Booleans(values) => Cell::Boolean(values[row]),
    }
}
