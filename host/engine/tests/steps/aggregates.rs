//! Aggregates at their edges, as the engine keeps, stores and hands them on. What they compute is tested where it is.

use std::fmt::Write as _;
use std::sync::Arc;

use pelton_engine::effects::Effects;
use pelton_engine::event::{Kind, RawBatch};
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;
use pelton_engine::step::{Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::kit::{Cuts, NOW, Native, Restart, Setup, at_least, drive, push};

/// A rule that writes the panes it is shown: key, then per aggregate its value.
fn rule(aggregates: &[(Function, Option<&str>, u32)], thresholds: &[(u32, i64)]) -> Native {
    let fields = [("i", Kind::Integer, false), ("n", Kind::Number, false), ("s", Kind::String, false)];
    let mut native = Native::new(World::WindowRule, &fields);
    native.plan.aggregates = aggregates
        .iter()
        .map(|&(function, field, limit)| Aggregate {
            name: "a".into(),
            function,
            field: field.map(String::from),
            limit,
        })
        .collect();
    native.plan.thresholds = vec![thresholds.iter().map(|&(of, least)| at_least(of, least)).collect()];
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        for row in 0..panes.len() {
            if panes.keys.get(row) == b"trap" {
                return Err(Fault::Trap("the pane of `trap`".into()));
            }
            let mut text = String::from_utf8_lossy(panes.keys.get(row)).into_owned();
            for column in &panes.values {
                write!(text, " {}", value(column, row)).unwrap();
            }
            push(output, panes.keys.data.len(), row as u32, 0, text.as_bytes());
        }
        Ok(())
    }));
    native
}

fn value(column: &AggregateColumn, row: usize) -> String {
    let is_among = |marked: &[u32]| marked.contains(&(row as u32));
    let text = match &column.data {
        AggregateData::Integers(rows) => rows[row].to_string(),
        AggregateData::Numbers(rows) => format!("{:?}", rows[row]),
        AggregateData::Tops { items, counts, errors, pane_ends } => {
            let start = if row == 0 { 0 } else { pane_ends[row - 1] as usize };
            let run = start..pane_ends[row] as usize;
            run.map(|idx| format!("{}:{}-{}", String::from_utf8_lossy(items.get(idx)), counts[idx], errors[idx]))
                .collect::<Vec<_>>()
                .join("|")
        }
    };
    let (missing, clipped) = (is_among(&column.missing), is_among(&column.clipped));
    format!("{text}{}{}", if missing { "none" } else { "" }, if clipped { "clipped" } else { "" })
}

