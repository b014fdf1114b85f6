//! Windows of the native kit: small and obvious rather than fast. The aggregates are those of the host.

use std::collections::{BTreeMap, BTreeSet};

use pelton_aggregates::{
    Accumulators, Bound, Finished, Function, HashKey, Kind as HostKind, Merged, Shape, Value as Cell,
};
use serde_json::Value;

use crate::field::Kind;
use crate::raw;
use crate::raw::window_rule::{
    Aggregate, AggregateData, AggregateValues, Aggregation, Bound as RawBound, Samples, Tops,
};

use super::input::{Input, key, strings};
use super::report::Rows;

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
    label: String,
    index: u32,
    timing: raw::Timing,
    is_last: bool,
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
        push(panes, self, 0, raw::Timing::OnTime, true, self.end);
    }

    fn slices(&self) -> std::ops::Range<SliceOf> {
        (self.key.clone(), self.start)..(self.key.clone(), self.end)
    }
}

impl Row {
    /// Whether the host would show this pane to the rule.
    pub(super) fn passes(&self, plan: &Aggregation) -> bool {
        let holds = |value: &Aggregated, bound: Bound| match value {
            Aggregated::Integer { value: Some(value), .. } => bound.holds_integer(*value),
            Aggregated::Number(Some(value)) => bound.holds_number(*value),
            _ => false,
        };
        let mut lists = plan.thresholds.iter();
        plan.thresholds.is_empty()
            || lists.any(|list| list.iter().all(|one| holds(&self.values[one.aggregate as usize], bound(one.bound))))
    }
}

fn bound(bound: RawBound) -> Bound {
    match bound {
        RawBound::AtLeastInteger(least) => Bound::AtLeastInteger(least),
        RawBound::AtLeastNumber(least) => Bound::AtLeastNumber(least),
        RawBound::AtMostInteger(most) => Bound::AtMostInteger(most),
        RawBound::AtMostNumber(most) => Bound::AtMostNumber(most),
    }
}

/// No panes yet.
pub(super) fn no_panes() -> raw::Panes {
    raw::Panes {
        keys: strings([]),
        starts: Vec::new(),
        ends: Vec::new(),
        labels: strings([]),
        timings: Vec::new(),
        indexes: Vec::new(),
        lasts: Vec::new(),
        watermarks: Vec::new(),
        replaced: Vec::new(),
    }
}

/// What the host says of a plan that it refuses.
pub(super) fn check(plan: &Aggregation, fields: &[raw::Field]) -> Result<(), String> {
    for aggregate in &plan.aggregates {
        try_shape(aggregate, plan, fields)?;
    }
    for condition in plan.thresholds.iter().flatten() {
        let aggregate = &plan.aggregates[condition.aggregate as usize];
        if !shape(aggregate, plan, fields).takes(bound(condition.bound)) {
            return Err(format!("threshold on aggregate `{}`, whose values are of another type", aggregate.name));
        }
    }
    Ok(())
}

