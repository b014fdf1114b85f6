//! What happened, as a hash always and as lines on request.

use std::fmt::Write as _;

/// The record of one run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    lines: Option<String>,
}

impl Trace {
    /// A trace that keeps its lines, or only their hash.
    #[must_use]
    pub fn new(keep: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: keep.then(String::new) }
    }

    /// Whether lines are kept.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.lines.is_some()
    }

    /// Notes a step: numbers go into the hash, the text is made only when it is kept.
    pub fn note(&mut self, now: u64, numbers: &[u64], text: impl FnOnce() -> String) {
        for number in [now].iter().chain(numbers) {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        if let Some(lines) = &mut self.lines {
            writeln!(lines, "{:>6}.{:03} {}", now / 1000, now % 1000, text())
                .expect("writing to a string does not fail");
        }
    }

    /// Hash of everything noted.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The kept lines.
    #[must_use]
    pub fn into_text(self) -> String {
        self.lines.unwrap_or_default()
    }
}
