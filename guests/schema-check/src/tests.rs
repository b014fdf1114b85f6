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
    let long = "ä".repeat(10_000);
    let config = json!({"schema": {"properties": {"v": {"type": "integer"}}}}).to_string();
    for event in
        [json!({"event": {"v": long}}), json!({"event": long}), json!({"raw": format!(r#"{{"{long}":0,"{long}":0}}"#)})]
    {
        let output = testing::run_transform::<SchemaCheck>(&config, &event.to_string()).expect("runs");
        let output: Value = serde_json::from_str(&output).expect("one line");
        let detail = output["detail"].as_str().expect("rejected");
        assert!(detail.len() < DETAIL_BYTES_MAX + 100, "{detail}");
    }
}

/// A schema goes to the columns only where they cannot accept what the payload would not.
#[test]
fn flat_schemas_are_judged_by_columns() {
    let fields = |schema: &Value| {
        let rule = SchemaCheck::configure(Config { schema: Some(schema.clone()) }).expect("a schema");
        rule.shape().fields.iter().map(|field| format!("{} {:?}", field.name, field.kind)).collect::<Vec<_>>()
    };
    let with = |name: &str, value: Value| {
        let mut schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}});
        schema[name] = value;
        schema
    };
    for (schema, expected) in [
        (with("title", json!("plays")), &["/a Kind::Integer"][..]),
        (with("$schema", json!("http://json-schema.org/draft-07/schema#")), &["/a Kind::Integer"]),
        (with("required", json!(["a", "b/c~"])), &["/a Kind::Integer", "/b~1c~0 Kind::String"]),
        (
            json!({"type": "object", "properties": {"x": {"type": "number"}, "y": {}, "z": true, "s": {"type": "string"}}}),
            &["/s Kind::String", "/x Kind::Number"],
        ),
    ] {
        assert_eq!(fields(&schema), expected, "{schema}");
    }
    let of_a = |member: Value| with("properties", json!({ "a": member }));
    for schema in [
        json!(true),
        json!({"properties": {"a": {"type": "integer"}}}),
        json!({"type": ["object"], "properties": {"a": {"type": "integer"}}}),
        json!({"type": "object"}),
        // 1.0 is no integer there.
        with("$schema", json!("http://json-schema.org/draft-04/schema#")),
        with("additionalProperties", json!(false)),
        with("allOf", json!([{"required": ["a"]}])),
        with("minProperties", json!(1)),
        with("$defs", json!({"x": {"type": "integer"}})),
        with("required", json!([""])),
        with("required", json!(["a b", "é"])),
        with("required", json!(["x".repeat(200)])),
        with("required", (0..100).map(|idx| format!("n{idx}")).collect()),
        of_a(json!({"type": ["integer", "null"]})),
        of_a(json!({"type": "object"})),
        of_a(json!({"type": "array", "items": {"type": "integer"}})),
        of_a(json!({"minimum": 1})),
        of_a(json!(false)),
        of_a(json!({"type": "integer", "$ref": "#"})),
        of_a(json!({"type": "integer", "anyOf": [{"$ref": "#/properties/a/not"}], "not": {"const": 7}})),
        of_a(json!({"type": "integer", "$id": "a"})),
    ] {
        assert_eq!(fields(&schema), [""; 0], "{schema}");
    }
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
    fn read(text: &str) -> Result<Document<'_>, (&str, String)> {
        document::read(text, &|_| true).map_err(|fault| (fault.code, fault.message))
    }
    for (text, name) in [
        (r#"{"a":1,"a":1}"#.to_owned(), "a"),
        (r#"{"a":1,"b":2,"\u0061":null}"#.to_owned(), "a"),
        (r#"{"x":[{"y":{"a":{},"b":0,"b":{}}}]}"#.to_owned(), "b"),
        (r#"{"":1,"":2}"#.to_owned(), ""),
        (many("n0"), "n0"),
        (many("n19"), "n19"),
    ] {
        let (code, said) = read(&text).expect_err("refused");
        assert_eq!(code, "json-duplicate", "{text}: {said}");
        assert!(said.contains(&format!("more than one `{name}`")), "{text}: {said}");
    }
    for text in [many("other"), r#"{"a":{"a":1},"b":[{"a":1},{"a":2}],"A":1}"#.to_owned(), "{}".to_owned()] {
        assert!(read(&text).is_ok(), "{text}");
    }
}
