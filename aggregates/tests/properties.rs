//! What the aggregates promise, over values that are hostile and slices that are cut anywhere.

use std::collections::{BTreeMap, BTreeSet};

use pelton_aggregates::{
    Accumulators, Bound, Finished, Function, Growth, HashKey, Kind, Merged, NumberSum, Shape, Top, TopMerge, Value,
    top_capacity,
};
use proptest::prelude::*;

/// The column of one slice, with these values in its only row.
fn slice(shape: Shape, values: &[Value<'_>]) -> Accumulators {
    let mut accumulators = Accumulators::new(shape);
    accumulators.push_empty();
    let mut grown = Growth::default();
    values.iter().for_each(|value| grown += accumulators.add(0, shape, *value, HashKey::default()));
    assert_eq!(grown.memory, accumulators.variable_bytes(0) as isize, "the growth of a row adds up to its size");
    assert_eq!(grown.change, accumulators.change_bytes(0) as isize, "and that of its changes to theirs");
    accumulators
}

/// A pane over slices; what is seen of it as text, since it borrows the slices.
fn pane(shape: Shape, slices: &[Accumulators]) -> String {
    let mut merged = Merged::new(shape);
    slices.iter().for_each(|slice| merged.merge(shape, slice, 0));
    text(&merged.finish(shape))
}

fn text(finished: &Finished<'_>) -> String {
    match finished {
        Finished::Top(items) => {
            let text = |item: &[u8]| String::from_utf8_lossy(item).into_owned();
            format!("{:?}", items.iter().map(|top| (text(top.item), top.count, top.error)).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

const EDGES: [i64; 9] = [i64::MIN, i64::MIN + 1, -2, -1, 0, 1, 2, i64::MAX - 1, i64::MAX];

fn integers() -> impl Strategy<Value = Vec<Option<i64>>> {
    let value = prop_oneof![4 => prop::sample::select(EDGES.to_vec()), 2 => -20..20i64, 1 => any::<i64>()];
    let mixed = prop::collection::vec(prop::option::weighted(0.8, value), 0..60);
    let equal = (prop::sample::select(EDGES.to_vec()), 0..40usize).prop_map(|(value, count)| vec![Some(value); count]);
    prop_oneof![3 => mixed, 1 => equal]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every aggregate over integers equals what 128 bits, sets and maps say, in any order and cut into any slices.
    #[test]
    fn integers_do_not_depend_on_order_or_slices(
        values in integers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        reversed in any::<bool>(),
        limit in prop::sample::select(vec![1_u32, 2, 5, 1000]),
    ) {
        let mut shuffled = values.clone();
        if reversed {
            shuffled.reverse();
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(shuffled.len() + 1)).collect();
        cuts.extend([0, shuffled.len()]);
        cuts.sort_unstable();
        let seen: Vec<i64> = values.iter().copied().flatten().collect();
        for function in
            [Function::Count, Function::Sum, Function::Min, Function::Max, Function::Distinct, Function::TopK]
        {
            let shape = Shape { function, numbers: false, limit };
            let slices: Vec<Accumulators> = cuts
                .windows(2)
                .map(|cut| {
                    let part = shuffled[cut[0]..cut[1]].iter();
                    let values: Vec<_> = part.map(|value| value.map_or(Value::Missing, Value::Integer)).collect();
                    slice(shape, &values)
                })
                .collect();
            prop_assert_eq!(pane(shape, &slices), expected(function, limit, &seen), "{:?}", function);
        }
    }

    /// A compensated sum keeps the bound that its documentation states.
    #[test]
    fn number_sums_keep_their_bound(
        values in prop::collection::vec((-(1_i64 << 52)..1 << 52, 0..60_u32), 0..80),
        cut in 1..20usize,
    ) {
        let numbers: Vec<f64> = values.iter().map(|(digits, power)| *digits as f64 * 2_f64.powi(*power as i32)).collect();
        let exact: i128 = values.iter().map(|(digits, power)| i128::from(*digits) << power).sum();
        let absolute: i128 = values.iter().map(|(digits, power)| (i128::from(*digits) << power).abs()).sum();
        let mut sum = NumberSum::default();
        let mut slices = 0;
        for part in numbers.chunks(cut) {
            let mut slice = NumberSum::default();
            part.iter().for_each(|value| slice.add(*value));
            sum.merge(&slice);
            slices += 1;
        }
        match sum.total() {
            None => prop_assert!(values.is_empty()),
            Some(total) => {
                // Below 2^120, so the difference is exact.
                let off = (total as i128 - exact).unsigned_abs() as f64;
                let unit = 2_f64.powi(-53);
                let n = (values.len() + slices) as f64 * unit;
                let bound = unit * exact.unsigned_abs() as f64 + n * n * absolute as f64;
                // The fraction that the cast has cut off.
                prop_assert!(off <= bound * (1.0 + 1e-9) + 1.0, "{} off, {} allowed", off, bound);
            }
        }
    }
}

/// A pane of integers by the book.
fn expected(function: Function, limit: u32, seen: &[i64]) -> String {
    let sum: i128 = seen.iter().map(|value| i128::from(*value)).sum();
    let exact = |value: Option<i64>| text(&Finished::Integer { value, clipped: false });
    match function {
        Function::Count => exact(Some(seen.len() as i64)),
        Function::Sum if seen.is_empty() => exact(None),
        Function::Sum => match i64::try_from(sum) {
            Ok(sum) => exact(Some(sum)),
            Err(_) => {
                let end = if sum < 0 { i64::MIN } else { i64::MAX };
                text(&Finished::Integer { value: Some(end), clipped: true })
            }
        },
        Function::Min => exact(seen.iter().copied().min()),
        Function::Max => exact(seen.iter().copied().max()),
        Function::Distinct => {
            let all: BTreeSet<i64> = seen.iter().copied().collect();
            exact(Some((all.len() as i64).min(i64::from(limit))))
        }
        Function::TopK => {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            seen.iter().for_each(|value| *counts.entry(value.to_string()).or_default() += 1);
            let mut items: Vec<(String, i64, i64)> = counts.into_iter().map(|(item, count)| (item, count, 0)).collect();
            items.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
            items.truncate(limit as usize);
            format!("{items:?}")
        }
    }
}

/// A stream of items: some are frequent, most are new ones.
fn stream() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let item = prop_oneof![3 => 0..20_u32, 2 => 0..900_u32, 6 => 0..6000_u32];
    prop::collection::vec(prop::collection::vec(item, 0..5000), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Counts are never too low and too high by at most their error; nothing above n / capacity is left out.
    #[test]
    fn a_top_keeps_its_bounds(slices in stream(), limit in prop::sample::select(vec![1_u32, 10, 6000])) {
        let capacity = top_capacity(limit);
        let mut exact: BTreeMap<String, i64> = BTreeMap::new();
        let mut tops: Vec<Top> = Vec::new();
        let mut is_exact = true;
        for items in &slices {
            let mut top = Top::default();
            for item in items {
                *exact.entry(item.to_string()).or_default() += 1;
                top.add(item.to_string().as_bytes(), limit);
            }
            is_exact &= items.iter().collect::<BTreeSet<_>>().len() <= capacity;
            prop_assert!(top.len() <= capacity);
            prop_assert!(top.floor() <= items.len() as i64 / capacity as i64);
            tops.push(top);
        }
        let n: usize = slices.iter().map(Vec::len).sum();
        let bound = n as i64 / capacity as i64;
        let mut merged = TopMerge::default();
        tops.iter().for_each(|top| merged.merge(top));
        let all = merged.clone().finish(u32::MAX);
        for top in &all {
            let item = String::from_utf8(top.item.to_vec()).unwrap();
            let true_count = exact.get(&item).copied().unwrap_or(0);
            prop_assert!(top.count - top.error <= true_count && true_count <= top.count, "{}: {:?}", true_count, top);
            prop_assert!((0..=bound).contains(&top.error), "{:?}, bound {}", top, bound);
            prop_assert!(!is_exact || top.error == 0);
        }
        let kept: BTreeSet<&[u8]> = all.iter().map(|top| top.item).collect();
        for (item, count) in &exact {
            prop_assert!(*count <= bound || kept.contains(item.as_bytes()), "{} occurs {} times", item, count);
        }
        let some = merged.finish(limit);
        prop_assert_eq!(&some[..], &all[..all.len().min(limit as usize)]);
    }
}

/// The case of a report: the most frequent value comes first, then a hundred others.
#[test]
fn a_small_limit_does_not_lose_the_most_frequent() {
    for hit_last in [false, true] {
        let mut items: Vec<String> = (0..100).map(|number| format!("u{number:03}")).collect();
        let at = if hit_last { items.len() } else { 0 };
        items.splice(at..at, vec!["hit".to_owned(); 5]);
        let mut top = Top::default();
        items.iter().for_each(|item| top.add(item.as_bytes(), 2));
        let mut merged = TopMerge::default();
        merged.merge(&top);
        let got: Vec<_> = merged.finish(2).iter().map(|top| (top.item.to_vec(), top.count, top.error)).collect();
        assert_eq!(got, [(b"hit".to_vec(), 5, 0), (b"u000".to_vec(), 1, 0)]);
    }
}

/// An item that a full slice does not have may have been thrown out there.
#[test]
fn an_item_that_is_absent_from_a_full_slice_gets_its_floor() {
    let mut full = Top::default();
    (0..3000_u32).for_each(|number| full.add(number.to_string().as_bytes(), 1));
    let mut other = Top::default();
    (0..5).for_each(|_| other.add(b"hit", 1));
    let mut merged = TopMerge::default();
    merged.merge(&full);
    merged.merge(&other);
    let top = merged.finish(1)[0];
    assert_eq!((top.item, top.count, top.error), (&b"hit"[..], 5 + full.floor(), full.floor()));
    assert!(full.floor() > 0);
}

#[test]
fn nothing_seen_is_told_apart_and_the_edges_of_numbers_are_as_stated() {
    let numbers = |function, values: &[Value<'_>]| {
        let shape = Shape { function, numbers: true, limit: 9 };
        pane(shape, &[slice(shape, values)])
    };
    let number = |value| text(&Finished::Number(value));
    let (nan, minus_zero) = (Value::Number(f64::NAN), Value::Number(-0.0));
    for function in [Function::Sum, Function::Min, Function::Max] {
        assert_eq!(numbers(function, &[]), number(None));
        assert_eq!(numbers(function, &[Value::Missing, nan]), number(None));
        assert_eq!(numbers(function, &[minus_zero]), number(Some(0.0)));
        assert_eq!(numbers(function, &[nan, Value::Number(f64::INFINITY)]), number(Some(f64::INFINITY)));
    }
    for function in [Function::Count, Function::Distinct] {
        assert_eq!(numbers(function, &[nan, Value::Missing]), "Integer { value: Some(0), clipped: false }");
        assert_eq!(numbers(function, &[minus_zero]), "Integer { value: Some(1), clipped: false }");
    }
    assert_eq!(numbers(Function::Distinct, &[minus_zero, Value::Number(0.0)]), numbers(Function::Count, &[minus_zero]));
    let both = [Value::Number(f64::INFINITY), Value::Number(f64::NEG_INFINITY)];
    assert_eq!(numbers(Function::Sum, &both), number(Some(f64::NAN)));
    assert_eq!(numbers(Function::Min, &both), number(Some(f64::NEG_INFINITY)));
    let booleans = Shape { function: Function::TopK, numbers: false, limit: 2 };
    let top = slice(booleans, &[Value::Boolean(true), Value::Boolean(false), Value::Boolean(true)]);
    assert_eq!(pane(booleans, &[top]), r#"[("true", 2, 0), ("false", 1, 0)]"#);
}

#[test]
fn a_missing_value_reaches_no_threshold() {
    let missing = Finished::Integer { value: None, clipped: false };
    assert!(!missing.is_within(Bound::AtLeastInteger(i64::MIN)));
    let seen = Finished::Integer { value: Some(i64::MIN), clipped: false };
    let (least, more) = (Bound::AtLeastInteger(i64::MIN), Bound::AtLeastInteger(i64::MIN + 1));
    assert!(seen.is_within(least) && !seen.is_within(more) && seen.is_within(Bound::AtMostInteger(i64::MIN)));
    assert!(!seen.is_within(Bound::AtLeastNumber(f64::NEG_INFINITY)), "a bound of another type");
    let number = Finished::Number(Some(0.5));
    assert!(number.is_within(Bound::AtLeastNumber(0.5)) && !number.is_within(Bound::AtMostNumber(0.4)));
    assert!(!number.is_within(Bound::AtMostNumber(f64::NAN)) && !number.is_within(Bound::AtLeastInteger(0)));
}

/// Distinct is exact up to its limit, also over twelve slices of which each has seen other values.
#[test]
fn each_function_takes_the_kinds_that_it_can_compute() {
    let exact = [Kind::String, Kind::Integer, Kind::Boolean];
    let comparable = [Kind::String, Kind::Integer, Kind::Number, Kind::Boolean];
    for (function, taken) in [
        (Function::Count, &Kind::ALL[..]),
        (Function::Sum, &[Kind::Integer, Kind::Number]),
        (Function::Min, &[Kind::Integer, Kind::Number]),
        (Function::Max, &[Kind::Integer, Kind::Number]),
        (Function::Distinct, &comparable),
        (Function::TopK, &exact),
    ] {
        for kind in Kind::ALL {
            assert_eq!(Shape::new(function, Some(kind), 3).is_ok(), taken.contains(&kind), "{function:?} of {kind:?}");
        }
        assert_eq!(Shape::new(function, None, 3).is_ok(), function == Function::Count, "{function:?} of nothing");
        assert_eq!(Shape::new(function, Some(Kind::Integer), 0).is_ok(), !function.has_limit(), "{function:?}");
    }
    let (integer, number) = (Bound::AtLeastInteger(1), Bound::AtMostNumber(1.0));
    let takes = |function, kind| {
        let shape = Shape::new(function, Some(kind), 3).expect("it can be computed");
        (shape.takes(integer), shape.takes(number))
    };
    assert_eq!(takes(Function::Sum, Kind::Integer), (true, false));
    assert_eq!(takes(Function::Sum, Kind::Number), (false, true));
    assert_eq!(takes(Function::Distinct, Kind::Number), (true, false));
    assert_eq!(takes(Function::TopK, Kind::String), (false, false));
}

#[test]
fn distinct_is_exact_over_twelve_slices() {
    for (limit, expected) in [(1, 1), (99, 99), (119, 119), (120, 120), (121, 120), (5000, 120)] {
        let shape = Shape { function: Function::Distinct, numbers: false, limit };
        let slices: Vec<Accumulators> = (0..12)
            .map(|number| {
                let values: Vec<_> = (number * 10..number * 10 + 10).map(Value::Integer).collect();
                slice(shape, &[&values[..], &values[..]].concat())
            })
            .collect();
        assert_eq!(pane(shape, &slices), format!("Integer {{ value: Some({expected}), clipped: false }}"));
    }
}
