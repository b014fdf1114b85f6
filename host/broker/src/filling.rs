//! One answer to a fetch in the making: what was delivered, copied in order.

use async_nats::Message;
use pelton_engine::event::RawBatch;
use pelton_engine::time::WallTime;

use crate::ack::{self, Reached, Run};
use crate::headers;
use crate::holes::Jumps;
use crate::stored::Stored;

/// Keeps the offsets of a batch in 32 bits.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// How far deliveries went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) stream_seq: u64,
    pub(crate) consumer_seq: u64,
    pub(crate) pending: u64,
}

impl Cursor {
    pub(crate) fn reached(self, placed: &std::sync::Arc<str>) -> Reached {
        Reached { placed: std::sync::Arc::clone(placed), stream_seq: self.stream_seq, consumer_seq: self.consumer_seq }
    }
}

/// One answer in the making.
pub(crate) struct Filling<'a> {
    pub(crate) batch: RawBatch,
    pub(crate) runs: Vec<Run>,
    /// Ack prefix of the deliveries.
    pub(crate) prefix: String,
    pub(crate) cursor: Cursor,
    /// Sequences that were left out between what was delivered.
    pub(crate) jumps: Jumps,
    /// Nothing up to here is unread.
    known: u64,
    events_max: usize,
    bytes_max: usize,
    scratch: &'a mut Vec<u8>,
}

impl<'a> Filling<'a> {
    pub(crate) fn new(cursor: Cursor, known: u64, events: u32, bytes: u32, scratch: &'a mut Vec<u8>) -> Filling<'a> {
        Filling {
            batch: RawBatch::default(),
            runs: Vec::new(),
            prefix: String::new(),
            cursor,
            jumps: Jumps::new(),
            known,
            events_max: events.max(1) as usize,
            bytes_max: (bytes.max(1) as usize).min(BATCH_BYTES_MAX),
            scratch,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.batch.events.len() >= self.events_max || self.batch.data.len() >= self.bytes_max
    }

    /// Copies one delivery; the error says why the consumer must be placed again.
    pub(crate) fn take(&mut self, message: &Message) -> Result<(), String> {
        let reply = message.reply.as_ref().map_or("", |reply| reply.as_str());
        let delivery = ack::parse(reply).ok_or_else(|| format!("delivery without an ack subject: {reply:?}"))?;
        // Numbers are whatever the reply says: none may overflow.
        if Some(delivery.consumer_seq) != self.cursor.consumer_seq.checked_add(1) {
            let last = self.cursor.consumer_seq;
            return Err(format!("delivery {} came where the one behind {last} was due", delivery.consumer_seq));
        }
        self.cursor.consumer_seq = delivery.consumer_seq;
        self.cursor.pending = delivery.pending;
        if delivery.stream_seq <= self.cursor.stream_seq {
            // Delivered again after its ack was overdue.
            return Ok(());
        }
        self.step(delivery.stream_seq);
        if self.prefix.is_empty() {
            self.prefix.push_str(&reply[..delivery.prefix_len]);
        }
        ack::extend(&mut self.runs, delivery.stream_seq, delivery.consumer_seq);
        self.scratch.clear();
        if let Some(headers) = &message.headers {
            headers::write(self.scratch, headers);
        }
        let published = WallTime(delivery.stored_nanos.div_euclid(1_000_000));
        let subject = message.subject.as_bytes();
        self.batch.push(delivery.stream_seq, published, subject, self.scratch, &message.payload);
        Ok(())
    }

    /// Copies a message that was read by itself, with its whole header block when no client can read it.
    pub(crate) fn take_stored(&mut self, message: &Stored) {
        if message.sequence <= self.cursor.stream_seq {
            // It was not asked for.
            return;
        }
        self.step(message.sequence);
        self.cursor.pending = self.cursor.pending.saturating_sub(1);
        self.scratch.clear();
        match &message.unreadable {
            Some(unreadable) => self.scratch.extend_from_slice(&unreadable.block),
            None => headers::write(self.scratch, &message.headers),
        }
        let (published, subject) = (WallTime(message.stored_ms), message.subject.as_bytes());
        self.batch.push(message.sequence, published, subject, self.scratch, &message.payload);
        if let Some(event) = self.batch.events.last_mut() {
            event.unreadable = message.unreadable.is_some();
        }
    }

    fn step(&mut self, sequence: u64) {
        if sequence.saturating_sub(1) > self.known {
            self.jumps.push((self.known + 1, sequence - 1));
        }
        self.known = self.known.max(sequence);
        self.cursor.stream_seq = sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(sequence: u64) -> Stored {
        let (subject, payload) = ("s".to_string(), "payload".into());
        Stored { sequence, subject, headers: async_nats::HeaderMap::new(), unreadable: None, payload, stored_ms: 0 }
    }

    #[test]
    fn what_was_not_asked_for_is_left_out() {
        let (mut scratch, cursor) = (Vec::new(), Cursor { stream_seq: 5, ..Cursor::default() });
        let mut filling = Filling::new(cursor, 5, 10, 1000, &mut scratch);
        for sequence in [0, 5, 6, 6, 4, u64::MAX, 9] {
            filling.take_stored(&stored(sequence));
        }
        let taken: Vec<u64> = filling.batch.events.iter().map(|event| event.sequence).collect();
        assert_eq!(taken, [6, u64::MAX]);
        assert_eq!(filling.jumps, [(7, u64::MAX - 1)]);
    }
}
