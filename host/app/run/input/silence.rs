//! How long an input that lives has been silent.

use std::time::{Duration, Instant};

use pelton_engine::time::Span;

/// Silence since the last line of a pipe; files are never silent.
#[derive(Debug, Default)]
pub(in crate::run) struct Silence {
    since: Option<Instant>,
}

impl Silence {
    /// An input begins, and lines may be long in coming when it lives. What was skipped before was no silence.
    pub(in crate::run) fn begin(&mut self, lives: bool) {
        self.since = lives.then(Instant::now);
    }

    /// A line was worked off.
    pub(in crate::run) fn heard(&mut self) {
        self.since = self.since.map(|_| Instant::now());
    }

    /// The input has ended.
    pub(in crate::run) fn end(&mut self) {
        self.since = None;
    }

    /// For how long it is silent, when that is `idle_timeout` at least.
    pub(in crate::run) fn lasts(&self, idle_timeout: Option<Span>) -> Option<Span> {
        let silent = i64::try_from(self.since?.elapsed().as_millis()).unwrap_or(i64::MAX);
        idle_timeout.filter(|timeout| silent >= timeout.0).map(|_| Span(silent))
    }

    /// How long to wait for the next line before looking again.
    pub(in crate::run) fn patience(idle_timeout: Option<Span>) -> Duration {
        const LONGEST: Duration = Duration::from_millis(100);
        let timeout = idle_timeout.and_then(|timeout| u64::try_from(timeout.0).ok()).map(Duration::from_millis);
        timeout.map_or(LONGEST, |timeout| timeout.clamp(Duration::from_millis(1), LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lives_is_silent() {
        let mut silence = Silence::default();
        assert_eq!(silence.lasts(Some(Span(0))), None);
        silence.begin(false);
        silence.heard();
        assert_eq!(silence.lasts(Some(Span(0))), None);
        silence.begin(true);
        assert!(silence.lasts(Some(Span(0))).is_some());
        assert_eq!((silence.lasts(None), silence.lasts(Some(Span(i64::MAX)))), (None, None));
        silence.end();
        assert_eq!(silence.lasts(Some(Span(0))), None);
    }
}
