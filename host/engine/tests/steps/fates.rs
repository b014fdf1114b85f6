//! One fate: an event that ends as a dead letter leaves that letter and nothing else, whatever stages and rows before
//! have made of it, nor what they have counted, in every kind of stage and wherever input and epochs are cut.

use std::sync::Arc;

use proptest::prelude::*;

use pelton_engine::event::{Column, Events, Field, Kind, Need, Values};
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;
use pelton_engine::time::Span;

use crate::cuts::any_cuts;
use crate::kit::{Cuts, NOW, Native, Outcome, Setup, drive, push};

const TUMBLING: WindowKind = WindowKind::Tumbling { size: Span(20) };

fn ops(events: &Events) -> Vec<u8> {
    let Values::Strings(ops) = &events.columns[0].values else { unreachable!("the field is text") };
    (0..events.len()).map(|row| *ops.get(row).first().expect("no op is empty")).collect()
}

/// Counts rows: one each on the counter of every native guest.
fn seen(rows: impl IntoIterator<Item = u32>) -> Vec<Addition> {
    rows.into_iter().map(|row| Addition { row, counter: 0, add: 1 }).collect()
}

/// Makes a row of each letter, and a record of the side port before them.
pub(crate) fn split() -> Native {
    let mut native = Native::new(World::Transform, &[("ops", Kind::String, true)]);
    native.process = Some(Arc::new(|_, events, output| {
        let Values::Strings(ops) = &events.columns[0].values else { unreachable!("the field is text") };
        output.additions = seen(0..events.len() as u32);
        for row in 0..events.len() {
            push(output, events.data.len(), row as u32, 1, b"side");
            for &op in ops.get(row) {
                push(output, events.data.len(), row as u32, 0, format!(r#"{{"op":"{}"}}"#, op as char).as_bytes());
            }
        }
        Ok(())
    }));
    native
}

/// Forwards rows, and refuses `!`.
pub(crate) fn transform() -> Native {
    let mut native = Native::new(World::Transform, &[("op", Kind::String, true)]);
    native.process = Some(Arc::new(|_, events, output| {
        output.additions = seen(0..events.len() as u32);
        for (row, op) in (0..).zip(ops(events)) {
            push(output, events.data.len(), row, 0, &[op]);
            if op == b'!' {
                output.rejects.push(Reject { row, code: "no".into(), detail: String::new(), place: None });
            }
        }
        Ok(())
    }));
    native
}

/// Keeps the letters, and traps at `!`, or refuses it although it has kept it.
pub(crate) fn fold() -> Native {
    fold_that(true)
}

fn fold_that(traps: bool) -> Native {
    let mut native = Native::new(World::WindowFold, &[("op", Kind::String, true)]);
    native.fold = Some(Arc::new(move |events: &Events, groups: &Groups, folded: &mut Folded| {
        let (ops, mut member) = (ops(events), 0);
        folded.additions = seen(0..events.len() as u32);
        for group in 0..groups.member_ends.len() {
            let mut state = groups.states.get(group).to_vec();
            for &row in &groups.members[member..groups.member_ends[group] as usize] {
                if ops[row as usize] == b'!' {
                    if traps {
                        return Err(Fault::Trap("asked to".into()));
                    }
                    folded.rejects.push(Reject { row, code: "no".into(), detail: String::new(), place: None });
                }
                state.push(ops[row as usize]);
            }
            member = groups.member_ends[group] as usize;
            folded.states.push(&state);
        }
        Ok(())
    }));
    native.evaluate = Some(Arc::new(|panes: &Panes, states: &States, output: &mut Output| {
        output.additions = seen(0..panes.len() as u32);
        for row in 0..panes.len() {
            push(output, panes.keys.data.len(), row as u32, 0, states.get(row));
        }
        Ok(())
    }));
    native
}

/// Keeps the letters and tells each; refuses `!`, although it has told and kept it.
pub(crate) fn reducer() -> Native {
    let mut native = Native::new(World::Reducer, &[("op", Kind::String, true)]);
    native.reduce = Some(Arc::new(|events: &Events, groups: &Groups, reduced: &mut Reduced| {
        *reduced = Reduced::default();
        reduced.output.additions = seen(0..events.len() as u32);
        let (mut member, mut told) = (0, Vec::new());
        let ops = if events.is_empty() { Vec::new() } else { ops(events) };
        for group in 0..groups.member_ends.len() {
            let mut state = groups.states.get(group).to_vec();
            for &row in &groups.members[member..groups.member_ends[group] as usize] {
                let op = ops[row as usize];
                state.push(op);
                told.push((row, state.clone()));
                if op == b'!' {
                    reduced.timers.push((group as u32, events.timestamps[row as usize] + 1));
                    reduced.output.rejects.push(Reject { row, code: "no".into(), detail: String::new(), place: None });
                }
            }
            member = groups.member_ends[group] as usize;
            reduced.changes.push(Change::Replace);
            reduced.states.push(&state);
        }
        reduced.output.rejects.sort_by_key(|reject| reject.row);
        told.sort_by_key(|(row, _)| *row);
        told.iter().for_each(|(row, text)| push(&mut reduced.output, events.data.len(), *row, 0, text));
        Ok(())
    }));
    native
}

/// Counts the letters that it extracts, and refuses `!`.
pub(crate) fn rule() -> Native {
    let mut native = Native::new(World::WindowRule, &[("op", Kind::String, true)]);
    native.plan.filters = true;
    native.plan.derived = vec![Field { name: "one".into(), kind: Kind::Integer, need: Need::Required }];
    native.plan.aggregates =
        vec![Aggregate { name: "sum".into(), function: Function::Sum, field: Some("one".into()), limit: 0 }];
    native.extract = Some(Arc::new(|events: &Events, samples: &mut Samples| {
        let mut ones = Vec::new();
        samples.additions = seen(0..events.len() as u32);
        for (row, op) in (0..).zip(ops(events)) {
            if op == b'!' {
                samples.rejects.push(Reject { row, code: "no".into(), detail: String::new(), place: None });
            } else {
                samples.rows.push(row);
                ones.push(1);
            }
        }
        samples.columns = vec![Column { missing: Vec::new(), unlike: Vec::new(), values: Values::Integers(ones) }];
        Ok(())
    }));
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        let AggregateData::Integers(sums) = &panes.values[0].data else { unreachable!("a sum of integers") };
        output.additions = seen(0..panes.len() as u32);
        for (row, sum) in (0..).zip(sums) {
            push(output, panes.keys.data.len(), row, 0, sum.to_string().as_bytes());
        }
        Ok(())
    }));
    native
}

