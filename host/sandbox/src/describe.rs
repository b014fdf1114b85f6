//! From a module's account of itself to the engine's `Identity` and `Shape`. Names end up in subjects, metrics and paths,
//! so they are strict.

use pelton_engine::event::{Field, Kind, Need};
use pelton_engine::guest::{Identity, Shape, World};
use pelton_engine::text::is_printable;

use crate::bindings::exports::pelton::guest::meta;
use crate::bindings::pelton::guest::types;
use crate::limits::{COUNTERS_MAX, DECLARATIONS_MAX, LANES_MAX, NAME_BYTES};
use crate::log::printable;

/// Bytes of the JSON Schema of a configuration.
const SCHEMA_BYTES: usize = 256 << 10;
/// Bytes of one attribute's value.
const ATTRIBUTE_BYTES: usize = 4 << 10;

/// Which of the optional interfaces a module exports.
#[derive(Clone, Copy, Default)]
pub(crate) struct Optional {
    pub(crate) migrations: bool,
    pub(crate) erasures: bool,
}

/// The checked identity, or what is wrong with it.
pub(crate) fn identity(world: World, optional: Optional, said: meta::Identity) -> Result<Identity, String> {
    identifier("name", &said.name, is_name)?;
    identifier("version", &said.version, is_version)?;
    attributes(&said.attributes)?;
    if let Some(schema) = &said.config_schema
        && schema.len() > SCHEMA_BYTES
    {
        return Err(format!("config schema is {} bytes, limit {SCHEMA_BYTES}", schema.len()));
    }
    Ok(Identity {
        world,
        name: said.name,
        version: said.version,
        state_version: said.state_version,
        config_schema: said.config_schema,
        attributes: said.attributes,
        migrates: optional.migrations,
        erases: optional.erasures,
    })
}

/// The checked shape, or what is wrong with it.
pub(crate) fn shape(said: meta::Shape) -> Result<Shape, String> {
    count("fields", said.fields.len(), DECLARATIONS_MAX)?;
    count("lanes", said.lanes.len(), LANES_MAX)?;
    count("ports", said.ports.len(), DECLARATIONS_MAX)?;
    count("counters", said.counters.len(), COUNTERS_MAX)?;
    attributes(&said.attributes)?;
    if said.ports.is_empty() {
        return Err("no output port; port 0 is the main one".into());
    }
    let names = [("lane", &said.lanes, is_name as fn(&str) -> bool), ("port", &said.ports, is_name)];
    for (what, all, good) in names.into_iter().chain([("counter", &said.counters, is_counter as fn(&str) -> bool)]) {
        all.iter().try_for_each(|name| identifier(what, name, good))?;
        unique(what, all.iter().map(String::as_str))?;
    }
    Ok(Shape {
        fields: fields(said.fields)?,
        lanes: said.lanes,
        payload: said.payload,
        headers: said.headers,
        ports: said.ports,
        counters: said.counters,
        attributes: said.attributes,
    })
}

fn attributes(said: &[(String, String)]) -> Result<(), String> {
    count("attributes", said.len(), DECLARATIONS_MAX)?;
    for (name, value) in said {
        identifier("attribute", name, is_text)?;
        if value.len() > ATTRIBUTE_BYTES {
            return Err(format!("attribute `{name}` is {} bytes, limit {ATTRIBUTE_BYTES}", value.len()));
        }
    }
    Ok(())
}

/// Checked fields: named, unique.
pub(crate) fn fields(said: Vec<types::Field>) -> Result<Vec<Field>, String> {
    for field in &said {
        identifier("field", &field.name, is_text)?;
    }
    unique("field", said.iter().map(|field| field.name.as_str()))?;
    let field = |field: types::Field| Field { name: field.name, kind: kind(field.kind), need: need(field.need) };
    let fields: Vec<Field> = said.into_iter().map(field).collect();
    let can_be_lenient = |kind| matches!(kind, Kind::String | Kind::Integer | Kind::Number | Kind::Boolean);
    match fields.iter().find(|field| field.need == Need::Lenient && !can_be_lenient(field.kind)) {
        None => Ok(fields),
        Some(field) => {
            let (name, kind) = (&field.name, field.kind.name());
            Err(format!(
                "field `{name}` is a lenient {kind}: only strings, integers, numbers and booleans can be lenient"
            ))
        }
    }
}

fn need(need: types::Need) -> Need {
    match need {
        types::Need::Required => Need::Required,
        types::Need::Optional => Need::Optional,
        types::Need::Lenient => Need::Lenient,
    }
}

fn kind(kind: types::Kind) -> Kind {
    match kind {
        types::Kind::String => Kind::String,
        types::Kind::Integer => Kind::Integer,
        types::Kind::Number => Kind::Number,
        types::Kind::Boolean => Kind::Boolean,
        types::Kind::Decimal => Kind::Decimal,
        types::Kind::Json => Kind::Json,
        types::Kind::Bytes => Kind::Bytes,
    }
}

/// An error unless there are at most `limit` of `what`.
pub(crate) fn count(what: &str, count: usize, limit: usize) -> Result<(), String> {
    if count <= limit { Ok(()) } else { Err(format!("{count} {what}, limit {limit}")) }
}

/// An error unless `text` is 1 to `NAME_BYTES` bytes that `good` accepts.
pub(crate) fn identifier(what: &str, text: &str, good: fn(&str) -> bool) -> Result<(), String> {
    if !text.is_empty() && text.len() <= NAME_BYTES && good(text) {
        return Ok(());
    }
    Err(format!("{what} `{}` is not a name that can be used", printable(text, NAME_BYTES)))
}

/// An error when two names are the same.
pub(crate) fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{what} `{}` is named twice", pair[0])),
        None => Ok(()),
    }
}

/// `[a-z0-9][a-z0-9-_]{0,62}`: a subject token and a file name.
fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63 && letter(text.as_bytes()[0]) && text.bytes().all(|b| letter(b) || b == b'-' || b == b'_')
}

/// `[a-z0-9_]{1,63}`: as a metric's label and in a marker.
fn is_counter(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Letters, digits, `.`, `-`, `+`.
fn is_version(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'))
}

/// Anything that can be printed.
pub(crate) fn is_text(text: &str) -> bool {
    text.chars().all(is_printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_subject_tokens() {
        for (name, good) in [("fraud", true), ("a-1_b", true), ("-a", false), ("A", false), ("a.b", false), ("", false)]
        {
            assert_eq!(identifier("name", name, is_name).is_ok(), good, "{name}");
        }
        assert!(identifier("name", &"x".repeat(64), is_name).is_err());
    }

    #[test]
    fn names_of_fields_can_be_seen() {
        for (name, good) in
            [("user_id", true), ("größe 東京", true), ("a\u{202e}b", false), ("a\u{200b}", false), ("a\n", false)]
        {
            assert_eq!(identifier("field", name, is_text).is_ok(), good, "{name:?}");
        }
        let lenient = |kind| {
            let field = types::Field { name: "f".into(), kind, need: types::Need::Lenient };
            fields(vec![field]).map(|fields| fields[0].need)
        };
        assert_eq!(lenient(types::Kind::Number), Ok(Need::Lenient));
        for kind in [types::Kind::Decimal, types::Kind::Json, types::Kind::Bytes] {
            assert!(lenient(kind).is_err_and(|error| error.contains("`f` is a lenient ")));
        }
        let error = unique("field", ["x", "x"].into_iter()).expect_err("twice");
        assert!(error.contains("`x`"), "{error}");
    }
}
