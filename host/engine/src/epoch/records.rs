//! The records of an epoch: what the batch holds besides delta and marker.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// Outputs, dead letters and late events of an epoch, in one arena.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    pub data: Vec<u8>,
    pub rows: Vec<Record>,
}

/// One message of the batch; ranges address the arena of its [`Records`].
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which output, dead-letter or late subject.
    pub channel: Channel,
    /// Subject below the partition's prefix, such as `out.alerts`, `dlq.source.json-syntax` or `late.stream-farm`.
    pub subject: Range<u32>,
    /// `name: value\r\n` per header; values hold neither CR nor LF.
    pub headers: Range<u32>,
    pub payload: Range<u32>,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Index into the plan's outputs.
    Output(u16),
    DeadLetter,
    Late,
}

impl Records {
    /// The bytes of one range.
    #[must_use]
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.data[range.start as usize..range.end as usize]
    }

    /// Appends a record and its bytes.
    pub fn push(&mut self, channel: Channel, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let mut put = |bytes: &[u8]| {
            let start = self.data.len() as u32;
            self.data.extend_from_slice(bytes);
            start..self.data.len() as u32
        };
        let (subject, headers, payload) = (put(subject), put(headers), put(payload));
        self.rows.push(Record { channel, subject, headers, payload });
    }

    /// sha256 over the digests of the records, each of which covers the lengths of its parts: a record can be checked, and
    /// one that was erased be stood in for, without the others.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for row in &self.rows {
            let mut one = Sha256::new();
            for range in [&row.subject, &row.headers, &row.payload] {
                one.update((range.end - range.start).to_be_bytes());
                one.update(self.slice(range));
            }
            all.update(one.finalize());
        }
        all.finalize().into()
    }

    /// Empties the arena and keeps its allocations.
    pub fn clear(&mut self) {
        self.data.clear();
        self.rows.clear();
    }
}
