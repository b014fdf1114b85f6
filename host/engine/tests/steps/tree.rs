//! Stages as a tree: what several stages with state make of one stream is what each would make of it alone, wherever input
//! and epochs are cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use pelton_engine::event::{Kind, Values};
use pelton_engine::guest::{OF_ROW, World};
use pelton_engine::plan::{EventOrder, WindowKind};
use pelton_engine::time::Span;

use crate::cuts::{any_cuts, any_room};
use crate::fates::{fold, reducer, rule, split, transform};
use crate::kit::{Cuts, NOW, Native, Outcome, Setup, drive};

const SLIDING: WindowKind = WindowKind::Sliding { size: Span(20), slide: Span(5) };

/// Records by stage, without those of the first stage's side port: every pipeline has these.
fn by_stage(outcome: &Outcome) -> BTreeMap<String, Vec<String>> {
    let mut stages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &outcome.rows {
        let (subject, payload) = row.split_once(' ').unwrap_or((row, ""));
        let channel: Vec<&str> = subject.split(['.', '-']).collect();
        stages.entry(channel[..2].join(".")).or_default().push(payload.to_owned());
    }
    stages
}

fn setup(stages: &[Native], from: Vec<Option<usize>>) -> Setup {
    let guests = std::iter::once(split()).chain(stages.iter().cloned()).collect();
    Setup { from: [vec![None], from].concat(), ..Setup::new(guests).window(SLIDING, 10, 5) }
}

