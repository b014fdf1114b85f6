//! The worlds beside `transform`, each called by hand as the engine calls it.

use pelton_engine::event::{Column, Events, TextColumn, Values};
use pelton_engine::guest::{Change, Firing, Groups, Guest, Metering, Output, Panes, Reduced, Samples, World};

use crate::{events, guest, texts};

const BOTH: [Metering; 2] = [Metering::Deadline, Metering::Fuel];

/// Events that were played for so many milliseconds.
fn plays(milliseconds: &[i64]) -> Events {
    let mut events = events(&vec![""; milliseconds.len()]);
    events.columns.push(Column { missing: Vec::new(), values: Values::Integers(milliseconds.to_vec()) });
    events
}

/// The payload of record `record`, which the guest wrote itself.
fn payload(output: &Output, arena_bytes: usize, record: usize) -> &str {
    let [_, _, offset, bytes] = output.slices[4 * record..][..4] else { panic!("four numbers") };
    let start = offset as usize - arena_bytes;
    str::from_utf8(&output.data[start..start + bytes as usize]).unwrap()
}

#[test]
fn extract_gives_samples_and_rejects() {
    let mut guest = guest("examples/extract_rule");
    for metering in BOTH {
        let mut batch = plays(&[45_000, 5_000, -1, 90_500]);
        let before = batch.clone();
        let mut samples = Samples::default();
        guest.extract(metering, &mut batch, &mut samples).unwrap();
        assert_eq!(batch, before);
        assert_eq!(samples.sources, [0, 3]);
        assert_eq!(samples.columns, [Column { missing: Vec::new(), values: Values::Integers(vec![45, 90]) }]);
        assert_eq!(samples.rejects.len(), 1);
        assert_eq!((samples.rejects[0].source, samples.rejects[0].code.as_str()), (2, "negative"));
    }
    let plan = guest.plan().unwrap();
    assert!(plan.extracts());
    assert_eq!(plan.derived[0].name, "seconds");
}

#[test]
fn reduce_keeps_state_and_sets_timers() {
    let mut guest = guest("examples/running_count");
    assert_eq!(guest.descriptor().world, World::Reducer);
    let mut groups = Groups {
        keys: texts(&[b"a", b"b"]),
        states: texts(&[b"", b""]),
        member_ends: vec![2, 3],
        members: vec![0, 2, 1],
        timer_ends: vec![0, 0],
        timers: Vec::new(),
    };
    let mut batch = events(&["1", "2", "3"]);
    let before = (batch.clone(), groups.clone());
    let mut reduced = Reduced::default();
    guest.reduce(Metering::Deadline, &mut batch, &mut groups, &mut reduced).unwrap();
    assert_eq!((&batch, &groups), (&before.0, &before.1));
    assert_eq!(reduced.changes, [Change::Replace, Change::Replace]);
    assert_eq!(reduced.output.sources, [0, 1, 2]);
    assert_eq!(payload(&reduced.output, batch.data.len(), 2), r#"{"count":2}"#);
    assert!(reduced.timers.contains(&(1, 61_001)), "{:?}", reduced.timers);

    // The timer of the first group fires, without events.
    let mut due = Groups {
        keys: texts(&[b"a"]),
        states: texts(&[reduced.states.get(0)]),
        member_ends: vec![0],
        members: Vec::new(),
        timer_ends: vec![1],
        timers: vec![61_002],
    };
    guest.reduce(Metering::Fuel, &mut Events::default(), &mut due, &mut reduced).unwrap();
    assert_eq!(reduced.changes, [Change::Delete]);
    assert_eq!(reduced.output.sources, [0]);
    assert_eq!(payload(&reduced.output, 0, 0), r#"{"total":2}"#);
}

#[test]
fn fold_merge_and_finish() {
    let mut guest = guest("examples/mean_fold");
    assert_eq!(guest.descriptor().world, World::WindowFold);
    let mut fold = |metering, milliseconds: &[i64]| {
        let rows = milliseconds.len() as u32;
        let mut groups = Groups {
            keys: texts(&[b"ann"]),
            states: texts(&[b""]),
            member_ends: vec![rows],
            members: (0..rows).collect(),
            ..Groups::default()
        };
        let mut states = TextColumn::default();
        let mut batch = plays(milliseconds);
        let before = (batch.clone(), groups.clone());
        guest.fold(metering, &mut batch, &mut groups, &mut states).unwrap();
        assert_eq!((batch, groups), before);
        states
    };
    let mut left = fold(Metering::Deadline, &[10, 20]);
    let mut right = fold(Metering::Fuel, &[40]);
    let mut merged = TextColumn::default();
    guest.merge(Metering::Deadline, &mut left, &mut right, &mut merged).unwrap();
    finish(&mut *guest, merged);
}

fn finish(guest: &mut dyn Guest, mut accumulators: TextColumn) {
    let mut panes = Panes {
        keys: texts(&[b"ann"]),
        starts: vec![0],
        ends: vec![60_000],
        firings: vec![Firing::OnTime],
        numbers: vec![0],
        finals: vec![true],
        watermarks: vec![60_000],
        values: Vec::new(),
    };
    let before = (panes.clone(), accumulators.clone());
    let mut output = Output::default();
    guest.finish(Metering::Deadline, &mut panes, &mut accumulators, &mut output).unwrap();
    assert_eq!((&panes, &accumulators), (&before.0, &before.1));
    assert_eq!(output.sources, [0]);
    let row = payload(&output, panes.keys.data.len(), 0);
    assert_eq!(row, r#"{"key":"ann","window_end":60000,"mean":23,"count":3}"#);
}
