//! Guests that do not: each misbehaves in one way, gets the right fault, and costs the next call nothing.
//!
//! Most misbehave only for an event whose field `act` is `misbehave`, so that the same guest shows both.

use std::time::{Duration, Instant};

use pelton_engine::event::{Column, Events, Strings, Values};
use pelton_engine::guest::{Fault, Groups, Guest, Metering, Output, Reduced};
use pelton_sandbox::{Limits, Refusal};

use crate::{events, guest, load};

/// Events whose field `act` has these values, for the modules that read it.
fn acts(guest: &dyn Guest, acts: &[&str]) -> Events {
    let mut events = events(acts);
    if !guest.descriptor().shape.fields.is_empty() {
        let mut texts = Strings::default();
        acts.iter().for_each(|act| texts.push(act.as_bytes()));
        events.columns.push(Column { missing: Vec::new(), unlike: Vec::new(), values: Values::Strings(texts) });
    }
    events
}

/// Calls with events that misbehave and with good ones, and again: the fault must be the same each time.
#[track_caller]
fn check(name: &str, metering: Metering, expected: impl Fn(&Fault) -> bool) {
    check_within(name, metering, &patient(), expected);
}

/// Limits whose deadline is not the one that is hit, however busy the machine is.
fn patient() -> Limits {
    Limits { call_timeout: Duration::from_secs(20), ..Limits::default() }
}

#[track_caller]
fn check_within(name: &str, metering: Metering, limits: &Limits, expected: impl Fn(&Fault) -> bool) {
    let mut guest = load(&format!("examples/{name}")).instantiate("null", limits).unwrap();
    for round in 0..2 {
        let mut bad = acts(&*guest, &["fine", "misbehave"]);
        let before = bad.clone();
        let fault = guest.process(metering, &mut bad, &mut Output::default()).expect_err("it misbehaves");
        assert!(expected(&fault), "round {round}: {fault:?}");
        assert_eq!(bad, before, "the events come back also after a fault");
        if guest.descriptor().shape.fields.is_empty() {
            continue; // It knows no good events.
        }
        let mut output = Output::default();
        guest.process(metering, &mut acts(&*guest, &["fine", "good"]), &mut output).expect("a fresh instance");
        assert_eq!(output.rows, [0, 1]);
    }
}

fn trap(text: &'static str) -> impl Fn(&Fault) -> bool {
    move |fault| matches!(fault, Fault::Trap(message) if message.contains(text))
}

fn limit(text: &'static str) -> impl Fn(&Fault) -> bool {
    move |fault| matches!(fault, Fault::Limit(message) if message.contains(text))
}

fn contract(text: &'static str) -> impl Fn(&Fault) -> bool {
    move |fault| matches!(fault, Fault::Contract(message) if message.contains(text))
}

#[test]
fn a_panic_is_a_trap_with_its_text() {
    check("traps", Metering::Deadline, trap("the rule gave up on this event"));
    check("traps", Metering::Fuel, trap("the rule gave up on this event"));
}

#[test]
fn recursion_ends_in_a_trap() {
    check("recurses", Metering::Deadline, trap("wasm trap"));
}

#[test]
fn an_endless_loop_ends_at_the_deadline() {
    let mut guest = guest("examples/spins_forever");
    let mut events = acts(&*guest, &["misbehave"]);
    let start = Instant::now();
    let fault = guest.process(Metering::Deadline, &mut events, &mut Output::default()).unwrap_err();
    assert_eq!(fault, Fault::Timeout);
    // The ticker may be late on a busy machine; a hundred times the limit is still an end.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let limits = Limits { call_timeout: Duration::from_millis(50), ..Limits::default() };
    check_within("spins_forever", Metering::Deadline, &limits, |fault| *fault == Fault::Timeout);
}

#[test]
fn an_endless_loop_spends_its_fuel() {
    check("spins_forever", Metering::Fuel, |fault| *fault == Fault::Fuel);
}

#[test]
fn memory_is_bounded() {
    check("eats_memory", Metering::Deadline, limit("limit 67108864 bytes"));
}

#[test]
fn replies_are_bounded() {
    let limits = Limits { memory_bytes: 256 << 20, ..patient() };
    check_within("giant_list", Metering::Deadline, &limits, limit("reply of more than 16777216 bytes"));
}

#[test]
fn broken_replies() {
    check("answers_out_of_order", Metering::Deadline, contract("comes from row 0 after row 1"));
    check("bad_offsets", Metering::Deadline, contract("record 0 has slices"));
    check("row_out_of_range", Metering::Deadline, contract("record 0 comes from row 9 of 2"));
    check("unknown_port", Metering::Deadline, contract("record on port 9, module has 1 ports"));
    check("invalid_utf8", Metering::Deadline, contract("reply cannot be read"));
    check("invalid_utf8_log", Metering::Deadline, contract("utf-8"));
}

#[test]
fn failures_are_passed_on() {
    check("halts", Metering::Deadline, |fault| *fault == Fault::Halt("the books do not balance".into()));
    check("retry_always", Metering::Deadline, |fault| *fault == Fault::Retry("the environment is not ready".into()));
}

#[test]
fn a_log_flood_is_neither_written_nor_fatal() {
    let mut guest = load("examples/log_flood").instantiate("null", &patient()).unwrap();
    let mut output = Output::default();
    guest.process(Metering::Deadline, &mut acts(&*guest, &["misbehave"]), &mut output).unwrap();
    assert_eq!(output.rows, [0]);
}

#[test]
fn state_is_bounded() {
    let mut guest = guest("examples/huge_state");
    let mut groups = Groups { members: vec![0, 1], member_ends: vec![2], timer_ends: vec![0], ..Groups::default() };
    groups.keys.push(b"k");
    groups.states.push(b"");
    let mut events = events(&["a", "b"]);
    let before = (events.clone(), groups.clone());
    let fault = guest.reduce(Metering::Deadline, &mut events, &mut groups, &mut Reduced::default()).unwrap_err();
    assert!(limit("limit 1048576 bytes")(&fault), "{fault:?}");
    assert_eq!((events, groups), before);
}

#[test]
fn a_trap_costs_one_instance_and_no_event() {
    let mut guest = guest("examples/traps_on_third");
    let mut call = || guest.process(Metering::Deadline, &mut events(&["a"]), &mut Output::default());
    for _ in 0..3 {
        call().unwrap();
        call().unwrap();
        let fault = call().unwrap_err();
        assert!(trap("unreachable")(&fault), "{fault:?}");
    }
}

#[test]
fn fresh_instances_show_hidden_state() {
    let first = |limits: &Limits| {
        let mut guest = load("examples/hidden_state").instantiate("null", limits).unwrap();
        let mut replies = Vec::new();
        for _ in 0..2 {
            let mut output = Output::default();
            guest.process(Metering::Deadline, &mut events(&["a"]), &mut output).unwrap();
            replies.push(output.data);
        }
        replies
    };
    assert_eq!(first(&Limits::default()), [b"1", b"2"]);
    assert_eq!(first(&Limits { calls_per_instance: Some(1), ..Limits::default() }), [b"1", b"1"]);
}

#[test]
fn a_refused_configuration_refuses_the_pipeline() {
    let error = load("examples/refuses_config").instantiate("null", &Limits::default()).map(drop).unwrap_err();
    assert_eq!(error.refusal, Refusal::Configure);
    assert!(error.message.ends_with("no configuration is good enough"), "{error}");
}
