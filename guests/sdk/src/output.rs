//! What a rule emits.
//!
//! Bytes that lie in the input are passed on as offsets, everything else is copied once, into one arena.

use serde::Serialize;

use crate::counters::Counters;
use crate::error::Error;
use crate::raw;

/// In `slices`: take the key or the payload of the row as it is.
pub const OF_ROW: u32 = u32::MAX;

/// Collects the records of one call. The SDK sets the row that each record comes from.
pub struct Output<'a> {
    /// The input arena of the call.
    arena: &'a [u8],
    ports: &'a [String],
    row: u32,
    row_time: i64,
    raw: raw::Output,
    counters: Counters<'a>,
    /// Whether some record has a port, a time or headers of its own; else the columns stay empty.
    ports_used: bool,
    times_used: bool,
    headers_used: bool,
    /// Lengths of `raw.rows`, `raw.data` and `raw.headers` when the current row began.
    mark: (usize, usize, usize),
}

impl<'a> Output<'a> {
    pub(crate) fn new(arena: &'a [u8], shape: &'a raw::Shape) -> Output<'a> {
        Output {
            arena,
            ports: &shape.ports,
            row: 0,
            row_time: 0,
            raw: raw::no_output(),
            counters: Counters::new(&shape.counters),
            ports_used: false,
            times_used: false,
            headers_used: false,
            mark: (0, 0, 0),
        }
    }

    /// Adds to a counter of the module.
    ///
    /// # Panics
    /// When the module declares no such counter.
    pub fn add(&mut self, counter: &str, add: i64) {
        self.counters.add(counter, add);
    }

    /// Passes the row on: its key and its payload, untouched.
    pub fn forward(&mut self) {
        self.record().forward();
    }

    /// Emits `payload` under the key of the row.
    pub fn emit(&mut self, payload: impl AsRef<[u8]>) {
        self.record().send(payload);
    }

    /// Emits `value` as JSON under the key of the row.
    pub fn emit_json(&mut self, value: &impl Serialize) {
        self.record().send_json(value);
    }

    /// A record with a key, port, time or headers of its own, or one that deletes its key.
    pub fn record(&mut self) -> Record<'_, 'a> {
        Record { port: 0, key: [OF_ROW, 0], timestamp: None, headers: Vec::new(), output: self }
    }

    /// Everything from here on comes from row `row`.
    pub(crate) fn begin(&mut self, row: u32, row_time: i64) {
        self.row = row;
        self.row_time = row_time;
        self.mark = (self.raw.rows.len(), self.raw.data.len(), self.raw.headers.len());
        self.counters.begin(row);
    }

    /// Ends a row: on a reject, drops what the row emitted and notes why.
    pub(crate) fn settle(&mut self, result: Result<(), Error>) -> Result<(), raw::Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(Error::Failure(failure)) => Err(failure.into()),
            Err(Error::Reject { code, detail, place }) => {
                let (records, bytes, headers) = self.mark;
                self.raw.rows.truncate(records);
                self.raw.ports.truncate(records);
                self.raw.timestamps.truncate(records);
                self.raw.slices.truncate(4 * records);
                self.raw.data.truncate(bytes);
                self.raw.headers.truncate(headers);
                self.raw.header_ends.truncate(records);
                self.raw.deletes.retain(|record| (*record as usize) < records);
                self.counters.drop_row();
                self.raw.rejects.push(raw::Reject { row: self.row, code: code.to_owned(), detail, place });
                Ok(())
            }
        }
    }

    /// The columns of the contract. Rows never descend.
    pub(crate) fn finish(mut self) -> raw::Output {
        if !self.ports_used {
            self.raw.ports = Vec::new();
        }
        if !self.times_used {
            self.raw.timestamps = Vec::new();
        }
        if !self.headers_used {
            self.raw.header_ends = Vec::new();
        }
        self.raw.additions = self.counters.finish();
        if !self.raw.rows.is_sorted() {
            sort_by_row(&mut self.raw);
        }
        self.raw.rejects.sort_by_key(|reject| reject.row);
        self.raw
    }

    /// Where `bytes` lie in "input arena, then output arena"; copies them when they are not there yet.
    fn place(&mut self, bytes: &[u8]) -> [u32; 2] {
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.arena.as_ptr() as usize);
        if start < self.arena.len() && bytes.len() <= self.arena.len() - start {
            return [start as u32, bytes.len() as u32];
        }
        let offset = self.arena.len() + self.raw.data.len();
        self.raw.data.extend_from_slice(bytes);
        [offset as u32, bytes.len() as u32]
    }
}

