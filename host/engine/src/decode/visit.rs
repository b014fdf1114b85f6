//! The visitor of one event: values of wanted names go straight into their columns, all others are skipped.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::codes::Code;
use crate::event::{Column, Kind, Need, Strings, Values};
use crate::plan::{FieldRead, TimeUnit};

use super::wanted::Node;
use super::{At, DecodeFault, Name as NameOf, NoObject, Row, Seen, Target, fault, time};

/// RFC 4648, section 4.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest decimal, bytes: a module can be expected to compute with it.
const DECIMAL_BYTES_MAX: usize = 255;

/// Where wanted values go.
pub(super) struct Filling<'a> {
    pub(super) fields: &'a [FieldRead],
    pub(super) unit: TimeUnit,
    pub(super) row: &'a mut Row,
    /// Keys and ids.
    pub(super) names: [&'a mut Strings; 2],
    pub(super) columns: &'a mut [Column],
}

/// Visits one JSON object and looks only at wanted names.
pub(super) struct Object<'a, 'f> {
    pub(super) node: &'a Node,
    pub(super) filling: &'a mut Filling<'f>,
    pub(super) top: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.top { deserializer.deserialize_map(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.take(Scalar::Other("an object"));
        let mut guess = 0;
        while let Some(found) = map.next_key_seed(Name { node: self.node, guess })? {
            let Some(idx) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            guess = idx + 1;
            map.next_value_seed(self.child(idx))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.take(Scalar::Other("a list"));
        let mut length = 0;
        loop {
            let element = self.node.children.iter().position(|(_, child)| child.element == Some(length));
            let more = match element {
                Some(idx) => list.next_element_seed(self.child(idx))?.is_some(),
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
            length += 1;
        }
        self.filling.row.no_objects.push((self.node.id, NoObject::List(length)));
        Ok(())
    }

    // A scalar where an object with wanted fields should be: those fields are missing, and it is said why.
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar("a boolean", Scalar::Boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar("a number", Scalar::Integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar("a number", unsigned(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar("a number", Scalar::Number(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scalar("a string", Scalar::Text(value))
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar("null", Scalar::Null)
    }
}

impl<'f> Object<'_, 'f> {
    /// What stands on the way to wanted names may be wanted itself, leniently.
    fn take(&mut self, value: Scalar<'_>) {
        let targets = &self.node.targets[self.node.written..];
        if !targets.is_empty() {
            Leaf { targets, filling: self.filling }.take(value);
        }
    }

    fn scalar<E>(mut self, what: &'static str, value: Scalar<'_>) -> Result<(), E> {
        self.take(value);
        self.filling.row.no_objects.push((self.node.id, NoObject::Scalar(what)));
        Ok(())
    }

    /// What takes the value of a wanted name. A name on the way to others may occur once, as those may: whoever reads
    /// the event with another parser could see the other one.
    #[inline]
    fn child(&mut self, idx: usize) -> Child<'_, 'f> {
        let node = &self.node.children[idx].1;
        let row = &mut *self.filling.row;
        row.reading = node.targets.first().copied();
        if !node.children.is_empty() && std::mem::replace(&mut row.parents[node.id], true) && row.fault.is_none() {
            row.fault = Some((At::Parent(node.id), twice()));
        }
        Child { node, filling: self.filling }
    }
}

/// What takes the value of a wanted name.
struct Child<'a, 'f> {
    node: &'a Node,
    filling: &'a mut Filling<'f>,
}

impl Child<'_, '_> {
    /// Takes the value as what it is, not as its text.
    #[inline]
    fn parse<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Child { node, filling } = self;
        if node.children.is_empty() {
            return deserializer.deserialize_any(Leaf { targets: &node.targets[node.written..], filling });
        }
        Object { node, filling, top: false }.deserialize(deserializer)
    }
}

impl<'de> DeserializeSeed<'de> for Child<'_, '_> {
    type Value = ();
    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Node { targets, written, children, .. } = self.node;
        if *written == 0 {
            return self.parse(deserializer);
        }
        let text = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
        let value = if text == "null" { Scalar::Null } else { Scalar::Written(text) };
        Leaf { targets: &targets[..*written], filling: &mut *self.filling }.take(value);
        if *written == targets.len() && children.is_empty() {
            return Ok(());
        }
        self.filling.row.reading = targets.get(*written).copied();
        self.parse(&mut serde_json::Deserializer::from_str(text)).map_err(serde::de::Error::custom)
    }
}

/// Finds a name among the wanted ones; events repeat their order, so the next one is tried first.
struct Name<'a> {
    node: &'a Node,
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        let children = &self.node.children;
        if children.get(self.guess).is_some_and(|(known, _)| known == name) {
            return Ok(Some(self.guess));
        }
        Ok(children.iter().position(|(known, _)| known == name))
    }
}

fn unsigned(value: u64) -> Scalar<'static> {
    i64::try_from(value).map_or(Scalar::Huge(value as f64), Scalar::Integer)
}

/// Takes one wanted scalar to all its targets.
struct Leaf<'a, 'f> {
    targets: &'a [Target],
    filling: &'a mut Filling<'f>,
}

/// A wanted value, whatever its type.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Text(&'a str),
    Integer(i64),
    Number(f64),
    Boolean(bool),
    /// An integer that does not fit into 64 bits.
    Huge(f64),
    Null,
    Other(&'static str),
    /// The text of any value but null, of which the digits or the whole are wanted.
    Written(&'a str),
}

impl Scalar<'_> {
    fn found(self) -> String {
        match self {
            Scalar::Text(_) => "a string".into(),
            Scalar::Integer(value) => format!("integer {value}"),
            Scalar::Number(value) => format!("number {value}"),
            Scalar::Boolean(value) => format!("boolean {value}"),
            Scalar::Huge(value) => format!("an integer beyond 64 bits (about {value:e})"),
            Scalar::Null => "null".into(),
            Scalar::Other(name) => name.into(),
            Scalar::Written(text) => format!("`{}`", shown(text).replace("\\\"", "\"")),
        }
    }

    fn integer(self) -> Option<i64> {
        /// Up to here no two integers share a float.
        const EXACT: f64 = 9_007_199_254_740_991.0;
        match self {
            Scalar::Integer(value) => Some(value),
            Scalar::Number(value) if value.fract() == 0.0 && value.abs() <= EXACT => Some(value as i64),
            _ => None,
        }
    }
}

impl Leaf<'_, '_> {
    fn take(self, value: Scalar<'_>) {
        let Filling { fields, unit, row, names, columns } = self.filling;
        for target in self.targets {
            let fault = match target {
                Target::Name(name) => take_name_value(value, *name, row, names[*name as usize]),
                Target::Time => take_time_value(value, *unit, row),
                Target::Field(idx) => take_field(value, *idx, &fields[*idx], row, &mut columns[*idx]),
            };
            if let Some(fault) = fault
                && row.fault.is_none()
            {
                row.fault = Some((At::Target(*target), fault));
            }
        }
        row.reading = None;
    }
}

/// Notes that a field has occurred; a fault when it had before.
fn occurs(seen: &mut Seen, value: Scalar<'_>) -> Option<DecodeFault> {
    let before = std::mem::replace(seen, if matches!(value, Scalar::Null) { Seen::Null } else { Seen::Value });
    (before != Seen::No).then(twice)
}

fn twice() -> DecodeFault {
    fault(Code::JsonDuplicate, "the field occurs more than once".into())
}

fn take_name_value(value: Scalar<'_>, name: NameOf, row: &mut Row, names: &mut Strings) -> Option<DecodeFault> {
    let (seen, reread) = &mut row.names[name as usize];
    if let Some(twice) = occurs(seen, value) {
        return Some(twice);
    }
    match value {
        Scalar::Null => {}
        Scalar::Text(text) => names.push(text.as_bytes()),
        Scalar::Integer(value) => names.push(value.to_string().as_bytes()),
        // Perhaps an integer that is larger: its digits tell.
        Scalar::Huge(_) | Scalar::Number(_) => *reread = true,
        other => {
            let (word, found) = (name.word(), other.found());
            let message = format!("the {word} has the wrong type: expected a string or an integer, found {found}");
            return Some(fault(name.of_wrong_type(), message));
        }
    }
    None
}

fn take_time_value(value: Scalar<'_>, unit: TimeUnit, row: &mut Row) -> Option<DecodeFault> {
    if let Some(twice) = occurs(&mut row.time_seen, value) {
        return Some(twice);
    }
    row.time = match (unit, value) {
        (_, Scalar::Null) => return None,
        (TimeUnit::Rfc3339, Scalar::Text(text)) => match time::rfc3339(text) {
            Ok(time) => Some(time),
            Err(reason) => return Some(fault(Code::TimeType, not_rfc3339(text, reason))),
        },
        (TimeUnit::Rfc3339, _) => None,
        (TimeUnit::Seconds, Scalar::Number(_) | Scalar::Huge(_)) => {
            row.reread_time = true;
            return None;
        }
        (TimeUnit::Seconds, Scalar::Integer(at)) => match at.checked_mul(1000) {
            Some(time) => Some(time),
            None => return Some(time_beyond(&at.to_string())),
        },
        (TimeUnit::Seconds, _) => None,
        (TimeUnit::Millis, value) => value.integer(),
        (TimeUnit::Micros, value) => value.integer().map(|at| at.div_euclid(1000)),
        (TimeUnit::Nanos, value) => value.integer().map(|at| at.div_euclid(1_000_000)),
    };
    if row.time.is_some() {
        return None;
    }
    let expected = match unit {
        TimeUnit::Rfc3339 => "an RFC 3339 string such as 2026-05-01T00:00:00Z",
        TimeUnit::Seconds => "a number of seconds",
        TimeUnit::Millis => "an integer of milliseconds",
        TimeUnit::Micros => "an integer of microseconds",
        TimeUnit::Nanos => "an integer of nanoseconds",
    };
    let found = match value {
        Scalar::Text(text) if is_numeral(text) => {
            format!("a string of digits `{}`; write it without quotes", shown(text))
        }
        value => value.found(),
    };
    Some(fault(Code::TimeType, format!("the event time has the wrong type: expected {expected}, found {found}")))
}

/// The fault of a time whose milliseconds do not fit into 64 bits.
pub(super) fn time_beyond(numeral: &str) -> DecodeFault {
    fault(Code::TimeType, format!("the event time `{}` is beyond 64 bits of milliseconds", shown(numeral)))
}

fn not_rfc3339(text: &str, reason: &str) -> String {
    let hint = if is_numeral(text) { "; for numbers set another `unit` and send no quotes" } else { "" };
    format!("the event time `{}` is not RFC 3339, such as 2026-05-01T00:00:00Z: {reason}{hint}", shown(text))
}

fn is_numeral(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// As much of a value as a message shows.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 48;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

fn take_field(
    value: Scalar<'_>,
    idx: usize,
    field: &FieldRead,
    row: &mut Row,
    column: &mut Column,
) -> Option<DecodeFault> {
    if let Some(twice) = occurs(&mut row.seen[idx], value) {
        return Some(twice);
    }
    let taken = match (&mut column.values, value) {
        (_, Scalar::Null) => true,
        (Values::Strings(texts), Scalar::Text(text)) => {
            texts.push(text.as_bytes());
            true
        }
        (Values::Integers(values), value) => value.integer().map(|value| values.push(value)).is_some(),
        (Values::Numbers(values), Scalar::Number(value) | Scalar::Huge(value)) => {
            values.push(value);
            true
        }
        (Values::Numbers(values), Scalar::Integer(value)) => {
            values.push(value as f64);
            true
        }
        (Values::Booleans(values), Scalar::Boolean(value)) => {
            values.push(value);
            true
        }
        (Values::Decimals(texts), Scalar::Written(text)) => {
            let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
            let is_decimal = is_decimal(digits);
            if is_decimal {
                texts.push(digits.as_bytes());
            }
            is_decimal
        }
        (Values::Jsons(texts), Scalar::Written(text)) => {
            texts.push(text.as_bytes());
            true
        }
        (Values::Blobs(blobs), Scalar::Text(text)) => match BASE64.decode(text) {
            Ok(bytes) => {
                blobs.push(&bytes);
                true
            }
            Err(_) => false,
        },
        _ => false,
    };
    if taken {
        return None;
    }
    if field.need == Need::Lenient {
        row.seen[idx] = Seen::Null;
        return None;
    }
    let expected = match field.kind {
        Kind::Decimal => &format!("a number of at most {DECIMAL_BYTES_MAX} bytes, also in a string"),
        Kind::Bytes => "a string in base64",
        kind => kind.name(),
    };
    let message = format!("field `{}` has the wrong type: expected {expected}, found {}", field.name, value.found());
    Some(DecodeFault { stage: Some(field.stage), ..fault(Code::FieldType, message) })
}

/// Whether a text is a number as JSON writes it, and not too long.
fn is_decimal(text: &str) -> bool {
    let is_number = text.bytes().next_back().is_some_and(|last| last.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    is_number && text.len() <= DECIMAL_BYTES_MAX && serde_json::from_str::<&RawValue>(text).is_ok()
}

impl<'de> Visitor<'de> for Leaf<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.take(Scalar::Boolean(value));
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.take(Scalar::Integer(value));
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.take(unsigned(value));
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.take(Scalar::Number(value));
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.take(Scalar::Text(value));
        Ok(())
    }
    // null is the same as missing.
    fn visit_unit<E>(self) -> Result<(), E> {
        self.take(Scalar::Null);
        Ok(())
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        self.take(Scalar::Other("a list"));
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.take(Scalar::Other("an object"));
        Ok(())
    }
}
