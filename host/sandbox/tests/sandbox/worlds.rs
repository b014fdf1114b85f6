//! The worlds beside `transform`, each called by hand as the engine calls it.

use pelton_engine::event::{Column, Events, Strings, Values};
use pelton_engine::guest::{
    Addition, Before, Bound, Change, Condition, Fault, Folded, Groups, Guest, Metering, Output, Panes, Reduced,
    Rewritten, Samples, Timing, World,
};

use crate::{events, guest, texts};

const BOTH: [Metering; 2] = [Metering::Deadline, Metering::Fuel];

/// Events that were played for so many milliseconds.
fn plays(milliseconds: &[i64]) -> Events {
    let mut events = events(&vec![""; milliseconds.len()]);
    events.columns.push(Column {
        missing: Vec::new(),
        unlike: Vec::new(),
        values: Values::Integers(milliseconds.to_vec()),
    });
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
        assert_eq!(samples.rows, [0, 3]);
        assert_eq!(
            samples.columns,
            [Column { missing: Vec::new(), unlike: Vec::new(), values: Values::Integers(vec![45, 90]) }]
        );
        assert_eq!(samples.rejects.len(), 1);
        assert_eq!((samples.rejects[0].row, samples.rejects[0].code.as_str()), (2, "negative"));
    }
    let plan = guest.aggregates().unwrap();
    assert!(plan.extracts());
    assert_eq!(plan.derived[0].name, "seconds");
}