/// A record in the making. Nothing is emitted until one of the `send` methods, `forward` or `delete`.
#[must_use = "a record is emitted by `send`, `send_json`, `forward` or `delete`"]
pub struct Record<'o, 'a> {
    output: &'o mut Output<'a>,
    port: u8,
    key: [u32; 2],
    timestamp: Option<i64>,
    headers: Vec<u8>,
}

impl Record<'_, '_> {
    /// Sends it to the port of this name.
    ///
    /// # Panics
    /// When the module declares no such port.
    pub fn port(mut self, name: &str) -> Self {
        let ports = self.output.ports;
        let Some(index) = ports.iter().position(|port| port == name) else {
            panic!("no port `{name}`, the module declares {ports:?}");
        };
        self.port = index as u8;
        self
    }

    /// Gives it a key other than the row's.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = self.output.place(key.as_ref());
        self
    }

    /// Gives it an event time other than the row's.
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// Gives it a header. Names are letters, digits and `-`, and do not begin with `Nats-`, `Pelton-` or `KV-`; a value is one
    /// line. Only outputs have headers: a stage that reads the port does not see them.
    pub fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        self
    }

    /// Emits it with this payload.
    pub fn send(self, payload: impl AsRef<[u8]>) {
        let payload = self.output.place(payload.as_ref());
        self.push(payload);
    }

    /// Deletes the key: a tombstone for whoever keeps the newest record of each key, such as a key-value bucket. Only
    /// outputs have them: a stage that reads the port does not see it.
    pub fn delete(self) {
        let record = self.output.raw.rows.len() as u32;
        self.output.raw.deletes.push(record);
        let payload = self.output.place(&[]);
        self.push(payload);
    }

    /// Emits it with `value` as JSON.
    ///
    /// # Panics
    /// When `value` has no JSON form, such as a map whose keys are not strings.
    pub fn send_json(self, value: &impl Serialize) {
        let start = self.output.raw.data.len();
        serde_json::to_writer(&mut self.output.raw.data, value).expect("the value has a JSON form");
        let payload = [(self.output.arena.len() + start) as u32, (self.output.raw.data.len() - start) as u32];
        self.push(payload);
    }

    /// Emits it with the payload of the row, which is not copied.
    pub fn forward(self) {
        self.push([OF_ROW, 0]);
    }

    fn push(self, payload: [u32; 2]) {
        let Record { output, port, key, timestamp, headers } = self;
        output.ports_used |= port != 0;
        output.times_used |= timestamp.is_some();
        output.headers_used |= !headers.is_empty();
        let raw = &mut output.raw;
        raw.rows.push(output.row);
        raw.ports.push(port);
        raw.timestamps.push(timestamp.unwrap_or(output.row_time));
        raw.slices.extend([key[0], key[1], payload[0], payload[1]]);
        raw.headers.extend_from_slice(&headers);
        raw.header_ends.push(raw.headers.len() as u32);
    }
}

/// Reducers go key by key, so their records come in another order than their rows.
fn sort_by_row(output: &mut raw::Output) {
    let mut order: Vec<usize> = (0..output.rows.len()).collect();
    order.sort_by_key(|record| output.rows[*record]);
    output.slices = order.iter().flat_map(|record| output.slices[4 * record..][..4].to_vec()).collect();
    output.rows = order.iter().map(|record| output.rows[*record]).collect();
    if !output.ports.is_empty() {
        output.ports = order.iter().map(|record| output.ports[*record]).collect();
    }
    if !output.timestamps.is_empty() {
        output.timestamps = order.iter().map(|record| output.timestamps[*record]).collect();
    }
    output.deletes = (0..)
        .zip(&order)
        .filter(|(_, record)| output.deletes.binary_search(&(**record as u32)).is_ok())
        .map(|(at, _)| at)
        .collect();
    if !output.header_ends.is_empty() {
        let (mut headers, mut ends) = (Vec::new(), Vec::new());
        for &record in &order {
            let start = if record == 0 { 0 } else { output.header_ends[record - 1] as usize };
            headers.extend_from_slice(&output.headers[start..output.header_ends[record] as usize]);
            ends.push(headers.len() as u32);
        }
        (output.headers, output.header_ends) = (headers, ends);
    }
}
