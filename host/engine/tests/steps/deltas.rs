//! What changes of the state in one epoch has its place in the batch, whatever modules keep.

use std::sync::Arc;

use pelton_engine::epoch::{CHANGES_MAX, chunk_count};
use pelton_engine::event::{Events, Kind, Values};
use pelton_engine::guest::*;
use pelton_engine::plan::{Limits, WindowKind};
use pelton_engine::step::HashKey;
use pelton_engine::time::Span;

use crate::kit::{Cuts, NOW, Native, Outcome, Restart, Setup, drive, push};

const MIB: usize = 1 << 20;

fn event(key: &str, time: i64, rest: &str) -> String {
    format!(r#"{{"k":"{key}","t":{}{rest}}}"#, NOW + time)
}

#[test]
fn keys_as_large_as_events_are_spread_over_epochs() {
    let mut native = Native::new(World::WindowRule, &[]);
    native.plan.aggregates = vec![Aggregate { name: "n".into(), function: Function::Count, field: None, limit: 0 }];
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        (0..panes.len()).for_each(|row| push(output, panes.keys.data.len(), row as u32, 0, b"seen"));
        Ok(())
    }));
    let setup = Setup::new(vec![native]).window(WindowKind::Tumbling { size: Span(1000) }, 0, 0);
    let events: Vec<String> =
        (0..100).map(|number| event(&format!("{number:03}{}", "k".repeat(MIB - 100)), 0, "")).collect();
    let outcome = drive(&setup, &events, &Cuts { batches: vec![4], ..Cuts::default() }).unwrap();
    assert_eq!(outcome.rows.len(), events.len());
    check_deltas(&outcome);
    assert!(outcome.epochs > 10, "100 MiB of keys were stored in {} epochs", outcome.epochs);
}

/// Change chunks have their places in the batch, beside as many records as an epoch may have.
#[track_caller]
fn check_deltas(outcome: &Outcome) {
    let largest = outcome.deltas.iter().map(|delta| chunk_count(delta)).max().unwrap();
    assert!(largest <= CHANGES_MAX, "a delta of {largest} chunks");
}

/// A reducer that keeps `bytes` of state of each key, as many as the event says.
fn keeper() -> Native {
    let mut native = Native::new(World::Reducer, &[("bytes", Kind::Integer, true), ("after", Kind::Integer, false)]);
    native.reduce = Some(Arc::new(|events: &Events, groups: &Groups, reduced: &mut Reduced| {
        *reduced = Reduced::default();
        // Where timers fire, there are no events.
        let integers = |column: usize| match events.columns.get(column).map(|column| &column.values) {
            Some(Values::Integers(values)) => values.as_slice(),
            _ => &[],
        };
        let (bytes, after) = (integers(0), integers(1));
        let mut member = 0;
        for group in 0..groups.member_ends.len() {
            let mut state = 1;
            for &row in &groups.members[member..groups.member_ends[group] as usize] {
                state = bytes[row as usize];
                if !events.columns[1].is_missing(row as usize) {
                    reduced.timers.push((group as u32, after[row as usize]));
                }
            }
            if member == groups.member_ends[group] as usize {
                // Timers fire: twice as much.
                state = 2 * groups.states.get(group).len() as i64;
            }
            member = groups.member_ends[group] as usize;
            reduced.changes.push(Change::Replace);
            reduced.states.push(&vec![b's'; state as usize]);
        }
        Ok(())
    }));
    native
}

fn keeping() -> Setup {
    let mut setup = Setup::new(vec![keeper()]);
    setup.limits =
        Limits { state_per_key: 16 << 20, reply_bytes: 64 << 20, max_payload: 16 << 20, ..Limits::default() };
    setup
}

