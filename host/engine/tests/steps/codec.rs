//! Damaged state is refused or taken, never a panic; an epoch may be cut before the first event of a new batch.

use std::sync::Arc;

use proptest::prelude::*;

use pelton_engine::codec::{put_bytes, put_u64};
use pelton_engine::effects::Effects;
use pelton_engine::epoch::{DeltaWriter, fingerprint};
use pelton_engine::event::{Kind, RawBatch};
use pelton_engine::guest::*;
use pelton_engine::plan::{Dedupe, EventOrder, Key, WindowKind};
use pelton_engine::step::{Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::kit::{Cuts, NOW, Native, Setup, drive, push};

/// One setup per kind of state.
fn setups() -> Vec<Setup> {
    let mut rule = Native::new(World::WindowRule, &[("s", Kind::String, false)]);
    let aggregate = |function, field: Option<&str>| Aggregate {
        name: "a".into(),
        function,
        field: field.map(String::from),
        limit: 3,
    };
    rule.plan.aggregates = vec![
        aggregate(Function::Count, None),
        aggregate(Function::Distinct, Some("s")),
        aggregate(Function::TopK, Some("s")),
    ];
    rule.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        (0..panes.len() as u32).for_each(|row| push(output, panes.keys.data.len(), row, 0, b"pane"));
        Ok(())
    }));
    let mut fold = Native::new(World::WindowFold, &[]);
    fold.evaluate = rule.evaluate.clone();
    fold.fold = Some(Arc::new(|_, groups, folded| {
        (0..groups.member_ends.len()).for_each(|_| folded.states.push(b"acc"));
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
        Setup::new(vec![rule]).window(sliding, 30, 0),
        Setup::new(vec![fold]).window(sliding, 30, 0),
        Setup::new(vec![reduce.clone()]),
        Setup {
            order: EventOrder::EventTime,
            dedupe: Some(Dedupe { id: Key::Field(vec!["t".into()]), ttl: Span(50) }),
            delay: 20,
            ttl: Some(30),
            ..Setup::new(vec![reduce])
        },
    ];
    setups.iter_mut().for_each(|setup| setup.room.records = 3);
    setups
}

fn events() -> Vec<String> {
    (0..120i64)
        .map(|idx| {
            let time = NOW + idx * 3 - (idx * 7) % 40;
            format!(r#"{{"k":"key{}","t":{time},"s":"item{}"}}"#, idx * idx % 7, idx % 5)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn damaged_state_is_no_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
        noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        for setup in setups() {
            let mut deltas = drive(&setup, &events()[..60], &Cuts { batches: vec![7], ..Cuts::default() }).unwrap().deltas;
            for (which, at, byte, kind) in &changes {
                let which = which.index(deltas.len());
                let delta = &mut deltas[which];
                if delta.is_empty() {
                    continue;
                }
                let at = at.index(delta.len());
                match kind {
                    0 => delta[at] = *byte,
                    1 => delta[at] = delta[at].wrapping_add(1),
                    _ => delta.truncate(at),
                }
            }
            let mut engine = setup.engine();
            let taken = deltas.iter().try_for_each(|delta| engine.restore(delta)).is_ok();
            if taken {
                engine.resume(Default::default());
                let _ = engine.snapshot();
            }
            let _ = setup.engine().restore(&noise);
        }
    }
}

/// A few damaged ids of keys must not ask for any amount of memory.
#[test]
fn damaged_ids_take_bounded_memory() {
    let with_ids = |ids: &[u64]| {
        let mut delta = Vec::new();
        DeltaWriter::new(&mut delta).part(1, false, |delta| {
            // The format of a rule, and no dropped slices.
            delta.push(5);
            put_u64(delta, 0);
            put_u64(delta, ids.len() as u64);
            for &id in ids {
                put_u64(delta, id);
                put_bytes(delta, format!("key{id}").as_bytes());
            }
            // No slices, revisions, corrections or panes.
            delta.extend([0; 5]);
        });
        delta
    };
    let restore = |ids: &[u64]| setups()[0].engine().restore(&with_ids(ids));
    assert_eq!(restore(&[0, 3, 1 << 20]), Ok(()));
    assert!(restore(&[1 << 23, 2 << 23, 3 << 23]).is_err());
}

#[test]
fn the_position_of_an_epoch_names_its_last_event_also_between_batches() {
    let mut setup = Setup::new(vec![Native::new(World::Transform, &[])]);
    setup.guests[0].process = Some(Arc::new(|_, events, output| {
        (0..events.len() as u32).for_each(|row| push(output, events.data.len(), row, 0, b"out"));
        Ok(())
    }));
    setup.room.records = 2;
    let mut engine = setup.engine();
    let mut effects = Effects::default();
    let payload = |sequence: u64| format!(r#"{{"k":"a","t":{NOW},"n":{sequence}}}"#);
    let batch = |first: u64| {
        let mut batch = RawBatch::default();
        (first..first + 2)
            .for_each(|sequence| batch.push(sequence, WallTime(NOW), b"", b"", payload(sequence).as_bytes()));
        Input::Batch(batch)
    };
    assert_eq!(engine.step(batch(1), &mut effects).unwrap(), Progress::More);
    assert_eq!(engine.step(Input::Continue, &mut effects).unwrap(), Progress::NeedInput);
    assert_eq!(engine.step(batch(3), &mut effects).unwrap(), Progress::Full);
    let position = engine.cut(&mut Vec::new());
    assert_eq!((position.sequence, position.fingerprint), (2, fingerprint(NOW, payload(2).as_bytes())));
}

/// Small epochs, each followed by a restart from all deltas, give the same rows as one undisturbed run.
#[test]
fn restarts_after_every_epoch_change_nothing() {
    for setup in &setups() {
        let cuts = |restart| Cuts { batches: vec![3], steps: vec![1, 2], restarts: vec![restart] };
        let plain = drive(setup, &events(), &Cuts::default()).unwrap().rows;
        for restart in [crate::kit::Restart::No, crate::kit::Restart::FromDeltas] {
            assert_eq!(drive(setup, &events(), &cuts(restart)).unwrap().rows, plain);
        }
    }
}
