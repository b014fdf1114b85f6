//! Malformed and odd events, one line each; and what any bytes must not do.

mod kinds;

use proptest::prelude::*;

use super::*;
use crate::effects::key_token;
use crate::event::{Kind, Need};
use crate::plan::{EventOrder, Time, Watermark};
use crate::time::{Span, WallTime};

/// 2026-01-01, the arrival of every event.
const NOW: i64 = 1_767_225_600_000;

fn source(unit: TimeUnit) -> Source {
    Source {
        stream: "S".into(),
        subject: "s".into(),
        partitions: 1,
        create: None,
        key: Key::Field(vec!["k".into()]),
        time: Time { field: vec!["t".into()], unit },
        watermark: Watermark {
            delay: Span(0),
            idle_timeout: None,
            max_future: Span::from_secs(300),
            max_past: Span::from_secs(20 * 366 * 86_400),
        },
        order: EventOrder::Arrival,
        dedupe: None,
        fields: Vec::new(),
    }
}

/// Wanted: `i` integer (required), `n` number, `s` text, `b` boolean, `/o/p/x` text.
fn decoder(unit: TimeUnit) -> Decoder {
    let read = |pointer: &[&str], kind, required| FieldRead {
        name: pointer[pointer.len() - 1].into(),
        pointer: pointer.iter().map(|&name| name.into()).collect(),
        kind,
        need: if required { Need::Required } else { Need::Optional },
        stage: 1,
    };
    let fields = vec![
        read(&["i"], Kind::Integer, true),
        read(&["n"], Kind::Number, false),
        read(&["s"], Kind::String, false),
        read(&["b"], Kind::Boolean, false),
        read(&["o", "p", "x"], Kind::String, false),
    ];
    Decoder::new(&source(unit), fields, 16 << 20)
}

/// Decodes one event: `CODE PATH`, or the row as `key time i n s b x`, `-` where missing.
fn outcome(decoder: &mut Decoder, payload: &[u8], out: &mut Decoded) -> String {
    let event = RawEvent { published: WallTime(NOW), ..RawEvent::default() };
    if let Err(fault) = decoder.decode(&event, b"", b"", payload, out) {
        return format!("{} {}", fault.code, fault.path).trim_end().into();
    }
    let row = out.len() - 1;
    let mut text = format!("{} {}", String::from_utf8_lossy(out.keys.get(row)), out.timestamps[row] - NOW);
    for column in &out.columns {
        let value = match &column.values {
            _ if column.is_missing(row) => "-".into(),
            Values::Strings(texts) => String::from_utf8_lossy(texts.get(row)).escape_debug().to_string(),
            Values::Integers(values) => values[row].to_string(),
            Values::Numbers(values) => format!("{:?}", values[row]),
            Values::Booleans(values) => values[row].to_string(),
            Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
                String::from_utf8_lossy(texts.get(row)).escape_debug().to_string()
            }
        };
        text = format!("{text} {value}");
    }
    text
}

