//! The rule natively: golden cases, configuration errors, and agreement with the plain representation.

use super::*;
use pelton_sdk::testing;
use serde_json::json;

#[test]
fn cases() {
    testing::check_cases(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"), testing::run_transform::<SchemaCheck>);
}

#[track_caller]
fn refusal(config: &Value) -> String {
    testing::run_transform::<SchemaCheck>(&config.to_string(), "").expect_err("refused")
}

#[test]
fn a_schema_must_be_there_and_make_sense() {
    assert_eq!(refusal(&json!({})), "config has no `schema`");
    assert!(refusal(&json!({"schema": {"type": "strng"}})).starts_with("schema at `/type`: "));
    assert!(refusal(&json!({"schema": {}, "strict": true})).starts_with("config does not fit: unknown field `strict`"));
}

#[test]
fn a_schema_must_be_self_contained() {
    let text = refusal(&json!({"schema": {"$ref": "https://example.com/play.json"}}));
    assert!(text.contains("https://example.com/play.json"), "{text}");
    let text = refusal(&json!({"schema": {"$ref": "file:///play.json"}}));
    assert!(text.contains("file:///play.json"), "{text}");
}

#[test]
fn long_values_are_cut_in_messages() {
    let config = json!({"schema": {"type": "integer"}}).to_string();
    let input = json!({"event": "ä".repeat(10_000)}).to_string();
    let output = testing::run_transform::<SchemaCheck>(&config, &input).expect("runs");
    assert!(output.len() < DETAIL_BYTES_MAX + 200, "{output}");
}

/// Both representations must judge alike: keywords of every family against values of every shape.
#[test]
fn agrees_with_the_plain_representation() {
    let schemas = json!([
        {"type": ["string", "null"]}, {"type": "integer"}, {"type": "number", "minimum": 1, "exclusiveMaximum": 10.5},
        {"multipleOf": 0.5}, {"enum": [1, "a", null, {"a": 1}, [1, 2]]}, {"const": 1.0}, {"const": {"a": [1]}},
        {"minLength": 2, "maxLength": 3}, {"pattern": "^[a-z]+$"}, {"items": {"type": "integer"}, "uniqueItems": true},
        {"prefixItems": [{"type": "string"}], "contains": {"const": 1}}, {"minItems": 1, "maxItems": 2},
        {"required": ["a"], "properties": {"a": {"type": "integer"}}, "additionalProperties": false},
        {"patternProperties": {"^x": {"type": "string"}}, "propertyNames": {"maxLength": 2}},
        {"minProperties": 1, "maxProperties": 2}, {"dependentRequired": {"a": ["b"]}},
        {"anyOf": [{"type": "string"}, {"required": ["b"]}], "not": {"const": "no"}},
        {"oneOf": [{"type": "integer"}, {"minimum": 2}]}, {"if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["v"]}}, "$ref": "#/$defs/node"},
        {"unevaluatedProperties": false, "properties": {"a": true}}, true, false
    ]);
    let values = [
        "null",
        "true",
        "0",
        "1",
        "1.0",
        "2.5",
        "-3",
        "1e3",
        "18446744073709551615",
        "123456789012345678901234567890",
        r#""a""#,
        r#""no""#,
        r#""abcd""#,
        r#""\u00e4\n""#,
        "[]",
        "[1,2]",
        "[1,1.0]",
        r#"["s",1]"#,
        r#"[{"a":1},{"a":1.0}]"#,
        "{}",
        r#"{"a":1}"#,
        r#"{"a":"x"}"#,
        r#"{"b":2}"#,
        r#"{"a":1,"b":2}"#,
        r#"{"x1":"s"}"#,
        r#"{"xyz":1}"#,
        r#"{"v":1,"next":{"v":2,"next":{}}}"#,
        r#"{"a":[1]}"#,
        r#"{"\u0061":1}"#,
    ];
    for schema in schemas.as_array().expect("a list") {
        let ours = jsonschema::options_for::<Borrowed>().build(schema).expect("a schema");
        let plain = jsonschema::validator_for(schema).expect("a schema");
        for text in values {
            let document: Document<'_> = serde_json::from_str(text).expect("JSON");
            let value: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(ours.is_valid(&document), plain.is_valid(&value), "{schema} against {text}");
        }
    }
}

/// Parsers differ in which of the two they take.
#[test]
fn a_name_that_occurs_twice_is_refused_wherever_it_is() {
    let many = |last: &str| {
        let members: Vec<String> = (0..20).map(|number| format!(r#""n{number}":0"#)).collect();
        format!(r#"{{{},"{last}":1}}"#, members.join(","))
    };
    fn read(text: &str) -> Result<Document<'_>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
    for (text, name) in [
        (r#"{"a":1,"a":1}"#.to_owned(), "a"),
        (r#"{"a":1,"b":2,"\u0061":null}"#.to_owned(), "a"),
        (r#"{"x":[{"y":{"a":{},"b":0,"b":{}}}]}"#.to_owned(), "b"),
        (r#"{"":1,"":2}"#.to_owned(), ""),
        (many("n0"), "n0"),
        (many("n19"), "n19"),
    ] {
        let said = read(&text).expect_err("refused");
        assert!(said.starts_with(&format!("{}`{name}`", document::TWICE)), "{text}: {said}");
    }
    for text in [many("other"), r#"{"a":{"a":1},"b":[{"a":1},{"a":2}],"A":1}"#.to_owned(), "{}".to_owned()] {
        assert!(read(&text).is_ok(), "{text}");
    }
}
