//! The naive oracle of windows: one list of samples per window and key, thrown together event by event.
//!
//! Also part of `tests/fuzz`, so nothing here knows how the samples were made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use pelton_engine::effects::Room;
use pelton_engine::event::Kind;
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;

use crate::kit::{Cuts, NOW, Native, Setup, at_least, drive, push};

/// One event of a test; `None` fields are missing.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) key: u8,
    /// Milliseconds after `NOW`.
    pub(crate) time: i64,
    pub(crate) v: Option<i64>,
    pub(crate) x: Option<f64>,
    pub(crate) s: Option<u8>,
    pub(crate) bad: bool,
}

impl Sample {
    pub(crate) fn json(&self) -> String {
        let mut text = format!(r#"{{"k":"key{}","t":{}"#, self.key, NOW + self.time);
        self.v.iter().for_each(|v| write!(text, r#","v":{v}"#).unwrap());
        self.x.iter().for_each(|x| write!(text, r#","x":{x:?}"#).unwrap());
        self.s.iter().for_each(|s| write!(text, r#","s":"item{s}""#).unwrap());
        text + if self.bad { "" } else { "}" }
    }
}

/// What a stage with windows is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: WindowKind,
    pub(crate) allowed_lateness: i64,
    pub(crate) delay: i64,
    /// Smallest count, smallest distinct, smallest minimum (`i64::MIN` for no such threshold).
    pub(crate) least: (i64, i64, i64),
}

/// Runs `samples` through the engine, cut as told, and compares every record with the oracle's.
#[track_caller]
pub(crate) fn check(shape: Shape, samples: &[Sample], cuts: &Cuts, room: Room, is_fold: bool) {
    let guest = if is_fold { fold() } else { rule(shape.least) };
    let mut setup = Setup::new(vec![guest]).window(shape.kind, shape.allowed_lateness, shape.delay);
    setup.limits.state_per_key = 10_000;
    setup.room = room;
    let events: Vec<String> = samples.iter().map(Sample::json).collect();
    let outcome = drive(&setup, &events, cuts).unwrap();
    let expected = oracle(shape, samples, is_fold);
    for (got, expected) in outcome.rows.iter().zip(&expected) {
        assert_eq!(got, expected);
    }
    let behind = &outcome.rows[outcome.rows.len().min(expected.len())..];
    assert_eq!(outcome.rows.len(), expected.len(), "{behind:?}");
    let late = expected.iter().filter(|row| row.starts_with("late.")).count() as u64;
    assert_eq!(outcome.totals.late, late);
}

/// One pane as text; without its watermark where that may differ.
#[expect(clippy::too_many_arguments, reason = "a pane has this many columns")]
fn pane_text(
    key: &str,
    start: i64,
    end: i64,
    number: u32,
    firing: &str,
    is_final: bool,
    watermark: i64,
    values: &str,
) -> String {
    format!("{key} {start}..{end} #{number} {firing} {is_final} @{watermark} {values}")
}

const TOP: u32 = 2;
const DISTINCT: u32 = 3;

/// A rule over every function that writes its panes out, twice where the count is even.
pub(crate) fn rule(least: (i64, i64, i64)) -> Native {
    let fields = [("v", Kind::Integer, false), ("x", Kind::Number, false), ("s", Kind::String, false)];
    let mut native = Native::new(World::WindowRule, &fields);
    let aggregate = |function, field: Option<&str>, limit| Aggregate {
        name: format!("{function:?} {field:?}"),
        function,
        field: field.map(String::from),
        limit,
    };
    use Function::*;
    native.plan.aggregates = vec![
        aggregate(Count, None, 0),
        aggregate(Count, Some("s"), 0),
        aggregate(Sum, Some("v"), 0),
        aggregate(Min, Some("v"), 0),
        aggregate(Max, Some("v"), 0),
        aggregate(Sum, Some("x"), 0),
        aggregate(Min, Some("x"), 0),
        aggregate(Max, Some("x"), 0),
        aggregate(Distinct, Some("s"), DISTINCT),
        aggregate(Distinct, Some("v"), 1000),
        aggregate(Distinct, Some("x"), 1000),
        aggregate(TopK, Some("s"), TOP),
    ];
    let mut all_of = vec![at_least(0, least.0), at_least(8, least.1)];
    if least.2 != i64::MIN {
        all_of.push(at_least(3, least.2));
    }
    native.plan.thresholds = vec![all_of];
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        for row in 0..panes.len() {
            let mut values = String::new();
            for column in &panes.values {
                if column.missing.contains(&(row as u32)) {
                    values.push_str("none,");
                    continue;
                }
                match &column.data {
                    AggregateData::Integers(rows) => write!(values, "{}", rows[row]).unwrap(),
                    AggregateData::Numbers(rows) => write!(values, "{:?}", rows[row]).unwrap(),
                    AggregateData::Tops { items, counts, errors, pane_ends } => {
                        let start = if row == 0 { 0 } else { pane_ends[row - 1] as usize };
                        for idx in start..pane_ends[row] as usize {
                            let item = String::from_utf8_lossy(items.get(idx));
                            write!(values, "{}-{}x{item} ", counts[idx], errors[idx]).unwrap();
                        }
                    }
                }
                values.push_str(if column.clipped.contains(&(row as u32)) { " clipped," } else { "," });
            }
            write_pane(panes, row, &values, output, values.starts_with(['2', '4', '6', '8']));
        }
        Ok(())
    }));
    native
}

fn write_pane(panes: &Panes, row: usize, values: &str, output: &mut Output, twice: bool) {
    let key = String::from_utf8_lossy(panes.keys.get(row)).into_owned();
    let (start, end, number, firing) =
        (panes.starts[row], panes.ends[row], panes.indexes[row], panes.timings[row].name());
    let text = pane_text(&key, start, end, number, firing, panes.lasts[row], panes.watermarks[row], values);
    for _ in 0..=u8::from(twice) {
        push(output, panes.keys.data.len(), row as u32, 0, text.as_bytes());
    }
}

/// A fold that keeps every value in order: `v;v;v;`. Value 13 traps.
fn fold() -> Native {
    let mut native = Native::new(World::WindowFold, &[("v", Kind::Integer, false)]);
    native.fold = Some(Arc::new(|events, groups, folded| {
        let pelton_engine::event::Values::Integers(values) = &events.columns[0].values else { unreachable!() };
        if values.contains(&13) {
            return Err(Fault::Trap("13".into()));
        }
        let mut first = 0;
        for (group, &end) in groups.member_ends.iter().enumerate() {
            let mut state = groups.states.get(group).to_vec();
            for &member in &groups.members[first as usize..end as usize] {
                state.extend_from_slice(format!("{};", values[member as usize]).as_bytes());
            }
            first = end;
            folded.states.push(&state);
        }
        Ok(())
    }));
    native.evaluate = Some(Arc::new(|panes: &Panes, states: &States, output: &mut Output| {
        (0..panes.len())
            .for_each(|row| write_pane(panes, row, &String::from_utf8_lossy(states.get(row)), output, false));
        Ok(())
    }));
    native
}

/// Values of a pane as [`rule`] writes them; `None` below a threshold.
fn rule_values(samples: &[Sample], least: (i64, i64, i64)) -> Option<String> {
    let ints: Vec<i64> = samples.iter().filter_map(|sample| sample.v).collect();
    let floats: Vec<f64> = samples.iter().filter_map(|sample| sample.x).collect();
    let mut items: BTreeMap<u8, usize> = BTreeMap::new();
    samples.iter().filter_map(|sample| sample.s).for_each(|s| *items.entry(s).or_default() += 1);
    let distinct = items.len().min(DISTINCT as usize) as i64;
    let min = ints.iter().copied().min();
    let is_small = least.2 != i64::MIN && min.is_none_or(|min| min < least.2);
    if (samples.len() as i64) < least.0 || distinct < least.1 || is_small {
        return None;
    }
    let mut distinct_ints = ints.clone();
    distinct_ints.sort_unstable();
    distinct_ints.dedup();
    let mut distinct_floats = floats.clone();
    distinct_floats.sort_by(f64::total_cmp);
    distinct_floats.dedup();
    let (low, high) = (floats.iter().copied().reduce(f64::min), floats.iter().copied().reduce(f64::max));
    let sum: i128 = ints.iter().map(|value| i128::from(*value)).sum();
    let sum = match i64::try_from(sum) {
        _ if ints.is_empty() => "none".to_owned(),
        Ok(sum) => sum.to_string(),
        Err(_) => format!("{} clipped", if sum < 0 { i64::MIN } else { i64::MAX }),
    };
    let integer = |value: Option<&i64>| value.map_or("none".to_owned(), i64::to_string);
    let number = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:?}"));
    let mut text = format!(
        "{},{},{sum},{},{},{},{},{},{distinct},{},{},",
        samples.len(),
        items.values().sum::<usize>(),
        integer(min.as_ref()),
        integer(ints.iter().max()),
        // Quarters: their sums are exact in any order.
        number(floats.iter().copied().reduce(|sum, x| sum + x)),
        number(low),
        number(high),
        distinct_ints.len(),
        distinct_floats.len(),
    );
    let mut tops: Vec<(u8, usize)> = items.into_iter().collect();
    tops.sort_by_key(|&(item, count)| (std::cmp::Reverse(count), item));
    tops.iter().take(TOP as usize).for_each(|(item, count)| write!(text, "{count}-0xitem{item} ").unwrap());
    text.push_str(if tops.is_empty() { "none," } else { "," });
    Some(text)
}

/// Every record that must come out, in order, and which events are late.
fn oracle(shape: Shape, samples: &[Sample], is_fold: bool) -> Vec<String> {
    let (size, slide) = match shape.kind {
        WindowKind::Tumbling { size } => (size.0, size.0),
        WindowKind::Sliding { size, slide } => (size.0, slide.0),
        WindowKind::Global => (0, 0),
    };
    let is_global = shape.kind == WindowKind::Global;
    let mut rows = Vec::new();
    let mut windows: BTreeMap<(i64, String), Vec<Sample>> = BTreeMap::new();
    let mut numbers: BTreeMap<(i64, String), u32> = BTreeMap::new();
    let mut watermark = i64::MIN;
    let closes = |end: i64| end.saturating_add(shape.allowed_lateness);
    let pane = |place: &(i64, String),
                content: &[Sample],
                number: u32,
                firing: &str,
                watermark: i64,
                rows: &mut Vec<String>| {
        let (end, key) = place;
        let values = if is_fold {
            let mut content = content.to_vec();
            content.sort_by_key(|sample| if is_global { 0 } else { (NOW + sample.time).div_euclid(slide) });
            Some(content.iter().map(|sample| format!("{};", sample.v.unwrap_or(0))).collect())
        } else {
            rule_values(content, shape.least)
        };
        let Some(values) = values else { return };
        let start = if is_global { i64::MIN } else { end - size };
        let text = pane_text(key, start, *end, number, firing, closes(*end) <= watermark, watermark, &values);
        let times = if !is_fold && values.starts_with(['2', '4', '6', '8']) { 2 } else { 1 };
        (0..times).for_each(|_| rows.push(format!("out.0-0 {text}")));
    };
    for sample in samples.iter().map(Some).chain([None]) {
        let mut next = i64::MAX;
        if let Some(sample) = sample {
            if sample.bad {
                rows.push(format!("dlq.source.json-syntax {}", sample.json()));
                continue;
            }
            let time = NOW + sample.time;
            let key = format!("key{}", sample.key);
            let first = if is_global { i64::MAX } else { time.div_euclid(slide) * slide + slide };
            let ends: Vec<i64> =
                if is_global { vec![first] } else { (first..=first + size - slide).step_by(slide as usize).collect() };
            if ends.iter().all(|&end| closes(end) <= watermark) {
                rows.push(format!("late.s0 {}", sample.json()));
            } else if is_fold && sample.v == Some(13) {
                rows.push(format!("dlq.s0.trap {}", sample.json()));
            } else {
                for end in ends.into_iter().filter(|&end| closes(end) > watermark) {
                    let place = (end, key.clone());
                    let content = windows.entry(place.clone()).or_default();
                    content.push(sample.clone());
                    if end <= watermark {
                        let number = numbers.get(&place).map_or(0, |number| number + 1);
                        pane(&place, content, number, "late", watermark, &mut rows);
                        numbers.insert(place, number);
                    }
                }
            }
            next = watermark.max(time - shape.delay);
        }
        for (place, content) in windows.range((watermark.saturating_add(1), String::new())..) {
            if place.0 <= next {
                pane(place, content, 0, "on-time", next, &mut rows);
                numbers.insert(place.clone(), 0);
            }
        }
        watermark = next;
    }
    rows
}
