//! Guests that keep the contract.

use pelton_engine::event::{Column, Events, Kind, Strings, Values};
use pelton_engine::guest::{
    AggregateColumn, AggregateData, Fault, Function, Metering, OF_ROW, Output, Panes, Timing, World,
};
use pelton_sandbox::{Limits, Options, Refusal, Sandbox};

use crate::{events, guest, load, wasm};

#[test]
fn echo_forwards_every_event_untouched() {
    let mut guest = guest("examples/echo");
    assert_eq!(guest.descriptor().identity.world, World::Transform);
    let mut batch = events(&["a", "bb", "ccc"]);
    let before = batch.clone();
    let mut output = Output::default();
    for metering in [Metering::Deadline, Metering::Fuel, Metering::Deadline] {
        guest.process(metering, &mut batch, &mut output).unwrap();
        assert_eq!(batch, before);
        assert_eq!(output.rows, [0, 1, 2]);
        assert!(output.slices.chunks(4).all(|slice| slice[0] == OF_ROW && slice[2] == OF_ROW));
    }
}

#[test]
fn an_empty_batch_gives_nothing() {
    let mut output = Output::default();
    guest("examples/echo").process(Metering::Deadline, &mut Events::default(), &mut output).unwrap();
    assert_eq!(output, Output::default());
}

#[test]
fn digest_is_the_sha256_of_the_file() {
    use sha2::{Digest, Sha256};
    let module = load("examples/echo");
    assert_eq!(module.digest(), <[u8; 32]>::from(Sha256::digest(wasm("examples/echo"))));
}

#[test]
fn a_function_of_another_world_is_a_fault() {
    let mut guest = guest("examples/echo");
    let fault = guest.evaluate(Metering::Deadline, &mut Panes::default(), &mut Output::default()).unwrap_err();
    assert_eq!(fault, Fault::Contract("module is a transform, not a window-rule".into()));
    guest.process(Metering::Deadline, &mut events(&["a"]), &mut Output::default()).unwrap();
}

fn panes(rows: &[(&str, i64, i64, i64)]) -> Panes {
    let mut panes = Panes::default();
    let (mut plays, mut played, mut tracks) = (Vec::new(), Vec::new(), Vec::new());
    for (user, count, milliseconds, distinct) in rows {
        panes.keys.push(user.as_bytes());
        panes.starts.push(0);
        panes.ends.push(3_600_000);
        panes.timings.push(Timing::OnTime);
        panes.indexes.push(0);
        panes.lasts.push(true);
        panes.watermarks.push(3_600_000);
        plays.push(*count);
        played.push(*milliseconds);
        tracks.push(*distinct);
    }
    panes.values = [plays, played, tracks].map(|values| AggregateColumn::new(AggregateData::Integers(values))).into();
    panes
}

#[test]
fn fraud_plans_and_judges() {
    let mut guest = guest("fraud");
    assert_eq!(guest.descriptor().identity.world, World::WindowRule);
    let plan = guest.aggregates().unwrap();
    assert_eq!(plan.aggregates[0].function, Function::Count);
    assert!(!plan.extracts());
    let mut panes = panes(&[("ann", 5, 900_000, 5), ("bot", 500, 500 * 31_000, 3), ("café", 300, 300 * 200_000, 290)]);
    let before = panes.clone();
    let mut output = Output::default();
    guest.evaluate(Metering::Deadline, &mut panes, &mut output).unwrap();
    assert_eq!(panes, before);
    assert_eq!(output.rows, [1]);
    let [key, _, offset, bytes] = output.slices[..] else { panic!("one record") };
    assert_eq!(key, OF_ROW);
    let start = offset as usize - panes.keys.data.len();
    let alert = str::from_utf8(&output.data[start..start + bytes as usize]).unwrap();
    assert!(alert.contains("\"user\":\"bot\""), "{alert}");
    guest.evaluate(Metering::Fuel, &mut panes, &mut output).unwrap();
    assert_eq!(output.rows, [1]);
}

#[test]
fn a_refused_configuration_says_why() {
    let error = load("fraud").instantiate(r#"{"min_plays":0}"#, &Limits::default()).map(drop).unwrap_err();
    assert_eq!(error.refusal, Refusal::Configure);
    assert_eq!(error.message, "module `fraud` refuses its configuration: min_plays is 0, wanted 1 or more");
}

#[test]
fn schema_check_loads_within_the_shape_limits() {
    let module = load("schema_check");
    assert_eq!(module.identity().world, World::Transform);
}

#[test]
fn fresh_instances_give_the_same_replies() {
    let limits = Limits { calls_per_instance: Some(1), ..Limits::default() };
    let mut guest = load("examples/echo").instantiate("null", &limits).unwrap();
    let mut first = Output::default();
    guest.process(Metering::Deadline, &mut events(&["a", "b"]), &mut first).unwrap();
    for _ in 0..3 {
        let mut again = Output::default();
        guest.process(Metering::Deadline, &mut events(&["a", "b"]), &mut again).unwrap();
        assert_eq!(again, first);
    }
}

#[test]
fn columns_are_lent_and_come_back() {
    let mut batch = events(&["a"]);
    let text = Strings { data: b"x".to_vec(), ends: vec![1] };
    batch.columns.push(Column { missing: Vec::new(), unlike: Vec::new(), values: Values::Strings(text) });
    batch.columns.push(Column { missing: vec![0], ..Column::new(Kind::Integer) });
    let before = batch.clone();
    guest("examples/echo").process(Metering::Deadline, &mut batch, &mut Output::default()).unwrap();
    assert_eq!(batch, before);
}

#[test]
fn pooled_instances_behave_the_same() {
    let sandbox = Sandbox::new(&Options { pooling: true, ..Options::default() }).unwrap();
    let module = sandbox.load(wasm("examples/echo"), &Limits::default()).unwrap();
    let mut guest = module.instantiate("null", &Limits::default()).unwrap();
    let mut output = Output::default();
    guest.process(Metering::Deadline, &mut events(&["a"]), &mut output).unwrap();
    assert_eq!(output.rows, [0]);
}

#[test]
fn compiled_modules_are_kept_in_the_cache_folder() {
    let folder = tempfile::tempdir().unwrap();
    let cache_dir = Some(folder.path().join("cache"));
    for _ in 0..2 {
        let sandbox = Sandbox::new(&Options { cache_dir: cache_dir.clone(), ..Options::default() }).unwrap();
        sandbox.load(wasm("examples/echo"), &Limits::default()).unwrap();
    }
    assert!(std::fs::read_dir(folder.path().join("cache")).unwrap().next().is_some());
}
