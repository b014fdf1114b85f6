//! Sequences that are gone from the input before they were delivered.
//!
//! A consumer says nothing of what it did not deliver. So whenever deliveries leave sequences out, the stream is asked
//! what became of them: they are messages of others, or they are gone. Whose the gone ones were nobody can tell any more.

use async_nats::jetstream::stream::Info;
use pelton_engine::log::{Hole, HoleCause};
use serde_json::json;
use tracing::warn;

use crate::api::{Fault, StreamInfo};
use crate::connect::Broker;

/// Deleted messages beyond which their list is too long to ask for with each answer.
const DELETED_MAX: u64 = 500_000;

/// Runs of sequences that were left out: first and last.
pub(crate) type Jumps = Vec<(u64, u64)>;

/// What is gone inside a stream, as it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    first: u64,
    list: Vec<u64>,
    is_told: bool,
}

impl Deleted {
    /// Which of the sequences that deliveries left out are gone; asks the stream only when there are any.
    pub(crate) async fn holes(
        &mut self,
        broker: &Broker,
        stream: &str,
        created: i64,
        jumps: &[(u64, u64)],
    ) -> Result<Vec<Hole>, Fault> {
        if jumps.is_empty() {
            return Ok(Vec::new());
        }
        let info = broker.stream_info(stream).await?;
        if crate::api::created(&info) != created {
            return Err(Fault::Unavailable(format!("stream {stream} was made again")));
        }
        self.among(broker, stream, &info, jumps).await
    }

    /// The same for a stream that was just asked.
    pub(crate) async fn among(
        &mut self,
        broker: &Broker,
        stream: &str,
        info: &StreamInfo,
        jumps: &[(u64, u64)],
    ) -> Result<Vec<Hole>, Fault> {
        let first = info.state.first_sequence;
        if jumps.last().is_some_and(|(_, last)| *last >= first) {
            self.update(broker, stream, info).await?;
        }
        Ok(gone(jumps, first, &self.list, inside(info)))
    }

    /// Asks for the list when it cannot be the one that is known.
    async fn update(&mut self, broker: &Broker, stream: &str, info: &StreamInfo) -> Result<(), Fault> {
        let (first, count) = (info.state.first_sequence, info.state.deleted_count.unwrap_or(0));
        if self.first == first && self.list.len() as u64 == count {
            return Ok(());
        }
        self.first = first;
        self.list.clear();
        if count > DELETED_MAX {
            if !std::mem::replace(&mut self.is_told, true) {
                warn!(stream, deleted = count, "too many deleted messages to compare with what was delivered");
            }
            return Ok(());
        }
        if count > 0 {
            let body = json!({ "deleted_details": true });
            let details: StreamInfo = broker.api(stream, &format!("STREAM.INFO.{stream}"), &body).await?;
            self.list = details.state.deleted.clone().unwrap_or_default();
            self.list.sort_unstable();
            self.list.dedup();
        }
        Ok(())
    }
}

/// What became of a message that is gone from the middle of the stream.
fn inside(info: &Info) -> HoleCause {
    if info.config.max_messages_per_subject > 0 { HoleCause::Expired } else { HoleCause::Deleted }
}

/// The parts of `jumps` that are below `first` or in `deleted` (sorted); what is side by side for one cause is one hole.
pub(crate) fn gone(jumps: &[(u64, u64)], first: u64, deleted: &[u64], inside: HoleCause) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    let mut add = |from: u64, to: u64, cause: HoleCause| match holes.last_mut() {
        Some(hole) if hole.last.checked_add(1) == Some(from) && hole.cause == cause => hole.last = to,
        _ => holes.push(Hole { first: from, last: to, cause }),
    };
    for &(from, to) in jumps {
        if from < first {
            add(from, to.min(first - 1), HoleCause::Expired);
        }
        let start = deleted.partition_point(|sequence| *sequence < from.max(first));
        for sequence in deleted[start..].iter().take_while(|sequence| **sequence <= to) {
            add(*sequence, *sequence, inside);
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(first: u64, last: u64, cause: HoleCause) -> Hole {
        Hole { first, last, cause }
    }

    #[test]
    fn what_is_gone_is_told_from_what_is_of_others() {
        let jumps = [(2, 5), (7, 9), (11, 20)];
        assert_eq!(gone(&jumps, 1, &[], HoleCause::Deleted), []);
        assert_eq!(gone(&jumps, 4, &[], HoleCause::Deleted), [hole(2, 3, HoleCause::Expired)]);
        assert_eq!(
            gone(&jumps, 8, &[9, 10, 12, 13, 15, 21], HoleCause::Deleted),
            [
                hole(2, 5, HoleCause::Expired),
                hole(7, 7, HoleCause::Expired),
                hole(9, 9, HoleCause::Deleted),
                hole(12, 13, HoleCause::Deleted),
                hole(15, 15, HoleCause::Deleted),
            ]
        );
        assert_eq!(gone(&[(1, 4)], 3, &[3, 4], HoleCause::Expired), [hole(1, 4, HoleCause::Expired)]);
        assert_eq!(gone(&[(1, 4)], 100, &[], HoleCause::Deleted), [hole(1, 4, HoleCause::Expired)]);
    }

    #[test]
    fn the_last_sequences_that_there_are_do_not_overflow() {
        let last = u64::MAX;
        assert_eq!(
            gone(&[(last - 2, last), (last, last)], 1, &[last - 1, last], HoleCause::Deleted),
            [hole(last - 1, last, HoleCause::Deleted), hole(last, last, HoleCause::Deleted)]
        );
    }
}
