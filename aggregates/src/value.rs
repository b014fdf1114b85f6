//! One value of an event, as an aggregate sees it.

/// One value of an event, as an aggregate sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// The event does not have the field.
    Missing,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    /// UTF-8.
    Text(&'a [u8]),
}

impl Value<'_> {
    /// The value that counts: NaN is missing and −0 is 0, so that no result depends on the order of events.
    #[inline]
    #[must_use]
    pub fn counted(self) -> Self {
        match self {
            Value::Number(value) if value.is_nan() => Value::Missing,
            // Adding 0 makes one zero of the two.
            Value::Number(value) => Value::Number(value + 0.0),
            other => other,
        }
    }
}
