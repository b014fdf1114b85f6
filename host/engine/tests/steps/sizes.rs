//! Records that no broker takes, and events that are as large as one: each costs its own event, pane or timer, and
//! nothing of that has happened otherwise.

use std::sync::Arc;

use pelton_engine::effects::{Effects, Room};
use pelton_engine::event::{Events, Kind, RawBatch, Values};
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;
use pelton_engine::step::{Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::cuts::{RECORD_BYTES, small_records};
use crate::kit::{Cuts, NOW, Native, Outcome, Restart, Setup, drive, push};

const WINDOW: i64 = 1000;

/// Field 0 of each row.
fn ops(events: &Events) -> impl Iterator<Item = (u32, String)> {
    let Values::Strings(ops) = &events.columns[0].values else { unreachable!() };
    (0..ops.ends.len()).map(|row| (row as u32, String::from_utf8_lossy(ops.get(row)).into_owned()))
}

/// Forwards every event; with `side` in its `op` a small record to the side as well, with `huge` a too large one.
fn splitter() -> Native {
    let mut native = Native::new(World::Transform, &[("op", Kind::String, true)]);
    native.process = Some(Arc::new(|_, events: &Events, output: &mut Output| {
        for (row, op) in ops(events) {
            output.rows.push(row);
            output.ports.push(0);
            output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
            if op.contains("side") {
                push(output, events.data.len(), row, 1, b"side");
            }
            if op.contains("huge") {
                push(output, events.data.len(), row, 1, &vec![b'h'; RECORD_BYTES]);
            }
        }
        Ok(())
    }));
    native
}

/// Writes `count KEY` per pane; for key `big` too much.
fn panes(panes: &Panes, _: &States, output: &mut Output) -> Result<(), Fault> {
    for row in 0..panes.len() {
        let key = String::from_utf8_lossy(panes.keys.get(row)).into_owned();
        push(output, panes.keys.data.len(), row as u32, 0, format!("first {key}").as_bytes());
        let second = if key == "big" { "b".repeat(RECORD_BYTES) } else { format!("second {key}") };
        push(output, panes.keys.data.len(), row as u32, 0, second.as_bytes());
    }
    Ok(())
}

fn counting_rule() -> Native {
    let mut native = Native::new(World::WindowRule, &[]);
    native.plan.aggregates = vec![Aggregate { name: "count".into(), function: Function::Count, field: None, limit: 0 }];
    native.evaluate = Some(Arc::new(|all: &Panes, states: &States, output: &mut Output| {
        let AggregateData::Integers(counts) = &all.values[0].data else { unreachable!() };
        for (row, count) in counts.iter().enumerate() {
            push(output, all.keys.data.len(), row as u32, 1, format!("{count}").as_bytes());
        }
        let mut texts = Output::default();
        panes(all, states, &mut texts)?;
        append(output, all.keys.data.len(), &texts)
    }));
    native
}

/// Puts records behind others, in order of their sources.
fn append(output: &mut Output, input: usize, more: &Output) -> Result<(), Fault> {
    let mut all: Vec<(u32, u8, Vec<u8>)> = Vec::new();
    for part in [&*output, more] {
        for (idx, &source) in part.rows.iter().enumerate() {
            let (start, len) = (part.slices[4 * idx + 2] as usize - input, part.slices[4 * idx + 3] as usize);
            all.push((source, part.ports[idx], part.data[start..start + len].to_vec()));
        }
    }
    all.sort_by_key(|(source, ..)| *source);
    *output = Output::default();
    all.iter().for_each(|(source, port, payload)| push(output, input, *source, *port, payload));
    Ok(())
}

fn counting_fold() -> Native {
    let mut native = Native::new(World::WindowFold, &[]);
    native.fold = Some(Arc::new(|_, groups: &Groups, folded: &mut Folded| {
        let mut start = 0;
        for (group, &end) in groups.member_ends.iter().enumerate() {
            folded.states.push(&[groups.states.get(group), &vec![b'+'; (end - start) as usize]].concat());
            start = end;
        }
        Ok(())
    }));
    native.evaluate = Some(Arc::new(|all: &Panes, states: &States, output: &mut Output| {
        for row in 0..all.len() {
            let count = states.get(row).len();
            push(output, all.keys.data.len(), row as u32, 1, format!("{count}").as_bytes());
        }
        let mut texts = Output::default();
        panes(all, states, &mut texts)?;
        append(output, all.keys.data.len(), &texts)
    }));
    native
}

fn event(key: &str, time: i64, op: &str) -> String {
    format!(r#"{{"k":"{key}","t":{},"op":"{op}"}}"#, NOW + time)
}

/// Every way to cut a few events; each must come out the same.
fn cuts() -> Vec<Cuts> {
    let restarts = vec![Restart::FromDeltas, Restart::Snapshot, Restart::FromSnapshot];
    vec![
        Cuts::default(),
        Cuts { batches: vec![1], ..Cuts::default() },
        Cuts { batches: vec![2, 1], steps: vec![1], restarts },
    ]
}

fn same_however_cut(setup: &Setup, events: &[String]) -> Outcome {
    let mut outcomes = cuts().into_iter().map(|cuts| drive(setup, events, &cuts).unwrap());
    let first = outcomes.next().unwrap();
    for other in outcomes {
        assert_eq!((&other.rows, &other.headers, &other.totals), (&first.rows, &first.headers, &first.totals));
    }
    first
}

/// An event with one record that is too large has no other record, and counts in no window.
#[test]
fn an_event_with_a_record_that_is_too_large_reaches_no_window() {
    for tail in [counting_rule(), counting_fold()] {
        let mut setup = Setup::new(vec![splitter(), tail]).window(WindowKind::Tumbling { size: Span(WINDOW) }, 0, 0);
        setup.room = small_records();
        let events = [event("a", 0, "side"), event("a", 1, "side huge"), event("b", 2, "huge"), event("a", 3, "none")];
        let outcome = same_however_cut(&setup, &events);
        let expected = [
            "out.0-1 side".to_owned(),
            format!("dlq.s0.record-size {}", events[1]),
            format!("dlq.s0.record-size {}", events[2]),
            "out.1-1 2".to_owned(),
            "out.1-0 first a".to_owned(),
            "out.1-0 second a".to_owned(),
        ];
        assert_eq!(outcome.rows, expected);
        assert_eq!((outcome.totals.processed, outcome.totals.dead), (2, 2));
        assert!(outcome.headers[1].contains("Pelton-Dlq-Class: limit\r\n"), "{}", outcome.headers[1]);
        assert!(outcome.headers[1].contains("output `0-1` has 16384 bytes"), "{}", outcome.headers[1]);
        assert!(outcome.headers[1].contains(&format!("Pelton-Dlq-Module: {}", "07".repeat(32))));
    }
}

/// A pane with one record that is too large has no other; the panes beside it have theirs, and it fires once.
#[test]
fn a_pane_with_a_record_that_is_too_large_is_one_letter() {
    for tail in [counting_rule(), counting_fold()] {
        let mut setup = Setup::new(vec![tail]).window(WindowKind::Tumbling { size: Span(WINDOW) }, 0, 0);
        setup.room = small_records();
        let events = ["a", "big", "c"].map(|key| event(key, 0, ""));
        let outcome = same_however_cut(&setup, &events);
        let pane = format!(
            r#"{{"key":"big","pane_index":0,"pane_timing":"on-time","window_end":{},"window_start":{NOW}}}"#,
            NOW + WINDOW
        );
        let letter = format!("dlq.s0.record-size {pane}");
        let of = |key: &str| ["out.0-1 1".to_owned(), format!("out.0-0 first {key}"), format!("out.0-0 second {key}")];
        assert_eq!(outcome.rows, [&of("a")[..], &[letter], &of("c")[..]].concat());
    }
}

/// An event whose reducer writes too much has changed no state, and what a transform made of it is not there either.
#[test]
fn a_reducer_that_writes_too_much_has_changed_nothing() {
    let mut reducer = Native::new(World::Reducer, &[("op", Kind::String, true)]);
    reducer.reduce = Some(Arc::new(|events: &Events, groups: &Groups, reduced: &mut Reduced| {
        *reduced = Reduced::default();
        let all: Vec<(u32, String)> = ops(events).collect();
        let mut start = 0;
        for (group, &end) in groups.member_ends.iter().enumerate() {
            let mut state = groups.states.get(group).to_vec();
            for &row in &groups.members[start..end as usize] {
                state.push(b'+');
                push(&mut reduced.output, events.data.len(), row, 0, &state);
                if all[row as usize].1.contains("much") {
                    push(&mut reduced.output, events.data.len(), row, 0, &vec![b'm'; RECORD_BYTES]);
                }
            }
            start = end as usize;
            reduced.changes.push(Change::Replace);
            reduced.states.push(&state);
        }
        Ok(())
    }));
    let mut setup = Setup::new(vec![splitter(), reducer]);
    setup.room = small_records();
    let ops = ["side", "side much", "side huge", "none", "much", "much", "side"];
    let events: Vec<String> = ops.iter().enumerate().map(|(time, op)| event("a", time as i64, op)).collect();
    let outcome = same_however_cut(&setup, &events);
    let expected = [
        "out.0-1 side".to_owned(),
        "out.1-0 +".to_owned(),
        format!("dlq.s1.record-size {}", events[1]),
        format!("dlq.s0.record-size {}", events[2]),
        "out.1-0 ++".to_owned(),
        format!("dlq.s1.record-size {}", events[4]),
        format!("dlq.s1.record-size {}", events[5]),
        "out.0-1 side".to_owned(),
        "out.1-0 +++".to_owned(),
    ];
    assert_eq!(outcome.rows, expected);
    assert_eq!((outcome.totals.processed, outcome.totals.dead), (3, 4));
    // The transform's record and the reducer's are two records of one event.
    assert_eq!(outcome.ids()[..2], ["p/0/1/s0/0", "p/0/1/s1/0"]);
}

/// One event gives 17 records of a megabyte, another 16: the first is refused whole, the second is not.
#[test]
fn what_one_event_brings_about_fits_into_one_epoch() {
    const RECORD: usize = 1_000_000;
    let mut native = Native::new(World::Transform, &[("n", Kind::Integer, true)]);
    native.process = Some(Arc::new(|_, events: &Events, output: &mut Output| {
        let Values::Integers(counts) = &events.columns[0].values else { unreachable!() };
        for (row, &count) in counts.iter().enumerate() {
            (0..count).for_each(|_| push(output, events.data.len(), row as u32, 0, &vec![b'x'; RECORD]));
        }
        Ok(())
    }));
    let setup = Setup::new(vec![native]);
    let events: Vec<String> = [16, 17, 3, 16].map(|n| format!(r#"{{"k":"a","t":{NOW},"n":{n}}}"#)).to_vec();
    let mut engine = setup.engine();
    let mut effects = Effects::default();
    let mut batch = RawBatch::default();
    let place = |(idx, event): (usize, &String)| batch.push(idx as u64 + 1, WallTime(NOW), b"", b"", event.as_bytes());
    events.iter().enumerate().for_each(place);
    let mut epochs = Vec::new();
    let mut input = Input::Batch(batch);
    loop {
        let progress = engine.step(input, &mut effects).unwrap();
        if progress != Progress::More {
            assert!(effects.records.data.len() <= setup.room.bytes, "{} bytes", effects.records.data.len());
            epochs.push(effects.records.rows.len());
            effects.clear();
            engine.cut(&mut Vec::new());
        }
        if progress == Progress::NeedInput {
            break;
        }
        input = Input::Continue;
    }
    // 16 and the letter of the second; three; 16.
    assert_eq!(epochs, [17, 3, 16]);
    let outcome = drive(&setup, &events[1..2], &Cuts::default()).unwrap();
    assert_eq!(outcome.rows, [format!("dlq.pipeline.too-many-records {}", events[1])]);
}

/// Rows of one event that are late are told apart, and share the bytes that one event may take.
#[test]
fn late_records_of_one_event_have_ids_of_their_own() {
    let mut copies = Native::new(World::Transform, &[("op", Kind::String, true)]);
    copies.process = Some(Arc::new(|_, events: &Events, output: &mut Output| {
        for (row, op) in ops(events) {
            (0..op.len()).for_each(|_| push(output, events.data.len(), row, 0, b"{}"));
        }
        Ok(())
    }));
    for tail in [counting_rule(), counting_fold()] {
        let setup = Setup::new(vec![copies.clone(), tail]).window(WindowKind::Tumbling { size: Span(WINDOW) }, 0, 0);
        let events = [event("a", 5000, "x"), event("a", 0, "xyz")];
        let outcome = same_however_cut(&setup, &events);
        let late: Vec<&str> = outcome.ids().into_iter().filter(|id| id.contains("late")).collect();
        assert_eq!(late, ["p/0/2/s1/late/0", "p/0/2/s1/late/1", "p/0/2/s1/late/2"]);
        assert_eq!((outcome.totals.late, outcome.totals.processed), (1, 1));
    }
}

/// A key of 70,000 bytes: its records fit, and say that it is shortened.
#[test]
fn a_long_key_costs_nothing_but_its_length() {
    let key = "k".repeat(70_000);
    let events = [event(&key, 0, "side"), event("a", 0, "none")];
    let transform = drive(&Setup::new(vec![splitter()]), &events, &Cuts::default()).unwrap();
    let rule = Setup::new(vec![counting_rule()]).window(WindowKind::Tumbling { size: Span(WINDOW) }, 0, 0);
    let rule = drive(&rule, &events, &Cuts::default()).unwrap();
    for (outcome, records) in [(transform, 3), (rule, 6)] {
        assert_eq!((outcome.rows.len(), outcome.totals.dead), (records, 0), "{:?}", outcome.headers);
        let long: Vec<&String> = outcome.headers.iter().filter(|headers| headers.contains("kkk")).collect();
        assert!(!long.is_empty());
        for headers in long {
            assert!(headers.len() < 1000 && headers.contains("\r\nPelton-Key-Bytes: 70000\r\n"), "{headers}");
        }
    }
}

/// A key that makes a pane's letter: it is named, in bounds.
#[test]
fn a_letter_of_a_pane_with_a_long_key_fits() {
    let mut rule = counting_rule();
    rule.evaluate = Some(Arc::new(|_, _, _| Err(Fault::Trap("asked to".into()))));
    let mut setup = Setup::new(vec![rule]).window(WindowKind::Tumbling { size: Span(WINDOW) }, 0, 0);
    setup.room = small_records();
    let events = [event(&"k".repeat(500_000), 0, ""), event(&"\\u0001".repeat(1000), 0, "")];
    let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
    for (row, headers) in outcome.rows.iter().zip(&outcome.headers) {
        assert!(row.starts_with("dlq.s0.trap {\"key\":\""), "{row}");
        assert!(row.len() + headers.len() < RECORD_BYTES, "{} bytes", row.len());
    }
    assert_eq!(outcome.rows.len(), 2);
}

/// Room without bounds per record, as for files: no sum of it overflows.
#[test]
fn room_without_bounds_is_no_number_to_add_to() {
    let mut setup = Setup::new(vec![splitter()]);
    setup.room = Room {
        records: 1 << 16,
        bytes: 32 << 20,
        bytes_at_once: 32 << 20,
        change_bytes: usize::MAX,
        change_bytes_at_once: usize::MAX,
        record_bytes: usize::MAX,
        header_bytes: usize::MAX,
    };
    let events = [event("a", 0, "side huge"), "no json".repeat(300_000)];
    let outcome = same_however_cut(&setup, &events);
    let sizes: Vec<usize> = outcome.rows.iter().map(|row| row.split_once(' ').unwrap().1.len()).collect();
    assert_eq!(sizes, [events[0].len(), 4, RECORD_BYTES, 2_100_000]);
}

/// Headers that no client reads make an event a dead letter, with both as they were, and the watermark stays.
#[test]
fn an_event_with_unreadable_headers_is_a_dead_letter() {
    let setup = Setup::new(vec![splitter()]);
    let mut engine = setup.engine();
    let mut batch = RawBatch::default();
    let block = b"NATS/1.0\r\nUser: Andr\xe9\r\n\r\n";
    let good = event("a", 0, "none");
    batch.push(1, WallTime(NOW), b"plays", block, event("a", 60_000, "none").as_bytes());
    batch.events[0].unreadable = true;
    batch.push(2, WallTime(NOW), b"plays", b"User: 1\r\n", good.as_bytes());
    let mut effects = Effects::default();
    assert_eq!(engine.step(Input::Batch(batch), &mut effects).unwrap(), Progress::More);
    let text = |idx: usize| {
        let row = &effects.records.rows[idx];
        [&row.subject, &row.headers, &row.payload].map(|part| String::from_utf8_lossy(effects.records.slice(part)))
    };
    let [subject, headers, payload] = text(0);
    assert_eq!((&*subject, &*payload), ("dlq.source.header", event("a", 60_000, "none").as_str()));
    assert!(headers.contains("Pelton-Dlq-Class: decode\r\nPelton-Dlq-Code: header\r\n"), "{headers}");
    assert!(headers.contains("Pelton-Dlq-Message: headers are not UTF-8 at byte 20\r\n"), "{headers}");
    assert!(headers.contains("Pelton-Dlq-Headers: TkFUUy8xLjANClVzZXI6IEFuZHLpDQoNCg==\r\n"), "{headers}");
    assert_eq!((text(1)[0].as_ref(), engine.watermark().0), ("out.0-0", NOW));
    assert_eq!((effects.totals.dead, effects.totals.processed), (1, 1));
}