/// Every line: what comes of the event, then the event. `@` stands for `"k":"a","t":NOW,"i":1`.
const CASES: &str = r#"
a 0 1 - - - -                 | {@}
a 0 1 - - - -                 |  { @ } 
a 0 1 2.5 ä true y            | {@,"n":2.5,"s":"ä","b":true,"o":{"p":{"x":"y"}}}
json-syntax                   | 
json-syntax                   | {
json-syntax                   | {@
json-syntax                   | {@,
json-syntax                   | {@,}
json-syntax                   | {@,"s
json-syntax /s                | {@,"s":"abc
json-syntax                   | {@,"z":[1,2}
json-syntax                   | {@,"z":tru}
json-syntax                   | {@} {@}
json-syntax                   | {@}x
json-syntax                   | {@}]
json-syntax                   | // comment {@}
json-syntax                   | {@ /* comment */}
json-syntax                   | {'k':1}
json-syntax                   | {k:1}
json-syntax                   | \u{feff}{@}
json-syntax                   | {@}\0
json-syntax                   | \0
json-syntax /s                | {@,"s":"\0"}
json-not-object               | 5
json-not-object               | "text"
json-not-object               | null
json-not-object               | true
json-not-object               | -1.5
json-not-object               | []
json-not-object               | [{@}]
json-syntax /n                | {@,"n":NaN}
json-syntax                   | {@,"z":NaN}
json-syntax                   | {@,"z":Infinity}
json-syntax /n                | {@,"n":-}
json-syntax /i                | {"k":"a","t":NOW,"i":01}
json-syntax /n                | {@,"n":+1}
json-number /n                | {@,"n":1e400}
json-number /s                | {@,"s":-1e400}
a 0 1 - - - -                 | {@,"z":1e400}
a 0 1 0.0 - - -               | {@,"n":1e-400}
json-duplicate /k             | {@,"k":"b"}
json-duplicate /t             | {@,"t":NOW}
json-duplicate /i             | {@,"i":1}
json-duplicate /i             | {@,"i":null}
json-duplicate /s             | {@,"s":null,"s":"x"}
json-duplicate /s             | {@,"s":"x","\u0073":"y"}
json-duplicate /o             | {@,"o":{"p":{"x":"1"}},"o":{"p":{"x":"2"}}}
json-duplicate /o             | {@,"o":{"p":{"x":"1"}},"o":null}
json-duplicate /o             | {@,"o":null,"o":{"p":{"x":"1"}}}
json-duplicate /o             | {@,"o":7,"o":[]}
json-duplicate /o             | {@,"o":{},"\u006f":{}}
json-duplicate /o/p           | {@,"o":{"p":{},"p":{"x":"1"}}}
json-duplicate /o/p           | {@,"o":{"p":"x","\u0070":"y"}}
json-duplicate /o/p/x         | {@,"o":{"p":{"x":"1","x":"1"}}}
a 0 1 - - - -                 | {@,"z":1,"z":2}
a 0 1 - - - -                 | {@,"z":"\ud800"}
json-syntax /s                | {@,"s":"\ud800"}
a 0 1 - \u{1f600} - -         | {@,"s":"\ud83d\ude00"}
a 0 9007199254740993 - - - -  | {"k":"a","t":NOW,"i":9007199254740993}
a 0 9007199254740991 - - - -  | {"k":"a","t":NOW,"i":9007199254740991.0}
field-type /i                 | {"k":"a","t":NOW,"i":9007199254740993.0}
a 0 9223372036854775807 - - - - | {"k":"a","t":NOW,"i":9223372036854775807}
a 0 -9223372036854775808 - - - - | {"k":"a","t":NOW,"i":-9223372036854775808}
field-type /i                 | {"k":"a","t":NOW,"i":9223372036854775808}
field-type /i                 | {"k":"a","t":NOW,"i":-9223372036854775809}
field-type /i                 | {"k":"a","t":NOW,"i":99999999999999999999}
a 0 1 9.223372036854776e18 - - - | {@,"n":9223372036854775808}
a 0 1 - - - -                 | {"k":"a","t":NOW,"i":1.0}
a 0 100 - - - -               | {"k":"a","t":NOW,"i":1e2}
a 0 0 -0.0 - - -              | {"k":"a","t":NOW,"i":-0,"n":-0}
field-type /i                 | {"k":"a","t":NOW,"i":1.5}
field-type /i                 | {"k":"a","t":NOW,"i":"1"}
field-type /i                 | {"k":"a","t":NOW,"i":[1]}
field-type /i                 | {"k":"a","t":NOW,"i":{}}
field-type /i                 | {"k":"a","t":NOW,"i":true}
field-missing /i              | {"k":"a","t":NOW}
field-missing /i              | {"k":"a","t":NOW,"i":null}
field-missing /i              | {"k":"a","t":NOW,"I":1}
field-type /n                 | {@,"n":"2"}
a 0 1 2.0 - - -               | {@,"n":2}
a 0 1 - - - -                 | {@,"n":null,"s":null,"b":null,"o":null}
field-type /s                 | {@,"s":7}
field-type /b                 | {@,"b":1}
a 0 1 - - - -                 | {@,"o":7}
a 0 1 - - - -                 | {@,"o":["p"]}
a 0 1 - - - -                 | {@,"o":{"p":"x","q":{"x":"no"}}}
a 0 1 - - - -                 | {@,"x":"not here"}
field-type /o/p/x             | {@,"o":{"p":{"x":{}}}}
key-missing /k                | {"t":NOW,"i":1}
key-missing /k                | {"k":null,"t":NOW,"i":1}
key-missing /k                | {"k":"","t":NOW,"i":1}
key-type /k                   | {"k":true,"t":NOW,"i":1}
key-type /k                   | {"k":{"id":1},"t":NOW,"i":1}
key-type /k                   | {"k":1.0,"t":NOW,"i":1}
key-type /k                   | {"k":1e3,"t":NOW,"i":1}
key-type /k                   | {"k":[1],"t":NOW,"i":1}
9223372036854775808 0 1 - - - - | {"k":9223372036854775808,"t":NOW,"i":1}
18446744073709551615 0 1 - - - - | {"z":{"k":0},"k": 18446744073709551615 ,"t":NOW,"i":1}
-9223372036854775809 0 1 - - - - | {"\u006b":-9223372036854775809,"t":NOW,"i":1}
340282366920938463463374607431768211456 0 1 - - - - | {"t":NOW,"i":1,"k":340282366920938463463374607431768211456}
-7 0 1 - - - -                | {"k":-7,"t":NOW,"i":1}
time-missing /t               | {"k":"a","i":1}
time-missing /t               | {"k":"a","t":null,"i":1}
time-type /t                  | {"k":"a","t":"NOW","i":1}
time-type /t                  | {"k":"a","t":1.5,"i":1}
time-type /t                  | {"k":"a","t":false,"i":1}
time-type /t                  | {"k":"a","t":99999999999999999999,"i":1}
time-too-old /t                  | {"k":"a","t":0,"i":1}
time-too-old /t                  | {"k":"a","t":-1,"i":1}
time-too-old /t                  | {"k":"a","t":1767225600,"i":1}
time-too-old /t                  | {"k":"a","t":-9223372036854775808,"i":1}
time-in-future /t                | {"k":"a","t":253402300799000,"i":1}
time-in-future /t                | {"k":"a","t":1767225600000000,"i":1}
time-in-future /t                | {"k":"a","t":9223372036854775807,"i":1}
a 300000 1 - - - -            | {"k":"a","t":1767225900000,"i":1}
time-in-future /t                | {"k":"a","t":1767225900001,"i":1}
"#;

#[test]
fn odd_events() {
    let mut decoder = decoder(TimeUnit::Millis);
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    let mut wrong = String::new();
    let cases: Vec<(&str, &str)> = CASES
        .lines()
        .filter_map(|line| line.split_once("| "))
        .map(|(expected, event)| (expected.trim(), event))
        .collect();
    assert!(cases.len() > 100, "{}", cases.len());
    for (expected, event) in cases {
        let payload = event
            .replace('@', r#""k":"a","t":NOW,"i":1"#)
            .replace(r"\u{feff}", "\u{feff}")
            .replace(r"\0", "\0")
            .replace("NOW", &NOW.to_string());
        let got = outcome(&mut decoder, payload.as_bytes(), &mut out);
        if got != expected.replace(r"\u{1f600}", "\u{1f600}") {
            wrong += &format!("{event}\n  expected {expected}\n  got      {got}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn large_deep_and_foreign_events() {
    let mut decoder = decoder(TimeUnit::Millis);
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    let base = format!(r#""k":"a","t":{NOW},"i":1"#);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let objects = format!("{}1{}", r#"{"s":"#.repeat(10_000), "}".repeat(10_000));
    let big = "x".repeat(10 << 20);
    let cases: [(&str, Vec<u8>); 11] = [
        ("a 0 1 - - - -", format!("{{{base},\"z\":{deep}}}").into()),
        ("a 0 1 - - - -", format!("{{{base},\"z\":{objects}}}").into()),
        ("a 0 1 - - - -", format!("{{{base},\"o\":{deep}}}").into()),
        ("field-type /s", format!("{{{base},\"s\":{deep}}}").into()),
        ("field-type /s", format!("{{{base},\"s\":{objects}}}").into()),
        ("json-not-object", deep.clone().into()),
        ("json-syntax", format!("{{{base},\"z\":{}", &deep[..9_000]).into()),
        ("a 0 1 - - - -", format!("{{{base},\"z\":\"{big}\"}}").into()),
        ("payload-size", format!("{{{base},\"z\":\"{big}{big}\"}}").into()),
        ("json-utf8", [b"{\"k\":\"", &b"\xff\xfe"[..], b"\"}"].concat()),
        ("json-utf8", b"{\"k\":\"a\xc3".to_vec()),
    ];
    for (expected, payload) in cases {
        assert_eq!(outcome(&mut decoder, &payload, &mut out), expected, "{}", payload.len());
    }
    let text = format!("{{{base},\"s\":\"{big}\"}}");
    assert_eq!(outcome(&mut decoder, text.as_bytes(), &mut out).len(), "a 0 1 -  - -".len() + big.len());
}

#[test]
fn the_beginning_of_an_event_is_refused_for_the_size_of_the_whole() {
    let whole = crate::event::Whole { bytes: 5 << 30, sha256: [0; 32] };
    let event = RawEvent { published: WallTime(NOW), whole: Some(Box::new(whole)), ..RawEvent::default() };
    let mut decoder = decoder(TimeUnit::Millis);
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    // What is there would be a fine event.
    let fault = decoder.decode(&event, b"", b"", br#"{"k":"a","t":1767225600000,"i":1}"#, &mut out).unwrap_err();
    assert_eq!((fault.code, out.len()), (Code::PayloadSize, 0));
    assert!(fault.message.contains("5368709120 bytes"), "{}", fault.message);
}

#[test]
fn units_of_time() {
    for (unit, time, expected) in [
        (TimeUnit::Seconds, "1767225601", "a 1000"),
        (TimeUnit::Seconds, "1767225601.0", "a 1000"),
        (TimeUnit::Seconds, "1767225601.5", "a 1500"),
        (TimeUnit::Seconds, "1767225600.9999999999", "a 999"),
        (TimeUnit::Seconds, "1.7672256e9", "a 0"),
        (TimeUnit::Seconds, "1e30", "time-type /t"),
        (TimeUnit::Seconds, "\"1767225601\"", "time-type /t"),
        (TimeUnit::Seconds, "99999999999999999999", "time-type /t"),
        (TimeUnit::Millis, "\"1767225600000\"", "time-type /t"),
        (TimeUnit::Seconds, "9223372036854775807", "time-type /t"),
        (TimeUnit::Micros, "1767225600001999", "a 1"),
        (TimeUnit::Nanos, "1767225599999999999", "a -1"),
        (TimeUnit::Rfc3339, "\"2026-01-01T00:00:01.5Z\"", "a 1500"),
        (TimeUnit::Rfc3339, "\"2026-01-01T01:00:00+01:00\"", "a 0"),
        (TimeUnit::Rfc3339, "\"2026-01-01T00:00:00\"", "time-type /t"),
        (TimeUnit::Rfc3339, "\"2026-02-30T00:00:00Z\"", "time-type /t"),
        (TimeUnit::Rfc3339, "\"\"", "time-type /t"),
        (TimeUnit::Rfc3339, "1767225600000", "time-type /t"),
        (TimeUnit::Rfc3339, "\"9999-12-30T00:00:00Z\"", "time-in-future /t"),
    ] {
        let mut decoder = decoder(unit);
        let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
        let got = outcome(&mut decoder, format!(r#"{{"k":"a","i":1,"t":{time}}}"#).as_bytes(), &mut out);
        assert_eq!(got.trim_end_matches(" 1 - - - -"), expected, "{unit:?} {time}");
    }
}

/// A decoder with the key in a list and an optional field beside it.
fn list_decoder() -> Decoder {
    let pointer = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut source = source(TimeUnit::Seconds);
    source.key = Key::Field(pointer("items/0/id"));
    source.time.field = pointer("at/10");
    let field = FieldRead {
        name: "name".into(),
        pointer: pointer("items/1/name"),
        kind: Kind::String,
        need: Need::Required,
        stage: 0,
    };
    Decoder::new(&source, vec![field], 1 << 20)
}

#[test]
fn numbers_in_a_pointer_are_elements_of_lists_and_names_in_objects() {
    let mut decoder = list_decoder();
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    let at = r#""at":[0,0,0,0,0,0,0,0,0,0,1767225600.25]"#;
    for (items, expected) in [
        (r#"[{"id":7},{"name":"x"},{"id":8}]"#, "7 250 x"),
        (r#"{"0":{"id":"k"},"1":{"name":"x"}}"#, "k 250 x"),
        (r#"[{"id":18446744073709551616},{"name":"x"}]"#, "18446744073709551616 250 x"),
        (r#"[{"id":7,"id":8},{"name":"x"}]"#, "json-duplicate /items/0/id"),
        (r#"[{"id":7}]"#, "field-missing /items/1/name"),
        ("[]", "field-missing /items/1/name"),
        (r#"[[],{"name":"x"}]"#, "key-missing /items/0/id"),
        (r#"{"00":{"id":"k"},"1":{"name":"x"}}"#, "key-missing /items/0/id"),
    ] {
        let payload = format!(r#"{{{at},"items":{items}}}"#);
        assert_eq!(outcome(&mut decoder, payload.as_bytes(), &mut out), expected, "{items}");
    }
}

/// What is said of `payload`.
fn message(decoder: &mut Decoder, payload: &[u8]) -> String {
    let event = RawEvent { published: WallTime(NOW), ..RawEvent::default() };
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    decoder.decode(&event, b"", b"", payload, &mut out).expect_err("a bad event").message
}

#[test]
fn messages_name_what_was_found_and_what_was_expected() {
    let mut of_lists = list_decoder();
    let name = r#"{"name":"x"}"#;
    for (payload, expected) in [
        (
            format!(r#"{{"items":[3,{name}]}}"#),
            "the key is missing, expected a string or an integer; `/items/0` is a number, expected an object",
        ),
        (
            format!(r#"{{"items":[[1],{name}]}}"#),
            "the key is missing, expected a string or an integer; `/items/0` is a list, expected an object or the index of an element",
        ),
        (format!(r#"{{"items":[{{"id":""}},{name}]}}"#), "the key is empty, expected a string or an integer"),
        (format!(r#"{{"items":[{{"id":null}},{name}]}}"#), "the key is null, expected a string or an integer"),
        (
            format!(r#"{{"items":[{{"id":"a"}},{name}],"at":[1,2]}}"#),
            "the event time is missing; the list `/at` has 2 elements, counted from 0",
        ),
        (
            r#"{"items":[]}"#.into(),
            "field `name` is missing, expected string; the list `/items` has 0 elements, counted from 0",
        ),
        (r#"{"items":null}"#.into(), "field `name` is missing, expected string; `/items` is null, expected an object"),
        ("\u{feff}{}".into(), "the event begins with a byte order mark (EF BB BF), expected JSON without one"),
        ("{\0}\0".into(), "the event looks like UTF-16 (every other byte is 0), expected JSON in UTF-8"),
        ("[1]".into(), "the event is a list, expected a JSON object"),
    ] {
        assert_eq!(message(&mut of_lists, payload.as_bytes()), expected, "{payload}");
    }
    let utf16 = "the event begins with the byte order mark of UTF-16, expected JSON in UTF-8";
    assert_eq!(message(&mut of_lists, b"\xff\xfe{\0}\0"), utf16);
    assert_eq!(message(&mut of_lists, b"\xfe\xff\0{\0}"), utf16);
    let long = "9".repeat(256);
    for (unit, event, expected) in [
        (
            TimeUnit::Millis,
            r#"{"k":true,"i":1}"#,
            "the key has the wrong type: expected a string or an integer, found boolean true",
        ),
        (
            TimeUnit::Millis,
            r#"{"k":1000.0,"i":1}"#,
            "the key has the wrong type: expected a string or an integer, found a number with a fraction or an exponent (`1000.0`)",
        ),
        (
            TimeUnit::Millis,
            &format!(r#"{{"k":{long},"i":1}}"#),
            &format!(
                "the key has the wrong type: expected a string or an integer, found an integer of 256 digits, limit 255 (`{}…`)",
                &long[..48]
            ),
        ),
        (
            TimeUnit::Millis,
            r#"{"k":"a","i":1,"t":"17"}"#,
            "the event time has the wrong type: expected an integer of milliseconds, found a string of digits `17`; write it without quotes",
        ),
        (TimeUnit::Seconds, r#"{"k":"a","i":1,"t":1e30}"#, "the event time `1e30` is beyond 64 bits of milliseconds"),
        (
            TimeUnit::Rfc3339,
            r#"{"k":"a","i":1,"t":"1 May"}"#,
            "the event time `1 May` is not RFC 3339, such as 2026-05-01T00:00:00Z: it does not begin with a year of four digits",
        ),
        (
            TimeUnit::Rfc3339,
            r#"{"k":"a","i":1,"t":17}"#,
            "the event time has the wrong type: expected an RFC 3339 string such as 2026-05-01T00:00:00Z, found integer 17",
        ),
    ] {
        assert_eq!(message(&mut decoder(unit), event.as_bytes()), expected, "{event}");
    }
    let longest = format!(r#"{{"k":{},"i":1,"t":{NOW}}}"#, &long[..255]);
    let mut decoder = decoder(TimeUnit::Millis);
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    assert_eq!(outcome(&mut decoder, longest.as_bytes(), &mut out), format!("{} 0 1 - - - -", &long[..255]));
}

#[test]
fn keys_from_headers_and_subjects() {
    let event = RawEvent { published: WallTime(NOW), ..RawEvent::default() };
    let payload = format!(r#"{{"t":{NOW}}}"#);
    for (key, subject, headers, expected) in [
        (Key::Header("User".into()), "", "a: 1\r\nuser:  x y \r\n", "x y"),
        (Key::Header("User".into()), "", "user:\r\n", "key-missing"),
        (Key::Header("User".into()), "", "", "key-missing"),
        (Key::SubjectToken(1), "plays.u7.x", "", "u7"),
        (Key::SubjectToken(3), "plays.u7.x", "", "key-missing"),
        (Key::SubjectToken(0), "", "", "key-missing"),
    ] {
        let mut decoder = Decoder::new(&Source { key, ..source(TimeUnit::Millis) }, Vec::new(), 1 << 20);
        let mut out = Decoded::default();
        let got = match decoder.decode(&event, subject.as_bytes(), headers.as_bytes(), payload.as_bytes(), &mut out) {
            Ok(()) => String::from_utf8_lossy(out.keys.get(0)).into_owned(),
            Err(fault) => fault.code.to_string(),
        };
        assert_eq!(got, expected);
    }
}

/// Two partitions, one key each: what the broker put into the wrong one is noticed.
#[test]
fn a_key_of_another_partition_is_refused() {
    let event = RawEvent { published: WallTime(NOW), ..RawEvent::default() };
    let create = crate::plan::CreateStream { ingest: Some("s.in.*".into()), max_age: None, max_bytes: None };
    let source = Source { partitions: 2, create: Some(create), ..source(TimeUnit::Millis) };
    let ask = |source: &Source, partition: u32, subject: &str, key: &str| {
        let mut decoder = Decoder::new(source, Vec::new(), 1 << 20).in_partition(source, partition);
        let mut out = Decoded::default();
        let payload = format!(r#"{{"k":"{key}","t":{NOW}}}"#);
        let result = decoder.decode(&event, subject.as_bytes(), b"", payload.as_bytes(), &mut out);
        assert_eq!(out.len(), usize::from(result.is_ok()));
        result.map_err(|fault| format!("{} {}", fault.code, fault.message))
    };
    // `a` hashes to an even number, `b` to an odd one.
    assert_eq!((partition_of(b"a", 2), partition_of(b"b", 2)), (0, 1));
    assert_eq!((ask(&source, 0, "s.0", "a"), ask(&source, 1, "s.1", "b")), (Ok(()), Ok(())));
    let said = ask(&source, 1, "s.1", "a").unwrap_err();
    let expected =
        "key-partition key `a` belongs to partition 0, and came to 1: the last token of its subject was not the key";
    assert_eq!(said, expected);
    // Each of these is at home in one partition, and no producer can write it as a token, or not all do so alike.
    for key in ["a.b", "a b", "*", ">", "ä", "a\\tb"] {
        assert_eq!([0, 1].map(|partition| ask(&source, partition, "s.0", key).is_ok()), [true, true], "{key}");
    }
    // As it is in one partition, as the host writes it into subjects in the other.
    let escaped = (0..100).map(|number| format!("u@{number}"));
    let mut escaped =
        escaped.filter(|key| partition_of(key.as_bytes(), 2) != partition_of(key_token(key.as_bytes()).as_bytes(), 2));
    let key = escaped.next().expect("one of a hundred");
    assert_eq!([0, 1].map(|partition| ask(&source, partition, "s.0", &key).is_ok()), [true, true], "{key}");
    // A file has no subjects, and keys of all partitions.
    assert_eq!(ask(&source, 1, "", "a"), Ok(()));
    // Nobody but the producers decides where keys are.
    let own = Source { create: None, ..source.clone() };
    assert_eq!(ask(&own, 1, "s.1", "a"), Ok(()));
    let alone = Source { partitions: 1, ..source };
    assert_eq!(ask(&alone, 0, "s", "b"), Ok(()));
}

#[test]
fn partitions_are_those_of_fnv_1a() {
    // From the table of the function's authors.
    for (token, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
        assert_eq!(partition_of(token.as_bytes(), u32::MAX), hash, "{token}");
    }
}

/// Pieces that events are put together from, so that many of them are nearly right.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"k\":\"a\"",
        "\"t\":1767225600000",
        "\"i\":1",
        "\"n\":1.5",
        "\"s\":\"x\"",
        "\"o\":{\"p\":{\"x\":\"y\"}}",
        "\"b\":true",
        "null",
        "1e400",
        "\"i\":\"no\"",
        "\"\\ud800\"",
        " ",
        "{\"k\":\"a\",\"t\":1767225600000,\"i\":1",
    ]);
    let pieces = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    let good = (any::<i64>(), "[a-c]{1,3}", any::<bool>(), any::<bool>()).prop_map(|(i, key, with_n, with_s)| {
        let n = if with_n { ",\"n\":0.5" } else { "" };
        let s = if with_s { ",\"s\":\"text\"" } else { "" };
        format!(r#"{{"k":"{key}","t":{NOW}{n},"i":{i}{s}}}"#).into_bytes()
    });
    prop_oneof![pieces, good, prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bad_events_leave_no_trace(payloads in prop::collection::vec(payload(), 0..20)) {
        let mut decoder = decoder(TimeUnit::Millis);
        let mut all = Decoded { columns: decoder.columns(), ..Decoded::default() };
        let mut good = Vec::new();
        for payload in &payloads {
            let rows = all.len();
            outcome(&mut decoder, payload, &mut all);
            if all.len() > rows {
                good.push(payload);
            }
        }
        let mut alone = Decoded { columns: decoder.columns(), ..Decoded::default() };
        for payload in good {
            outcome(&mut decoder, payload, &mut alone);
        }
        prop_assert_eq!(&all.keys, &alone.keys);
        prop_assert_eq!(&all.timestamps, &alone.timestamps);
        prop_assert_eq!(&all.columns, &alone.columns);
    }
}
