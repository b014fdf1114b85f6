//! Ack subjects: what a delivery says about itself, and how to acknowledge up to a stream sequence.

use std::collections::VecDeque;
use std::sync::Arc;

/// What the reply subject of a delivery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) stream_seq: u64,
    /// Contiguous per consumer: a hole means that a delivery was lost on the way.
    pub(crate) consumer_seq: u64,
    /// When the broker stored the message, nanoseconds since the Unix epoch.
    pub(crate) stored_nanos: i64,
    /// Messages of this consumer behind this one.
    pub(crate) pending: u64,
    /// Length of `$JS.ACK.….<consumer>`, without the dot after it.
    pub(crate) prefix_len: usize,
}

/// Parses both forms of the reply subject without allocating:
/// `$JS.ACK.<stream>.<consumer>.<count>.<stream seq>.<consumer seq>.<time>.<pending>` and, from 11 tokens on, the one
/// with `<domain>.<account>` after `$JS.ACK`.
pub(crate) fn parse(reply: &str) -> Option<Delivery> {
    const DOTS_MAX: usize = 12;
    let bytes = reply.as_bytes();
    if !bytes.starts_with(b"$JS.ACK.") {
        return None;
    }
    let mut dots = [0usize; DOTS_MAX];
    let mut count = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'.' {
            *dots.get_mut(count)? = at;
            count += 1;
        }
    }
    // Token of the delivery count.
    let base = match count {
        8 => 4,
        10.. => 6,
        _ => return None,
    };
    let number = |token: usize| {
        let start = dots[token - 1] + 1;
        let end = if token < count { dots[token] } else { bytes.len() };
        digits(&bytes[start..end])
    };
    Some(Delivery {
        stream_seq: number(base + 1)?,
        consumer_seq: number(base + 2)?,
        stored_nanos: i64::try_from(number(base + 3)?).ok()?,
        pending: number(base + 4)?,
        prefix_len: dots[base - 1],
    })
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { value.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Deliveries that are not acknowledged yet, as runs in which both sequences go up by one; and where deliveries stand.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    prefix: String,
    runs: VecDeque<Run>,
    reached: Option<Reached>,
    /// Nothing of this partition up to here is unread, whatever became of the sequences.
    known: u64,
    /// Where the last hole ends that was handed out with nothing after it.
    told: u64,
}

/// The last delivery that was handed out, or where the consumer was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// When the server made the consumer that delivered: numbers begin anew with every consumer.
    pub(crate) placed: Arc<str>,
    pub(crate) stream_seq: u64,
    pub(crate) consumer_seq: u64,
}

/// `count` deliveries from these sequences on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    stream_seq: u64,
    consumer_seq: u64,
    count: u64,
}

/// Adds a delivery to the last of `runs`, or starts a new one.
pub(crate) fn extend(runs: &mut Vec<Run>, stream_seq: u64, consumer_seq: u64) {
    if let Some(last) = runs.last_mut()
        && last.stream_seq.checked_add(last.count) == Some(stream_seq)
        && last.consumer_seq.checked_add(last.count) == Some(consumer_seq)
    {
        last.count += 1;
        return;
    }
    runs.push(Run { stream_seq, consumer_seq, count: 1 });
}

