//! Bytes into lines: linear in time, and in memory bounded by `limits.max_payload` however long a line is.

use pelton_engine::event::{RawBatch, RawEvent, Whole};
use pelton_engine::time::WallTime;
use sha2::{Digest as _, Sha256};

/// A run of whole lines of one input.
#[derive(Debug, Default)]
pub(in crate::run) struct Chunk {
    pub(in crate::run) batch: RawBatch,
    /// Byte offset behind each event's line, in the content of its input.
    pub(in crate::run) ends: Vec<u64>,
    /// Bytes read from all inputs by this process so far, as they are stored: what a progress bar shows.
    pub(in crate::run) bytes_read: u64,
}

/// Cuts the content of one input into events.
///
/// What a line gives does not depend on how its bytes were cut into parts: it is read again after a kill and has to be
/// the same event.
pub(super) struct Lines {
    /// Largest payload that is kept whole, bytes.
    limit: usize,
    /// Offset behind the last line that was given out, and that line's number.
    offset: u64,
    line: u64,
    /// The beginning of the next line, until it is longer than any event may be; then `long` has it.
    pending: Vec<u8>,
    long: Option<Long>,
}

impl Lines {
    /// Lines from `offset` on; `line` is the number of the last one before it.
    pub(super) fn new(limit: u64, offset: u64, line: u64) -> Lines {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Lines { limit, offset, line, pending: Vec::new(), long: None }
    }

    /// The number of the last line that was given out.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Takes the next bytes; gives the lines that they complete.
    pub(super) fn feed(&mut self, mut part: &[u8], arrival: WallTime) -> Option<Chunk> {
        let Some(last) = memchr::memrchr(b'\n', part) else {
            self.keep(part);
            return None;
        };
        let rest = &part[last + 1..];
        part = &part[..=last];
        let mut chunk = Chunk::default();
        if let Some(mut long) = self.long.take() {
            let end = memchr::memchr(b'\n', part).unwrap_or(last);
            long.add(&part[..end]);
            self.push_long(long, 1, arrival, &mut chunk);
            part = &part[end + 1..];
        }
        let mut data = std::mem::take(&mut chunk.batch.data);
        let start = data.len();
        data.reserve_exact(self.pending.len() + part.len());
        data.append(&mut self.pending);
        data.extend_from_slice(part);
        self.split(data, start, arrival, &mut chunk);
        self.keep(rest);
        Some(chunk)
    }

    /// The last line, when there is no line break behind it.
    pub(super) fn end(&mut self, arrival: WallTime) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        if let Some(long) = self.long.take() {
            self.push_long(long, 0, arrival, &mut chunk);
        } else {
            let data = std::mem::take(&mut self.pending);
            self.split(data, 0, arrival, &mut chunk);
        }
        (!chunk.ends.is_empty()).then_some(chunk)
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some(long) = &mut self.long {
            return long.add(part);
        }
        self.pending.extend_from_slice(part);
        // A carriage return at its end would not count.
        if self.pending.len() > self.limit.saturating_add(1) {
            let pending = std::mem::take(&mut self.pending);
            self.long = Some(Long::begin(&pending, self.limit));
        }
    }

    /// Cuts `data[start..]` into events; empty lines are events too: they are dead letters, not lost.
    fn split(&mut self, data: Vec<u8>, mut start: usize, arrival: WallTime, chunk: &mut Chunk) {
        let len = data.len();
        while start < len {
            let end = memchr::memchr(b'\n', &data[start..]).map_or(len, |at| start + at);
            let next = (end + 1).min(len);
            // A line may end with CR LF.
            let payload_end = if end > start && data[end - 1] == b'\r' { end - 1 } else { end };
            let mut event = self.event((next - start) as u64, arrival);
            event.payload = start as u32..payload_end as u32;
            if payload_end - start > self.limit {
                let payload = &data[start..payload_end];
                event.whole =
                    Some(Box::new(Whole { bytes: payload.len() as u64, sha256: Sha256::digest(payload).into() }));
                event.payload.end = (start + beginning(payload, self.limit)) as u32;
            }
            chunk.batch.events.push(event);
            chunk.ends.push(self.offset);
            start = next;
        }
        chunk.batch.data = data;
    }

    fn push_long(&mut self, long: Long, line_break: u64, arrival: WallTime, chunk: &mut Chunk) {
        let mut event = self.event(long.bytes + u64::from(long.has_return) + line_break, arrival);
        event.payload = 0..long.prefix.len() as u32;
        event.whole = Some(Box::new(Whole { bytes: long.bytes, sha256: long.hash.finalize().into() }));
        chunk.batch.data = long.prefix;
        chunk.batch.events.push(event);
        chunk.ends.push(self.offset);
    }

    #[inline]
    fn event(&mut self, bytes: u64, arrival: WallTime) -> RawEvent {
        self.line += 1;
        self.offset += bytes;
        RawEvent { sequence: self.line, published: arrival, ..RawEvent::default() }
    }

    /// Bytes that are held for the next line.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.pending.capacity() + self.long.as_ref().map_or(0, |long| long.prefix.capacity())
    }
}

/// A line that is longer than any event: its beginning, and what the whole is.
struct Long {
    prefix: Vec<u8>,
    hash: Sha256,
    /// Bytes that were hashed.
    bytes: u64,
    /// Behind them comes a carriage return, which belongs to the line only when more follows.
    has_return: bool,
}

impl Long {
    fn begin(start: &[u8], limit: usize) -> Long {
        let prefix = start[..beginning(start, limit)].to_vec();
        let mut long = Long { prefix, hash: Sha256::new(), bytes: 0, has_return: false };
        long.add(start);
        long
    }

    fn add(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        if std::mem::take(&mut self.has_return) {
            self.hash.update(b"\r");
            self.bytes += 1;
        }
        let body = part.strip_suffix(b"\r").unwrap_or(part);
        self.has_return = body.len() < part.len();
        self.hash.update(body);
        self.bytes += body.len() as u64;
    }
}

/// How much of a payload that is longer than `limit` is kept: no character of UTF-8 is cut.
fn beginning(payload: &[u8], limit: usize) -> usize {
    let is_inside = |at: usize| payload[at] & 0xc0 == 0x80;
    (limit.saturating_sub(3)..=limit).rev().find(|&at| !is_inside(at)).unwrap_or(limit)
}

#[cfg(test)]
mod tests;
