//! What came from a clock in a live run, for a run over the same events: then its results are the same, byte for byte.

use std::collections::VecDeque;
use std::path::Path;

use pelton_engine::epoch::{Clock, Ledger, fingerprint};
use pelton_engine::time::EventTime;

use crate::cli::failure::Failure;

/// The clock entries of a ledger that have not been applied yet.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Number of the event behind which time moved on, and where to; ascending.
    entries: VecDeque<(u64, EventTime)>,
    /// Of all entries.
    pub(super) fingerprint: u64,
}

impl Recorded {
    /// Reads a ledger, one record per line.
    ///
    /// # Errors
    /// When it is not the whole ledger of a partition, or one that a run over files cannot follow.
    pub(super) fn read(file: &Path) -> Result<Recorded, Failure> {
        let wrong = |why: String| {
            Failure::usage(format!("the ledger {} (--clock): {why}", file.display()))
                .hint("`pelton tail PIPELINE --ledger --no-follow` prints it")
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Recorded::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Recorded, String> {
        let mut entries = VecDeque::new();
        let (mut epoch, mut last) = (0, 0);
        for (idx, line) in text.lines().enumerate() {
            let number = idx + 1;
            let record = Ledger::decode(line.as_bytes()).map_err(|error| format!("line {number}: {error}"))?;
            epoch += 1;
            if record.epoch != epoch {
                let found = record.epoch;
                return Err(match number {
                    1 => format!("it begins with epoch {found}; the records before went with their events"),
                    _ => format!("line {number} has epoch {found}, expected {epoch}"),
                });
            }
            if record.totals.lost > 0 {
                let lost = record.totals.lost;
                return Err(format!("line {number}: {lost} events had expired before they were read"));
            }
            let at = record.position.sequence;
            if at < std::mem::replace(&mut last, at) {
                return Err(format!("line {number}: event {at} comes after a later one"));
            }
            entries.extend(record.clock.iter().map(|&Clock::Idle { value }| (at, EventTime(value))));
        }
        if epoch == 0 {
            return Err("it has no record".to_owned());
        }
        Ok(Recorded { fingerprint: fingerprint(0, format!("{entries:?}").as_bytes()), entries })
    }

    /// How many of the next events, which begin with number `first`, come before time moves on; all when it does not.
    pub(super) fn events_before(&self, first: u64, count: usize) -> usize {
        let before = |at: u64| usize::try_from(at.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries.front().map_or(count, |(at, _)| before(*at).min(count))
    }

    /// Where time moves to before event `next` is taken; `watermark` is where it stands. What a run that is taken up
    /// again has applied before is passed over.
    pub(super) fn due(&mut self, next: u64, watermark: EventTime) -> Option<EventTime> {
        while let Some((_, to)) = self.entries.pop_front_if(|(at, _)| *at < next) {
            if to > watermark {
                return Some(to);
            }
        }
        None
    }

    /// The event behind which the next entry is.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.entries.front().map(|(at, _)| *at)
    }
}
