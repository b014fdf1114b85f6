//! How far a file run is, while it runs: a bar on a terminal, else a log line every few seconds.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pelton_engine::totals::Totals;
use tracing::info;

use super::failpoint::bound;

/// Between two log lines, milliseconds.
const LINE_MILLIS: u64 = 5000;

/// Tells the progress of a run on stderr.
pub(super) struct Meter {
    bar: ProgressBar,
    /// Log lines instead of a bar.
    lines: bool,
    every: Duration,
    last: Instant,
    /// Events that the last line told.
    told: u64,
    /// Bytes of the whole input, when that is known.
    total: Option<u64>,
}

impl Meter {
    /// For inputs of `total` bytes, of which earlier processes took `events`.
    pub(super) fn new(total: Option<u64>, events: u64) -> Meter {
        let style = |template: &str| ProgressStyle::with_template(template).expect("the template is fixed");
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(style("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left{msg}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {bytes_per_sec}{msg}")),
        };
        let every = Duration::from_millis(bound("PELTON_TEST_LINE_MILLIS", LINE_MILLIS));
        Meter { bar, lines: !io::stderr().is_terminal(), every, last: Instant::now(), told: events, total }
    }

    /// `bytes` of the inputs are read, and `totals` is what became of their events, since the beginning of the run.
    pub(super) fn update(&mut self, bytes: u64, totals: impl FnOnce() -> Totals) {
        if !self.lines {
            let totals = totals();
            self.bar.set_message(format!(", {} events, {} dead", totals.received, totals.dead));
            self.bar.set_position(bytes);
            return;
        }
        let passed = self.last.elapsed();
        if passed < self.every {
            return;
        }
        let totals = totals();
        self.last = Instant::now();
        // A pipe that is silent has nothing to tell.
        if totals.received > self.told {
            info!(
                bytes,
                of_bytes = self.total,
                events = totals.received,
                dead = totals.dead,
                events_per_second = ((totals.received - self.told) as f64 / passed.as_secs_f64().max(1e-9)) as u64,
                "running"
            );
        }
        self.told = totals.received;
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
