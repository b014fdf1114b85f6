//! Event time, wall time and spans: three types, so that no code adds a clock reading to an event's time.
//!
//! All are milliseconds. The engine never reads a clock: `WallTime` enters as a value.

use std::fmt;

/// When an event happened, by its own account: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

/// When the host or the broker saw something: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub i64);

/// A length of time in milliseconds. Never negative when it comes from a pipeline file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub i64);

impl EventTime {
    /// Before any event: the watermark of a partition that has seen nothing.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// After any event: the watermark at the end of the input.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// This time plus `span`, saturating at the ends so that `MIN` and `MAX` stay what they mean.
    #[must_use]
    pub fn plus(self, span: Span) -> EventTime {
        EventTime(self.0.saturating_add(span.0))
    }

    /// This time minus `span`, saturating; `MAX` stays `MAX`.
    #[must_use]
    pub fn minus(self, span: Span) -> EventTime {
        if self == EventTime::MAX { self } else { EventTime(self.0.saturating_sub(span.0)) }
    }
}

impl Span {
    /// `count` seconds.
    #[must_use]
    pub const fn from_secs(count: i64) -> Span {
        Span(count * 1000)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        for (size, unit) in UNITS {
            if self.0 != 0 && self.0 % size == 0 {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}ms", self.0)
    }
}
