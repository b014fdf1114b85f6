//! `schema-check` by columns and by payload: the host's own decoder and the module as it is shipped, once with a schema
//! that columns can judge, once with one that means the same and that they cannot. Code and place of every event have to
//! be the same.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use pelton_engine::effects::{Effects, Origin, Room};
use pelton_engine::event::RawBatch;
use pelton_engine::plan;
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Options};
use pelton_engine::time::WallTime;
use pelton_sandbox::{Limits, Module};

use crate::load;

const NAMES: [&str; 7] = ["a", "b", "c/d", "e~f", "k", "t", "0"];
const NOW: i64 = 1_767_225_600_000;
const KINDS: [&str; 4] = ["string", "integer", "number", "boolean"];
/// What may be said of a value besides its type.
const CHECKS: [&str; 20] = [
    "{}",
    r#"{"minimum":1}"#,
    r#"{"minimum":9007199254740993}"#,
    r#"{"exclusiveMaximum":2.0}"#,
    r#"{"multipleOf":2}"#,
    r#"{"multipleOf":0.5}"#,
    r#"{"multipleOf":0.1}"#,
    r#"{"enum":[0,1.5,2,"a","",null,true,9007199254740992]}"#,
    r#"{"enum":["1",1.0]}"#,
    r#"{"const":1}"#,
    r#"{"const":9007199254740992}"#,
    r#"{"const":false}"#,
    r#"{"anyOf":[{"maximum":1.5},{"const":7}],"not":{"const":0}}"#,
    r#"{"minLength":1,"maxLength":3}"#,
    r#"{"pattern":"^[a-c]*$"}"#,
    r#"{"pattern":"é"}"#,
    r#"{"format":"date-time"}"#,
    r#"{"if":{"const":"a"},"then":false}"#,
    r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#,
    r#"{"title":"t","default":7,"unknown":{"a":1}}"#,
];
const VALUES: [&str; 39] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "1.5",
    "2",
    "2.0",
    "-3",
    "7",
    "0.3",
    "1e2",
    "1e400",
    "-1e400",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "9007199254740993.0",
    "9223372036854775807",
    "9223372036854775808",
    "1e19",
    "123456789012345678901234567890",
    "\"\"",
    "\"a\"",
    "\"abc\"",
    "\"é\"",
    "\"\\u00e9\"",
    "\"\\ud800\"",
    "\"1\"",
    "\"2026-01-01T00:00:00Z\"",
    "[]",
    "[1,2]",
    "{}",
    "{\"a\":1}",
    "{\"a\":1,\"a\":2}",
    "[[[{\"b\":1,\"b\":1}]]]",
];

/// Per event the code and place of its dead letter, `fits` for one that is passed on.
fn verdicts(module: &Module, schema: &Value, events: &[String], by_columns: bool) -> Vec<String> {
    let config = json!({ "schema": schema }).to_string();
    let guest = module.instantiate(&config, &Limits::default()).expect("a schema");
    assert_eq!(!guest.descriptor().shape.fields.is_empty(), by_columns, "{schema}");
    let text = "name = 'p'\nsource = { stream = 'S', subject = 's', key = 'key', time = { field = 'time', unit = 'ms' } }\n\
                stage = [{ name = 'check', module = 'm.wasm' }]\noutput.fits = {}\n";
    let (draft, problems) = plan::parse(text);
    assert_eq!(problems, []);
    let (plan, problems) = draft.expect("no problems").bind(&[guest.descriptor().clone()]);
    assert_eq!(problems, []);
    let origin = Origin { pipeline: "p".into(), partition: 0, source: "S".into(), revision: [0; 32] };
    let options = Options { origin, room: Room::default(), envelope: Envelope::Headers, hash_key: HashKey::default() };
    let mut engine = Engine::new(Arc::new(plan.expect("no problems")), vec![guest], options).expect("a transform");
    let mut batch = RawBatch::default();
    for (idx, event) in events.iter().enumerate() {
        batch.push(idx as u64 + 1, WallTime(NOW), b"s", b"", event.as_bytes());
    }
    let (mut effects, mut input) = (Effects::default(), Input::Batch(batch));
    while engine.step(input, &mut effects).expect("no fault of the environment") == pelton_engine::step::Progress::Full
    {
        input = Input::Continue;
    }
    let mut verdicts = vec![String::new(); events.len()];
    for row in &effects.records.rows {
        let headers = String::from_utf8_lossy(effects.records.slice(&row.headers)).into_owned();
        let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let of_record = || header("Pelton-Id")?.split('/').nth(2);
        let sequence = header("Pelton-Dlq-Sequence").or_else(of_record).expect("one of both");
        let sequence: usize = sequence.parse().expect("a number");
        verdicts[sequence - 1] = match header("Pelton-Dlq-Code") {
            Some(code) => format!("{code} {}", header("Pelton-Dlq-Path").unwrap_or_default()),
            None => "fits".into(),
        };
    }
    verdicts
}

