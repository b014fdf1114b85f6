//! State from other bytes than an engine wrote: refused, or a state that holds together.
//!
//! In production a hash covers these bytes; this is what holds when it does not help, as after a bug in a writer.

use std::sync::{Arc, LazyLock};

use pelton_engine::effects::Effects;
use pelton_engine::epoch::Position;
use pelton_engine::event::{Kind, RawBatch};
use pelton_engine::guest::{Aggregate, Change, Function, States, World};
use pelton_engine::plan::WindowKind;
use pelton_engine::step::{Engine, Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::bytes::Bytes;
use crate::kit::{Cuts, NOW, Native, Restart, Setup, drive, push};

/// A setup with what its engine wrote: deltas of a run, and the state behind them.
struct Written {
    setup: Setup,
    deltas: Vec<Vec<u8>>,
    snapshot: Vec<u8>,
}

/// One per kind of state.
static WRITTEN: LazyLock<Vec<Written>> = LazyLock::new(|| setups().into_iter().map(write).collect());

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    let written = &WRITTEN[script.below(WRITTEN.len())];
    let state = match script.below(4) {
        0 => vec![script.rest()],
        1 => vec![damage(written.snapshot.clone(), &mut script)],
        2 => {
            let mut deltas = written.deltas.clone();
            let at = script.below(deltas.len());
            deltas[at] = damage(std::mem::take(&mut deltas[at]), &mut script);
            deltas
        }
        // A delta that is not the next one.
        _ => {
            let mut deltas = vec![written.snapshot.clone()];
            deltas.push(damage(written.deltas[script.below(written.deltas.len())].clone(), &mut script));
            deltas
        }
    };
    let mut engine = written.setup.engine();
    if state.iter().try_for_each(|delta| engine.restore(delta)).is_err() {
        return;
    }
    engine.resume(Position::default());
    let snapshot = engine.snapshot();
    let mut again = written.setup.engine();
    again.restore(&snapshot).expect("an engine reads its own snapshot");
    again.resume(Position::default());
    assert_eq!(again.snapshot(), snapshot, "a snapshot restores to the same state");
    assert_eq!(again.watermark(), engine.watermark());
    go_on(&mut engine);
}

/// A few changes to bytes that an engine wrote.
fn damage(mut bytes: Vec<u8>, script: &mut Bytes) -> Vec<u8> {
    while !script.is_empty() && !bytes.is_empty() {
        let at = script.u32() as usize % bytes.len();
        match script.below(6) {
            0 => bytes[at] = script.byte(),
            1 => bytes[at] ^= 1 << script.below(8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..bytes.len().min(at + 1 + script.below(8)))),
            4 => drop(bytes.splice(at..at, script.short())),
            _ => {
                let end = bytes.len().min(at + 1 + script.below(32));
                let piece = bytes[at..end].to_vec();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

/// Some more input, to its end: what was believed once must not break anything later.
fn go_on(engine: &mut Engine) {
    let mut batch = RawBatch::default();
    for (idx, event) in events(8).iter().enumerate() {
        batch.push(idx as u64 + 1, WallTime(NOW), b"", b"", event.as_bytes());
    }
    let mut effects = Effects::default();
    let mut inputs = vec![Input::End, Input::Batch(batch)];
    let mut input = Input::Continue;
    // More steps than any state of this size needs.
    for _ in 0..10_000 {
        let progress = engine.step(input, &mut effects).expect("these guests have no faults");
        assert!(effects.totals.balanced(0), "{:?}", effects.totals);
        input = Input::Continue;
        if progress == Progress::More {
            continue;
        }
        effects.clear();
        let _ = engine.cut(&mut Vec::new());
        if progress == Progress::NeedInput {
            match inputs.pop() {
                Some(next) => input = next,
                None => return,
            }
        }
    }
    panic!("the engine does not come to an end");
}

fn write(setup: Setup) -> Written {
    let cuts = Cuts { batches: vec![7], steps: vec![2], restarts: vec![Restart::No] };
    let deltas = drive(&setup, &events(60), &cuts).expect("these guests have no faults").deltas;
    let mut engine = setup.engine();
    // Not to the end, where every window is closed and little is left.
    let deltas: Vec<Vec<u8>> = deltas[..deltas.len() / 2].to_vec();
    deltas.iter().for_each(|delta| engine.restore(delta).expect("an engine reads its own deltas"));
    engine.resume(Position::default());
    Written { snapshot: engine.snapshot(), setup, deltas }
}

fn setups() -> Vec<Setup> {
    let mut rule = Native::new(World::WindowRule, &[("s", Kind::String, false), ("x", Kind::Number, false)]);
    let aggregate = |function: Function, field: Option<&str>| Aggregate {
        name: format!("{function:?}"),
        function,
        field: field.map(String::from),
        limit: 3,
    };
    rule.plan.aggregates = vec![
        aggregate(Function::Count, None),
        aggregate(Function::Max, Some("x")),
        aggregate(Function::Distinct, Some("s")),
        aggregate(Function::TopK, Some("s")),
    ];
    rule.evaluate = Some(Arc::new(|panes, _: &States, output| {
        (0..panes.len() as u32).for_each(|row| push(output, panes.keys.data.len(), row, 0, b"pane"));
        Ok(())
    }));
    let mut fold = Native::new(World::WindowFold, &[]);
    fold.evaluate = rule.evaluate.clone();
    fold.fold = Some(Arc::new(|_, groups, folded| {
        groups.member_ends.iter().for_each(|_| folded.states.push(b"acc"));
        Ok(())
    }));
    let mut reduce = Native::new(World::Reducer, &[]);
    reduce.reduce = Some(Arc::new(|events, groups, reduced| {
        for group in 0..groups.member_ends.len() as u32 {
            reduced.changes.push(Change::Replace);
            reduced.states.push(b"state");
            if let Some(&time) = events.timestamps.first() {
                reduced.timers.push((group, time + 40));
            }
        }
        Ok(())
    }));
    let sliding = WindowKind::Sliding { size: Span(40), slide: Span(10) };
    let mut setups = vec![
        Setup::new(vec![rule.clone()]).window(sliding, 30, 0),
        Setup::new(vec![fold]).window(sliding, 30, 0),
        Setup::new(vec![reduce]),
        Setup::new(vec![rule]).window(WindowKind::Global, 0, 0),
    ];
    setups.iter_mut().for_each(|setup| setup.room.records = 3);
    setups
}

fn events(count: i64) -> Vec<String> {
    let event = |idx: i64| {
        let (time, key, item) = (NOW + idx * 3 - (idx * 7) % 40, idx * idx % 7, idx % 5);
        format!(r#"{{"k":"key{key}","t":{time},"s":"item{item}","x":{idx}.5}}"#)
    };
    (0..count).map(event).collect()
}
