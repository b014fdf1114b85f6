//! Any event under a few plans: a row with the values of its fields, or a dead letter with its bytes; never both,
//! and never a trace of a refused event.

use std::sync::{Arc, LazyLock};

use pelton_engine::decode::{Decoded, Decoder};
use pelton_engine::effects::{Effects, Origin, Room};
use pelton_engine::epoch::Channel;
use pelton_engine::event::{Column, Kind, Need, RawBatch, Values};
use pelton_engine::guest::{Guest, World};
use pelton_engine::plan::{FieldRead, Plan, parse};
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Options, Progress};
use pelton_engine::time::WallTime;

use crate::bytes::Bytes;
use crate::kit::{NOW, Native};

const FIELDS: [(&str, Kind, bool); 5] = [
    ("s", Kind::String, false),
    ("i", Kind::Integer, false),
    ("x", Kind::Number, false),
    ("b", Kind::Boolean, false),
    ("deep", Kind::String, false),
];

/// Key, time and required fields of each plan, and an event that it takes.
const SOURCES: [(&str, &str, bool, &str); 5] = [
    ("'/k'", "{ field = '/t', unit = 'ms' }", false, r#"{"k":"a","t":1767225600000,"s":"x"}"#),
    (
        "'/k'",
        "{ field = '/t', unit = 'rfc3339' }",
        true,
        r#"{"k":7,"t":"2026-01-01T00:00:00Z","s":"é","i":1,"x":0.5,"b":true,"a":{"b":"c"}}"#,
    ),
    ("{ header = 'Key' }", "{ field = '/a/t', unit = 's' }", false, r#"{"a":{"t":1767225600}}"#),
    ("{ subject_token = 1 }", "{ field = '/t', unit = 'us' }", false, r#"{"t":1767225600000000}"#),
    ("'/a/k'", "{ field = '/t', unit = 'ns' }", false, r#"{"a":{"k":"a"},"t":1767225600000000000}"#),
];

struct Source {
    plan: Arc<Plan>,
    guest: Native,
    reads: Vec<FieldRead>,
    good: &'static [u8],
}

static PLANS: LazyLock<Vec<Source>> = LazyLock::new(|| SOURCES.into_iter().map(source).collect());

fn source((key, time, required, good): (&str, &str, bool, &'static str)) -> Source {
    let text = format!(
        "name = 'p'\nsource = {{ stream = 'S', subject = 's.key', format = 'json', key = {key}, time = {time}, \
         fields = {{ deep = '/a/b' }} }}\nstage = [{{ name = 'echo', module = 'echo.wasm' }}]\noutput.out = {{}}\n\
         limits.max_payload = '1KiB'\n"
    );
    let (draft, problems) = parse(&text);
    assert_eq!(problems, [], "{text}");
    let mut guest = Native::new(World::Transform, &FIELDS.map(|(name, kind, _)| (name, kind, required)));
    guest.process = Some(Arc::new(|_, events, output| {
        output.rows.extend(0..events.len() as u32);
        output.slices.extend((0..events.len()).flat_map(|_| [pelton_engine::guest::OF_ROW, 0].repeat(2)));
        Ok(())
    }));
    let (plan, problems) = draft.expect("no problems").bind(&[guest.descriptor.clone()]);
    assert_eq!(problems, [], "{text}");
    let plan = plan.expect("no problems");
    let reads = plan.reads(&[guest.descriptor.clone()]);
    Source { plan: Arc::new(plan), guest, reads, good: good.as_bytes() }
}

/// An event with what the broker says of it.
struct Event {
    subject: Vec<u8>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    let source = script.pick(&[0, 1, 2, 3, 4]);
    let event = Event { subject: script.short(), headers: script.short(), payload: script.rest() };
    let source = &PLANS[source];
    let taken = decode(source, &event);
    step(source, &event, taken);
}

/// Between two good events; whether it was taken.
fn decode(source: &Source, event: &Event) -> bool {
    let mut decoder = Decoder::new(&source.plan.source, source.reads.clone(), source.plan.limits.max_payload);
    let mut batch = RawBatch::default();
    batch.push(1, WallTime(NOW), &event.subject, &event.headers, &event.payload);
    let raw = &batch.events[0];
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    let good = |decoder: &mut Decoder, out: &mut Decoded| {
        decoder.decode(raw, b"s.key", b"Key: k\r\n", source.good, out).expect("a good event is taken");
    };
    good(&mut decoder, &mut out);
    let before = out.clone();
    let result = decoder.decode(raw, &event.subject, &event.headers, &event.payload, &mut out);
    match &result {
        Ok(()) => check_row(source, event, &out),
        Err(fault) => {
            assert!(out.keys == before.keys && out.timestamps == before.timestamps && out.columns == before.columns);
            let is_token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(fault.code.name().bytes().all(is_token), "{fault:?}");
        }
    }
    good(&mut decoder, &mut out);
    assert_eq!(out.len(), 2 + usize::from(result.is_ok()));
    out.columns.iter().for_each(|column| check_column(column, out.len()));
    result.is_ok()
}

/// The second row holds what a plain JSON reader finds.
fn check_row(source: &Source, event: &Event, out: &Decoded) {
    assert_eq!(out.len(), 2);
    assert!(!out.keys.get(1).is_empty(), "an empty key is a missing one");
    // A plain reader refuses more: what lies in fields that nobody wants.
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&event.payload) else { return };
    for (read, column) in source.reads.iter().zip(&out.columns).filter(|(read, _)| read.pointer.len() == 1) {
        let value = &json[&read.pointer[0]];
        assert_eq!(column.is_missing(1), value.is_null(), "{}", read.name);
        if value.is_null() {
            assert!(read.need != Need::Required, "{} is required", read.name);
            continue;
        }
        match &column.values {
            Values::Strings(texts) => assert_eq!(Some(texts.get(1)), value.as_str().map(str::as_bytes)),
            Values::Integers(values) => {
                let whole = value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64);
                assert_eq!(Some(values[1]), value.as_i64().or(whole));
            }
            Values::Numbers(values) => assert_eq!(Some(values[1]), value.as_f64()),
            Values::Booleans(values) => assert_eq!(Some(values[1]), value.as_bool()),
            Values::Decimals(texts) => {
                let written: serde_json::Value =
                    serde_json::from_slice(texts.get(1)).expect("a decimal is a JSON number");
                let of_text = value.as_str().and_then(|text| serde_json::from_str(text).ok());
                assert_eq!(Some(written), of_text.or_else(|| value.is_number().then(|| value.clone())));
            }
            Values::Jsons(texts) => {
                let written: serde_json::Value =
                    serde_json::from_slice(texts.get(1)).expect("JSON is kept as it was written");
                assert_eq!(&written, value);
            }
            Values::Blobs(_) => assert!(value.is_string(), "{value}"),
        }
    }
}

fn check_column(column: &Column, rows: usize) {
    assert_eq!(column.len(), rows);
    assert!(column.missing.is_sorted() && column.missing.last().is_none_or(|&row| (row as usize) < rows));
    if let Values::Strings(texts) = &column.values {
        assert!(texts.ends.is_sorted() && texts.ends.last().map_or(0, |&end| end as usize) == texts.data.len());
        assert!((0..rows).all(|row| str::from_utf8(texts.get(row)).is_ok()));
    }
}

/// The whole engine gives one record: the payload as it came, forwarded or buried.
fn step(source: &Source, event: &Event, taken: bool) {
    let origin = Origin { pipeline: "p".into(), partition: 0, source: "S".into(), revision: [0; 32] };
    let options = Options { origin, room: Room::default(), envelope: Envelope::Headers, hash_key: HashKey::default() };
    let guests: Vec<Box<dyn Guest>> = vec![Box::new(source.guest.clone())];
    let mut engine = Engine::new(Arc::clone(&source.plan), guests, options).expect("a transform has no plan");
    let mut effects = Effects::default();
    let mut batch = RawBatch::default();
    batch.push(1, WallTime(NOW), &event.subject, &event.headers, &event.payload);
    let mut input = Input::Batch(batch);
    while engine.step(input, &mut effects).expect("this guest has no faults") != Progress::NeedInput {
        input = Input::Continue;
    }
    assert!(effects.totals.balanced(0) && effects.totals.received == 1, "{:?}", effects.totals);
    let [row] = &effects.records.rows[..] else { panic!("{} records", effects.records.rows.len()) };
    assert_eq!(effects.records.slice(&row.payload), event.payload);
    let headers = effects.records.slice(&row.headers);
    if taken {
        assert_eq!(row.channel, Channel::Output(0));
    } else {
        assert_eq!(row.channel, Channel::DeadLetter);
    }
    let headers = str::from_utf8(headers).expect("headers are text");
    let (kept, ours): (Vec<&str>, Vec<&str>) = headers
        .split_terminator("\r\n")
        .partition(|line| !line.starts_with("Pelton-") || line.starts_with("Pelton-Original-"));
    crate::guest::check_headers(&ours.join("\r\n"));
    assert!(kept.iter().all(|line| is_header(line)), "{kept:?}");
    let lines = event.headers.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = if taken { 0 } else { lines.filter(|line| !line.is_empty()).count() };
    assert_eq!(kept.len(), lines, "a dead letter keeps every header of its event, under names that are not the host's");
}

/// A line that every client can read.
fn is_header(line: &str) -> bool {
    let name = line.split_once(": ").map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) && !line.contains(['\r', '\n'])
}
