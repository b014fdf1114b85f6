//! `dedupe`: an event that repeats another one has no effect, wherever input and epochs are cut, in every kind of stage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use pelton_engine::plan::{Dedupe, EventOrder, Key, WindowKind};
use pelton_engine::time::Span;

use crate::cuts::{any_cuts, any_room};
use crate::fates::{fold, reducer, rule, split, transform};
use crate::kit::{Cuts, NOW, Native, Restart, Setup, drive};

const TTL: i64 = 50;

fn by_id(setup: Setup) -> Setup {
    let id = Key::Field(vec!["id".into()]);
    Setup { dedupe: Some(Dedupe { id, ttl: Span(TTL) }), ..setup }
}

#[derive(Clone, Debug)]
struct Event {
    key: u8,
    id: u8,
    time: i64,
    /// `!` is refused.
    op: char,
}

impl Event {
    fn json(&self) -> String {
        let Event { key, id, time, op } = self;
        format!(r#"{{"k":"key{key}","id":{id},"t":{},"op":"{op}","ops":"{op}"}}"#, NOW + time)
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let op = prop::sample::select(vec!['a', 'b', 'c', '!']);
    let event = (0..2u8, 0..6u8, 0..12i64, 0..30i64, op);
    prop::collection::vec(event, 0..80).prop_map(|events| {
        let mut base = 0;
        let place = |(key, id, step, back, op): (u8, u8, i64, i64, char)| {
            base += if step == 11 { 60 } else { step };
            Event { key, id, time: base - back, op }
        };
        events.into_iter().map(place).collect()
    })
}

/// Which events are no repetitions, looked at one after the other.
fn first_ones(events: &[Event], delay: i64) -> Vec<usize> {
    let (mut known, mut watermark) = (BTreeMap::new(), i64::MIN);
    let mut first = Vec::new();
    for (idx, event) in events.iter().enumerate() {
        let name = (event.key, event.id);
        if known.get(&name).is_none_or(|time: &i64| watermark >= time + TTL) {
            first.push(idx);
            if event.op != '!' {
                known.insert(name, event.time);
            }
        }
        watermark = watermark.max(event.time - delay);
    }
    first
}

fn stages(first: &[Native]) -> Setup {
    let sliding = WindowKind::Sliding { size: Span(20), slide: Span(5) };
    by_id(Setup::new(first.to_vec()).window(sliding, 10, 5))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn repetitions_have_no_effect(
        events in events(),
        cuts in any_cuts(),
        room in any_room(),
        kind in 0..4usize,
    ) {
        let stage = [transform(), fold(), reducer(), rule()][kind].clone();
        let setup = Setup { room, ..stages(&[split(), stage]) };
        let outcome = drive(&setup, &events.iter().map(Event::json).collect::<Vec<_>>(), &cuts).unwrap();
        // The same without repetitions: in their place, events of which the first stage makes no row.
        let first = first_ones(&events, setup.delay);
        let mut at = 0;
        let unrepeated = events.iter().enumerate().map(|(idx, event)| {
            let is_first = first.get(at) == Some(&idx);
            at += usize::from(is_first);
            if is_first { event.json() } else { event.json().replace(r#""ops":""#, r#""ops":"","was":""#) }
        });
        let plain = Setup { dedupe: None, ..setup };
        let expected = drive(&plain, &unrepeated.collect::<Vec<_>>(), &Cuts::default()).unwrap();
        let of_rows = |rows: &[String]| rows.iter().filter(|row| !row.starts_with("out.0-1")).cloned().collect::<Vec<_>>();
        prop_assert_eq!(of_rows(&outcome.rows), of_rows(&expected.rows));
        let repeated = (events.len() - first.len()) as i128;
        prop_assert_eq!(outcome.counters["dedupe/duplicates"], repeated);
    }

    #[test]
    fn cuts_change_nothing(
        events in events(),
        cuts in any_cuts(),
        order in prop::sample::select(vec![EventOrder::Arrival, EventOrder::EventTime]),
    ) {
        let tree = [split(), rule(), fold(), reducer(), transform()];
        let setup = Setup { order, from: vec![None, Some(0), Some(0), Some(0), Some(0)], ..stages(&tree) };
        let payloads: Vec<String> = events.iter().map(Event::json).collect();
        let (plain, cut) = (drive(&setup, &payloads, &Cuts::default()).unwrap(), drive(&setup, &payloads, &cuts).unwrap());
        prop_assert_eq!((plain.rows, plain.headers), (cut.rows, cut.headers));
        prop_assert_eq!((plain.totals, plain.counters), (cut.totals, cut.counters));
    }
}

/// One event at a time, all of them in one unit, and with a restart behind each.
#[test]
fn an_id_is_remembered_unless_its_event_is_dead_and_forgotten_after_its_time() {
    let event = |key, id, time, op| Event { key, id, time, op }.json();
    let payloads = [
        event(0, 1, 0, '!'),
        // Sent again, mended.
        event(0, 1, 1, 'a'),
        event(0, 1, 2, 'b'),
        // Of another key.
        event(1, 1, 2, 'c'),
        event(0, 1, 50, 'd'),
        // The watermark was at 50 before; 1 + TTL is 51.
        event(0, 1, 51, 'e'),
        event(0, 2, 51, 'f'),
        event(0, 1, 52, 'g'),
        event(0, 1, 53, 'h'),
        format!(r#"{{"k":"a","t":{},"op":"i"}}"#, NOW),
        format!(r#"{{"k":"a","id":1.5,"t":{},"op":"i"}}"#, NOW),
    ];
    let letters = ["!", "a", "c", "f", "g"];
    for restart in [Restart::No, Restart::FromDeltas] {
        for batch in [1, 100] {
            let cuts = Cuts { batches: vec![batch], steps: vec![1], restarts: vec![restart] };
            let outcome = drive(&by_id(Setup::new(vec![transform()])), &payloads, &cuts).unwrap();
            let is_op = |row: &&String| !row.starts_with("dlq.source");
            let op = |row: &String| match row.split_once(' ').unwrap() {
                ("out.0-0", op) => op.to_owned(),
                (letter, _) => letter.strip_prefix("dlq.s0.no").map(|_| "!".to_owned()).unwrap(),
            };
            let got: Vec<String> = outcome.rows.iter().filter(is_op).map(op).collect();
            assert_eq!(got, letters, "{restart:?}, batches of {batch}: {:?}", outcome.rows);
            let refused: Vec<&str> =
                outcome.rows.iter().filter(|row| !is_op(row)).map(|row| row.split_once(' ').unwrap().0).collect();
            assert_eq!(refused, ["dlq.source.id-missing", "dlq.source.id-type"]);
            assert_eq!((outcome.totals.filtered, outcome.counters["dedupe/duplicates"]), (4, 4));
        }
    }
}
