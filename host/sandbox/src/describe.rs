//! From a module's account of itself to the engine's `Descriptor`. Names end up in subjects, metrics and paths, so they are strict.

use pelton_engine::event::{Field, Kind};
use pelton_engine::guest::{Descriptor, World};
use pelton_engine::text::is_printable;

use crate::bindings::exports::pelton::guest::meta;
use crate::bindings::pelton::guest::types;
use crate::limits::{DECLARATIONS_MAX, NAME_BYTES};
use crate::log::printable;

/// Bytes of the JSON Schema of a configuration.
const SCHEMA_BYTES: usize = 256 << 10;
/// Bytes of one attribute's value.
const ATTRIBUTE_BYTES: usize = 4 << 10;

/// The checked descriptor, or what is wrong with it.
pub(crate) fn descriptor(world: World, said: meta::Descriptor) -> Result<Descriptor, String> {
    identifier("name", &said.name, is_name)?;
    identifier("version", &said.version, is_version)?;
    count("fields", said.fields.len())?;
    count("ports", said.ports.len())?;
    count("attributes", said.attributes.len())?;
    if said.ports.is_empty() {
        return Err("no output port; port 0 is the main one".into());
    }
    for port in &said.ports {
        identifier("port", port, is_name)?;
    }
    unique("port", said.ports.iter().map(String::as_str))?;
    for (name, value) in &said.attributes {
        identifier("attribute", name, is_text)?;
        if value.len() > ATTRIBUTE_BYTES {
            return Err(format!("attribute `{name}` is {} bytes, limit {ATTRIBUTE_BYTES}", value.len()));
        }
    }
    if let Some(schema) = &said.config_schema
        && schema.len() > SCHEMA_BYTES
    {
        return Err(format!("config schema is {} bytes, limit {SCHEMA_BYTES}", schema.len()));
    }
    Ok(Descriptor {
        world,
        name: said.name,
        version: said.version,
        state_version: said.state_version,
        config_schema: said.config_schema,
        fields: fields(said.fields)?,
        payload: said.payload,
        headers: said.headers,
        ports: said.ports,
        attributes: said.attributes,
    })
}

/// Checked fields: named, unique.
pub(crate) fn fields(said: Vec<types::Field>) -> Result<Vec<Field>, String> {
    for field in &said {
        identifier("field", &field.name, is_text)?;
    }
    unique("field", said.iter().map(|field| field.name.as_str()))?;
    let field = |field: types::Field| Field { name: field.name, kind: kind(field.kind), required: field.required };
    Ok(said.into_iter().map(field).collect())
}

fn kind(kind: types::Kind) -> Kind {
    match kind {
        types::Kind::Text => Kind::Text,
        types::Kind::Integer => Kind::Integer,
        types::Kind::Number => Kind::Number,
        types::Kind::Boolean => Kind::Boolean,
    }
}

/// An error unless there are at most `DECLARATIONS_MAX` of `what`.
pub(crate) fn count(what: &str, count: usize) -> Result<(), String> {
    if count <= DECLARATIONS_MAX { Ok(()) } else { Err(format!("{count} {what}, limit {DECLARATIONS_MAX}")) }
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
        let error = unique("field", ["x", "x"].into_iter()).expect_err("twice");
        assert!(error.contains("`x`"), "{error}");
    }
}
