//! What the engine writes, byte by byte: state deltas and snapshots of every kind, and the records of every kind.
//!
//! These lie in streams and folders of running pipelines. A test here that fails says that a change of the code is a
//! change of the format: then the state version of the layout, or new names, have to say so too.

use std::fmt::Write as _;
use std::sync::Arc;

use pelton_engine::effects::Effects;
use pelton_engine::epoch::{Manifest, Marker, MarkerFields, Section, SnapshotSection};
use pelton_engine::event::{Events, Field, Kind, Need, RawBatch};
use pelton_engine::guest::*;
use pelton_engine::partition::is_compatible;
use pelton_engine::plan::{Dedupe, EventOrder, Key, WindowKind};
use pelton_engine::step::{Engine, HashKey, Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::kit::{Native, Setup, push};

/// Arrival and event time of the first event: small, so that times take few bytes.
const START: i64 = 1000;

fn event(key: &str, time: i64, rest: &str) -> String {
    format!(r#"{{"k":"{key}","t":{}{rest}}}"#, START + time)
}

/// Runs events and gives the records as text, the delta of the one epoch, and the snapshot behind it.
fn run(setup: &Setup, events: &[String], ends: bool) -> (String, String, String) {
    let mut engine = setup.engine();
    let mut effects = Effects::default();
    let mut batch = RawBatch::default();
    for (idx, event) in events.iter().enumerate() {
        batch.push(idx as u64 + 1, WallTime(START), b"plays", b"User: 1\r\n", event.as_bytes());
    }
    let mut input = Input::Batch(batch);
    while engine.step(input, &mut effects).unwrap() != Progress::NeedInput {
        input = Input::Continue;
    }
    if ends {
        while engine.step(Input::End, &mut effects).unwrap() != Progress::NeedInput {}
    }
    let mut text = String::new();
    for row in &effects.records.rows {
        let part = |range| String::from_utf8_lossy(effects.records.slice(range)).replace("\r\n", "\n");
        writeln!(text, "{:?} {}\n{}{}\n", row.channel, part(&row.subject), part(&row.headers), part(&row.payload))
            .unwrap();
    }
    let mut delta = Vec::new();
    engine.cut(&mut delta);
    (text, pelton_engine::hex::encode(&delta), pelton_engine::hex::encode(&engine.snapshot()))
}

/// `UPDATE=1` writes the file anew.
#[expect(clippy::disallowed_methods, reason = "this is the test, not the engine")]
#[track_caller]
fn check(name: &str, got: &str, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(format!("{}/tests/steps/golden/{name}.txt", env!("CARGO_MANIFEST_DIR")), got).unwrap();
    } else {
        assert_eq!(got, expected);
    }
}

const SLIDING: WindowKind = WindowKind::Sliding { size: Span(40), slide: Span(10) };
const TUMBLING: WindowKind = WindowKind::Tumbling { size: Span(10) };

fn rule(aggregates: &[(Function, Option<&str>)]) -> Native {
    let fields = [
        ("i", Kind::Integer, false),
        ("j", Kind::Integer, false),
        ("n", Kind::Number, false),
        ("s", Kind::String, false),
    ];
    let mut native = Native::new(World::WindowRule, &fields);
    native.plan.aggregates = aggregates
        .iter()
        .map(|&(function, field)| Aggregate {
            name: "a".into(),
            function,
            field: field.map(String::from),
            limit: if matches!(function, Function::Distinct | Function::TopK) { 3 } else { 0 },
        })
        .collect();
    native.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        for row in 0..panes.len() as u32 {
            push(output, panes.keys.data.len(), row, 0, b"pane");
            if panes.keys.get(row as usize) == b"b" {
                output.rejects.push(Reject { row, code: "no".into(), detail: "not b".into(), place: None });
            }
        }
        Ok(())
    }));
    native
}

fn fold() -> Native {
    let mut native = Native::new(World::WindowFold, &[]);
    native.evaluate = rule(&[]).evaluate;
    native.fold = Some(Arc::new(|_, groups: &Groups, folded: &mut Folded| {
        (0..groups.member_ends.len()).for_each(|group| folded.states.push(&[groups.states.get(group), b"+"].concat()));
        Ok(())
    }));
    native
}