fn event(key: &str, time: i64, rest: &str) -> String {
    format!(r#"{{"k":"{key}","t":{}{rest}}}"#, NOW + time)
}

fn integer(key: &str, time: i64, value: i64) -> String {
    event(key, time, &format!(r#","i":{value}"#))
}

const TUMBLING: WindowKind = WindowKind::Tumbling { size: Span(120) };
const SLIDING: WindowKind = WindowKind::Sliding { size: Span(120), slide: Span(10) };

fn rows(setup: &Setup, events: &[String]) -> Vec<String> {
    let rows = drive(setup, events, &Cuts::default()).unwrap().rows;
    rows.iter().map(|row| row.split_once(' ').unwrap().1.to_owned()).collect()
}

#[test]
fn nothing_seen_and_a_sum_beyond_64_bits_reach_the_guest() {
    use Function::*;
    let all = [(Count, None, 0), (Sum, Some("i"), 0), (Min, Some("i"), 0), (Max, Some("i"), 0), (Sum, Some("n"), 0)];
    let all = [&all[..], &[(Min, Some("n"), 0), (Distinct, Some("i"), 9), (TopK, Some("i"), 1)]].concat();
    let setup = Setup::new(vec![rule(&all, &[])]).window(TUMBLING, 0, 0);
    let events = [
        integer("max", 0, i64::MAX),
        integer("min", 0, i64::MIN),
        event("none", 0, ""),
        integer("over", 1, i64::MAX),
        integer("over", 2, 1),
        integer("over", 3, -10),
        integer("past", 1, i64::MAX),
        integer("past", 2, 1),
        // Isolates the pane of `trap`, so the others are picked out of their columns.
        event("trap", 0, ""),
        integer("under", 1, i64::MIN),
        integer("under", 2, -1),
        integer("zero", 1, 0),
    ];
    let got = rows(&setup, &events);
    let panes: Vec<&str> = got.iter().map(String::as_str).filter(|row| !row.contains("trap")).collect();
    let (max, min) = (i64::MAX, i64::MIN);
    let no_numbers = "0.0none 0.0none";
    assert_eq!(
        panes,
        [
            &format!("max 1 {max} {max} {max} {no_numbers} 1 {max}:1-0"),
            &format!("min 1 {min} {min} {min} {no_numbers} 1 {min}:1-0"),
            &format!("none 1 0none 0none 0none {no_numbers} 0 none"),
            &format!("over 3 {} -10 {max} {no_numbers} 3 -10:1-0", max - 9),
            &format!("past 2 {max}clipped 1 {max} {no_numbers} 2 1:1-0"),
            &format!("under 2 {min}clipped {min} -1 {no_numbers} 2 -1:1-0"),
            &format!("zero 1 0 0 0 {no_numbers} 1 0:1-0"),
        ]
    );
    assert_eq!(got.len(), panes.len() + 1, "and one dead letter");
}

#[test]
fn different_texts_are_counted_across_restarts_of_hosts_with_other_hash_keys() {
    let setup = Setup::new(vec![rule(&[(Function::Distinct, Some("s"), 100)], &[])]).window(SLIDING, 0, 0);
    let text = |time: i64, text: usize| event("k", time, &format!(r#","s":"text {text}""#));
    let events: Vec<String> = (0..60).map(|number| text(number as i64, number % 20)).collect();
    let whole = drive(&setup, &events, &Cuts::default()).unwrap();
    for restart in [Restart::FromDeltas, Restart::FromSnapshot] {
        let cuts = Cuts { batches: vec![7], steps: vec![1], restarts: vec![restart] };
        assert_eq!(drive(&setup, &events, &cuts).unwrap().rows, whole.rows, "{restart:?}");
    }
    assert!(whole.rows.iter().any(|row| row.ends_with(" 20")), "{:?}", whole.rows);
}

#[test]
fn a_threshold_takes_the_value_that_is_shown_and_is_not_reached_by_nothing() {
    use Function::*;
    let all = [(Sum, Some("i"), 0), (Min, Some("i"), 0)];
    let events = [
        integer("high", 0, i64::MAX),
        integer("high", 15, i64::MAX),
        event("none", 0, ""),
        integer("one", 0, 1),
        integer("swing", 0, i64::MAX),
        integer("swing", 15, 5),
        integer("swing", 30, -6),
        integer("zero", 0, 0),
        // The end of the first window; then every key gets a correction.
        integer("later", 130, 7),
        event("none", 1, ""),
        integer("one", 1, -1),
        integer("zero", 1, 1),
    ];
    let shown = |thresholds: &[(u32, i64)], kind| {
        let setup = Setup::new(vec![rule(&all, thresholds)]).window(kind, 100, 0);
        let rows = rows(&setup, &events);
        let first = |row: &String| row.split(' ').next().unwrap().to_owned();
        rows.iter().map(first).filter(|key| key != "later").collect::<Vec<_>>()
    };
    assert_eq!(shown(&[(0, i64::MIN)], TUMBLING), ["high", "one", "swing", "zero", "one", "zero"]);
    assert_eq!(shown(&[(0, 1)], TUMBLING), ["high", "one", "swing", "zero"]);
    assert_eq!(shown(&[(0, i64::MAX)], TUMBLING), ["high"]);
    assert_eq!(shown(&[(1, i64::MIN)], TUMBLING), ["high", "one", "swing", "zero", "one", "zero"]);
    assert_eq!(shown(&[(1, 1), (0, 2)], TUMBLING), ["high"]);
    assert!(!shown(&[(0, i64::MIN)], SLIDING).contains(&"none".to_owned()));
}

/// Counts and sums are decided by tables, a smallest value by a merge; a window has slices, and corrections go another way.
#[test]
fn thresholds_are_alternatives_of_conditions() {
    use Function::*;
    let least = Condition { aggregate: 1, bound: Bound::AtLeastNumber(1.5) };
    let most = Condition { aggregate: 1, bound: Bound::AtMostNumber(2.5) };
    let few = Condition { aggregate: 2, bound: Bound::AtMostInteger(-5) };
    let number = |key: &str, at: i64, n: f64, i: i64| event(key, at, &format!(r#","n":{n:?},"i":{i}"#));
    let events = [
        number("many", 0, 9.0, 1),
        number("many", 15, 9.0, 1),
        number("many", 30, 9.0, 1),
        number("within", 0, 2.5, 1),
        number("above", 0, 2.6, 1),
        number("below", 0, 1.4, 1),
        number("debt", 0, 9.0, -5),
        event("none", 0, ""),
        number("later", 130, 0.0, 0),
        number("above", 1, 2.0, 0),
        number("within", 1, 1.0, 0),
    ];
    let shown = |thresholds: Vec<Vec<Condition>>| {
        let mut native = rule(&[(Count, None, 0), (Min, Some("n"), 0), (Sum, Some("i"), 0)], &[]);
        native.plan.thresholds = thresholds;
        let rows = rows(&Setup::new(vec![native]).window(TUMBLING, 100, 0), &events);
        let first = |row: &String| row.split(' ').next().unwrap().to_owned();
        rows.iter().map(first).filter(|key| key != "later").collect::<Vec<_>>()
    };
    let all = ["above", "below", "debt", "many", "none", "within", "above", "within"];
    assert_eq!(shown(vec![]), all);
    assert_eq!(shown(vec![vec![]]), all);
    assert_eq!(shown(vec![vec![least, most]]), ["within", "above"]);
    assert_eq!(shown(vec![vec![at_least(0, 3)], vec![least, most]]), ["many", "within", "above"]);
    assert_eq!(shown(vec![vec![few], vec![at_least(0, 3)], vec![few, most]]), ["debt", "many"]);
    assert_eq!(shown(vec![vec![few, most]]), [""; 0]);
}

/// An attacker's items: every event another one, first short, then long. What they take is in `state_bytes`.
#[test]
fn items_that_replace_others_are_accounted_for() {
    let setup = Setup::new(vec![rule(&[(Function::TopK, Some("s"), 1)], &[])]).window(TUMBLING, 0, 0);
    let mut engine = setup.engine();
    let mut sequence = 0;
    let mut feed = |items: &mut dyn Iterator<Item = String>| {
        let mut batch = RawBatch::default();
        for item in items {
            sequence += 1;
            batch.push(sequence, WallTime(NOW), b"", b"", event("a", 0, &format!(r#","s":"{item}""#)).as_bytes());
        }
        let mut input = Input::Batch(batch);
        while engine.step(input, &mut Effects::default()).unwrap() != Progress::NeedInput {
            input = Input::Continue;
        }
        engine.state_bytes()
    };
    let short = feed(&mut (0..2000).map(|number| number.to_string()));
    let long = feed(&mut (0..1024).map(|number| format!("{number:08000}")));
    assert!(short < 1 << 20, "{short} bytes");
    assert!(short + 950 * 7900 < long, "{long} bytes after {short}");
    let again = feed(&mut (0..4000).map(|number| format!("x{number}")));
    assert!(again < short * 2, "{again} bytes");
    let mut restored = setup.engine();
    restored.restore(&engine.snapshot()).unwrap();
    assert_eq!(restored.state_bytes(), engine.state_bytes());
}

/// Sums beyond 64 bits, more items than a top-k keeps, and numbers with what they have lost go through deltas and
/// snapshots without a change.
#[test]
fn what_is_stored_goes_on_as_if_it_had_not_been() {
    use Function::*;
    let all = [
        (Sum, Some("i"), 0),
        (Max, Some("i"), 0),
        (Sum, Some("n"), 0),
        (Distinct, Some("s"), 2000),
        (TopK, Some("s"), 3),
    ];
    let mut setup = Setup::new(vec![rule(&all, &[])]).window(SLIDING, 50, 0);
    setup.room.records = 500;
    let events: Vec<String> = (0..4000_i64)
        .map(|number| {
            let item = if number % 7 == 0 { number % 5 } else { number * 31 % 3000 };
            let value = if number % 3 == 0 { i64::MIN } else { i64::MAX };
            event("a", number / 40, &format!(r#","i":{value},"n":{}.1,"s":"item{item}""#, number % 11))
        })
        .collect();
    let plain = drive(&setup, &events, &Cuts::default()).unwrap().rows;
    assert!(plain.iter().any(|row| row.contains("clipped")));
    for restart in [Restart::FromDeltas, Restart::FromSnapshot] {
        let cuts = Cuts { batches: vec![700], steps: vec![3], restarts: vec![Restart::Snapshot, restart] };
        assert_eq!(drive(&setup, &events, &cuts).unwrap().rows, plain);
    }
}
