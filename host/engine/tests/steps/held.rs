//! What modules make of many events, or of one through many stages, is held within a bound, and costs only the guilty.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pelton_engine::event::Kind;
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;
use pelton_engine::time::Span;

use crate::kit::{Cuts, NOW, Native, Setup, drive, push};

const MIB: usize = 1 << 20;
/// What one reply may have, as a sandbox would bound it.
const REPLY_BYTES: usize = 8 * MIB;

/// A record that just fits: a JSON text.
fn large() -> Vec<u8> {
    format!(r#"{{"x":"{}"}}"#, "x".repeat(MIB - 4096)).into_bytes()
}

/// Writes for each event as many records of almost 1 MiB as its payload begins with.
fn multiplies() -> Native {
    let mut native = Native::new(World::Transform, &[("n", Kind::Integer, true)]);
    native.process = Some(Arc::new(|_, events, output| {
        let pelton_engine::event::Values::Integers(counts) = &events.columns[0].values else { unreachable!() };
        let all: usize = counts.iter().map(|count| *count as usize).sum();
        if counts.len() > 1 && all * MIB > REPLY_BYTES {
            return Err(Fault::Limit("reply is too large".into()));
        }
        for (row, count) in counts.iter().enumerate() {
            (0..*count).for_each(|_| push(output, events.data.len(), row as u32, 0, &large()));
        }
        Ok(())
    }));
    native
}

/// Writes one short record per event, and keeps how many it was shown at once.
fn counts(most: Arc<AtomicUsize>) -> Native {
    let mut native = Native::new(World::Transform, &[]);
    native.process = Some(Arc::new(move |_, events, output| {
        most.fetch_max(events.len(), Ordering::Relaxed);
        (0..events.len()).for_each(|row| push(output, events.data.len(), row as u32, 0, b"seen"));
        Ok(())
    }));
    native
}

fn event(key: &str, time: i64, rest: &str) -> String {
    format!(r#"{{"k":"{key}","t":{}{rest}}}"#, NOW + time)
}

#[test]
fn a_unit_that_becomes_too_large_is_cut_and_an_event_that_is_too_large_alone_is_refused() {
    let most = Arc::new(AtomicUsize::new(0));
    let setup = Setup::new(vec![multiplies(), counts(Arc::clone(&most))]);
    let records = |count: usize| event("k", 0, &format!(r#","n":{count}"#));
    let mut events: Vec<String> = (0..60).map(|_| records(2)).collect();
    events.insert(30, records(40));
    events.push(records(0));
    events.push(records(30));
    let rows = drive(&setup, &events, &Cuts::default()).unwrap().rows;
    let (seen, dead): (Vec<&String>, Vec<&String>) = rows.iter().partition(|row| row.ends_with(" seen"));
    assert_eq!((seen.len(), dead.len()), (60 * 2 + 30, 1), "{:.200}", dead[0]);
    assert!(dead[0].starts_with("dlq.s0.too-many-records "), "{}", dead[0]);
    assert!(rows[60].starts_with("dlq."), "in its place");
    let most = most.load(Ordering::Relaxed);
    assert!((2..=32).contains(&most), "{most} records of 1 MiB were held at once");
}

#[test]
fn panes_of_which_too_much_is_made_are_judged_in_parts() {
    let (most, panes) = (Arc::new(AtomicUsize::new(0)), 120);
    let mut native = Native::new(World::WindowRule, &[]);
    native.plan.aggregates = vec![Aggregate { name: "n".into(), function: Function::Count, field: None, limit: 0 }];
    let calls = Arc::clone(&most);
    native.evaluate = Some(Arc::new(move |panes: &Panes, _: &States, output: &mut Output| {
        calls.fetch_add(panes.len(), Ordering::Relaxed);
        if panes.len() * MIB > REPLY_BYTES {
            return Err(Fault::Limit("reply is too large".into()));
        }
        for row in 0..panes.len() {
            push(output, panes.keys.data.len(), row as u32, 0, &large());
        }
        Ok(())
    }));
    let setup = Setup::new(vec![native]).window(WindowKind::Tumbling { size: Span(1000) }, 0, 0);
    let events: Vec<String> = (0..panes).map(|number| event(&format!("key{number:03}"), 0, "")).collect();
    let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.rows.len(), panes);
    assert!(outcome.rows.iter().all(|row| row.ends_with(r#"x"}"#)));
    // Bisecting 120 panes shows each of them some five times; each cut begins again with all that are left.
    let shown = most.load(Ordering::Relaxed);
    assert!(shown < 30 * panes, "{shown} panes were shown for {panes}");
}

#[test]
fn what_a_fold_counts_is_held_within_the_bound() {
    /// What one addition takes at least, of the 32 MiB that are held at one time.
    const MOST: usize = 32 * MIB / 256;
    let mut native = Native::new(World::WindowFold, &[("n", Kind::Integer, true)]);
    native.fold = Some(Arc::new(|events, groups, folded| {
        let pelton_engine::event::Values::Integers(counts) = &events.columns[0].values else { unreachable!() };
        *folded = Folded::default();
        for (row, &count) in counts.iter().enumerate() {
            folded.additions.extend((0..count).map(|_| Addition { row: row as u32, counter: 0, add: 1 }));
        }
        (0..groups.keys.ends.len()).for_each(|_| folded.states.push(b"s"));
        Ok(())
    }));
    native.evaluate = Some(Arc::new(|_, _, _| Ok(())));
    let setup = Setup::new(vec![native]).window(WindowKind::Tumbling { size: Span(1000) }, 0, 0);
    let quarter = MOST as i64 / 4;
    let mut events: Vec<String> = (0..30).map(|_| event("k", 0, &format!(r#","n":{quarter}"#))).collect();
    events.insert(20, event("k", 0, &format!(r#","n":{}"#, MOST + 1)));
    let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.counters["s0/seen"], 30 * i128::from(quarter));
    assert_eq!(outcome.rows.len(), 1, "one event is refused, and no pane says anything: {:.300}", outcome.rows[0]);
    assert!(outcome.rows[0].starts_with("dlq.s0.too-many-records "), "{}", outcome.rows[0]);
}
