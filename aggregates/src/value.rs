//! What a field holds: kinds, and one value of an event as an aggregate sees it.

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Integer,
    Number,
    Boolean,
    /// A number with its digits as they were written.
    Decimal,
    /// Any value, as the JSON text that was written.
    Json,
    /// Base64 in the event.
    Bytes,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::String, Kind::Integer, Kind::Number, Kind::Boolean, Kind::Decimal, Kind::Json, Kind::Bytes];

    /// The word used in pipeline files, WIT and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::Decimal => "decimal",
            Kind::Json => "json",
            Kind::Bytes => "bytes",
        }
    }
}

/// One value of an event, as an aggregate sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// The event does not have the field.
    Missing,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    /// UTF-8.
    String(&'a [u8]),
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
