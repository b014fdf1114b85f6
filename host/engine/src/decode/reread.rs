//! A second look at one number as it stands in the text, for the few that must not pass through a float.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The text of the value that `pointer` names in `text`, which has been read before.
pub(super) fn value_text<'a>(text: &'a str, pointer: &[String]) -> Option<&'a str> {
    let mut found = None;
    // Reading stops at the value with an error that says nothing.
    let _ = Step { pointer, found: &mut found }.deserialize(&mut serde_json::Deserializer::from_str(text));
    found
}

/// One step on the way to the value.
struct Step<'p, 'a> {
    pointer: &'p [String],
    found: &'p mut Option<&'a str>,
}

impl<'a> DeserializeSeed<'a> for Step<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.pointer.is_empty() {
            *self.found = Some(<&RawValue as serde::Deserialize>::deserialize(deserializer)?.get());
            return Err(D::Error::custom("found"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Step<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object or list")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let (name, pointer) = self.pointer.split_first().expect("checked above");
        while let Some(found) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if found == name.as_str() {
                return map.next_value_seed(Step { pointer, found: self.found });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        let (name, pointer) = self.pointer.split_first().expect("checked above");
        for _ in 0..super::wanted::element(name).unwrap_or(0) {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Step { pointer, found: self.found }).map(|_| ())
    }
}
