//! Events in their two shapes: raw bytes as the source gave them, and typed columns as guests see them.
//!
//! Both are flat arenas with offsets. A list of records that hold lists costs six times as much to pass to a guest.

use std::ops::Range;

pub use pelton_aggregates::Kind;

use crate::time::WallTime;

/// A run of events from one partition, in sequence order, as the source gave them.
#[derive(Clone, Debug, Default)]
pub struct RawBatch {
    /// Subjects, header blocks and payloads.
    pub data: Vec<u8>,
    pub events: Vec<RawEvent>,
}

/// One event of a [`RawBatch`]; ranges address its `data`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawEvent {
    /// Position in the source: JetStream stream sequence, or line number from 1.
    pub sequence: u64,
    /// When the broker stored it; for a file, when it was last written, for a pipe, when it was read.
    pub published: WallTime,
    /// Empty for files.
    pub subject: Range<u32>,
    /// `name: value\r\n` per header; empty when there are none.
    pub headers: Range<u32>,
    pub payload: Range<u32>,
    /// `headers` is the block as it was stored, because it is not one that a NATS client can read: the event becomes a
    /// dead letter that keeps those bytes.
    pub unreadable: bool,
    /// `payload` is only the beginning of one that is larger than `limits.max_payload`: the event becomes a dead letter that
    /// tells what it was. Boxed: it is rare, and events are many.
    pub whole: Option<Box<Whole>>,
}

/// A payload that was too large to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub bytes: u64,
    pub sha256: [u8; 32],
}

impl RawBatch {
    /// The bytes of one range of this batch.
    #[must_use]
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.data[range.start as usize..range.end as usize]
    }

    /// Appends an event and its bytes.
    pub fn push(&mut self, sequence: u64, published: WallTime, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let mut put = |bytes: &[u8]| {
            let start = self.data.len() as u32;
            self.data.extend_from_slice(bytes);
            start..self.data.len() as u32
        };
        let (subject, headers, payload) = (put(subject), put(headers), put(payload));
        self.events.push(RawEvent { sequence, published, subject, headers, payload, unreadable: false, whole: None });
    }

    /// Cuts off the events from index `at` on. Both parts keep the whole arena: this is for the rare batch with a hole.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> RawBatch {
        RawBatch { data: self.data.clone(), events: self.events.split_off(at) }
    }

    /// Empties the batch and keeps its allocations.
    pub fn clear(&mut self) {
        self.data.clear();
        self.events.clear();
    }
}

/// A field that a module reads from every event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub kind: Kind,
    pub need: Need,
}

/// What becomes of an event in which a field is missing or null, or has a value of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A dead letter in either case, before any guest sees it.
    Required,
    /// A dead letter for a value of another kind.
    Optional,
    /// The guest is told of both.
    Lenient,
}

/// One declared field of every event of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Rows without a value of the field's kind, ascending. What stands for it is empty, 0 or false.
    pub missing: Vec<u32>,
    /// Of a lenient field, those of the missing rows, ascending, that have null or a value of another kind.
    pub unlike: Vec<u32>,
    pub values: Values,
}

/// The values of a column, one per row.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Strings(Strings),
    Integers(Vec<i64>),
    Numbers(Vec<f64>),
    Booleans(Vec<bool>),
    Decimals(Strings),
    Jsons(Strings),
    /// Not UTF-8.
    Blobs(Strings),
}

/// UTF-8 texts one after the other; `ends[i]` is where row `i` ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    pub data: Vec<u8>,
    pub ends: Vec<u32>,
}

impl Strings {
    /// The bytes of row `row`.
    #[must_use]
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.data[start..self.ends[row] as usize]
    }

    /// Appends a row.
    pub fn push(&mut self, text: &[u8]) {
        self.data.extend_from_slice(text);
        self.ends.push(self.data.len() as u32);
    }
}

impl Column {
    /// An empty column of this kind.
    #[must_use]
    pub fn new(kind: Kind) -> Column {
        let values = match kind {
            Kind::String => Values::Strings(Strings::default()),
            Kind::Integer => Values::Integers(Vec::new()),
            Kind::Number => Values::Numbers(Vec::new()),
            Kind::Boolean => Values::Booleans(Vec::new()),
            Kind::Decimal => Values::Decimals(Strings::default()),
            Kind::Json => Values::Jsons(Strings::default()),
            Kind::Bytes => Values::Blobs(Strings::default()),
        };
        Column { missing: Vec::new(), unlike: Vec::new(), values }
    }

    /// The type of the values.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.values {
            Values::Strings(_) => Kind::String,
            Values::Integers(_) => Kind::Integer,
            Values::Numbers(_) => Kind::Number,
            Values::Booleans(_) => Kind::Boolean,
            Values::Decimals(_) => Kind::Decimal,
            Values::Jsons(_) => Kind::Json,
            Values::Blobs(_) => Kind::Bytes,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Strings(column) | Values::Decimals(column) | Values::Jsons(column) | Values::Blobs(column) => {
                column.ends.len()
            }
            Values::Integers(values) => values.len(),
            Values::Numbers(values) => values.len(),
            Values::Booleans(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties the column and keeps its allocations.
    pub fn clear(&mut self) {
        self.missing.clear();
        self.unlike.clear();
        match &mut self.values {
            Values::Strings(column) | Values::Decimals(column) | Values::Jsons(column) | Values::Blobs(column) => {
                column.data.clear();
                column.ends.clear();
            }
            Values::Integers(values) => values.clear(),
            Values::Numbers(values) => values.clear(),
            Values::Booleans(values) => values.clear(),
        }
    }

    /// Whether row `row` has no value.
    #[must_use]
    pub fn is_missing(&self, row: usize) -> bool {
        !self.missing.is_empty() && self.missing.binary_search(&(row as u32)).is_ok()
    }
}

/// A batch of events as a guest sees it.
///
/// There is no clock, no watermark and no batch number in it: a result may not depend on where a batch was cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// Per event its key, then its payload (empty when the module did not ask for payloads).
    pub data: Vec<u8>,
    /// Two per event: end of key, end of payload.
    pub ends: Vec<u32>,
    /// Event time, milliseconds since the Unix epoch.
    pub timestamps: Vec<i64>,
    pub sequences: Vec<u64>,
    /// One per declared field, in the order of the module's declaration.
    pub columns: Vec<Column>,
    /// Headers of all events as `name: value\r\n` blocks; empty unless the module asks for headers.
    pub headers: Vec<u8>,
    /// Per event, where its header block ends; empty unless the module asks for headers.
    pub header_ends: Vec<u32>,
}

impl Events {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// The key of event `row`.
    #[must_use]
    pub fn key(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[2 * row - 1] as usize };
        &self.data[start..self.ends[2 * row] as usize]
    }

    /// The payload of event `row`; empty when the module did not ask for payloads.
    #[must_use]
    pub fn payload(&self, row: usize) -> &[u8] {
        &self.data[self.ends[2 * row] as usize..self.ends[2 * row + 1] as usize]
    }
}
