//! Tumbling windows over events that may be `DELAY_MS` out of order.

use std::collections::BTreeMap;

use super::DELAY_MS;

/// What each open window holds, by its end.
pub(super) struct Tumbling<W> {
    size_ms: i64,
    windows: BTreeMap<i64, W>,
    newest: i64,
}

impl<W: Default> Tumbling<W> {
    pub(super) fn new(size_ms: i64) -> Tumbling<W> {
        Tumbling { size_ms, windows: BTreeMap::new(), newest: i64::MIN }
    }

    /// The window of an event; `None` when it has passed.
    #[inline]
    pub(super) fn at(&mut self, time: i64) -> Option<&mut W> {
        let end = (time.div_euclid(self.size_ms) + 1) * self.size_ms;
        (self.newest.saturating_sub(DELAY_MS) < end).then(|| self.windows.entry(end).or_default())
    }

    /// Takes note of an event's time; whether it is the newest one, so that windows may have passed.
    #[inline]
    pub(super) fn observe(&mut self, time: i64) -> bool {
        let is_newest = time > self.newest;
        self.newest = self.newest.max(time);
        is_newest
    }

    /// The first window that has passed, with its end.
    #[inline]
    pub(super) fn pop_passed(&mut self) -> Option<(i64, W)> {
        let first = self.windows.first_entry()?;
        (*first.key() <= self.newest.saturating_sub(DELAY_MS)).then(|| first.remove_entry())
    }

    /// The first window, at the end of the input.
    pub(super) fn pop(&mut self) -> Option<(i64, W)> {
        self.windows.pop_first()
    }
}