/// The same verdicts by columns, where a schema has any, and by payload; else the event and both.
fn compare(schema: &Value, events: &[String]) -> Result<(), String> {
    static MODULE: LazyLock<Module> = LazyLock::new(|| load("schema_check"));
    let speaks = schema["properties"].as_object().expect("members").values().any(|member| member["type"].is_string())
        || !schema["required"].as_array().expect("names").is_empty();
    // Says nothing, and is more than columns understand.
    let mut by_payload = schema.clone();
    by_payload["allOf"] = json!([true]);
    let columns = verdicts(&MODULE, schema, events, speaks);
    let payload = verdicts(&MODULE, &by_payload, events, false);
    match (0..events.len()).find(|&idx| columns[idx] != payload[idx]) {
        None => Ok(()),
        Some(idx) => Err(format!(
            "{schema} against {}: `{}` by columns, `{}` by payload",
            events[idx], columns[idx], payload[idx]
        )),
    }
}

fn of_kind(kind: &str, check: &str) -> Value {
    let mut member: Value = serde_json::from_str(check).expect("JSON");
    member["type"] = kind.into();
    member
}

#[test]
fn every_check_against_every_value() {
    let events: Vec<String> = VALUES.map(|value| format!(r#"{{"key":"x","time":{NOW},"a":{value}}}"#)).into();
    for (kind, check) in KINDS.into_iter().flat_map(|kind| CHECKS.map(|check| (kind, check))) {
        let schema = json!({ "type": "object", "properties": { "a": of_kind(kind, check) }, "required": [] });
        compare(&schema, &events).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

fn schema() -> impl Strategy<Value = Value> {
    let kind_and_check = (prop::sample::select(KINDS.to_vec()), prop::sample::select(CHECKS.to_vec()));
    let member = prop_oneof![
        8 => kind_and_check.prop_map(|(kind, check)| of_kind(kind, check)),
        1 => Just(json!(true)),
        1 => Just(json!({ "description": "anything" })),
    ];
    let members = prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), member, 0..5);
    let required = prop::collection::btree_set(prop::sample::select(NAMES.to_vec()), 0..4);
    let draft = prop::sample::select(vec![
        None,
        Some("http://json-schema.org/draft-06/schema#"),
        Some("http://json-schema.org/draft-07/schema#"),
        Some("https://json-schema.org/draft/2019-09/schema"),
        Some("https://json-schema.org/draft/2020-12/schema"),
    ]);
    (members, required, draft).prop_map(|(members, required, draft)| {
        let mut schema = json!({ "type": "object", "properties": members, "required": required });
        if let Some(draft) = draft {
            schema["$schema"] = draft.into();
        }
        schema
    })
}

/// Members of an event, now and then one twice.
fn members() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let member = (prop::sample::select(NAMES.to_vec()), prop::sample::select(VALUES.to_vec()));
    let members = prop::collection::vec(member, 0..5);
    (members, prop::bool::weighted(0.1)).prop_map(|(mut members, twice)| {
        let mut seen = BTreeSet::new();
        members.retain(|(name, _)| seen.insert(*name) || twice);
        members
    })
}

/// What a schema does not speak of is looked at by the payload alone, so it is harmless here. There is at most one reason
/// why an event cannot be read: of several, either side tells the one that it comes upon first.
fn event(members: &[(&str, &str)], schema: &Value) -> String {
    let is_required = |name: &str| schema["required"].as_array().expect("names").iter().any(|other| other == name);
    let (mut seen, mut is_unreadable) = (BTreeSet::new(), false);
    let mut text = format!(r#"{{"key":"x","time":{NOW}"#);
    for (name, value) in members {
        let speaks = is_required(name) || schema["properties"][name]["type"].is_string();
        let value = if speaks { value } else { "[1,{}]" };
        let cannot_be_read =
            serde_json::from_str::<Value>(value).is_err() || value.contains(',') && value.contains(':');
        if !(cannot_be_read || seen.contains(name)) || speaks && !std::mem::replace(&mut is_unreadable, true) {
            text.push_str(&format!(r#","{name}":{value}"#));
            seen.insert(name);
        }
    }
    text + "}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn columns_and_payload_judge_alike(schema in schema(), events in prop::collection::vec(members(), 1..60)) {
        let events: Vec<String> = events.iter().map(|members| event(members, &schema)).collect();
        let compared = compare(&schema, &events);
        prop_assert_eq!(compared, Ok(()));
    }
}
