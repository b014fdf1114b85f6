//! The time before which no more events are expected. Never moves back.

use crate::time::{EventTime, Span};

/// Bounded out-of-orderness: the watermark stays `delay` behind the newest event.
///
/// ```
/// use pelton_engine::time::{EventTime, Span};
/// use pelton_engine::watermark::Watermark;
/// let mut mark = Watermark::new(Span(5_000));
/// assert_eq!(mark.observe(EventTime(100_000)), EventTime(95_000));
/// assert_eq!(mark.observe(EventTime(40_000)), EventTime(95_000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    delay: Span,
    newest: EventTime,
    current: EventTime,
}

impl Watermark {
    /// A watermark that has seen nothing.
    #[must_use]
    pub fn new(delay: Span) -> Watermark {
        Watermark { delay, newest: EventTime::MIN, current: EventTime::MIN }
    }

    /// Where it stands.
    #[must_use]
    pub fn current(&self) -> EventTime {
        self.current
    }

    /// The newest event time seen.
    #[must_use]
    pub fn newest(&self) -> EventTime {
        self.newest
    }

    /// Takes one event into account; the watermark moves per event, so that results do not depend on batches.
    #[inline]
    pub fn observe(&mut self, at: EventTime) -> EventTime {
        if at > self.newest {
            self.newest = at;
            self.current = self.current.max(at.minus(self.delay));
        }
        self.current
    }

    /// Where it would stand after `silent` of wall time without an event: event time is taken to have passed, too.
    /// `None` before the first event, and when it stands there already.
    #[must_use]
    pub fn after_silence(&self, silent: Span) -> Option<EventTime> {
        let then = self.newest.plus(silent).minus(self.delay);
        (self.newest != EventTime::MIN && then > self.current).then_some(then)
    }

    /// Moves on without an event; never back.
    pub fn advance(&mut self, to: EventTime) {
        self.current = self.current.max(to);
    }

    /// No event will ever come: everything closes.
    pub fn end(&mut self) {
        self.current = EventTime::MAX;
    }

    /// Puts back what an earlier process left.
    pub(crate) fn restore(&mut self, newest: EventTime, current: EventTime) {
        (self.newest, self.current) = (newest, current);
    }
}