fn events(all: &[String]) -> Vec<String> {
    let event = |(idx, ops): (usize, &String)| {
        let time = NOW + idx as i64 * 3 - (idx as i64 * 7) % 11;
        format!(r#"{{"k":"key{}","t":{time},"ops":"{ops}","op":"-"}}"#, idx % 3)
    };
    all.iter().enumerate().map(event).collect()
}

/// What each stage gives alone, under the number that it has in the tree.
fn alone(stages: &[Native], events: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (idx, stage) in stages.iter().enumerate() {
        let outcome = drive(&setup(std::slice::from_ref(stage), vec![Some(0)]), events, &Cuts::default()).unwrap();
        for (channel, rows) in by_stage(&outcome) {
            let (kind, number) = channel.split_once('.').unwrap();
            let number = number.replace('1', &(idx + 1).to_string());
            all.insert(format!("{kind}.{number}"), rows);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn stages_side_by_side_give_what_each_gives_alone(
        all in prop::collection::vec("[abc]{1,3}", 1..60),
        order in Just(vec![0usize, 1, 2, 3]).prop_shuffle(),
        count in 1..5usize,
        cuts in any_cuts(),
        room in any_room(),
    ) {
        let kinds = [transform(), fold(), reducer(), rule()];
        let stages: Vec<Native> = order[..count].iter().map(|&kind| kinds[kind].clone()).collect();
        let events = events(&all);
        let tree = Setup { room, ..setup(&stages, vec![Some(0); count]) };
        let outcome = drive(&tree, &events, &cuts).unwrap();
        let expected = alone(&stages, &events);
        // Records of an event are those of all stages: with little room more of them are too many.
        if room.records > 100 {
            prop_assert_eq!(by_stage(&outcome), expected);
        }
    }

    #[test]
    fn cuts_change_nothing(
        all in prop::collection::vec("[abc]{1,3}|[ab!]{1,3}", 1..60),
        cuts in any_cuts(),
        order in prop::sample::select(vec![EventOrder::Arrival, EventOrder::EventTime]),
    ) {
        let stages = [rule(), fold(), reducer(), transform()];
        let tree = Setup { order, ..setup(&stages, vec![Some(0); 4]) };
        let events = events(&all);
        let (plain, cut) = (drive(&tree, &events, &Cuts::default()).unwrap(), drive(&tree, &events, &cuts).unwrap());
        prop_assert_eq!(plain.rows, cut.rows);
        prop_assert_eq!(plain.headers, cut.headers);
        prop_assert_eq!(plain.totals, cut.totals);
    }
}

/// A refusal anywhere in the tree is the fate of the whole event: no branch keeps a trace of it.
#[test]
fn what_one_branch_refuses_no_branch_keeps() {
    let all: Vec<String> = ["a", "!b", "b", "c!a", "c", "ab!", "!", "ba"].map(str::to_owned).into();
    let (mut events, mut good, mut time) = (Vec::new(), Vec::new(), NOW);
    for (idx, ops) in all.iter().enumerate() {
        time += if ops.contains('!') { 0 } else { 3 };
        let event = format!(r#"{{"k":"key{}","t":{time},"ops":"{ops}","op":"-"}}"#, idx % 2);
        good.extend((!ops.contains('!')).then(|| event.clone()));
        events.push(event);
    }
    // Each kind in turn is the one that refuses first; the others before and after it do not matter.
    let kinds = [transform(), rule(), fold(), reducer()];
    for shift in 0..kinds.len() {
        let stages: Vec<Native> = kinds.iter().cycle().skip(shift).take(kinds.len()).cloned().collect();
        let tree = setup(&stages, vec![Some(0); 4]);
        let outcome = drive(&tree, &events, &Cuts { batches: vec![3], steps: vec![1], ..Cuts::default() }).unwrap();
        let expected = drive(&tree, &good, &Cuts::default()).unwrap();
        let letters = outcome.rows.iter().filter(|row| row.starts_with("dlq.")).count();
        assert_eq!(letters, events.len() - good.len(), "{shift}: {:?}", outcome.rows);
        let kept: Vec<&String> = outcome.rows.iter().filter(|row| !row.starts_with("dlq.")).collect();
        assert_eq!(kept, expected.rows.iter().collect::<Vec<_>>(), "{shift}");
    }
}

/// Passes `a` on, and nothing else.
fn only_a() -> Native {
    let mut native = Native::new(World::Transform, &[("op", Kind::String, true)]);
    native.process = Some(Arc::new(|_, events, output| {
        let Values::Strings(ops) = &events.columns[0].values else { unreachable!("the field is text") };
        for row in (0..events.len()).filter(|&row| ops.get(row) == b"a") {
            output.rows.push(row as u32);
            output.ports.push(0);
            output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
        }
        Ok(())
    }));
    native
}

/// What one branch has attempted of an event that another one refused is not kept with a later event that it does not see.
#[test]
fn what_was_refused_is_not_kept_later() {
    let all: Vec<String> = ["a!", "b", "b", "a"].map(str::to_owned).into();
    let events = events(&all);
    let tree = setup(&[only_a(), reducer(), fold(), reducer()], vec![Some(0), Some(1), Some(1), Some(0)]);
    let stages = by_stage(&drive(&tree, &events, &Cuts::default()).unwrap());
    // One event of its letter, the last one.
    assert_eq!(stages["out.2"], ["a"]);
    assert_eq!(stages["out.3"], ["a", "a", "a", "a"], "one for each window");
}

/// A branch that drops rows, or makes others, takes nothing from another one.
#[test]
fn branches_share_rows_and_not_what_becomes_of_them() {
    let all: Vec<String> = ["ab", "b", "ca", "a"].map(str::to_owned).into();
    let events = events(&all);
    let tree = setup(&[only_a(), rule(), rule()], vec![Some(0), Some(1), Some(0)]);
    let outcome = drive(&tree, &events, &Cuts::default()).unwrap();
    let stages = by_stage(&outcome);
    let sum = |stage: &str| stages[stage].iter().map(|row| row.parse::<u32>().unwrap()).sum::<u32>();
    let (only_a, every) = (sum("out.2"), sum("out.3"));
    assert!(0 < only_a && only_a < every, "{stages:?}");
    assert_eq!(by_stage(&outcome)["out.3"], alone(&[rule()], &events)["out.1"]);
}
