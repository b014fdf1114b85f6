//! A table of a pipeline file as JSON text: what a module is given as its `config`, and what a revision is a hash of.
//!
//! Written by hand rather than through a JSON map, because the order of a map's keys depends on features that
//! other crates of a build may switch on. Keys are sorted: two files that mean the same give the same text.

use std::collections::BTreeMap;

use toml_edit::{Item, TableLike, Value};

/// A value that JSON cannot hold: where it starts in the text, and what it is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plan) struct NotJson {
    pub(in crate::plan) offset: usize,
    pub(in crate::plan) value: String,
}

/// The JSON text of a table. Dates become text. Depth is bounded by the TOML parser.
///
/// # Errors
/// The first value that JSON cannot hold: `nan` or `inf`.
pub(in crate::plan) fn json_text(table: &dyn TableLike) -> Result<String, NotJson> {
    let mut json = String::new();
    write_table(table, &mut json)?;
    Ok(json)
}

fn write_table(table: &dyn TableLike, json: &mut String) -> Result<(), NotJson> {
    let sorted: BTreeMap<&str, &Item> = table.iter().collect();
    json.push('{');
    for (idx, (key, item)) in sorted.into_iter().enumerate() {
        if idx != 0 {
            json.push(',');
        }
        write_text(key, json);
        json.push(':');
        write_item(item, json)?;
    }
    json.push('}');
    Ok(())
}

fn write_item(item: &Item, json: &mut String) -> Result<(), NotJson> {
    match item {
        Item::None => json.push_str("null"),
        Item::Value(value) => write_value(value, json)?,
        Item::Table(table) => write_table(table, json)?,
        Item::ArrayOfTables(tables) => {
            json.push('[');
            for (idx, table) in tables.iter().enumerate() {
                if idx != 0 {
                    json.push(',');
                }
                write_table(table, json)?;
            }
            json.push(']');
        }
    }
    Ok(())
}

fn write_value(value: &Value, json: &mut String) -> Result<(), NotJson> {
    match value {
        Value::String(text) => write_text(text.value(), json),
        Value::Integer(number) => json.push_str(&number.value().to_string()),
        Value::Float(number) => {
            let Some(number) = serde_json::Number::from_f64(*number.value()) else {
                let offset = value.span().map_or(0, |span| span.start);
                return Err(NotJson { offset, value: number.value().to_string() });
            };
            json.push_str(&number.to_string());
        }
        Value::Boolean(flag) => json.push_str(if *flag.value() { "true" } else { "false" }),
        Value::Datetime(date) => write_text(&date.value().to_string(), json),
        Value::Array(values) => {
            json.push('[');
            for (idx, value) in values.iter().enumerate() {
                if idx != 0 {
                    json.push(',');
                }
                write_value(value, json)?;
            }
            json.push(']');
        }
        Value::InlineTable(table) => write_table(table, json)?,
    }
    Ok(())
}

fn write_text(text: &str, json: &mut String) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(toml: &str, expected: Result<&str, (usize, &str)>) {
        let document = toml_edit::Document::parse(toml).expect("valid TOML in a test");
        let json = json_text(document.as_table());
        match (&json, expected) {
            (Ok(json), Ok(expected)) => {
                assert_eq!(json, expected);
                serde_json::from_str::<serde_json::Value>(json).expect("valid JSON");
            }
            (Err(error), Err(expected)) => assert_eq!((error.offset, error.value.as_str()), expected),
            _ => panic!("{json:?} is not {expected:?}"),
        }
    }

    #[test]
    fn toml_becomes_json() {
        check("", Ok("{}"));
        check("b = 1\na = 'x'", Ok(r#"{"a":"x","b":1}"#));
        check("a.b = true\na.c = 1.0", Ok(r#"{"a":{"b":true,"c":1.0}}"#));
        check("t = [1, [2], {x = \"\\\"\\n\"}]", Ok(r#"{"t":[1,[2],{"x":"\"\n"}]}"#));
        check("d = 2026-01-02T03:04:05Z", Ok(r#"{"d":"2026-01-02T03:04:05Z"}"#));
        check("[[r]]\nx = 1\n[[r]]\nx = 2", Ok(r#"{"r":[{"x":1},{"x":2}]}"#));
        check("n = nan", Err((4, "NaN")));
        check("n = [1.0, -inf]", Err((10, "-inf")));
    }
}
