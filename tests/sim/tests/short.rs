//! The short form: regressions, fresh seeds, mutants, determinism, conformance of the double.
//!
//! `PELTON_SIM_SEEDS` sets the number of fresh seeds, `PELTON_SIM_FROM` the first one instead of one by the clock.

use std::sync::Mutex;

use pelton_engine::guest::World;
use pelton_engine::plan::{Limits, Window, WindowKind};
use pelton_engine::time::Span;
use pelton_sim::conformance::{self, Double};
use pelton_sim::log::{Input, LogMutants, Message};
use pelton_sim::scenario::{self, EPOCH_MS, Scenario};
use pelton_sim::world::Weakness;
use pelton_sim::{mutants, oracle, runner, simulate};

#[test]
fn regression_seeds_hold_and_need_their_safeguard() {
    let (seeds, all) = (mutants::regressions(), mutants::all());
    assert!(seeds.len() > 10, "they are read");
    for (seed, name) in seeds {
        let outcome = runner::guarded(seed, &Weakness::default());
        assert_eq!(outcome.failure, None, "seed {seed} ({name}); repeat it with: just sim {seed}");
        let mutant = all.iter().find(|mutant| mutant.name == name).expect("a mutant of that name");
        assert!(
            runner::guarded(seed, &mutant.weakness).failure.is_some(),
            "seed {seed} does not need `{name}` any more"
        );
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

/// Name of the threads that are expected to panic.
const MUTANT: &str = "mutant";

#[test]
fn mutants_are_caught() {
    // Of its own threads only: tests beside it have something to say when they panic.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(MUTANT) {
            told(panic);
        }
    }));
    let (waiting, missed) = (Mutex::new(mutants::all().into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let try_all = || {
                loop {
                    let Some(mutant) = waiting.lock().expect("no panic").next() else { return };
                    if mutant.caught(1).0.is_none() {
                        missed.lock().expect("no panic").push((mutant.name, mutant.within));
                    }
                }
            };
            std::thread::Builder::new().name(MUTANT.into()).spawn_scoped(scope, try_all).expect("a thread");
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert_eq!(missed, [], "not noticed by a scripted case, nor within so many seeds");
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
    assert!(weak(|mutants| mutants.shared_holes_unasked = true));
    assert!(weak(|mutants| mutants.short_holes = true));
    assert!(weak(|mutants| mutants.long_holes = true));
    assert!(weak(|mutants| mutants.proof_is_forgotten = true));
    assert!(weak(|mutants| mutants.proof_hides_loss = true));
    assert!(weak(|mutants| mutants.purge_above_snapshot = true));
    assert!(weak(|mutants| mutants.drop_shared_parts = true));
    assert!(weak(|mutants| mutants.lease_is_final = true));
}

#[test]
fn results_do_not_depend_on_batches() {
    for seed in 0..150 {
        let scenario = Scenario::new(seed);
        let mut input = Input::new(1);
        for planned in &scenario.inputs {
            let published = EPOCH_MS + planned.at as i64;
            input.publish(Message::new(planned.partition, published, &planned.payload));
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
        (World::WindowFold, WindowKind::Sliding { size: Span(1_000), slide: Span(250) }),
    ];
    for (tail, kind) in shapes {
        let rows = |partitions: u32| {
            let window = Some(Window { kind, allowed_lateness: Span(0) });
            let worlds = vec![World::Transform, tail];
            let plan = scenario::plan(&worlds, window, partitions, Limits::default());
            let scenario = Scenario { plan: plan.into(), worlds, ..Scenario::new(1) };
            let mut input = Input::new(1);
            for idx in 0..900_i64 {
                let (key, time) = (idx % 23, EPOCH_MS + idx * 40 - idx % 5 * 30);
                let payload = format!("{{\"k\":\"k{key}\",\"t\":{time},\"v\":{},\"u\":\"u\"}}", idx % 97);
                let partition = (key % i64::from(partitions)) as u32;
                input.publish(Message::new(partition, time, payload.as_bytes()));
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
