//! What of a schema can be judged by the values of single fields, as the host has read them, without parsing the payload
//! again.
//!
//! It is for accepting alone: an event that the columns do not accept is judged by its payload, which also finds the
//! place and the words. So only one thing has to hold: what is accepted here is accepted there. A schema of which that
//! cannot be seen at a glance is left to the payload altogether.

use std::borrow::Cow;

use jsonschema::{Draft, PatternOptions, Validator};
use pelton_sdk::fields::ConfiguredRow;
use pelton_sdk::raw::Field;
use pelton_sdk::{Kind, Lenient, Need};
use serde_json::{Map, Number, Value};

use crate::document::{Borrowed, Document, pointer};

/// Keywords of an object that say nothing of events.
const NOTES: [&str; 10] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];
/// Fields of a module at most, and bytes of a name, so that no host refuses them.
const MEMBERS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 96;

/// The members of an event that a schema speaks of.
pub(crate) struct Columns(Vec<Member>);

struct Member {
    name: String,
    required: bool,
    /// What its values have to be to be judged here.
    kind: Kind,
    /// Besides.
    validator: Option<Box<Validator<Borrowed>>>,
}

impl Columns {
    /// The columns that decide about a schema; `None` when its payload has to.
    pub(crate) fn new(schema: &Value) -> Option<Columns> {
        let draft = Draft::default().detect(schema);
        // In draft 4 the number 1.0 is no integer, and a column does not tell it from 1.
        if matches!(draft, Draft::Draft4 | Draft::Unknown) {
            return None;
        }
        let schema = schema.as_object()?;
        let is_known = |keyword: &String| {
            NOTES.contains(&keyword.as_str()) || matches!(keyword.as_str(), "type" | "properties" | "required")
        };
        if schema.get("type")? != "object" || !schema.keys().all(is_known) {
            return None;
        }
        let none = Map::new();
        let properties = schema.get("properties").map_or(Some(&none), Value::as_object)?;
        let mut members = Vec::new();
        for (name, property) in properties {
            members.extend(Member::new(name, property, draft)?);
        }
        for name in schema.get("required").map_or(Some(&Vec::new()), Value::as_array)? {
            let name = name.as_str()?;
            match members.iter_mut().find(|member| member.name == name) {
                Some(member) => member.required = true,
                // May be anything: what is no string is left to the payload.
                None => {
                    members.push(Member { name: name.to_owned(), required: true, kind: Kind::String, validator: None })
                }
            }
        }
        let is_name = |name: &str| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let fits = (1..=MEMBERS_MAX).contains(&members.len()) && members.iter().all(|member| is_name(&member.name));
        fits.then_some(Columns(members))
    }

    /// The fields, for the module's shape.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let field = |member: &Member| Field { name: pointer(&member.name), kind: member.kind, need: Need::Lenient };
        self.0.iter().map(field).collect()
    }

    /// Whether an event has a member of this name that counts.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|member| member.name == name)
    }

    /// Whether an event fits the schema, by these values. If not, it may still fit.
    pub(crate) fn accept(&self, row: &ConfiguredRow<'_>) -> bool {
        self.0.iter().enumerate().all(|(idx, member)| member.accepts(row, idx))
    }
}

impl Member {
    /// The member of a property, if it needs any; `None` when only the payload can be held against it.
    fn new(name: &str, property: &Value, draft: Draft) -> Option<Option<Member>> {
        let property = match property {
            Value::Bool(true) => return Some(None),
            Value::Object(property) => property,
            _ => return None,
        };
        let has_checks = property.keys().any(|keyword| keyword != "type" && !NOTES.contains(&keyword.as_str()));
        let Some(kind) = property.get("type") else { return (!has_checks).then_some(None) };
        let kind = match kind.as_str()? {
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ => return None,
        };
        // A part that refers to others is none by itself.
        if property.values().any(refers) || property.keys().any(|keyword| is_reference(keyword)) {
            return None;
        }
        let options = jsonschema::options_for::<Borrowed>().with_pattern_options(PatternOptions::regex());
        let build = || options.with_draft(draft).build(&Value::Object(property.clone())).ok();
        let validator = if has_checks { Some(Box::new(build()?)) } else { None };
        Some(Some(Member { name: name.to_owned(), required: false, kind, validator }))
    }

    fn accepts(&self, row: &ConfiguredRow<'_>, idx: usize) -> bool {
        match self.kind {
            Kind::String => self.fits(row.lenient(idx), |text| Some(Document::Text(Cow::Borrowed(text)))),
            Kind::Integer => self.fits(row.lenient::<i64>(idx), |value| Some(Document::Number(value.into()))),
            Kind::Number => self.fits(row.lenient(idx), number),
            _ => self.fits(row.lenient(idx), |value| Some(Document::Boolean(value))),
        }
    }

    fn fits<'a, T>(&self, value: Lenient<T>, document: impl FnOnce(T) -> Option<Document<'a>>) -> bool {
        match (value, &self.validator) {
            (Lenient::Missing, _) => !self.required,
            (Lenient::Unlike, _) => false,
            (Lenient::Value(_), None) => true,
            (Lenient::Value(value), Some(validator)) => document(value).is_some_and(|value| validator.is_valid(&value)),
        }
    }
}

/// Whether a keyword names another part of a schema, or gives this one a name.
fn is_reference(keyword: &str) -> bool {
    keyword.starts_with('$') && keyword != "$comment"
}

/// Whether something in a value looks as if it did.
fn refers(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(refers),
        Value::Object(members) => members.iter().any(|(name, value)| is_reference(name) || refers(value)),
        _ => false,
    }
}

/// A number as a payload has it; not where the digits of an integer are lost.
fn number<'a>(value: f64) -> Option<Document<'a>> {
    /// Up to here every integer has a float of its own.
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if value.abs() <= EXACT { Number::from_f64(value).map(Document::Number) } else { None }
}
