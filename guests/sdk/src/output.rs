//! What a rule emits.
//!
//! Bytes that lie in the input are passed on as offsets, everything else is copied once, into one arena.

use serde::Serialize;

use crate::error::Error;
use crate::raw;

/// In `slices`: take the key or the payload of the source as it is.
pub const OF_SOURCE: u32 = u32::MAX;

/// Collects the records of one call. The SDK sets the source of each record.
pub struct Output<'a> {
    /// The input arena of the call.
    arena: &'a [u8],
    ports: &'static [&'static str],
    source: u32,
    source_time: i64,
    raw: raw::Output,
    /// Whether some record has a port or a time of its own; else the columns stay empty.
    ports_used: bool,
    times_used: bool,
    /// Lengths of `raw.sources` and `raw.data` when the current source began.
    mark: (usize, usize),
}

impl<'a> Output<'a> {
    pub(crate) fn new(arena: &'a [u8], ports: &'static [&'static str]) -> Output<'a> {
        let raw = raw::Output {
            data: Vec::new(),
            sources: Vec::new(),
            ports: Vec::new(),
            slices: Vec::new(),
            timestamps: Vec::new(),
            rejects: Vec::new(),
        };
        Output { arena, ports, source: 0, source_time: 0, raw, ports_used: false, times_used: false, mark: (0, 0) }
    }

    /// Passes the source on: its key and its payload, untouched.
    pub fn forward(&mut self) {
        self.record().forward();
    }

    /// Emits `payload` under the key of the source.
    pub fn emit(&mut self, payload: impl AsRef<[u8]>) {
        self.record().send(payload);
    }

    /// Emits `value` as JSON under the key of the source.
    pub fn emit_json(&mut self, value: &impl Serialize) {
        self.record().send_json(value);
    }

    /// A record with a key, port or time of its own.
    pub fn record(&mut self) -> Record<'_, 'a> {
        Record { port: 0, key: [OF_SOURCE, 0], timestamp: None, output: self }
    }

    /// Everything from here on comes from row `source`.
    pub(crate) fn begin(&mut self, source: u32, source_time: i64) {
        self.source = source;
        self.source_time = source_time;
        self.mark = (self.raw.sources.len(), self.raw.data.len());
    }

    /// Ends a row: on a reject, drops what the row emitted and notes why.
    pub(crate) fn settle(&mut self, result: Result<(), Error>) -> Result<(), raw::Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(Error::Failure(failure)) => Err(failure.into()),
            Err(Error::Reject { code, detail }) => {
                let (records, bytes) = self.mark;
                self.raw.sources.truncate(records);
                self.raw.ports.truncate(records);
                self.raw.timestamps.truncate(records);
                self.raw.slices.truncate(4 * records);
                self.raw.data.truncate(bytes);
                self.raw.rejects.push(raw::Reject { source: self.source, code: code.to_owned(), detail });
                Ok(())
            }
        }
    }

    /// The columns of the contract. Sources never descend.
    pub(crate) fn finish(mut self) -> raw::Output {
        if !self.ports_used {
            self.raw.ports = Vec::new();
        }
        if !self.times_used {
            self.raw.timestamps = Vec::new();
        }
        if !self.raw.sources.is_sorted() {
            sort_by_source(&mut self.raw);
        }
        self.raw.rejects.sort_by_key(|reject| reject.source);
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

    fn push(&mut self, port: u8, timestamp: Option<i64>, key: [u32; 2], payload: [u32; 2]) {
        self.ports_used |= port != 0;
        self.times_used |= timestamp.is_some();
        self.raw.sources.push(self.source);
        self.raw.ports.push(port);
        self.raw.timestamps.push(timestamp.unwrap_or(self.source_time));
        self.raw.slices.extend([key[0], key[1], payload[0], payload[1]]);
    }
}

/// A record in the making. Nothing is emitted until one of the `send` methods or `forward`.
#[must_use = "a record is emitted by `send`, `send_json` or `forward`"]
pub struct Record<'o, 'a> {
    output: &'o mut Output<'a>,
    port: u8,
    key: [u32; 2],
    timestamp: Option<i64>,
}

impl Record<'_, '_> {
    /// Sends it to the port of this name.
    ///
    /// # Panics
    /// When the module declares no such port.
    pub fn port(mut self, name: &str) -> Self {
        let ports = self.output.ports;
        let Some(index) = ports.iter().position(|port| *port == name) else {
            panic!("no port `{name}`, the module declares {ports:?}");
        };
        self.port = index as u8;
        self
    }

    /// Gives it a key other than the source's.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = self.output.place(key.as_ref());
        self
    }

    /// Gives it an event time other than the source's.
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// Emits it with this payload.
    pub fn send(self, payload: impl AsRef<[u8]>) {
        let payload = self.output.place(payload.as_ref());
        self.output.push(self.port, self.timestamp, self.key, payload);
    }

    /// Emits it with `value` as JSON.
    ///
    /// # Panics
    /// When `value` has no JSON form, such as a map whose keys are no text.
    pub fn send_json(self, value: &impl Serialize) {
        let start = self.output.raw.data.len();
        serde_json::to_writer(&mut self.output.raw.data, value).expect("the value has a JSON form");
        let payload = [(self.output.arena.len() + start) as u32, (self.output.raw.data.len() - start) as u32];
        self.output.push(self.port, self.timestamp, self.key, payload);
    }

    /// Emits it with the payload of the source, which is not copied.
    pub fn forward(self) {
        self.output.push(self.port, self.timestamp, self.key, [OF_SOURCE, 0]);
    }
}

/// Reducers go key by key, so their records come in another order than their sources.
fn sort_by_source(output: &mut raw::Output) {
    let mut order: Vec<usize> = (0..output.sources.len()).collect();
    order.sort_by_key(|record| output.sources[*record]);
    output.slices = order.iter().flat_map(|record| output.slices[4 * record..][..4].to_vec()).collect();
    output.sources = order.iter().map(|record| output.sources[*record]).collect();
    if !output.ports.is_empty() {
        output.ports = order.iter().map(|record| output.ports[*record]).collect();
    }
    if !output.timestamps.is_empty() {
        output.timestamps = order.iter().map(|record| output.timestamps[*record]).collect();
    }
}
