//! A parsed payload that borrows its texts, as the validator reads it.
//!
//! `serde_json::Value` copies every name and text and sorts members into a tree; this keeps them in order of
//! appearance, in one vector per object. A name that occurs twice in an object is refused: parsers differ in which
//! of the two they take, and a schema would hold for one of them only.

use std::borrow::Cow;
use std::fmt;
use std::slice;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// One JSON value.
#[derive(Debug, Default)]
pub(crate) enum Document<'a> {
    #[default]
    Null,
    Boolean(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Document<'a>>),
    Object(Vec<(Cow<'a, str>, Document<'a>)>),
}

/// Names [`Document`] as a representation that validators can be built for.
pub(crate) struct Borrowed;

impl Json for Borrowed {
    type Node<'a> = &'a Document<'a>;
    type PreparedKey = Box<str>;
    type StringBuffer = ();
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> Box<str> {
        key.into()
    }

    fn with_string_node<T>(_buffer: &mut (), string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        f(&Document::Text(Cow::Borrowed(string)))
    }
}

impl<'a> Node<'a, Borrowed> for &'a Document<'a> {
    type Object = &'a [(Cow<'a, str>, Document<'a>)];
    type Array = &'a [Document<'a>];
    type Number = &'a Number;

    fn as_object(&self) -> Option<Self::Object> {
        if let Document::Object(members) = self { Some(members) } else { None }
    }

    fn as_array(&self) -> Option<Self::Array> {
        if let Document::Array(items) = self { Some(items) } else { None }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        if let Document::Text(text) = self { Some(Cow::Borrowed(text)) } else { None }
    }

    fn as_number(&self) -> Option<&'a Number> {
        if let Document::Number(number) = self { Some(number) } else { None }
    }

    fn as_boolean(&self) -> Option<bool> {
        if let Document::Boolean(boolean) = self { Some(*boolean) } else { None }
    }

    fn is_null(&self) -> bool {
        matches!(self, Document::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Document::Null => JsonType::Null,
            Document::Boolean(_) => JsonType::Boolean,
            Document::Number(_) => JsonType::Number,
            Document::Text(_) => JsonType::String,
            Document::Array(_) => JsonType::Array,
            Document::Object(_) => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(match self {
            Document::Null => Value::Null,
            Document::Boolean(boolean) => Value::Bool(*boolean),
            Document::Number(number) => Value::Number(number.clone()),
            Document::Text(text) => Value::String(text.clone().into_owned()),
            Document::Array(items) => items.iter().map(|item| item.to_value().into_owned()).collect(),
            Document::Object(members) => {
                members.iter().map(|(name, value)| (name.clone().into_owned(), value.to_value().into_owned())).collect()
            }
        })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Document<'_>>(self).addr()))
    }
}

impl<'a> Object<'a, Borrowed> for &'a [(Cow<'a, str>, Document<'a>)] {
    type Node = &'a Document<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, key: &Box<str>) -> Option<&'a Document<'a>> {
        self.iter().find(|(name, _)| **name == **key).map(|(_, value)| value)
    }

    fn members(&self) -> Members<'a> {
        Members(self.iter())
    }
}

/// Names and values of an object, in order of appearance.
pub(crate) struct Members<'a>(slice::Iter<'a, (Cow<'a, str>, Document<'a>)>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a Document<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (&**name, value))
    }
}

impl<'a> Array<'a, Borrowed> for &'a [Document<'a>] {
    type Node = &'a Document<'a>;
    type ElementsIter = slice::Iter<'a, Document<'a>>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn elements(&self) -> slice::Iter<'a, Document<'a>> {
        self.iter()
    }
}

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

/// Begins the message about a name that occurs more than once.
const TWICE: &str = "an object has more than one ";

/// Why a payload cannot be read.
#[derive(Debug)]
pub(crate) struct Fault {
    /// JSON pointer of the member of the event at fault; empty where it is none of them.
    pub(crate) place: String,
    /// As the host would call it.
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// Reads an event; of its members only those whose names count.
pub(crate) fn read<'a>(text: &'a str, counts: &dyn Fn(&str) -> bool) -> Result<Document<'a>, Fault> {
    let mut at = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Event { counts, at: &mut at }.deserialize(&mut json).and_then(|event| json.end().map(|()| event));
    read.map_err(|error| {
        let message = error.to_string();
        let code = match () {
            () if message.starts_with(TWICE) => "json-duplicate",
            () if message.starts_with("recursion limit") => "json-depth",
            () if message.starts_with("number out of range") => "json-number",
            () if error.is_data() => "json-not-object",
            () => "json-syntax",
        };
        let place = at.map_or_else(String::new, |name| pointer(&name));
        Fault { place, code, message }
    })
}

/// The JSON pointer of a member of the event.
pub(crate) fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Reads the members of an event that count.
struct Event<'c, 'a> {
    counts: &'c dyn Fn(&str) -> bool,
    /// The member that is being read.
    at: &'c mut Option<Cow<'a, str>>,
}

impl<'de> DeserializeSeed<'de> for Event<'_, 'de> {
    type Value = Document<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Event<'_, 'de> {
    type Value = Document<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Document<'de>)> = Vec::with_capacity(8);
        while let Some(Name(name)) = access.next_key()? {
            if !(self.counts)(&name) {
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            *self.at = Some(name.clone());
            let value = access.next_value()?;
            members.push((name, value));
            *self.at = None;
        }
        if let Some(name) = name_twice(&members) {
            *self.at = members.iter().map(|(other, _)| other).find(|other| other.as_ref() == name).cloned();
            return Err(twice(name));
        }
        Ok(Document::Object(members))
    }
}

/// The error about a name that occurs more than once.
fn twice<E: Error>(name: &str) -> E {
    E::custom(format_args!("{TWICE}`{}`", name.escape_debug()))
}

/// A name that occurs more than once.
fn name_twice<'m>(members: &'m [(Cow<'_, str>, Document<'_>)]) -> Option<&'m str> {
    /// Up to here comparing each with each is quicker than sorting.
    const FEW: usize = 16;
    if members.len() <= FEW {
        let mut before = members;
        while let [others @ .., (name, _)] = before {
            if others.iter().any(|(other, _)| other == name) {
                return Some(name);
            }
            before = others;
        }
        return None;
    }
    let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Document::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Document::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).map_or(Document::Null, Document::Number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Document::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Document::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Document::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(Name(name)) = access.next_key()? {
            members.push((name, access.next_value()?));
        }
        if let Some(name) = name_twice(&members) {
            return Err(twice(name));
        }
        Ok(Document::Object(members))
    }
}

/// A member's name: borrowed unless it has escapes. (`Cow` itself would always copy.)
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(value.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
