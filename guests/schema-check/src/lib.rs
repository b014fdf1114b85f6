//! JSON Schema validation: events that fit pass untouched, all others become dead letters.
//!
//! Configuration: `{"schema": {…}}`, of any draft from 4 to 2020-12. The schema must be self-contained:
//! there is no network and no file to fetch another one from.
//! A dead letter has the code `schema` and says where, what was found and which part of the schema forbids it. A payload
//! that cannot be read has the codes that the host uses: `json-syntax`, `json-number`, `json-depth`, and `json-duplicate`
//! when an object has a name twice.
//!
//! A flat schema (`type`, `required` and `properties` of one scalar type each, see `columns.rs`) is held against the values
//! that the host has read anyway; then names of the event that the schema does not speak of are not looked at. Any
//! other schema is held against the whole payload, which costs several times as much.

use jsonschema::{PatternOptions, ValidationError, Validator};
use pelton_sdk::fields::Configured;
use pelton_sdk::{Error, Event, Module, Output, Shape, Transform};
use serde::Deserialize;
use serde_json::Value;

mod columns;
mod document;
#[cfg(target_arch = "wasm32")]
mod random;

use columns::Columns;
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
    /// Of a flat schema.
    columns: Option<Columns>,
}

impl Module for SchemaCheck {
    type Fields = Configured;
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
        Ok(SchemaCheck { validator, columns: Columns::new(&schema) })
    }

    fn shape(&self) -> Shape {
        let fields = self.columns.as_ref().map_or_else(Vec::new, Columns::fields);
        Shape { fields, ..pelton_sdk::declared::<SchemaCheck>() }
    }
}

impl Transform for SchemaCheck {
    fn process(&self, event: &Event<'_, Configured>, output: &mut Output<'_>) -> Result<(), Error> {
        if !self.columns.as_ref().is_some_and(|columns| columns.accept(&event.fields)) {
            self.judge(event.payload())?;
        }
        output.forward();
        Ok(())
    }
}

impl SchemaCheck {
    /// Holds a whole payload against the schema.
    fn judge(&self, payload: &[u8]) -> Result<(), Error> {
        // UTF-8 is checked once for the whole payload, not per text.
        let text = str::from_utf8(payload).map_err(|error| Error::reject("json-utf8", error.to_string()))?;
        let counts = |name: &str| self.columns.as_ref().is_none_or(|columns| columns.has(name));
        let document = document::read(text, &counts)
            .map_err(|fault| Error::reject_at(fault.place, fault.code, cut(fault.message)))?;
        if self.validator.is_valid(&document) {
            return Ok(());
        }
        let (place, detail) = problem(&self.validator, &document);
        Err(Error::reject_at(place, "schema", detail))
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
    let mut text = cut(format!("{}: {first}", place(first.instance_path().as_str())));
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

fn cut(mut text: String) -> String {
    if DETAIL_BYTES_MAX < text.len() {
        text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
        text.push('…');
    }
    text
}

pelton_sdk::export!(transform: SchemaCheck);

#[cfg(test)]
mod tests;
