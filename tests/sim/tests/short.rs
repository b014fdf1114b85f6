//! The short form: regressions, fresh seeds, mutants, determinism, conformance of the double.
//!
//! `PELTON_SIM_SEEDS` sets the number of fresh seeds, `PELTON_SIM_FROM` the first one instead of one by the clock.

use pelton_engine::guest::World;
use pelton_engine::plan::{Limits, Window, WindowKind};
use pelton_engine::time::Span;
use pelton_sim::conformance::{self, Double};
use pelton_sim::log::{Input, LogMutants, Message};
use pelton_sim::scenario::{self, EPOCH_MS, Scenario};
use pelton_sim::world::Weakness;
use pelton_sim::{mutants, oracle, runner, simulate};

#[test]
fn regression_seeds_hold() {
    let seeds = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let (seed, reason) = line.split_once(' ').expect("a seed and a reason");
        let outcome = runner::guarded(seed.parse().expect("a number"), &Weakness::default());
        assert_eq!(outcome.failure, None, "seed {seed} ({reason}); repeat it with: just sim {seed}");
    }
}

#[test]
fn fresh_seeds_hold() {
    let setting = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let count = setting("PELTON_SIM_SEEDS").unwrap_or(2_000);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is after 1970");
    let from = setting("PELTON_SIM_FROM").unwrap_or(now.as_secs() * 1_000_000);
    let summary = runner::run(from, count, &Weakness::default(), 3);
    println!("{}{} seeds from {from} in {:.1} s", summary.tally, summary.seeds, summary.seconds);
    let (tally, failures) = (summary.tally, summary.failures);
    assert!(failures.is_empty(), "repeat them with: just sim SEED\n{failures:#?}");
    // A simulator that stops simulating would pass as well.
    assert!(count < 500 || (tally.republished > 0 && tally.replayed > 0 && tally.rebuilt > 0 && tally.rejections > 0));
    assert!(count < 500 || (tally.tail_losses > 0 && tally.halts > 0 && tally.quarantines > 0 && tally.power_cuts > 0));
}

#[test]
fn mutants_are_caught() {
    for mutant in mutants::all() {
        let summary = runner::run(0, mutant.within, &mutant.weakness, 1);
        assert!(!summary.failures.is_empty(), "`{}` is not noticed within {} seeds", mutant.name, mutant.within);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..50 {
        let run = |keep| simulate(seed, &Weakness::default(), keep);
        let (first, second) = (run(false), run(true));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert!(first.trace.is_empty() && !second.trace.is_empty());
    }
}

#[test]
fn the_double_conforms() {
    for case in conformance::cases() {
        assert_eq!(conformance::run_one(&mut Double::default(), case), Ok(()), "{}", case.0);
    }
}

#[test]
fn the_suite_notices_a_weak_log() {
    let weak = |set: fn(&mut LogMutants)| {
        let mut mutants = LogMutants::default();
        set(&mut mutants);
        conformance::cases().iter().any(|case| conformance::run_one(&mut Double::weakened(mutants), case).is_err())
    };
    assert!(weak(|mutants| mutants.no_fence = true));
    assert!(weak(|mutants| mutants.sequence_fence = true));
    assert!(weak(|mutants| mutants.slot_fence = true));
    assert!(weak(|mutants| mutants.slot_without_run = true));
    assert!(weak(|mutants| mutants.numbering_only = true));
    assert!(weak(|mutants| mutants.stale_snapshots = true));
}

#[test]
fn results_do_not_depend_on_batches() {
    for seed in 0..150 {
        let scenario = Scenario::new(seed);
        let mut input = Input::new(1);
        for planned in &scenario.inputs {
            let published = EPOCH_MS + planned.at as i64;
            input.publish(Message {
                partition: planned.partition,
                published,
                payload: planned.payload.as_slice().into(),
            });
        }
        let one = oracle::expected(&scenario, 0, &input, 1);
        for batch in [2, 7, 64, 10_000] {
            let many = oracle::expected(&scenario, 0, &input, batch);
            let parts = |expected: &oracle::Expected| {
                let records = &expected.records;
                let part = |row: &pelton_engine::epoch::Record| {
                    [&row.subject, &row.headers, &row.payload].map(|range| records.slice(range).to_vec())
                };
                records.rows.iter().map(part).collect::<Vec<_>>()
            };
            assert_eq!(parts(&one), parts(&many), "seed {seed}, batches of {batch}");
            assert_eq!((one.totals, &one.state), (many.totals, &many.state), "seed {seed}, batches of {batch}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_partitions_when_nothing_is_late() {
    // Not reducers: when a timer fires between two events of its key depends on the watermark of the partition.
    let shapes = [
        (World::WindowRule, WindowKind::Tumbling { size: Span(1_000) }),
        (World::WindowFold, WindowKind::Sliding { size: Span(1_000), every: Span(250) }),
    ];
    for (tail, kind) in shapes {
        let rows = |partitions: u32| {
            let window = Some(Window { kind, lateness: Span(0) });
            let worlds = vec![World::Transform, tail];
            let plan = scenario::plan(&worlds, window, partitions, Limits::default());
            let scenario = Scenario { plan: plan.into(), worlds, ..Scenario::new(1) };
            let mut input = Input::new(1);
            for idx in 0..900_i64 {
                let (key, time) = (idx % 23, EPOCH_MS + idx * 40 - idx % 5 * 30);
                let payload = format!("{{\"k\":\"k{key}\",\"t\":{time},\"v\":{},\"u\":\"u\"}}", idx % 97);
                let partition = (key % i64::from(partitions)) as u32;
                input.publish(Message { partition, published: time, payload: payload.as_bytes().into() });
            }
            let mut rows: Vec<Vec<u8>> = (0..partitions)
                .flat_map(|partition| {
                    let expected = oracle::expected(&scenario, partition, &input, 16);
                    assert_eq!(expected.totals.late, 0);
                    let records = &expected.records;
                    let payloads: Vec<_> =
                        records.rows.iter().map(|row| records.slice(&row.payload).to_vec()).collect();
                    // Windows of the last moments fire in one partition and wait in another.
                    payloads.into_iter().chain(expected.rest)
                })
                .collect();
            rows.sort();
            rows
        };
        assert_eq!(rows(1), rows(4), "{}", tail.name());
    }
}
