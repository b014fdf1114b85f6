//! `order = "event-time"`: events reach the stages in the order of their time, and what is due by then before each,
//! wherever input and epochs are cut.

use proptest::prelude::*;

use pelton_engine::effects::Room;
use pelton_engine::plan::{EventOrder, WindowKind};
use pelton_engine::time::Span;

use crate::cuts::{any_cuts, any_room};
use crate::fates::{reducer as letters, transform};
use crate::kit::{Cuts, NOW, Restart, Setup, drive};
use crate::oracle::{Sample, rule};
use crate::reduce::{Event, Oracle, events, reducer};
use crate::windows::samples;

const BY_TIME: EventOrder = EventOrder::EventTime;

/// Everything thrown together, event by event: those that are not late wait in a list.
fn in_order(events: &[Event], delay: i64, records_max: usize) -> (Vec<String>, u64) {
    let (mut oracle, mut late) = (Oracle::default(), 0);
    let (mut waiting, mut arrived): (Vec<&Event>, i64) = (Vec::new(), i64::MIN);
    for event in events.iter().map(Some).chain([None]) {
        match event {
            Some(event) if NOW + event.time < arrived => {
                oracle.rows.push(format!("late.order {}", event.json()));
                late += 1;
            }
            Some(event) => {
                waiting.push(event);
                arrived = arrived.max(NOW + event.time - delay);
            }
            None => arrived = i64::MAX,
        }
        // A stable sort: of one time, the first to arrive comes first.
        waiting.sort_by_key(|event| event.time);
        while waiting.first().is_some_and(|event| NOW + event.time <= arrived) {
            let event = waiting.remove(0);
            oracle.fire(NOW + event.time, records_max);
            oracle.take(event, records_max);
        }
        oracle.fire(arrived, records_max);
    }
    (oracle.rows, late)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_reducer_sees_events_and_timers_in_the_order_of_their_time(
        events in events(),
        cuts in any_cuts(),
        room in any_room(),
        delay in prop::sample::select(vec![0i64, 5, 20, 200]),
    ) {
        let setup = Setup { delay, room, order: BY_TIME, ..Setup::new(vec![reducer()]) };
        let payloads: Vec<String> = events.iter().map(Event::json).collect();
        let outcome = drive(&setup, &payloads, &cuts).unwrap();
        let (expected, late) = in_order(&events, delay, room.records);
        prop_assert_eq!(&outcome.rows, &expected);
        prop_assert_eq!((outcome.totals.late, outcome.totals.held), (late, 0));
    }

    /// As a run over the same events that were in order from the beginning, without those that came too late.
    #[test]
    fn windows_count_what_they_count_over_sorted_input(
        samples in samples(false),
        cuts in any_cuts(),
        kind in prop::sample::select(vec![
            WindowKind::Tumbling { size: Span(50) },
            WindowKind::Sliding { size: Span(60), slide: Span(20) },
            WindowKind::Global,
        ]),
        delay in prop::sample::select(vec![0i64, 40, 130]),
    ) {
        let setup = |order, delay| Setup { order, ..Setup::new(vec![rule((0, 0, i64::MIN))]).window(kind, 0, delay) };
        let panes = |order, delay, samples: &[&Sample], cuts: &Cuts| {
            let payloads: Vec<String> = samples.iter().map(|sample| sample.json()).collect();
            let rows = drive(&setup(order, delay), &payloads, cuts).unwrap().rows;
            let pane = |row: &String| row.split(' ').filter(|part| !part.starts_with('@')).collect::<Vec<_>>().join(" ");
            rows.iter().filter(|row| row.starts_with("out.")).map(pane).collect::<Vec<_>>()
        };
        let (mut watermark, mut kept) = (i64::MIN, Vec::new());
        for sample in samples.iter().filter(|sample| !sample.bad) {
            if sample.time >= watermark {
                kept.push(sample);
            }
            watermark = watermark.max(sample.time - delay);
        }
        kept.sort_by_key(|sample| sample.time);
        let all: Vec<&Sample> = samples.iter().collect();
        prop_assert_eq!(
            panes(BY_TIME, delay, &all, &cuts),
            panes(EventOrder::Arrival, 0, &kept, &Cuts::default())
        );
    }
}

fn event(key: &str, time: i64, op: &str) -> String {
    format!(r#"{{"k":"{key}","t":{},"op":"{op}"}}"#, NOW + time)
}

/// An event may release any number of others: the epoch is cut between any two of them.
#[test]
fn what_one_event_releases_may_be_many_epochs() {
    let mut payloads: Vec<String> = (0..1000).map(|idx| event("a", (idx * 7919) % 1000, "x")).collect();
    payloads.push(event("b", 5000, "y"));
    let room = Room { records: 3, ..Room::default() };
    let setup = Setup { delay: 2000, order: BY_TIME, room, ..Setup::new(vec![transform()]) };
    for restarts in [vec![Restart::No], vec![Restart::FromDeltas], vec![Restart::Snapshot, Restart::FromSnapshot]] {
        let outcome = drive(&setup, &payloads, &Cuts { restarts, steps: vec![1], ..Cuts::default() }).unwrap();
        assert_eq!((outcome.rows.len(), outcome.totals.processed), (1001, 1001));
        let sequences =
            outcome.ids().iter().map(|id| id.split('/').nth(2).unwrap().parse().unwrap()).collect::<Vec<i64>>();
        assert!(sequences[..1000].iter().enumerate().all(|(time, at)| (at - 1) * 7919 % 1000 == time as i64));
        assert!(outcome.epochs > 300, "{}", outcome.epochs);
    }
}

/// What cannot be read is a dead letter when it arrives, what only a stage refuses when it is its turn.
#[test]
fn a_dead_event_is_told_when_it_is_known_and_holds_nothing_up() {
    let payloads = [
        event("a", 100, "a"),
        "{".to_owned(),
        event("a", 90, "!"),
        format!(r#"{{"k":"a","t":{}}}"#, NOW + 95),
        event("a", 500, "b"),
        event("a", 80, "c"),
    ];
    let setup = Setup { delay: 100, order: BY_TIME, ..Setup::new(vec![letters()]) };
    let outcome = drive(&setup, &payloads, &Cuts::default()).unwrap();
    let channels: Vec<&str> = outcome.rows.iter().map(|row| row.split_once(' ').unwrap().0).collect();
    let (dead, late) = (&channels[..3], channels[4]);
    assert_eq!(dead, ["dlq.source.json-syntax", "dlq.s0.no", "dlq.s0.field-missing"], "{:?}", outcome.rows);
    assert!(channels[3].starts_with("out.") && late == "late.order", "{channels:?}");
    assert_eq!((outcome.totals.received, outcome.totals.dead, outcome.totals.late), (6, 3, 1));
}
