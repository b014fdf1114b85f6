//! Log lines of guests: bounded per call and per second, free of what cannot be printed, written through `tracing`.
//!
//! A guest cannot forge a line: newlines, escape sequences and other control characters are written as `\u{..}`.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pelton_engine::text;

use crate::bindings::pelton::guest::log::Level;
use crate::limits::{LOG_LINE_BYTES, LOG_LINES_PER_CALL, LOG_LINES_PER_SECOND, LOG_SAMPLE};

/// The log of one module, shared by all its instances.
pub(crate) struct ModuleLog {
    /// `name@version` of the module.
    name: String,
    gate: Mutex<Gate>,
}

/// How many lines a module may still write this second.
struct Gate {
    second: Instant,
    lines: u32,
    /// Lines that were not written since the last one that was.
    suppressed: u64,
}

/// The log of one instance during one call.
pub(crate) struct CallLog {
    module: Arc<ModuleLog>,
    pub(crate) lines: u32,
    pub(crate) bytes: usize,
    /// The last error line of this call: what a panicking guest said before it trapped.
    last_error: String,
}

impl ModuleLog {
    pub(crate) fn new(name: String) -> Arc<ModuleLog> {
        Arc::new(ModuleLog { name, gate: Mutex::new(Gate { second: Instant::now(), lines: 0, suppressed: 0 }) })
    }

    /// How many lines were suppressed before this one, if this one may be written.
    fn admit(&self, now: Instant, beyond_call: bool) -> Option<u64> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(gate.second) >= Duration::from_secs(1) {
            gate.second = now;
            gate.lines = 0;
        }
        gate.lines = gate.lines.saturating_add(1);
        let sampled = gate.lines > LOG_LINES_PER_SECOND && !gate.lines.is_multiple_of(LOG_SAMPLE);
        if beyond_call || sampled {
            gate.suppressed += 1;
            return None;
        }
        Some(std::mem::take(&mut gate.suppressed))
    }
}

impl CallLog {
    pub(crate) fn new(module: Arc<ModuleLog>) -> CallLog {
        CallLog { module, lines: 0, bytes: 0, last_error: String::new() }
    }

    /// Forgets the previous call.
    pub(crate) fn begin(&mut self) {
        self.lines = 0;
        self.bytes = 0;
        self.last_error.clear();
    }

    /// Takes one line.
    pub(crate) fn line(&mut self, level: Level, message: &str) {
        self.lines = self.lines.saturating_add(1);
        self.bytes = self.bytes.saturating_add(message.len());
        if level == Level::Error {
            self.last_error.clear();
            self.last_error.push_str(&printable(message, LOG_LINE_BYTES));
        }
        let Some(suppressed) = self.module.admit(Instant::now(), self.lines > LOG_LINES_PER_CALL) else { return };
        write(level, &self.module.name, suppressed, &printable(message, LOG_LINE_BYTES));
    }

    /// The last error line of this call, empty when there was none.
    pub(crate) fn last_error(&self) -> &str {
        &self.last_error
    }
}

fn write(level: Level, module: &str, suppressed: u64, message: &str) {
    const TARGET: &str = "pelton::guest";
    match level {
        Level::Debug => tracing::debug!(target: TARGET, module, suppressed, "{message}"),
        Level::Info => tracing::info!(target: TARGET, module, suppressed, "{message}"),
        Level::Warn => tracing::warn!(target: TARGET, module, suppressed, "{message}"),
        Level::Error => tracing::error!(target: TARGET, module, suppressed, "{message}"),
    }
}

/// `text` without unprintable characters and not longer than about `bytes_max`.
pub(crate) fn printable(text: &str, bytes_max: usize) -> Cow<'_, str> {
    let cut = text.floor_char_boundary(bytes_max);
    let kept = text::printable(&text[..cut]);
    if cut == text.len() { kept } else { Cow::Owned(format!("{kept}… ({} bytes in all)", text.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        assert_eq!(printable("plain", 10), "plain");
        assert_eq!(printable("a\n\u{1b}[31mb", 100), "a\\u{a}\\u{1b}[31mb");
        assert_eq!(printable("evil\u{202e}txt", 100), "evil\\u{202e}txt");
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(printable("ééé", 3), "é… (6 bytes in all)");
    }

    #[test]
    fn beyond_the_rate_one_line_in_a_hundred_is_written_and_the_rest_counted() {
        let log = ModuleLog::new("m@1".into());
        let now = Instant::now();
        let written: Vec<u64> = (0..1000).filter_map(|_| log.admit(now, false)).collect();
        assert_eq!(written.len(), 100 + 9);
        assert_eq!(written[100..], [99; 9]);
        assert_eq!(log.admit(now + Duration::from_secs(2), false), Some(0));
    }
}
