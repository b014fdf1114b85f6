//! JSON Schema validation: events that fit pass untouched, all others become dead letters.
//!
//! Configuration: `{"schema": {…}}`, of any draft from 4 to 2020-12. The schema must be self-contained:
//! there is no network and no file to fetch another one from.
//! A dead letter has the code `schema` (or `json` when the payload is no JSON at all, `json-duplicate` when an object has
//! a name twice), and says where,
//! what was found and which part of the schema forbids it.

use jsonschema::{PatternOptions, ValidationError, Validator};
use pelton_sdk::{Error, Event, Module, Output, Transform};
use serde::Deserialize;
use serde_json::Value;

mod document;
#[cfg(target_arch = "wasm32")]
mod random;

use document::{Borrowed, Document};

/// A message may quote a value of the event, which can be large.
const DETAIL_BYTES_MAX: usize = 600;

/// Schema to hold events against.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    schema: Option<Value>,
}

/// The rule. The schema is compiled once.
pub struct SchemaCheck {
    validator: Validator<Borrowed>,
}

impl Module for SchemaCheck {
    type Fields = ();
    type Config = Config;
    const PAYLOAD: bool = true;
    const CONFIG_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","required":["schema"],"additionalProperties":false,"properties":{"schema":{"type":["object","boolean"],"description":"JSON Schema of the events, self-contained."}}}"#,
    );

    fn configure(config: Config) -> Result<SchemaCheck, String> {
        let schema = config.schema.ok_or("config has no `schema`")?;
        let validator = jsonschema::options_for::<Borrowed>()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| format!("schema at `{}`: {error}", place(error.instance_path().as_str())))?;
        Ok(SchemaCheck { validator })
    }
}

impl Transform for SchemaCheck {
    fn process(&self, event: &Event<'_, ()>, output: &mut Output<'_>) -> Result<(), Error> {
        // UTF-8 is checked once for the whole payload, not per text.
        let text = str::from_utf8(event.payload()).map_err(|error| Error::reject("json", error.to_string()))?;
        let document: Document<'_> = serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let code = if message.starts_with(document::TWICE) { "json-duplicate" } else { "json" };
            Error::reject(code, message)
        })?;
        if !self.validator.is_valid(&document) {
            let (place, detail) = problem(&self.validator, &document);
            return Err(Error::reject_at(place, "schema", detail));
        }
        output.forward();
        Ok(())
    }
}

/// The first problem in order of place: where it is, what it is, and how many more there are. Slow: only for events that do
/// not fit.
#[cold]
fn problem(validator: &Validator<Borrowed>, document: &Document<'_>) -> (String, String) {
    let mut errors: Vec<ValidationError<'_>> = validator.iter_errors(document).collect();
    errors.sort_by(|left, right| {
        let order = |error: &ValidationError<'_>| (error.instance_path().to_string(), error.schema_path().to_string());
        order(left).cmp(&order(right))
    });
    let Some(first) = errors.first() else { return (String::new(), "does not fit the schema".to_owned()) };
    let mut text = format!("{}: {first}", place(first.instance_path().as_str()));
    cut(&mut text);
    text.push_str(&format!(" (schema {})", place(first.schema_path().as_str())));
    if 1 < errors.len() {
        text.push_str(&format!(" and {} more", errors.len() - 1));
    }
    (first.instance_path().to_string(), text)
}

/// A JSON pointer; the empty one reads badly.
fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "/" } else { pointer }
}

fn cut(text: &mut String) {
    if DETAIL_BYTES_MAX < text.len() {
        text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
        text.push('…');
    }
}

pelton_sdk::export!(transform: SchemaCheck);

#[cfg(test)]
mod tests;
