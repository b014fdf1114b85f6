//! The same module with the same input gives the same bytes and spends the same fuel: on two fresh instances, on one that
//! has worked before, on one from a pool, and in a host of its own.
//!
//! How much fuel a call takes is found from outside: the smallest `fuel_per_event` that is enough, and one less is not.

use std::fmt::Debug;
use std::time::Duration;

use pelton_engine::event::Events;
use pelton_engine::guest::{
    AggregateColumn, AggregateData, Fault, Groups, Guest, Metering, Output, Panes, Reduced, Timing,
};
use pelton_sandbox::{Limits, Module, Options, Sandbox};

use crate::{events, load, texts, wasm};

/// No deadline is missed, however busy the machine is.
fn limits(fuel_per_event: u64) -> Limits {
    let time = Duration::from_secs(60);
    Limits { fuel_per_event, call_timeout: time, time_to_configure: time, ..Limits::default() }
}

fn pooled() -> Sandbox {
    let cache_dir = Some(std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled-modules"));
    Sandbox::new(&Options { cache_dir, pooling: true, ..Options::default() }).unwrap()
}

/// Runs `call` on guests of all kinds; its reply must be the same each time.
#[track_caller]
fn check<R: PartialEq + Debug>(
    name: &str,
    config: &str,
    call: impl Fn(&mut dyn Guest, Metering) -> Result<R, Fault>,
    one: impl Fn(&mut dyn Guest, Metering) -> Result<R, Fault>,
) {
    let here = load(name);
    let there = pooled().load(wasm(name), &Limits::default()).unwrap();
    let fresh = |module: &Module, fuel| module.instantiate(config, &limits(fuel)).unwrap();
    const PLENTY: u64 = 1 << 36;
    let mut worked = fresh(&here, PLENTY);
    let expected = call(&mut *worked, Metering::Deadline).unwrap();
    assert_eq!(call(&mut *worked, Metering::Deadline).unwrap(), expected, "{name}: worked before");
    assert_eq!(call(&mut *worked, Metering::Fuel).unwrap(), expected, "{name}: under fuel");
    assert_eq!(call(&mut *fresh(&here, PLENTY), Metering::Deadline).unwrap(), expected, "{name}: fresh");
    let mut from_pool = fresh(&there, PLENTY);
    for round in 0..3 {
        assert_eq!(call(&mut *from_pool, Metering::Deadline).unwrap(), expected, "{name}: pooled, round {round}");
        // The place in the pool goes back and is taken again.
        drop(from_pool);
        from_pool = fresh(&there, PLENTY);
    }
    let is_enough = |module: &Module, fuel| match one(&mut *fresh(module, fuel), Metering::Fuel) {
        Ok(_) => true,
        Err(Fault::Fuel) => false,
        Err(other) => panic!("{name} with {fuel} units of fuel: {other:?}"),
    };
    let (mut short, mut enough) = (0, PLENTY);
    while short + 1 < enough {
        let middle = short + (enough - short) / 2;
        *(if is_enough(&here, middle) { &mut enough } else { &mut short }) = middle;
    }
    assert!(!is_enough(&here, 0), "{name} takes so little fuel that the test shows nothing");
    println!("{name} takes {enough} units of fuel");
    for module in [&here, &there] {
        assert!(is_enough(module, enough) && !is_enough(module, enough - 1), "{name}: other fuel");
    }
}

#[test]
fn fraud_judges_the_same_panes_in_the_same_way() {
    let evaluate = |users: &[&str], guest: &mut dyn Guest, metering| {
        let rows = users.len();
        let mut panes = Panes {
            keys: texts(&users.iter().map(|user| user.as_bytes()).collect::<Vec<_>>()),
            starts: vec![0; rows],
            ends: vec![3_600_000; rows],
            timings: vec![Timing::OnTime; rows],
            indexes: vec![0; rows],
            lasts: vec![true; rows],
            watermarks: vec![3_600_000; rows],
            values: [500, 500 * 31_000, 3]
                .map(|value| AggregateColumn::new(AggregateData::Integers(vec![value; rows])))
                .into(),
        };
        let mut output = Output::default();
        guest.evaluate(metering, &mut panes, &mut output)?;
        assert_eq!(output.rows.len(), rows, "each of them is suspected");
        Ok(output)
    };
    let users: Vec<String> = (0..50).map(|user| format!("bot\"{user}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    // A name that takes long to write.
    let long = "ü\"".repeat(50_000);
    check(
        "fraud",
        "{}",
        |guest, metering| evaluate(&users, guest, metering),
        |guest, metering| evaluate(&[&long], guest, metering),
    );
}

#[test]
fn schema_check_finds_the_same_faults() {
    let config = r#"{"schema":{"type":"object","required":["user"],"properties":{
        "user":{"type":"string","pattern":"^[a-z]+$"},"plays":{"type":"array","items":{"type":"integer"},"uniqueItems":true}}}}"#;
    let process = |payloads: &[&str], guest: &mut dyn Guest, metering| {
        let mut output = Output::default();
        guest.process(metering, &mut events(payloads), &mut output)?;
        Ok(output)
    };
    let plays = format!(r#"{{"user":"ann","plays":{:?}}}"#, (0..300).collect::<Vec<_>>());
    let payloads =
        [plays.as_str(), r#"{"user":"Ann"}"#, r#"{"plays":[1,1]}"#, "not JSON", r#"{"user":"bob","x":{"y":1}}"#];
    check(
        "schema_check",
        config,
        |guest, metering| process(&payloads, guest, metering),
        |guest, metering| process(&[&plays], guest, metering),
    );
}

#[test]
fn a_reducer_makes_the_same_states_and_timers() {
    let reduce = |guest: &mut dyn Guest, metering| {
        const ROWS: u32 = 400;
        let mut batch: Events = events(&vec!["1"; ROWS as usize]);
        let mut groups = Groups {
            keys: texts(&[b"even", b"odd"]),
            states: texts(&[b"", b""]),
            member_ends: vec![ROWS / 2, ROWS],
            members: (0..ROWS).step_by(2).chain((1..ROWS).step_by(2)).collect(),
            timer_ends: vec![0, 0],
            timers: Vec::new(),
        };
        let mut reduced = Reduced::default();
        guest.reduce(metering, &mut batch, &mut groups, &mut reduced)?;
        assert_eq!(reduced.output.rows.len(), ROWS as usize);
        Ok(reduced)
    };
    check("examples/running_count", "null", reduce, reduce);
}
