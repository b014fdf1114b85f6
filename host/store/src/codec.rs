//! The bytes of one epoch in the outbox: its marker and its records.
//!
//! The delta is not in here: it lies beside, where recovery reads it, and is joined again when the epoch is read.
//!
//! ```text
//! version u8 | crc32c u32 | marker: u32 + JSON | arena: u32 + bytes | rows u32 | row × rows
//! row: channel u8 | output u16 | subject, headers, payload: start u32, end u32
//! ```
//! Integers are big-endian; the crc covers the version and everything behind it. Any bytes may be given to
//! [`decode`]: it answers with an error, never with a panic, and allocates no more than the input is long.

use std::ops::Range;

use pelton_engine::epoch::{Channel, Marker, Record, Records, Unreadable};
use pelton_engine::store::StoreError;

/// Format written by this host.
pub const VERSION: u8 = 1;
const ROW_BYTES: usize = 1 + 2 + 6 * 4;

/// Why bytes are not an epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not written like this by any host.
    #[error("{0}")]
    Malformed(String),
    /// Intact, but written by another version of Pelton.
    #[error("{0}")]
    Format(String),
}

/// What to say of an intact value of another format.
pub(crate) fn other_format(what: &str, found: u8, known: u8) -> String {
    let age = if found > known { "from a newer version of Pelton" } else { "from before the first release of Pelton" };
    format!("{what} has format {found}, which is {age}; this version reads {known}")
}

impl From<Unreadable> for CodecError {
    fn from(error: Unreadable) -> CodecError {
        match error {
            Unreadable::Format(text) => CodecError::Format(text),
            Unreadable::Damaged(_) => CodecError::Malformed(error.to_string()),
        }
    }
}

impl From<CodecError> for StoreError {
    fn from(error: CodecError) -> StoreError {
        match error {
            CodecError::Malformed(what) => StoreError::Damaged(what),
            CodecError::Format(text) => StoreError::Format(text),
        }
    }
}

/// Marker and records as bytes.
#[must_use]
pub fn encode(marker: &Marker, records: &Records) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(marker.bytes());
    out.bytes(&records.data);
    out.u32(records.rows.len() as u32);
    for row in &records.rows {
        let (kind, output) = match row.channel {
            Channel::Output(output) => (0, output),
            Channel::DeadLetter => (1, 0),
            Channel::Late => (2, 0),
        };
        out.u8(kind);
        out.u16(output);
        for range in [&row.subject, &row.headers, &row.payload] {
            out.u32(range.start);
            out.u32(range.end);
        }
    }
    let body = out.0;
    let mut sealed = Vec::with_capacity(body.len() + 5);
    sealed.push(VERSION);
    sealed.extend_from_slice(&crc(VERSION, &body).to_be_bytes());
    sealed.extend_from_slice(&body);
    sealed
}

/// Reads back what [`encode`] wrote.
///
/// # Errors
/// When the bytes are damaged, incomplete or of a newer format.
pub fn decode(bytes: &[u8]) -> Result<(Marker, Records), CodecError> {
    let mut input = Reader(bytes);
    let version = input.u8()?;
    let expected = input.u32()?;
    if crc(version, input.0) != expected {
        return Err(CodecError::Malformed("checksum of an epoch does not fit".into()));
    }
    if version != VERSION {
        return Err(CodecError::Format(other_format("an epoch of the outbox", version, VERSION)));
    }
    let marker = Marker::decode(input.bytes()?)?;
    let data = input.bytes()?.to_vec();
    let count = input.u32()? as usize;
    if input.0.len() != count.saturating_mul(ROW_BYTES) {
        return Err(CodecError::Malformed(format!("{} bytes do not hold {count} rows", input.0.len())));
    }
    let rows = (0..count).map(|_| decode_row(&mut input, data.len())).collect::<Result<_, _>>()?;
    Ok((marker, Records { data, rows }))
}

fn decode_row(input: &mut Reader<'_>, arena_bytes: usize) -> Result<Record, CodecError> {
    let kind = input.u8()?;
    let output = input.u16()?;
    let channel = match (kind, output) {
        (0, output) => Channel::Output(output),
        (1, 0) => Channel::DeadLetter,
        (2, 0) => Channel::Late,
        (kind, output) => return Err(CodecError::Malformed(format!("channel {kind}/{output} is not known"))),
    };
    let mut range = || -> Result<Range<u32>, CodecError> {
        let (start, end) = (input.u32()?, input.u32()?);
        if end < start || arena_bytes < end as usize {
            return Err(CodecError::Malformed(format!("range {start}..{end} is outside of {arena_bytes} bytes")));
        }
        Ok(start..end)
    };
    Ok(Record { channel, subject: range()?, headers: range()?, payload: range()? })
}

fn crc(version: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[version]), body)
}

/// Appends big-endian integers and length-prefixed bytes.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn array(&mut self, value: &[u8; 32]) {
        self.0.extend_from_slice(value);
    }
    /// Length, then the bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).expect("no value reaches 4 GiB: an epoch has at most 16 MiB of records"));
        self.0.extend_from_slice(value);
    }
}

/// Takes from the front of what is left.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| CodecError::Malformed(format!("{count} bytes expected, {} are left", self.0.len())))?;
        self.0 = rest;
        Ok(head)
    }
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        Ok(self.take(N)?.try_into().expect("take gives exactly N bytes"))
    }
    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.fixed::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        self.fixed().map(u16::from_be_bytes)
    }
    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        self.fixed().map(u32::from_be_bytes)
    }
    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        self.fixed().map(u64::from_be_bytes)
    }
    pub(crate) fn u128(&mut self) -> Result<u128, CodecError> {
        self.fixed().map(u128::from_be_bytes)
    }
    pub(crate) fn array(&mut self) -> Result<[u8; 32], CodecError> {
        self.fixed()
    }
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let count = self.u32()? as usize;
        self.take(count)
    }
    /// Everything must have been read.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::Malformed(format!("{left} bytes behind the end"))),
        }
    }
}