#[test]
fn reduce_keeps_state_and_sets_timers() {
    let mut guest = guest("examples/running_count");
    assert_eq!(guest.descriptor().identity.world, World::Reducer);
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
    assert_eq!(reduced.output.rows, [0, 1, 2]);
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
    assert_eq!(reduced.output.rows, [0]);
    assert_eq!(payload(&reduced.output, 0, 0), r#"{"total":2}"#);
}

#[test]
fn fold_merge_and_finish() {
    let mut guest = guest("examples/mean_fold");
    assert_eq!(guest.descriptor().identity.world, World::WindowFold);
    let mut fold = |metering, milliseconds: &[i64]| {
        let rows = milliseconds.len() as u32;
        let mut groups = Groups {
            keys: texts(&[b"ann"]),
            states: texts(&[b""]),
            member_ends: vec![rows],
            members: (0..rows).collect(),
            ..Groups::default()
        };
        let mut folded = Folded::default();
        let mut batch = plays(milliseconds);
        let before = (batch.clone(), groups.clone());
        guest.fold(metering, &mut batch, &mut groups, &mut folded).unwrap();
        assert_eq!((batch, groups), before);
        folded.states
    };
    let mut left = fold(Metering::Deadline, &[10, 20]);
    let mut right = fold(Metering::Fuel, &[40]);
    let mut merged = Strings::default();
    guest.merge(Metering::Deadline, &mut left, &mut right, &mut merged).unwrap();
    finish(&mut *guest, merged);
}

fn finish(guest: &mut dyn Guest, mut accumulators: Strings) {
    let mut panes = Panes {
        keys: texts(&[b"ann"]),
        starts: vec![0],
        ends: vec![60_000],
        timings: vec![Timing::OnTime],
        indexes: vec![0],
        lasts: vec![true],
        watermarks: vec![60_000],
        values: Vec::new(),
    };
    let before = (panes.clone(), accumulators.clone());
    let mut output = Output::default();
    guest.finish(Metering::Deadline, &mut panes, &mut accumulators, &mut output).unwrap();
    assert_eq!((&panes, &accumulators), (&before.0, &before.1));
    assert_eq!(output.rows, [0]);
    let row = payload(&output, panes.keys.data.len(), 0);
    assert_eq!(row, r#"{"key":"ann","window_end":60000,"mean":23,"count":3}"#);
}

#[test]
fn kinds_headers_tombstones_counters_and_places() {
    let mut guest = guest("examples/whole_contract");
    assert_eq!(guest.descriptor().shape.counters, ["events", "deletes", "blob_bytes"]);
    let mut batch = events(&["", "", ""]);
    batch.headers = b"Currency: USD\r\n".to_vec();
    batch.header_ends = vec![0, 15, 15];
    batch.columns = vec![
        Column { missing: Vec::new(), unlike: Vec::new(), values: Values::Decimals(texts(&[b"0", b"12.50", b"-1"])) },
        Column { missing: vec![0, 2], unlike: Vec::new(), values: Values::Jsons(texts(&[b"", b"[1, 2]", b""])) },
        Column { missing: vec![2], unlike: Vec::new(), values: Values::Blobs(texts(&[b"", b"\xff\x00", b""])) },
    ];
    let before = batch.clone();
    for metering in BOTH {
        let mut output = Output::default();
        guest.process(metering, &mut batch, &mut output).unwrap();
        assert_eq!(batch, before);
        assert_eq!((output.rows.as_slice(), output.ports.as_slice()), (&[0, 1, 1][..], &[0, 0, 1][..]));
        assert_eq!(output.deletes, [0]);
        assert_eq!(output.headers_of(0), b"");
        assert_eq!(output.headers_of(1), b"Currency: USD\r\n");
        assert_eq!(output.headers_of(2), b"Amount: 12.50\r\nCurrency: USD\r\n");
        assert_eq!(payload(&output, batch.data.len(), 1), r#"{"amount":12.50,"note":[1, 2],"bytes":2}"#);
        let [reject] = output.rejects.as_slice() else { panic!("{:?}", output.rejects) };
        assert_eq!((reject.row, reject.code.as_str(), reject.place.as_deref()), (2, "negative", Some("/amount")));
        // Of the rejected row there is nothing, not even what it had counted before.
        let added: Vec<_> = output.additions.iter().map(|one| (one.row, one.counter, one.add)).collect();
        assert_eq!(added, [(0, 0, 1), (0, 2, 0), (0, 1, 1), (1, 0, 1), (1, 2, 2)]);
    }
}

#[test]
fn a_fold_may_reject_and_count() {
    let mut guest = guest("examples/strict_fold");
    let mut batch = plays(&[5, -7, 2]);
    let mut groups = Groups {
        keys: texts(&[b"a", b"b"]),
        states: texts(&[b"", b""]),
        member_ends: vec![2, 3],
        members: vec![0, 1, 2],
        ..Groups::default()
    };
    let mut folded = Folded::default();
    guest.fold(Metering::Deadline, &mut batch, &mut groups, &mut folded).unwrap();
    let [reject] = folded.rejects.as_slice() else { panic!("{:?}", folded.rejects) };
    assert_eq!((reject.row, reject.place.as_deref()), (1, Some("/n")));
    assert_eq!(folded.additions, [Addition { row: 0, counter: 0, add: 5 }, Addition { row: 2, counter: 0, add: 2 }]);
}

#[test]
fn thresholds_are_lists_of_conditions() {
    let mut guest = guest("examples/either_or");
    let condition = |aggregate, bound| Condition { aggregate, bound };
    let expected = [
        vec![condition(0, Bound::AtLeastInteger(3))],
        vec![condition(1, Bound::AtLeastNumber(1.5)), condition(1, Bound::AtMostNumber(2.5))],
    ];
    assert_eq!(guest.aggregates().unwrap().thresholds, expected);
}

#[test]
fn states_are_migrated_and_persons_erased() {
    let mut guest = guest("examples/visits");
    let identity = guest.descriptor().identity.clone();
    assert!(identity.migrates && identity.erases && identity.state_version == 2, "{identity:?}");
    let (mut keys, mut states) = (texts(&[b"a", b"b", b"c"]), texts(&[b"ann;bob", b"cid", b"bob"]));
    let before = (keys.clone(), states.clone());
    let mut rewritten = Rewritten::default();
    for metering in BOTH {
        let old = Before { state_version: 1, config: "{}" };
        guest.migrate(metering, &old, &mut keys, &mut states, &mut rewritten).unwrap();
        assert_eq!((&keys, &states), (&before.0, &before.1));
        assert_eq!(rewritten.changes, [Change::Replace; 3]);
        assert_eq!(rewritten.states, texts(&[b"ann,bob", b"cid", b"bob"]));
        guest.erase(metering, "bob", &mut keys, &mut rewritten.states.clone(), &mut rewritten).unwrap();
        assert_eq!(rewritten.changes, [Change::Replace, Change::Keep, Change::Delete]);
        assert_eq!(rewritten.states, texts(&[b"ann", b"", b""]));
    }
    let never = Before { state_version: 9, config: "{}" };
    let fault = guest.migrate(Metering::Deadline, &never, &mut keys, &mut states, &mut rewritten).unwrap_err();
    assert_eq!(fault, Fault::Halt("state version 9 never was".into()));
}

#[test]
fn what_a_module_does_not_export_is_not_called() {
    let mut guest = guest("examples/running_count");
    let identity = &guest.descriptor().identity;
    assert!(!identity.migrates && !identity.erases);
    let (mut keys, mut states) = (texts(&[b"a"]), texts(&[b""]));
    let old = Before { state_version: 1, config: "{}" };
    let fault = guest.migrate(Metering::Deadline, &old, &mut keys, &mut states, &mut Rewritten::default());
    assert_eq!(fault, Err(Fault::Contract("module does not export `migrations`".into())));
    let fault = guest.erase(Metering::Deadline, "ann", &mut keys, &mut states, &mut Rewritten::default());
    assert_eq!(fault, Err(Fault::Contract("module does not export `erasures`".into())));
}