#[test]
fn states_of_many_keys_are_spread_over_epochs() {
    // Of the size that a state has when nothing is said, and of the largest that may be asked for.
    for (count, bytes) in [(600, 64 << 10), (4, (16 << 20) - 1000)] {
        let events: Vec<String> =
            (0..count).map(|number| event(&format!("k{number}"), 0, &format!(r#","bytes":{bytes}"#))).collect();
        let outcome = drive(&keeping(), &events, &Cuts::default()).unwrap();
        assert_eq!(outcome.totals.processed, events.len() as u64);
        check_deltas(&outcome);
    }
}

#[test]
fn states_that_timers_change_are_spread_over_epochs() {
    let count = 500;
    let after = NOW + 5;
    let event = |number: u64| event(&format!("k{number}"), 1, &format!(r#","bytes":40000,"after":{after}"#));
    let mut events: Vec<String> = (0..count).map(event).collect();
    events.push(self::event("last", 10, r#","bytes":1"#));
    let outcome = drive(&keeping(), &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.totals.processed, events.len() as u64);
    assert!(outcome.epochs > 5, "60 MB in {} epochs", outcome.epochs);
    check_deltas(&outcome);
}

/// What an event makes due comes on top of what it brings itself: both have their place only in epochs of their own.
#[test]
fn an_event_and_the_timers_that_it_makes_due_have_their_places() {
    let half = 8 * MIB - 500;
    let events = [
        event("a", 0, &format!(r#","bytes":{half},"after":{}"#, NOW + 5)),
        event("full", 1, &format!(r#","bytes":{MIB}"#)),
        event("c", 1, &format!(r#","bytes":{}"#, 8 * MIB - 100_000)),
        event("b", 10, &format!(r#","bytes":{}"#, 16 * MIB - 1000)),
    ];
    for count in 1..3 {
        let mut setup = keeping();
        // Beside others that keep the same, each has less.
        setup.guests = vec![keeper(); count];
        setup.from = vec![None; count];
        let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
        check_deltas(&outcome);
        assert!(count > 1 || outcome.totals.processed == 4, "{:?}", outcome.totals);
    }
}

#[test]
fn an_event_that_would_change_too_much_is_a_dead_letter() {
    // A key, and texts that a top-k would keep.
    let large = "k".repeat(8 * MIB);
    let outcome =
        drive(&keeping(), &[event(&large, 0, r#","bytes":1"#), event("k", 0, r#","bytes":1"#)], &Cuts::default());
    let outcome = outcome.unwrap();
    assert_eq!((outcome.totals.processed, outcome.totals.dead), (1, 1));
    assert!(outcome.rows[0].starts_with("dlq.pipeline.state-size "), "{}", &outcome.rows[0][..60]);
    let mut native = Native::new(World::WindowRule, &[("s", Kind::String, false)]);
    let top = |name: &str| Aggregate { name: name.into(), function: Function::TopK, field: Some("s".into()), limit: 3 };
    native.plan.aggregates = vec![top("a"), top("b")];
    native.evaluate = Some(Arc::new(|_: &Panes, _: &States, _: &mut Output| Ok(())));
    let mut setup = Setup::new(vec![native]).window(WindowKind::Tumbling { size: Span(1000) }, 0, 0);
    setup.limits.max_payload = 16 << 20;
    let text = |bytes: usize| event("k", 0, &format!(r#","s":"{}""#, "t".repeat(bytes)));
    let outcome = drive(&setup, &[text(3 * MIB), text(4 * MIB), text(10)], &Cuts::default()).unwrap();
    assert_eq!((outcome.totals.processed, outcome.totals.dead), (2, 1));
    assert!(outcome.rows[0].starts_with("dlq.pipeline.state-size "), "{}", &outcome.rows[0][..60]);
    check_deltas(&outcome);
}

/// A large row is stored as what has changed, and comes back from that.
#[test]
fn large_aggregates_are_stored_as_what_has_changed() {
    let mut native = Native::new(World::WindowRule, &[("s", Kind::String, true)]);
    let aggregate = |function, limit| Aggregate { name: "a".into(), function, field: Some("s".into()), limit };
    native.plan.aggregates = vec![aggregate(Function::TopK, 2), aggregate(Function::Distinct, 5000)];
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        let said = format!("{:?}", panes.values);
        (0..panes.len()).for_each(|row| push(output, panes.keys.data.len(), row as u32, 0, said.as_bytes()));
        Ok(())
    }));
    let mut setup = Setup::new(vec![native]).window(WindowKind::Global, 0, 0);
    setup.hash_key = Some(HashKey([3; 16]));
    let events: Vec<String> = (0..6000_u64)
        .map(|number| {
            event("k", 0, &format!(r#","s":"{:0100}""#, number.wrapping_mul(0x9e37_79b9) % 3000 * (number % 7)))
        })
        .collect();
    let whole = drive(&setup, &events, &Cuts::default()).unwrap();
    let cuts = Cuts {
        batches: vec![100],
        steps: vec![1],
        restarts: vec![Restart::No, Restart::FromDeltas, Restart::Snapshot, Restart::No, Restart::FromSnapshot],
    };
    let outcome = drive(&setup, &events, &cuts).unwrap();
    assert_eq!(outcome.rows, whole.rows);
    // 100 events bring 100 texts at most, and send as many away.
    let largest = outcome.deltas[40..].iter().map(Vec::len).max().unwrap();
    assert!(largest < 2 * 100 * 130, "a delta of {largest} bytes, of {} rows", outcome.epochs);
}
