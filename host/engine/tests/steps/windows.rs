//! Windows equal a naive oracle: one list of samples per window and key, thrown together event by event.

use proptest::prelude::*;

use pelton_engine::plan::WindowKind;
use pelton_engine::time::Span;

use crate::cuts::{any_cuts, any_room};
use crate::kit::{Cuts, NOW, Setup, drive};
use crate::oracle::{Sample, Shape, check, rule};

pub(crate) fn samples(sorted: bool) -> impl Strategy<Value = Vec<Sample>> {
    let sample = (
        0..6u8,
        0..120i64,
        0..40i64,
        prop::option::of(prop_oneof![
            6 => -50..50i64,
            1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX])
        ]),
        prop::option::of(-40..40i32),
        prop::option::of(0..9u8),
        0..12u8,
    )
        .prop_map(|(key, jitter, step, v, x, s, bad)| {
            (step, Sample { key, time: jitter, v, x: x.map(|x| f64::from(x) / 4.0), s, bad: bad == 0 })
        });
    prop::collection::vec(sample, 0..90).prop_map(move |samples| {
        let mut base = 0;
        samples
            .into_iter()
            .map(|(step, sample)| {
                // Now and then a jump that closes many windows at once.
                base += if step == 39 { 700 } else { step / 2 };
                Sample { time: base - if sorted { 0 } else { sample.time }, ..sample }
            })
            .collect()
    })
}

fn shapes() -> impl Strategy<Value = Shape> {
    let tumbling = prop::sample::select(vec![10i64, 50]).prop_map(|size| WindowKind::Tumbling { size: Span(size) });
    let sliding = prop::sample::select(vec![(60i64, 20i64), (40, 10), (30, 30)])
        .prop_map(|(size, slide)| WindowKind::Sliding { size: Span(size), slide: Span(slide) });
    let kind = prop_oneof![3 => tumbling, 5 => sliding, 1 => Just(WindowKind::Global)];
    let least = (
        prop_oneof![Just(0i64), 1..4i64],
        prop_oneof![3 => Just(0i64), 1 => 1..3i64],
        prop_oneof![4 => Just(i64::MIN), 1 => -30..20i64],
    );
    (kind, prop_oneof![Just(0i64), Just(25), Just(90)], prop_oneof![Just(0i64), Just(40), Just(130)], least).prop_map(
        |(kind, allowed_lateness, delay, least)| {
            let allowed_lateness = if kind == WindowKind::Global { 0 } else { allowed_lateness };
            Shape { kind, allowed_lateness, delay, least }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_rule_equals_the_oracle(shape in shapes(), samples in samples(false), cuts in any_cuts(), room in any_room()) {
        check(shape, &samples, &cuts, room, false);
    }

    #[test]
    fn a_fold_equals_the_oracle(shape in shapes(), samples in samples(false), cuts in any_cuts(), room in any_room()) {
        check(shape, &samples, &cuts, room, true);
    }

    #[test]
    fn partitions_do_not_matter_where_nothing_is_late(shape in shapes(), samples in samples(true)) {
        let run = |samples: Vec<&Sample>| {
            let setup = Setup::new(vec![rule(shape.least)]).window(shape.kind, 0, shape.delay);
            let events: Vec<String> = samples.into_iter().map(Sample::json).collect();
            let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
            assert_eq!(outcome.totals.late, 0);
            // Watermarks are per partition: what fired a pane may differ, what is in it may not.
            let without_watermark = |row: &String| row.split(' ').filter(|part| !part.starts_with('@')).collect::<Vec<_>>().join(" ");
            outcome.rows.iter().map(without_watermark).collect::<Vec<_>>()
        };
        let mut one = run(samples.iter().collect());
        let mut four: Vec<String> = (0..4).flat_map(|part| run(samples.iter().filter(|sample| sample.key % 4 == part).collect())).collect();
        one.sort_unstable();
        four.sort_unstable();
        prop_assert_eq!(one, four);
    }
}

/// Job A: an event counts in the windows that end after the watermark before it, and only there.
#[test]
fn an_event_is_dropped_from_passed_windows_only() {
    let kind = WindowKind::Sliding { size: Span(60), slide: Span(20) };
    let sample = |time| Sample { key: 0, time, v: None, x: None, s: None, bad: false };
    let setup = Setup::new(vec![rule((0, 0, i64::MIN))]).window(kind, 0, 0);
    // At watermark 25 the windows up to 20 have passed; the event at 5 still counts in those that end at 40 and 60.
    let events: Vec<String> = [0, 25, 5].into_iter().map(|time| sample(time).json()).collect();
    let counts: Vec<String> = drive(&setup, &events, &Cuts::default())
        .unwrap()
        .rows
        .iter()
        .map(|row| {
            let parts: Vec<&str> = row.split(' ').collect();
            let end: i64 = parts[2].split_once("..").unwrap().1.parse().unwrap();
            format!("{}:{}", end - NOW, parts[7].split_once(',').unwrap().0)
        })
        .collect();
    assert_eq!(counts, ["20:1", "40:3", "60:3", "80:1"]);
}

#[test]
fn the_pane_contract() {
    let kind = WindowKind::Tumbling { size: Span(10) };
    let sample = |time| Sample { key: 1, time, v: None, x: None, s: None, bad: false };
    let setup = Setup::new(vec![rule((0, 0, i64::MIN))]).window(kind, 20, 0);
    let events: Vec<String> = [1, 12, 2].into_iter().map(|time| sample(time).json()).collect();
    let outcome = drive(&setup, &events, &Cuts::default()).unwrap();
    let (start, end) = (NOW, NOW + 10);
    let base = format!("p/0/s0/key1/{start}/{end}");
    let head = |number: u32, firing: &str, watermark: i64| {
        format!(
            "Pelton-Id: {base}/{number}/0\r\nPelton-Key: key1\r\nPelton-Window-Start: {start}\r\nPelton-Window-End: {end}\r\n\
             Pelton-Pane-Index: {number}\r\nPelton-Pane-Timing: {firing}\r\nPelton-Pane-Last: false\r\nPelton-Watermark: {watermark}\r\n"
        )
    };
    assert_eq!(outcome.headers[0], head(0, "on-time", NOW + 12));
    assert_eq!(outcome.headers[1], head(1, "late", NOW + 12) + &format!("Pelton-Replaces: {base}/0/0\r\n"));
}
