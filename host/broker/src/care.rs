//! When to read one message at a time: a message that the client library cannot parse ends the connection whenever it is
//! delivered, and with it the work of all partitions.
//!
//! What is seen of it is only that connections are lost while deliveries are under way, again and again from the same
//! position. Then messages are read without a connection's parser, until the bad one is found and some more, for bad
//! messages come in groups: their publisher does not know better.

use std::time::{Duration, Instant};

/// Connections lost from one position before it is suspected.
const LOSSES_MAX: u32 = 2;
/// Readable messages in a row after which the consumer is trusted again.
const RUN_MIN: u64 = 1 << 10;
const RUN_MAX: u64 = 1 << 16;
/// Bad messages are told no more often than this.
const TOLD: Duration = Duration::from_secs(10);

/// What repeated losses say about the messages that are due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Care {
    /// Where the consumer was placed when connections were lost.
    at: u64,
    losses: u32,
    reading: Option<Reading>,
    /// Length of the last run; doubles each time that it was too short.
    run: u64,
    told: Option<Instant>,
}

/// One message at a time.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The bad message lies at or below, as long as none was found.
    suspect: u64,
    /// Readable messages that are still to come.
    left: u64,
}

impl Care {
    /// Messages are to be read one at a time.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// A connection was lost; `suspect` is the last sequence under way when deliveries did not all arrive.
    pub(crate) fn lost(&mut self, at: u64, suspect: Option<u64>) {
        let Some(suspect) = suspect else {
            self.losses = 0;
            return;
        };
        self.losses = if self.at == at { self.losses + 1 } else { 1 };
        self.at = at;
        if self.losses >= LOSSES_MAX && self.reading.is_none() {
            self.run = (self.run * 2).clamp(RUN_MIN, RUN_MAX);
            self.reading = Some(Reading { suspect, left: self.run });
            self.losses = 0;
        }
    }

    /// A message was read one at a time.
    pub(crate) fn met(&mut self, sequence: u64, is_readable: bool) {
        let Some(reading) = &mut self.reading else { return };
        if !is_readable {
            *reading = Reading { suspect: 0, left: self.run };
            return;
        }
        reading.left = reading.left.saturating_sub(1);
        if reading.left == 0 && sequence >= reading.suspect {
            self.reading = None;
        }
    }

    /// Whether a bad message is worth a line in the log now.
    pub(crate) fn tell(&mut self) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= TOLD);
        if is_due {
            self.told = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_from_one_position_are_suspicious() {
        let mut care = Care::default();
        for (at, suspect) in [(5, Some(9)), (6, Some(9)), (7, Some(9)), (7, None), (7, Some(9))] {
            care.lost(at, suspect);
            assert!(!care.is_reading());
        }
        care.lost(7, Some(9));
        assert!(care.is_reading());
    }

    #[test]
    fn it_ends_behind_the_suspects_and_a_run() {
        let mut care = Care::default();
        let suspect = 2 * RUN_MIN;
        (0..2).for_each(|_| care.lost(1, Some(suspect)));
        for sequence in 1..suspect {
            care.met(sequence, true);
            assert!(care.is_reading(), "{sequence}");
        }
        care.met(suspect, true);
        assert!(!care.is_reading());
    }

    #[test]
    fn it_goes_on_after_a_bad_message_and_longer_each_time() {
        let mut care = Care::default();
        for run in [RUN_MIN, 2 * RUN_MIN] {
            (0..2).for_each(|_| care.lost(1, Some(1)));
            care.met(1, true);
            care.met(2, false);
            for left in (0..run).rev() {
                care.met(3, true);
                assert_eq!(care.is_reading(), left > 0, "{left} of {run}");
            }
        }
    }
}