/// Sets a timer 5 ms behind each event, and tells what happens; a timer at a multiple of 50 is rejected.
fn reducer() -> Native {
    let mut native = Native::new(World::Reducer, &[]);
    native.reduce = Some(Arc::new(|events: &Events, groups: &Groups, reduced: &mut Reduced| {
        *reduced = Reduced::default();
        let (mut member, mut timer) = (0, 0);
        let input = events.data.len();
        let mut output = Vec::new();
        for group in 0..groups.member_ends.len() {
            for &row in &groups.members[member..groups.member_ends[group] as usize] {
                output.push((row, "event"));
                reduced.timers.push((group as u32, events.timestamps[row as usize] + 5));
            }
            for &at in &groups.timers[timer..groups.timer_ends[group] as usize] {
                let source = (events.len() + group) as u32;
                output.push((source, "timer"));
                if at % 50 == 0 {
                    reduced.output.rejects.push(Reject {
                        row: source,
                        code: "no".into(),
                        detail: "a\nb".into(),
                        place: None,
                    });
                }
            }
            (member, timer) = (groups.member_ends[group] as usize, groups.timer_ends[group] as usize);
            reduced.changes.push(Change::Replace);
            reduced.states.push(b"state");
        }
        output.sort_by_key(|(source, _)| *source);
        output.iter().for_each(|(source, text)| push(&mut reduced.output, input, *source, 0, text.as_bytes()));
        Ok(())
    }));
    native
}

