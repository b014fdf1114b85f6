//! Transforms in a row: what becomes of every event, whatever modules do to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use pelton_engine::event::{Kind, Need, Values};
use pelton_engine::guest::*;
use pelton_engine::judge::StepError;

use crate::cuts::{RECORD_BYTES, any_cuts, any_room};
use crate::kit::{Cuts, NOW, Native, Setup, drive, push};

/// What a transform does with an event is its `op`: per stage one letter, the last one stays.
///
/// `f` forwards, `d` drops, `r` rejects, `s` splits in two new payloads, `n` makes one new payload, `p` routes to the
/// side port, `b` breaks the payload, `m` drops a field that the next stage needs, `t` traps, `l` is slow but fine,
/// `u` burns fuel, `c` breaks the contract, `z` gives more records than fit, `o` one to the side that is too large.
fn transform(stage: usize, needs: bool) -> Native {
    let mut native = Native::new(World::Transform, &[("op", Kind::String, true), ("own", Kind::String, needs)]);
    native.process = Some(Arc::new(move |metering, events, output| {
        let Values::Strings(ops) = &events.columns[0].values else { unreachable!() };
        for row in 0..events.len() {
            let op = ops.get(row);
            let letter = op[stage.min(op.len() - 1)];
            let text = String::from_utf8_lossy(op);
            let new = |mark: &str| format!(r#"{{"op":"{text}","own":"{stage}{mark}"}}"#).into_bytes();
            let source = row as u32;
            let input = events.data.len();
            match letter {
                b'f' | b'l' if letter == b'f' || metering == Metering::Fuel => {
                    output.rows.push(source);
                    output.ports.push(0);
                    output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
                }
                b'd' => {}
                b'r' => output.rejects.push(Reject {
                    row: source,
                    code: "bad".into(),
                    detail: "a\r\nb".into(),
                    place: None,
                }),
                b's' => {
                    push(output, input, source, 0, &new("a"));
                    push(output, input, source, 0, &new("b"));
                }
                b'n' => push(output, input, source, 0, &new("n")),
                b'p' => push(output, input, source, 1, &new("p")),
                b'b' => push(output, input, source, 0, b"{"),
                b'm' => push(output, input, source, 0, br#"{"own":"x"}"#),
                b't' => return Err(Fault::Trap("asked to".into())),
                b'u' if metering == Metering::Fuel => return Err(Fault::Fuel),
                b'l' | b'u' => return Err(Fault::Timeout),
                b'c' => return Err(Fault::Contract("offsets".into())),
                b'z' => (0..6).for_each(|_| push(output, input, source, 1, b"z")),
                b'o' => push(output, input, source, 1, &[b'o'; RECORD_BYTES]),
                b'R' => return Err(Fault::Retry("later".into())),
                b'H' => return Err(Fault::Halt("sum".into())),
                other => unreachable!("{other}"),
            }
        }
        // Bytes of records of a row lie one after the other; sources never descend.
        Ok(())
    }));
    native
}

/// What must come of one event: its records in order.
fn expected(payload: &str, op: &str, stages: usize, records_max: usize) -> Vec<String> {
    // Payloads that are still on their way.
    let mut flows = vec![payload.to_string()];
    let mut by_stage: Vec<Vec<String>> = Vec::new();
    let mut too_large = None;
    for stage in 0..stages {
        let letter = op.as_bytes()[stage.min(op.len() - 1)];
        let is_last = stage + 1 == stages;
        let new = |mark: &str| format!(r#"{{"op":"{op}","own":"{stage}{mark}"}}"#);
        let (mut next, mut rows) = (Vec::new(), Vec::new());
        for flow in &flows {
            match letter {
                b'f' | b'l' => next.push(flow.clone()),
                b'r' => rows.push(format!("dlq.s{stage}.bad {payload}")),
                b's' => next.extend([new("a"), new("b")]),
                b'n' => next.push(new("n")),
                b'p' => rows.push(format!("out.{stage}-1 {}", new("p"))),
                b't' => rows.push(format!("dlq.s{stage}.trap {payload}")),
                b'u' => rows.push(format!("dlq.s{stage}.limit-fuel {payload}")),
                b'c' => rows.push(format!("dlq.s{stage}.contract-violation {payload}")),
                b'z' => rows.extend((0..6).map(|_| format!("out.{stage}-1 z"))),
                b'o' => drop(too_large.get_or_insert(stage)),
                b'b' if is_last => next.push("{".into()),
                b'm' if is_last => next.push(r#"{"own":"x"}"#.into()),
                b'b' => rows.push(format!("dlq.s{}.json-syntax {payload}", stage + 1)),
                b'm' => rows.push(format!("dlq.s{}.field-missing {payload}", stage + 1)),
                _ => {}
            }
        }
        if is_last {
            rows.extend(next.iter().map(|flow| format!("out.{stage}-0 {flow}")));
        }
        flows = next;
        by_stage.push(rows);
    }
    let rows: Vec<String> = by_stage.concat();
    // One fate: a dead event leaves its first letter, and nothing that other stages have made of it.
    if let Some(letter) = rows.iter().find(|row| row.starts_with("dlq.")) {
        return vec![letter.clone()];
    }
    if let Some(stage) = too_large {
        return vec![format!("dlq.s{stage}.record-size {payload}")];
    }
    if rows.len() > records_max { vec![format!("dlq.pipeline.too-many-records {payload}")] } else { rows }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_event_gets_what_it_deserves(
        ops in prop::collection::vec("[fffffdrsnpbmtluczo]{3}", 0..40),
        stages in 1..4usize,
        cuts in any_cuts(),
        room in any_room(),
    ) {
        let mut setup = Setup::new((0..stages).map(|stage| transform(stage, false)).collect());
        setup.room = room;
        let payload = |(idx, op): (usize, &String)| format!(r#"{{"k":"a","t":{},"op":"{op}","idx":{idx}}}"#, NOW + idx as i64);
        let events: Vec<String> = ops.iter().enumerate().map(payload).collect();
        let outcome = drive(&setup, &events, &cuts).unwrap();
        let mut dead = 0;
        let mut filtered = 0;
        let mut all = Vec::new();
        for (event, op) in events.iter().zip(&ops) {
            let rows = expected(event, op, stages, room.records);
            dead += u64::from(rows.iter().any(|row| row.starts_with("dlq.")));
            filtered += u64::from(rows.is_empty());
            all.extend(rows);
        }
        for (got, expected) in outcome.rows.iter().zip(&all) {
            prop_assert_eq!(got, expected);
        }
        prop_assert_eq!(outcome.rows.len(), all.len());
        let totals = outcome.totals;
        prop_assert_eq!((totals.dead, totals.filtered, totals.late), (dead, filtered, 0));
        for (row, headers) in outcome.rows.iter().zip(&outcome.headers) {
            let name = if row.starts_with("dlq.") { "Pelton-Dlq-Code: " } else { "Pelton-Id: " };
            prop_assert!(headers.contains(name) && headers.ends_with("\r\n"), "{}", headers);
            prop_assert!(headers.lines().all(|line| line.contains(": ")), "{}", headers);
        }
    }
}

#[test]
fn environment_and_integrity_faults_stop_the_step() {
    let setup = Setup::new(vec![transform(0, false)]);
    let event = |op: &str| format!(r#"{{"k":"a","t":{NOW},"op":"{op}"}}"#);
    let run = |ops: &[&str]| drive(&setup, &ops.iter().map(|op| event(op)).collect::<Vec<_>>(), &Cuts::default());
    assert_eq!(run(&["f", "R", "f"]), Err(StepError::Retry { stage: "s0".into(), reason: "later".into() }));
    assert_eq!(run(&["f", "H"]), Err(StepError::Halt { stage: "s0".into(), reason: "sum".into() }));
}

/// What only an earlier stage reads need not be in the records that it makes.
#[test]
fn a_record_is_read_for_later_stages_only() {
    let mut first = Native::new(World::Transform, &[("raw", Kind::String, true), ("both", Kind::Integer, true)]);
    first.process = Some(Arc::new(|_, events, output| {
        (0..events.len()).for_each(|row| push(output, events.data.len(), row as u32, 0, br#"{"raw":5,"op":"f"}"#));
        Ok(())
    }));
    let mut second = transform(1, false);
    second.descriptor.shape.fields.push(pelton_engine::event::Field {
        name: "both".into(),
        kind: Kind::Integer,
        need: Need::Optional,
    });
    let events = [format!(r#"{{"k":"a","t":{NOW},"raw":"x","both":1,"op":"f"}}"#)];
    let outcome = drive(&Setup::new(vec![first, second]), &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.rows, [r#"out.1-0 {"raw":5,"op":"f"}"#]);
}

/// A rule behind a transform that splits, with `extract`: samples follow their rows, also past an event that is
/// refused whole.
#[test]
fn extracted_samples_follow_their_rows() {
    use pelton_engine::plan::WindowKind;
    use pelton_engine::time::Span;
    let mut rule = Native::new(World::WindowRule, &[("op", Kind::String, true)]);
    rule.plan = Aggregation {
        aggregates: vec![Aggregate {
            name: "sum".into(),
            function: Function::Sum,
            field: Some("twice".into()),
            limit: 0,
        }],
        derived: vec![pelton_engine::event::Field { name: "twice".into(), kind: Kind::Integer, need: Need::Required }],
        thresholds: Vec::new(),
        filters: false,
    };
    // Two samples of 10 and 1 per row; rows of a `d` give none.
    rule.extract = Some(Arc::new(|events, samples| {
        let Values::Strings(ops) = &events.columns[0].values else { unreachable!() };
        let mut values = Vec::new();
        for row in (0..events.len()).filter(|&row| !ops.get(row).starts_with(b"d")) {
            samples.rows.extend([row as u32; 2]);
            values.extend([10, 1]);
        }
        samples.columns = vec![pelton_engine::event::Column {
            missing: Vec::new(),
            unlike: Vec::new(),
            values: Values::Integers(values),
        }];
        Ok(())
    }));
    rule.evaluate = Some(Arc::new(|panes: &Panes, _: &States, output: &mut Output| {
        let AggregateData::Integers(sums) = &panes.values[0].data else { unreachable!() };
        for (row, sum) in sums.iter().enumerate() {
            push(output, panes.keys.data.len(), row as u32, 0, format!("{sum}").as_bytes());
        }
        Ok(())
    }));
    let mut split = Native::new(World::Transform, &[("op", Kind::String, true), ("count", Kind::Integer, true)]);
    split.descriptor.shape.payload = true;
    split.process = Some(Arc::new(|_: Metering, events: &pelton_engine::event::Events, output: &mut Output| {
        let Values::Integers(counts) = &events.columns[1].values else { unreachable!() };
        for (row, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                push(output, events.data.len(), row as u32, 0, events.payload(row));
            }
        }
        Ok(())
    }));
    let mut setup = Setup::new(vec![split, rule]).window(WindowKind::Tumbling { size: Span(1000) }, 0, 0);
    setup.room.records = 5;
    let event = |key: &str, op: &str, count: i64| format!(r#"{{"k":"{key}","t":{NOW},"op":"{op}","count":{count}}}"#);
    let events = [event("a", "f", 2), event("b", "f", 9), event("c", "f", 1), event("a", "d", 3), event("a", "f", 1)];
    let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
    let refused = format!("dlq.pipeline.too-many-records {}", events[1]);
    assert_eq!(outcome.rows, [refused.as_str(), "out.1-0 33", "out.1-0 11"]);
    let fates = BTreeMap::from([
        ("dead", outcome.totals.dead),
        ("filtered", outcome.totals.filtered),
        ("processed", outcome.totals.processed),
    ]);
    assert_eq!(fates, BTreeMap::from([("dead", 1), ("filtered", 1), ("processed", 3)]));
}

/// A module may hand on a piece of what it was given, by its place in the input.
#[test]
fn a_piece_of_the_input_is_handed_on() {
    let mut cut = Native::new(World::Transform, &[]);
    cut.descriptor.shape.payload = true;
    cut.process = Some(Arc::new(|_, events, output| {
        for row in 0..events.len() {
            let start = events.ends[2 * row];
            output.rows.push(row as u32);
            output.slices.extend([start + 2, 1, start, 6]);
        }
        Ok(())
    }));
    let events = [format!(r#"{{"k":"a","t":{NOW}}}"#), format!(r#"{{"k":"b","t":{NOW}}}"#)];
    let outcome = drive(&Setup::new(vec![cut]), &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.rows, [r#"out.0-0 {"k":""#, r#"out.0-0 {"k":""#]);
    assert!(outcome.headers.iter().all(|headers| headers.contains("\r\nPelton-Key: k\r\n")), "{:?}", outcome.headers);
}

/// Stages of a pipeline read what they declare, whatever the stage before has read.
#[test]
fn stages_read_fields_of_different_kinds() {
    let forward = |field: (&str, Kind, bool)| {
        let mut native = Native::new(World::Transform, &[field]);
        native.process = Some(Arc::new(|_, events, output| {
            for row in 0..events.len() {
                output.rows.push(row as u32);
                output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
            }
            Ok(())
        }));
        native
    };
    let fields = [("s", Kind::String, true), ("n", Kind::Integer, true), ("b", Kind::Boolean, true)];
    let events = [format!(r#"{{"k":"a","t":{NOW},"s":"text","n":7,"b":true}}"#)];
    let outcome = drive(&Setup::new(fields.map(forward).to_vec()), &events, &Cuts::default()).unwrap();
    assert_eq!(outcome.rows, [format!("out.2-0 {}", events[0])]);
}