impl Acks {
    /// Forgets everything: the consumer is being placed anew.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        (self.reached, self.told) = (None, 0);
    }

    /// Where deliveries stand; `None` until the consumer is placed.
    pub(crate) fn reached(&self) -> Option<Reached> {
        self.reached.clone()
    }

    /// Up to where nothing is unread.
    pub(crate) fn known(&self) -> u64 {
        self.known
    }

    /// Starts anew: the caller wants to read from behind `known`, or knows that nothing up to there is unread.
    pub(crate) fn set_known(&mut self, known: u64) {
        self.known = known;
    }

    /// A hole that ends at `last`, with nothing after it, was handed out.
    pub(crate) fn tell(&mut self, last: u64) {
        self.told = self.told.max(last);
    }

    /// The last sequence that was handed out, as a delivery or as a hole.
    pub(crate) fn told(&self) -> u64 {
        self.told.max(self.reached.as_ref().map_or(0, |reached| reached.stream_seq))
    }

    /// The consumer that was made at `placed` has delivered everything up to `last`, and all of it was handed out. A
    /// proof about another consumer says nothing: events before it may be due again.
    pub(crate) fn prove(&mut self, placed: &str, last: u64) {
        if self.reached.as_ref().is_some_and(|reached| *reached.placed == *placed) {
            self.known = self.known.max(last);
        }
    }

    /// Takes over the deliveries of one fetch, or none of a consumer that was just placed.
    pub(crate) fn add(&mut self, prefix: &str, runs: &[Run], reached: Reached) {
        if !runs.is_empty() {
            self.known = self.known.max(reached.stream_seq);
        }
        if !runs.is_empty() && self.prefix != prefix {
            self.prefix = prefix.to_string();
        }
        self.runs.extend(runs);
        self.reached = Some(reached);
    }

    /// The ack subject of the last delivery at or below `stream_seq`; everything up to it is forgotten.
    pub(crate) fn take(&mut self, stream_seq: u64) -> Option<String> {
        let mut found = None;
        while let Some(run) = self.runs.front_mut() {
            if run.stream_seq > stream_seq {
                break;
            }
            let taken = run.count.min((stream_seq - run.stream_seq).saturating_add(1));
            found = Some((run.stream_seq + (taken - 1), run.consumer_seq + (taken - 1)));
            if taken == run.count {
                self.runs.pop_front();
            } else {
                *run = Run {
                    stream_seq: run.stream_seq + taken,
                    consumer_seq: run.consumer_seq + taken,
                    count: run.count - taken,
                };
                break;
            }
        }
        let (stream_seq, consumer_seq) = found?;
        Some(format!("{}.1.{stream_seq}.{consumer_seq}.0.0", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_are_parsed() {
        let expected = |prefix_len| Delivery {
            stream_seq: 7,
            consumer_seq: 5,
            stored_nanos: 1_700_000_000_123_456_789,
            pending: 42,
            prefix_len,
        };
        let cases = [
            ("$JS.ACK.S.C.1.7.5.1700000000123456789.42", Some(11)),
            ("$JS.ACK._.hash.S.C.1.7.5.1700000000123456789.42", Some(18)),
            ("$JS.ACK.hub.hash.S.C.1.7.5.1700000000123456789.42.rand", Some(20)),
            ("$JS.ACK.S.C.1.7.5.1700000000123456789", None),
            ("$JS.ACK.S.C.1.seven.5.1700000000123456789.42", None),
            ("_INBOX.a.b.1.7.5.1700000000123456789.42.x", None),
            ("$JS.ACK.S.C.1.7.5.99999999999999999999999.42", None),
        ];
        for (reply, prefix_len) in cases {
            assert_eq!(parse(reply), prefix_len.map(expected), "{reply}");
        }
    }

    #[test]
    fn acks_go_to_the_last_delivery_at_or_below() {
        let mut runs = Vec::new();
        for (stream_seq, consumer_seq) in [(1, 1), (2, 2), (5, 3), (6, 4)] {
            extend(&mut runs, stream_seq, consumer_seq);
        }
        assert_eq!(runs.len(), 2);
        let mut acks = Acks::default();
        acks.add("$JS.ACK.S.C", &runs, Reached { placed: "now".into(), stream_seq: 6, consumer_seq: 4 });
        assert_eq!(acks.take(0), None);
        assert_eq!(acks.take(1).as_deref(), Some("$JS.ACK.S.C.1.1.1.0.0"));
        assert_eq!(acks.take(4).as_deref(), Some("$JS.ACK.S.C.1.2.2.0.0"));
        assert_eq!(acks.take(4), None);
        assert_eq!(acks.take(100).as_deref(), Some("$JS.ACK.S.C.1.6.4.0.0"));
    }

    #[test]
    fn the_last_numbers_that_there_are_do_not_overflow() {
        let (last, mut runs) = (u64::MAX, Vec::new());
        for (stream_seq, consumer_seq) in [(last - 1, last - 1), (last, last), (last, last)] {
            extend(&mut runs, stream_seq, consumer_seq);
        }
        let mut acks = Acks::default();
        acks.add("$JS.ACK.S.C", &runs, Reached { placed: "now".into(), stream_seq: last, consumer_seq: last });
        assert_eq!(acks.take(last), Some(format!("$JS.ACK.S.C.1.{last}.{last}.0.0")));
        assert_eq!(acks.take(last), None);
    }
}