fn setups() -> [(&'static str, Setup); 5] {
    [
        ("a transform", Setup::new(vec![split(), transform()])),
        ("a fold", Setup::new(vec![split(), fold()]).window(TUMBLING, 10, 5)),
        ("a fold that refuses", Setup::new(vec![split(), fold_that(false)]).window(TUMBLING, 10, 5)),
        ("a reducer", Setup::new(vec![split(), reducer()])),
        ("a rule", Setup::new(vec![split(), rule()]).window(TUMBLING, 10, 5)),
    ]
}

/// An event is refused when one of its letters is `!`; it has the time of the last one that is not, so that it moves
/// nothing.
fn events(all: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut events, mut good, mut time) = (Vec::new(), Vec::new(), NOW);
    for (idx, ops) in all.iter().enumerate() {
        let is_good = !ops.contains('!');
        time += if is_good { 3 } else { 0 };
        let event = format!(r#"{{"k":"key{}","t":{time},"ops":"{ops}","op":"-"}}"#, idx % 3);
        good.extend(is_good.then(|| event.clone()));
        events.push(event);
    }
    (events, good)
}

fn is_letter(row: &&String) -> bool {
    row.starts_with("dlq.")
}

fn check(name: &str, setup: &Setup, all: &[String], cuts: &Cuts) -> Outcome {
    let (events, good) = events(all);
    let outcome = drive(setup, &events, cuts).unwrap();
    let expected = drive(setup, &good, &Cuts::default()).unwrap();
    assert!(expected.totals.dead == 0 && expected.rows.len() >= good.len(), "{name}: {:?}", expected.rows);
    let kept: Vec<&String> = outcome.rows.iter().filter(|row| !is_letter(row)).collect();
    assert_eq!(kept, expected.rows.iter().collect::<Vec<_>>(), "{name}: what is refused leaves a trace");
    let letters = outcome.rows.iter().filter(is_letter).count();
    assert_eq!(letters, events.len() - good.len(), "{name}: one letter for each");
    assert_eq!(outcome.totals.dead as usize, letters, "{name}");
    assert!(expected.counters.values().all(|count| *count >= good.len() as i128), "{name}: {:?}", expected.counters);
    assert_eq!(outcome.counters, expected.counters, "{name}: what is refused counts");
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_dead_event_leaves_one_letter_and_nothing_else(
        all in prop::collection::vec("[abc]{1,3}|[ab!]{1,3}", 1..60),
        cuts in any_cuts(),
    ) {
        for (name, setup) in setups() {
            check(name, &setup, &all, &cuts);
        }
    }
}

/// The letter that goes bad is the first, one between others, or the last one of its event.
#[test]
fn a_fold_undoes_a_refused_event() {
    let all = ["a", "!b", "b", "c!a", "c", "ab!", "!", "!!", "ba"].map(str::to_owned);
    for (name, setup) in &setups()[1..3] {
        check(name, setup, &all, &Cuts::default());
    }
}

/// A module that refuses everything costs a call per event, not one per event and rest of its unit.
#[test]
fn refusing_everything_costs_a_call_each() {
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut native = reducer();
    let (inner, count) = (native.reduce.take().expect("set above"), calls.clone());
    native.reduce = Some(Arc::new(move |events: &Events, groups: &Groups, reduced: &mut Reduced| {
        count.fetch_add(events.len(), std::sync::atomic::Ordering::Relaxed);
        inner(events, groups, reduced)
    }));
    let all = vec!["!".to_owned(); 1000];
    check("a reducer", &Setup::new(vec![split(), native]), &all, &Cuts::default());
    let calls = calls.load(std::sync::atomic::Ordering::Relaxed);
    assert!(calls < 3000, "{calls} rows were given for 1,000 events");
}