/// Aggregates events as the host does: per key and slice, then slice by slice over each window.
pub(super) fn aggregate(
    input: &Input,
    plan: &Aggregation,
    fields: &[raw::Field],
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
    for (sample, event) in samples.rows.iter().enumerate() {
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
        Row { window, label: String::new(), index: 0, timing: raw::Timing::OnTime, is_last: true, watermark, values }
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

/// Folds events as the host does: `fold` per key and slice (`None` where it rejects them all), then `merge` slice by slice
/// over each window.
pub(super) fn fold(
    input: &Input,
    events: &raw::Events,
    mut fold: impl FnMut(&[u8], &[u32]) -> Result<Option<raw::Strings>, String>,
    mut merge: impl FnMut(&raw::Strings, &raw::Strings) -> Result<raw::Strings, String>,
) -> Result<(raw::Panes, raw::Strings), String> {
    let (mut panes, mut accumulators) = (no_panes(), strings([]));
    if input.events.is_empty() {
        return Ok((panes, accumulators));
    }
    let slicing = Slicing::of(input)?;
    let mut members: BTreeMap<SliceOf, Vec<u32>> = BTreeMap::new();
    for (row, time) in events.timestamps.iter().enumerate() {
        members.entry((key(events, row).to_vec(), slicing.slice(*time))).or_default().push(row as u32);
    }
    let mut slices = BTreeMap::new();
    for (place, members) in &members {
        if let Some(folded) = fold(&place.0, members)? {
            slices.insert(place.clone(), folded);
        }
    }
    for window in slicing.windows(slices.keys()) {
        let mut inside = slices.range(window.slices()).map(|(_, folded)| folded);
        let mut folded = inside.next().cloned().unwrap_or_else(|| strings([]));
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
pub(super) fn given(input: &Input, plan: &Aggregation, fields: &[raw::Field]) -> Result<Vec<Row>, String> {
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
        let timing = match (pane.timing.as_deref(), pane.index) {
            (Some("early"), _) => raw::Timing::Early,
            (Some("on-time"), _) | (None, 0) => raw::Timing::OnTime,
            (Some("late"), _) | (None, _) => raw::Timing::Late,
            (Some(other), _) => return Err(format!("timing is `{other}`, wanted early, on-time or late")),
        };
        rows.push(Row {
            window: WindowOf { end: pane.end, key: pane.key.clone().into_bytes(), start: pane.start },
            label: pane.label.clone(),
            index: pane.index,
            timing,
            is_last: pane.is_last.unwrap_or(true),
            watermark: pane.watermark.unwrap_or(pane.end),
            values: plan.aggregates.iter().map(value).collect::<Result<_, _>>()?,
        });
    }
    Ok(rows)
}

fn parse(shape: Shape, value: &Value) -> Option<Aggregated> {
    let is_missing = value.is_null();
    match shape.function {
        Function::TopK if is_missing => Some(Aggregated::Top(Vec::new())),
        Function::TopK => {
            let item = |item: &Value| {
                let error = item.get(2).map_or(Some(0), Value::as_i64)?;
                Some((item.get(0)?.as_str()?.to_owned(), item.get(1)?.as_i64()?, error))
            };
            value.as_array()?.iter().map(item).collect::<Option<_>>().map(Aggregated::Top)
        }
        Function::Sum | Function::Min | Function::Max if shape.numbers => match is_missing {
            true => Some(Aggregated::Number(None)),
            false => value.as_f64().map(|value| Aggregated::Number(Some(value))),
        },
        Function::Count | Function::Distinct if is_missing => None,
        _ if is_missing => Some(Aggregated::Integer { value: None, clipped: false }),
        // An integer beyond 64 bits.
        Function::Sum if value.as_i64().is_none() => {
            let sum = value.as_f64().filter(|sum| sum.fract() == 0.0)?;
            Some(Aggregated::Integer { value: Some(if sum < 0.0 { i64::MIN } else { i64::MAX }), clipped: true })
        }
        _ => value.as_i64().map(|value| Aggregated::Integer { value: Some(value), clipped: false }),
    }
}

/// The panes and values as columns.
pub(super) fn columns(rows: &[Row], plan: &Aggregation, fields: &[raw::Field]) -> (raw::Panes, Vec<AggregateValues>) {
    let mut panes = no_panes();
    for row in rows {
        push(&mut panes, &row.window, row.index, row.timing, row.is_last, row.watermark);
        crate::field::push(&mut panes.labels, row.label.as_bytes());
    }
    let column = |(index, aggregate): (usize, &Aggregate)| {
        let (mut missing, mut clipped) = (Vec::new(), Vec::new());
        let (mut integers, mut numbers) = (Vec::new(), Vec::new());
        let mut tops = Tops { items: strings([]), counts: Vec::new(), errors: Vec::new(), pane_ends: Vec::new() };
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
        let data = match shape(aggregate, plan, fields).function {
            Function::TopK => AggregateData::Tops(tops),
            _ if shape(aggregate, plan, fields).is_number() => AggregateData::Numbers(numbers),
            _ => AggregateData::Integers(integers),
        };
        AggregateValues { missing, clipped, data }
    };
    let values = plan.aggregates.iter().enumerate().map(column).collect();
    (panes, values)
}

/// What records of these panes refer to.
pub(super) fn input_rows(panes: &raw::Panes) -> Rows {
    let keys = super::input::rows(&panes.keys);
    Rows { arena: panes.keys.data.clone(), rows: keys.into_iter().map(|key| (key, Vec::new())).collect() }
}

fn push(panes: &mut raw::Panes, window: &WindowOf, index: u32, timing: raw::Timing, is_last: bool, watermark: i64) {
    panes.keys.data.extend_from_slice(&window.key);
    panes.keys.ends.push(panes.keys.data.len() as u32);
    panes.starts.push(window.start);
    panes.ends.push(window.end);
    panes.timings.push(timing);
    panes.indexes.push(index);
    panes.lasts.push(is_last);
    panes.watermarks.push(watermark);
}

fn host_kind(kind: Kind) -> HostKind {
    match kind {
        Kind::String => HostKind::String,
        Kind::Integer => HostKind::Integer,
        Kind::Number => HostKind::Number,
        Kind::Boolean => HostKind::Boolean,
        Kind::Decimal => HostKind::Decimal,
        Kind::Json => HostKind::Json,
        Kind::Bytes => HostKind::Bytes,
    }
}

/// What the host keeps of an aggregate, or what it says when it cannot.
fn try_shape(aggregate: &Aggregate, plan: &Aggregation, fields: &[raw::Field]) -> Result<Shape, String> {
    let (name, function) = (&aggregate.name, &aggregate.function);
    let unknown = || format!("aggregate `{name}` is a `{function}`, which no host knows");
    let function = Function::of_name(function).ok_or_else(unknown)?;
    let kind = match &aggregate.field {
        None => None,
        Some(field) => {
            let found = plan.derived.iter().chain(fields).find(|known| known.name == *field);
            let missing = || format!("aggregate `{name}` reads field `{field}`, which is neither declared nor derived");
            Some(host_kind(found.ok_or_else(missing)?.kind))
        }
    };
    Shape::new(function, kind, aggregate.limit).map_err(|reason| format!("aggregate `{name}` {reason}"))
}

fn shape(aggregate: &Aggregate, plan: &Aggregation, fields: &[raw::Field]) -> Shape {
    try_shape(aggregate, plan, fields).expect("`check` was called before")
}

/// The value of an aggregate's field for a sample; 1 for a plain count.
fn cell<'a>(
    aggregate: &Aggregate,
    sample: usize,
    plan: &Aggregation,
    fields: &[raw::Field],
    events: &'a raw::Events,
    samples: &'a Samples,
) -> Cell<'a> {
    let Some(name) = aggregate.field.as_deref() else { return Cell::Integer(1) };
    let derived = plan.derived.iter().position(|field| field.name == name);
    let declared = || fields.iter().position(|field| field.name == name);
    let (column, row) = match (derived, declared()) {
        (Some(index), _) => (&samples.columns[index], sample),
        (None, Some(index)) => (&events.columns[index], samples.rows[sample] as usize),
        (None, None) => return Cell::Missing,
    };
    if column.missing.contains(&(row as u32)) {
        return Cell::Missing;
    }
    match &column.values {
        raw::Values::Strings(strings)
        | raw::Values::Decimals(strings)
        | raw::Values::Jsons(strings)
        | raw::Values::Blobs(strings) => Cell::String(crate::pane::slice(strings, row)),
        raw::Values::Integers(values) => Cell::Integer(values[row]),
        raw::Values::Numbers(values) => Cell::Number(values[row]),
        raw::Values::Booleans(values) => Cell::Boolean(values[row]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: Kind) -> raw::Field {
        raw::Field { name: name.to_owned(), kind, need: raw::Need::Optional }
    }

    #[test]
    fn what_the_host_refuses_is_refused() {
        let fields = [field("text", Kind::String), field("amount", Kind::Decimal), field("n", Kind::Integer)];
        let check = |function: &str, field: Option<&str>, limit, bound: Option<RawBound>| {
            let aggregates = vec![Aggregate {
                name: "a".to_owned(),
                function: function.to_owned(),
                field: field.map(str::to_owned),
                limit,
                options: Vec::new(),
            }];
            let condition = |bound| vec![crate::raw::window_rule::Condition { aggregate: 0, bound }];
            let thresholds = bound.into_iter().map(condition).collect();
            check(&Aggregation { aggregates, derived: Vec::new(), filters: false, thresholds }, &fields)
        };
        assert_eq!(check("count", None, 0, Some(RawBound::AtLeastInteger(1))), Ok(()));
        assert_eq!(check("distinct", Some("text"), 1, None), Ok(()));
        for (refused, said) in [
            (check("median", Some("n"), 0, None), "no host knows"),
            (check("distinct", Some("n"), 0, None), "needs a limit"),
            (check("distinct", Some("amount"), 1, None), "decimal"),
            (check("sum", Some("text"), 0, None), "needs an integer or number field, not string"),
            (check("sum", Some("other"), 0, None), "neither declared nor derived"),
            (check("sum", None, 0, None), "needs a field"),
            (check("sum", Some("n"), 0, Some(RawBound::AtLeastNumber(1.0))), "values are of another type"),
        ] {
            assert!(refused.as_ref().is_err_and(|text| text.contains(said)), "{refused:?}, wanted {said}");
        }
    }
}