/// Two keys in two slices, and one that is late by far.
fn samples() -> Vec<String> {
    let full = r#","i":-300,"n":0.5,"s":"x""#;
    vec![event("a", 0, full), event("b", 1, ""), event("a", 12, r#","i":7,"n":2,"s":"y""#), event("a", 3, full)]
}

fn states() -> Vec<(&'static str, Setup)> {
    let single = |function, field| Setup::new(vec![rule(&[(function, field)])]).window(SLIDING, 0, 0);
    let mut transform = Native::new(World::Transform, &[]);
    transform.process = Some(Arc::new(|_, _, _| Ok(())));
    let dedupe = Some(Dedupe { id: Key::Field(vec!["t".into()]), ttl: Span(1000) });
    let before_stages = Setup { order: EventOrder::EventTime, dedupe, delay: 9, ..Setup::new(vec![transform.clone()]) };
    vec![
        ("order, dedupe", before_stages),
        ("transform", Setup::new(vec![transform])),
        ("count", single(Function::Count, None)),
        ("count of a field", single(Function::Count, Some("s"))),
        ("sum of integers", single(Function::Sum, Some("i"))),
        ("sum of numbers", single(Function::Sum, Some("n"))),
        ("min of integers", single(Function::Min, Some("i"))),
        ("min of numbers", single(Function::Min, Some("n"))),
        ("max of integers", single(Function::Max, Some("i"))),
        ("max of numbers", single(Function::Max, Some("n"))),
        ("distinct texts", single(Function::Distinct, Some("s"))),
        ("distinct integers", single(Function::Distinct, Some("i"))),
        ("distinct numbers", single(Function::Distinct, Some("n"))),
        ("top texts", single(Function::TopK, Some("s"))),
        ("top integers", single(Function::TopK, Some("i"))),
        ("corrections", Setup::new(vec![rule(&[(Function::Count, None)])]).window(TUMBLING, 100, 0)),
        ("fold", Setup::new(vec![fold()]).window(SLIDING, 0, 0)),
        ("reducer", Setup::new(vec![reducer()])),
        ("reducer with a time to live", Setup { ttl: Some(50), ..Setup::new(vec![reducer()]) }),
    ]
}

#[test]
fn state_is_stored_so() {
    let mut got = String::new();
    for (name, setup) in states() {
        let setup = Setup { hash_key: Some(HashKey(*b"0123456789abcdef")), ..setup };
        let (_, delta, snapshot) = run(&setup, &samples(), false);
        writeln!(got, "{name}\n  delta    {delta}\n  snapshot {snapshot}").unwrap();
    }
    check("state", &got, include_str!("golden/state.txt"));
}

#[test]
fn records_are_stored_so() {
    let mut got = String::new();
    for (name, setup, events) in [
        (
            "a transform: output, dead letters of the source and of a stage",
            Setup::new(vec![forward()]),
            vec![event("a", 0, ""), "no json".to_owned(), event("b", 0, ""), r#"{"k":"a"}"#.to_owned()],
        ),
        (
            "a transform: headers, a tombstone, a dead letter of a place",
            Setup::new(vec![speaking()]),
            vec![event("a", 0, ""), event("b", 0, ""), event("c", 0, "")],
        ),
        (
            "a rule: panes, a correction, a late event, a dead letter of a pane",
            Setup::new(vec![rule(&[(Function::Count, None)])]).window(TUMBLING, 20, 0),
            vec![
                event("a/b", 0, ""),
                event("b", 0, ""),
                event("a/b", 15, ""),
                event("a/b", 1, ""),
                event("a/b", 50, ""),
                event("a/b", 1, ""),
            ],
        ),
        (
            "an order: what is released, a late event",
            Setup { order: EventOrder::EventTime, delay: 5, ..Setup::new(vec![forward()]) },
            vec![event("a", 2, ""), event("c", 0, ""), event("a", 9, ""), event("a", 3, "")],
        ),
        (
            "a reducer: output, timer, dead letter of a timer",
            Setup::new(vec![reducer()]),
            vec![event("a b", 45, ""), event("c", 60, "")],
        ),
    ] {
        let (records, ..) = run(&setup, &events, true);
        writeln!(got, "== {name}\n{records}").unwrap();
    }
    check("records", &got, include_str!("golden/records.txt"));
}

/// Forwards everything but the events of `b`.
fn forward() -> Native {
    let mut native = Native::new(World::Transform, &[]);
    native.process = Some(Arc::new(|_, events: &Events, output: &mut Output| {
        for row in 0..events.len() {
            if events.key(row) == b"b" {
                output.rejects.push(Reject { row: row as u32, code: "no".into(), detail: "not b".into(), place: None });
            } else {
                output.rows.push(row as u32);
                output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
            }
        }
        Ok(())
    }));
    native
}

/// Gives `a` a header, deletes the key `b`, and refuses a place of anything else.
fn speaking() -> Native {
    let mut native = Native::new(World::Transform, &[]);
    native.process = Some(Arc::new(|_, events: &Events, output: &mut Output| {
        for row in 0..events.len() as u32 {
            let block: &[u8] = if events.key(row as usize) == b"a" { b"Currency: EUR\r\n" } else { b"" };
            match events.key(row as usize) {
                b"a" => push(output, events.data.len(), row, 0, b"said"),
                b"b" => {
                    output.deletes.push(output.rows.len() as u32);
                    push(output, events.data.len(), row, 0, b"");
                }
                _ => {
                    let place = Some("/a~1b/0".to_owned());
                    output.rejects.push(Reject { row, code: "no".into(), detail: "not that".into(), place });
                    continue;
                }
            }
            output.headers.extend_from_slice(block);
            output.header_ends.push(output.headers.len() as u32);
        }
        Ok(())
    }));
    native
}

#[test]
fn a_gap_is_recorded_so() {
    let mut engine = Setup::new(vec![forward()]).engine();
    let mut effects = Effects::default();
    engine.skip_gap(1, 7, &mut effects);
    let row = &effects.records.rows[0];
    let part = |range| String::from_utf8_lossy(effects.records.slice(range)).into_owned();
    assert_eq!((part(&row.subject), part(&row.payload)), ("dlq.source.gap".into(), r#"{"first":1,"last":7}"#.into()));
    assert!(part(&row.headers).contains("\r\nPelton-Dlq-Class: gap\r\nPelton-Dlq-Code: gap\r\n"));
}

/// State of another shape cannot be read, so everything that makes its shape is part of the layout: a host that finds
/// another one than its own halts.
#[test]
fn whatever_shapes_the_state_makes_another_layout() {
    let base = || Setup::new(vec![rule(&[(Function::Count, None)])]).window(SLIDING, 0, 0);
    let mut newer = base();
    newer.guests[0].descriptor.identity.state_version = 2;
    let other = |kind| base().window(kind, 0, 0);
    let aggregates = |all: &[(Function, Option<&str>)]| Setup::new(vec![rule(all)]).window(SLIDING, 0, 0);
    let mut wider = base();
    wider.guests[0].plan.aggregates = vec![Aggregate { limit: 4, field: Some("s".into()), ..distinct() }];
    let mut narrower = base();
    narrower.guests[0].plan.aggregates = vec![Aggregate { limit: 3, field: Some("s".into()), ..distinct() }];
    let mut renamed = aggregates(&[(Function::Max, Some("i"))]);
    renamed.guests[0].plan.aggregates[0].name = "b".into();
    let mut derived = aggregates(&[(Function::Max, Some("d"))]);
    derived.guests[0].plan.derived = vec![Field { name: "d".into(), kind: Kind::Integer, need: Need::Optional }];
    let setups = [
        base(),
        newer,
        other(TUMBLING),
        other(WindowKind::Global),
        other(WindowKind::Sliding { size: Span(50), slide: Span(10) }),
        other(WindowKind::Sliding { size: Span(40), slide: Span(20) }),
        aggregates(&[(Function::Sum, Some("i"))]),
        aggregates(&[(Function::Sum, Some("n"))]),
        aggregates(&[(Function::Count, None), (Function::Count, None)]),
        wider,
        narrower,
        // The same bytes, and another meaning.
        aggregates(&[(Function::Count, Some("i"))]),
        aggregates(&[(Function::Min, Some("i"))]),
        aggregates(&[(Function::Max, Some("i"))]),
        aggregates(&[(Function::Max, Some("j"))]),
        renamed,
        derived,
        Setup::new(vec![fold()]).window(SLIDING, 0, 0),
        Setup::new(vec![reducer()]),
        Setup::new(vec![forward()]),
    ];
    let layout =
        |setup: &Setup| -> Vec<u64> { setup.engine().sections().iter().map(|section| section.layout).collect() };
    let mut layouts: Vec<Vec<u64>> = setups.iter().map(layout).collect();
    layouts.sort_unstable();
    layouts.dedup();
    assert_eq!(layouts.len(), setups.len(), "two shapes have one layout");
    // What does not shape it may change under the state.
    let same = [
        base().window(SLIDING, 90, 70),
        Setup::new(vec![forward(), rule(&[(Function::Count, None)])]).window(SLIDING, 0, 0),
    ];
    same.iter().for_each(|setup| assert_eq!(layout(setup), layout(&base())));
}

/// It lies beside the state, and its hash in every marker: nothing in it may follow the code.
#[test]
fn layouts_are_spelled_so() {
    let mut got = String::new();
    for (name, setup) in states() {
        spell(name, &setup, &mut got);
    }
    let mut derived = Setup::new(vec![rule(&[(Function::TopK, Some("d"))])]).window(WindowKind::Global, 0, 0);
    derived.guests[0].plan.derived = vec![Field { name: "d".into(), kind: Kind::Boolean, need: Need::Optional }];
    spell("derived", &derived, &mut got);
    check("layouts", &got, include_str!("golden/layouts.txt"));
}

/// With a snapshot at hand both sides of a difference are told, without one only the new side.
#[test]
fn another_layout_is_explained() {
    let counting = |kind| Setup::new(vec![rule(&[(Function::Count, None)])]).window(kind, 0, 0).engine();
    let (before, now) = (counting(WindowKind::Global), counting(SLIDING));
    let source = &before.plan().source;
    let fields = MarkerFields {
        partitions: source.partitions,
        key: source.key.to_string(),
        sections: before.sections(),
        ..MarkerFields::default()
    };
    let marker = Marker::new(fields);
    let stored = |(section, layout): (Section, &str)| SnapshotSection {
        name: section.name,
        operator: section.operator,
        layout: section.layout,
        layout_text: layout.to_owned(),
        parts: Vec::new(),
    };
    let sections = before.sections().into_iter().zip(before.layouts()).map(stored).collect();
    let snapshot = Manifest { marker: marker.clone(), sequence: 1, sections };
    assert_eq!(is_compatible(&marker, 0, &before, Some(&snapshot)), Ok(()));
    let told = |snapshot| is_compatible(&marker, 0, &now, snapshot).expect_err("another window").evidence;
    let (name, old, new) = (&before.sections()[1].name, before.layouts()[1], now.layouts()[1]);
    assert!(told(None).ends_with(&format!(": `{name}` was another window-rule and is now {new}")), "{}", told(None));
    let told = told(Some(&snapshot));
    assert!(told.ends_with(&format!(": `{name}` was {old} and is now {new}")), "{told}");

    // Other stages, and the same in another order.
    let counting = || rule(&[(Function::Count, None)]);
    let two = Setup::new(vec![counting(), counting()]).window(WindowKind::Global, 0, 0).engine();
    let sections = Engine::sections;
    let told = |found: Vec<Section>, engine: &Engine| {
        let fields = MarkerFields {
            sections: found,
            partitions: source.partitions,
            key: source.key.to_string(),
            ..MarkerFields::default()
        };
        is_compatible(&Marker::new(fields), 0, engine, None).expect_err("other stages").evidence
    };
    assert!(told(sections(&before), &two).ends_with(": `s1` (window-rule) is new"));
    assert!(told(sections(&two), &before).ends_with(": `s1` (window-rule) is gone"));
    let mut turned = sections(&two);
    turned.swap(1, 2);
    assert!(told(turned, &two).ends_with(": its order is `core`, `s1`, `s0` and is now `core`, `s0`, `s1`"));
}

fn spell(name: &str, setup: &Setup, out: &mut String) {
    let engine = setup.engine();
    writeln!(out, "{name}").unwrap();
    for (section, layout) in engine.sections().iter().zip(engine.layouts()) {
        writeln!(out, "  {} {:016x} {layout}", section.name, section.layout).unwrap();
    }
}

fn distinct() -> Aggregate {
    Aggregate { name: "a".into(), function: Function::Distinct, field: None, limit: 0 }
}
