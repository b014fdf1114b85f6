//! What becomes of values by the kind of the field that reads them, and of fields that are read leniently.

use super::*;

/// What comes of the value of a field of this kind, or the code and the place.
#[track_caller]
fn value_of(kind: Kind, value: &str) -> String {
    let field = |need| FieldRead { name: "v".into(), pointer: vec!["v".into()], kind, need, stage: 0 };
    let payload = format!(r#"{{"k":"a","t":{NOW},"v":{value}}}"#);
    let outcome = |need| {
        let mut decoder = Decoder::new(&source(TimeUnit::Millis), vec![field(need)], 1 << 20);
        let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
        outcome(&mut decoder, payload.as_bytes(), &mut out).trim_start_matches("a 0 ").to_owned()
    };
    assert!(value != "null" || outcome(Need::Required) == "field-missing /v", "{kind:?}");
    outcome(Need::Optional)
}

#[test]
fn decimals_keep_their_digits() {
    for digits in ["0", "-0", "12.50", "1e3", "-1.5E-10", "123456789012345678901234567890.000000000000000000000001"] {
        assert_eq!(value_of(Kind::Decimal, digits), digits);
        assert_eq!(value_of(Kind::Decimal, &format!("\"{digits}\"")), digits);
        assert_eq!(value_of(Kind::Decimal, &format!(" {digits} ")), digits);
    }
    assert_eq!(value_of(Kind::Decimal, &"9".repeat(255)), "9".repeat(255));
    assert_eq!(value_of(Kind::Decimal, "null"), "-");
    let others =
        ["\"\"", "\" 1\"", "\"1 \"", "\"+1\"", "\"01\"", "\".5\"", "\"5.\"", "\"NaN\"", "\"1,5\"", "\"-\"", "\"1e\""];
    for other in others.iter().chain(&["true", "[1]", "{}", "\"\\u0031\""]) {
        assert_eq!(value_of(Kind::Decimal, other), "field-type /v", "{other}");
    }
    assert_eq!(value_of(Kind::Decimal, &"9".repeat(256)), "field-type /v");
    assert_eq!(value_of(Kind::Decimal, "01"), "json-syntax /v");
}

#[test]
fn json_is_kept_as_it_was_written() {
    for value in ["1", "-0.0", "1e400", "\"a\"", "true", "[ 1,\t2 ]", "{\"b\":1, \"b\":2}", "[[[]]]"] {
        assert_eq!(value_of(Kind::Json, value), value.escape_debug().to_string());
    }
    assert_eq!(value_of(Kind::Json, "null"), "-");
    assert_eq!(value_of(Kind::Json, "[1,]"), "json-syntax /v");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(value_of(Kind::Json, &deep), deep);
}

#[test]
fn a_field_of_the_wrong_type_says_what_its_type_is_in_the_event() {
    let said = |kind, value: &str| {
        let field = FieldRead { name: "v".into(), pointer: vec!["v".into()], kind, need: Need::Optional, stage: 0 };
        let mut decoder = Decoder::new(&source(TimeUnit::Millis), vec![field], 1 << 20);
        message(&mut decoder, format!(r#"{{"k":"a","t":{NOW},"v":{value}}}"#).as_bytes())
    };
    for (kind, value, expected) in [
        (Kind::Bytes, r#""a""#, "expected a string in base64, found a string"),
        (Kind::Bytes, "1", "expected a string in base64, found integer 1"),
        (Kind::Decimal, r#""1,5""#, "expected a number of at most 255 bytes, also in a string, found `\"1,5\"`"),
        (Kind::Integer, "true", "expected integer, found boolean true"),
    ] {
        assert_eq!(said(kind, value), format!("field `v` has the wrong type: {expected}"));
    }
}

#[test]
fn bytes_are_base64() {
    for (value, expected) in [("\"\"", ""), ("\"aGk=\"", "hi"), ("\"aGk\"", "hi"), ("\"+/8=\"", "\u{fffd}\u{fffd}")] {
        assert_eq!(value_of(Kind::Bytes, value), expected);
    }
    assert_eq!(value_of(Kind::Bytes, "null"), "-");
    for other in ["\"a\"", "\"aGk=\\n\"", "\"-_8=\"", "\"aGl=\"", "1", "[]"] {
        assert_eq!(value_of(Kind::Bytes, other), "field-type /v", "{other}");
    }
}

/// One value read in every way at once: leniently as four kinds, strictly as it is written, as the key, and as what is on
/// the way to a field. What must come is what a plain JSON reader finds.
#[test]
fn lenient_fields_take_any_event_and_tell_what_is_unlike() {
    let kinds = [Kind::String, Kind::Integer, Kind::Number, Kind::Boolean];
    let read = |pointer: &[&str], kind, need| FieldRead {
        name: format!("/{}", pointer.join("/")),
        pointer: pointer.iter().map(|&name| name.into()).collect(),
        kind,
        need,
        stage: 0,
    };
    let values = [
        "null",
        "true",
        "0",
        "-0",
        "7",
        "1.0",
        "-1.5",
        "1e3",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "1e300",
        "\"\"",
        "\"a\\n\"",
        "\"7\"",
        "[]",
        "[\"x\"]",
        "[[1],2]",
        "{}",
        "{\"x\":\"deep\"}",
        "{\"x\":null,\"y\":1}",
        "{\"x\":{\"x\":1}}",
    ];
    let mut source = source(TimeUnit::Millis);
    for (value, is_key) in values.iter().flat_map(|value| [(Some(*value), false), (Some(*value), true), (None, false)])
    {
        source.key = Key::Field(vec![if is_key { "v" } else { "k" }.into()]);
        let mut fields = vec![read(&["v"], Kind::Json, Need::Optional)];
        fields.extend(kinds.map(|kind| read(&["v"], kind, Need::Lenient)));
        fields.push(read(&["v", "x"], Kind::String, Need::Lenient));
        fields.push(read(&["v", "0"], Kind::String, Need::Lenient));
        let mut decoder = Decoder::new(&source, fields.clone(), 1 << 20);
        let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
        let member = value.map_or(String::new(), |value| format!(r#","v":{value}"#));
        let payload = format!(r#"{{"k":"a","t":{NOW}{member}}}"#);
        let said = outcome(&mut decoder, payload.as_bytes(), &mut out);
        let plain: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
        let is_a_key = plain["v"].as_str().is_some_and(|text| !text.is_empty())
            || value.is_some_and(|value| value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'));
        if is_key && !is_a_key {
            assert!(said.starts_with("key-"), "{payload}: {said}");
            continue;
        }
        assert!(said.starts_with(if is_key { "" } else { "a 0 " }), "{payload}: {said}");
        for (field, column) in fields.iter().zip(&out.columns).skip(1) {
            let found = plain.pointer(&field.name);
            let whole = |value: &serde_json::Value| {
                value
                    .as_i64()
                    .or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64))
            };
            let has = found.is_some_and(|found| match &column.values {
                Values::Strings(texts) => found.as_str().is_some_and(|text| texts.get(0) == text.as_bytes()),
                Values::Integers(values) => whole(found).is_some_and(|whole| values[0] == whole),
                Values::Numbers(values) => found.as_f64() == Some(values[0]),
                Values::Booleans(values) => found.as_bool() == Some(values[0]),
                _ => unreachable!("lenient kinds"),
            });
            let (missing, unlike) = (!column.missing.is_empty(), !column.unlike.is_empty());
            assert_eq!(
                (missing, unlike),
                (!has, !has && found.is_some()),
                "{payload}: {} as {:?}",
                field.name,
                field.kind
            );
        }
        // The text is there in any case.
        let Values::Jsons(texts) = &out.columns[0].values else { unreachable!() };
        assert_eq!(texts.get(0), value.filter(|value| *value != "null").unwrap_or("").as_bytes(), "{payload}");
    }
}

/// Leniency is about kinds; a name that occurs twice is still refused, and a number that is none.
#[test]
fn a_lenient_field_may_occur_once() {
    let field = |kind| FieldRead { name: "v".into(), pointer: vec!["v".into()], kind, need: Need::Lenient, stage: 0 };
    for (value, expected) in [
        (r#"1,"v":1"#, "json-duplicate /v"),
        (r#"null,"v":[]"#, "json-duplicate /v"),
        ("1e400", "json-number /v"),
        (r#""\ud800""#, "json-syntax /v"),
    ] {
        let mut decoder = Decoder::new(&source(TimeUnit::Millis), vec![field(Kind::Integer)], 1 << 20);
        let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
        let payload = format!(r#"{{"k":"a","t":{NOW},"v":{value}}}"#);
        assert_eq!(outcome(&mut decoder, payload.as_bytes(), &mut out), expected, "{value}");
    }
}

/// Where a value is read as its text and as a number, the second look says where it fails, too.
#[test]
fn a_value_that_is_read_twice_has_its_place() {
    let read = |kind, need| FieldRead { name: "v".into(), pointer: vec!["v".into()], kind, need, stage: 0 };
    let fields = vec![read(Kind::Json, Need::Optional), read(Kind::Number, Need::Lenient)];
    let mut decoder = Decoder::new(&source(TimeUnit::Millis), fields, 1 << 20);
    let mut out = Decoded { columns: decoder.columns(), ..Decoded::default() };
    for (value, expected) in
        [("1e400", "json-number /v"), (r#""\ud800""#, "json-syntax /v"), ("[1e400]", "a 0 [1e400] -")]
    {
        let payload = format!(r#"{{"k":"a","t":{NOW},"v":{value}}}"#);
        assert_eq!(outcome(&mut decoder, payload.as_bytes(), &mut out), expected, "{value}");
    }
}
