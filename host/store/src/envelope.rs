//! How bytes become keys and values of the tree.
//!
//! A value is cut into chunks, one key each. Every chunk carries what proves that it belongs where it was found:
//!
//! ```text
//! key:   kind u8 | slot u64 | chunk u32
//! value: version u8 | crc32c u32 | generation u32 | tag u64 | total bytes u64 | data
//! ```
//! The crc covers the key as well, so a value found under another key is noticed. The tag is the epoch that wrote
//! it. Within a generation a (kind, slot, tag) is written once, so equal tags mean the same content and a mixture of
//! old and new values shows in the tags.

use std::ops::ControlFlow;

use pelton_engine::store::StoreError;

use crate::codec::other_format;

/// Format of a value.
pub(crate) const VERSION: u8 = 2;
/// Data bytes per value. sled moves a tree node to a file of its own, outside of what [`sync`] covers, when it passes
/// a quarter of a segment (128 KiB); a node holds up to 17 values, so they have to stay below 7 KiB. It also keeps
/// at least 256 nodes in memory, which were 36 MiB with values of 6 KiB.
///
/// [`sync`]: crate::generation::Generation::sync
pub(crate) const CHUNK_BYTES: usize = 2 << 10;

const KEY_BYTES: usize = 1 + 8 + 4;
const HEADER_BYTES: usize = 1 + 4 + 4 + 8 + 8;
const _: () = assert!(18 * (CHUNK_BYTES + HEADER_BYTES + KEY_BYTES + 16) < (512 << 10) / 4);

/// What a value is. The order is the order of a scan: head and base first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Head,
    Base,
    /// Slot: epoch.
    Delta,
    /// Slot: page number modulo the number of pages.
    History,
    /// Slot: epoch modulo the outbox length.
    Outbox,
    Snapshot,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Head => b'A',
            Kind::Base => b'B',
            Kind::Delta => b'D',
            Kind::History => b'H',
            Kind::Outbox => b'O',
            Kind::Snapshot => b'S',
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Head, Kind::Base, Kind::Delta, Kind::History, Kind::Outbox, Kind::Snapshot]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }

    /// Written again and again in the same slot; longer values of before leave chunks behind.
    fn overwritten(self) -> bool {
        matches!(self, Kind::Head | Kind::History | Kind::Outbox)
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) slot: u64,
}

/// A whole value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) place: Place,
    pub(crate) tag: u64,
    pub(crate) bytes: Vec<u8>,
}

fn key(place: Place, chunk: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = place.kind.byte();
    key[1..9].copy_from_slice(&place.slot.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn crc(key: &[u8], version: u8, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &[version]), rest)
}

/// Number of chunks of a value; an empty one still has its header.
fn chunk_count(total: u64) -> u64 {
    total.div_ceil(CHUNK_BYTES as u64).max(1)
}

/// Keys and values that hold `bytes`.
pub(crate) fn seal(
    generation: u32,
    place: Place,
    tag: u64,
    bytes: &[u8],
) -> impl Iterator<Item = ([u8; KEY_BYTES], Vec<u8>)> {
    let total = bytes.len() as u64;
    (0..chunk_count(total) as u32).map(move |chunk| {
        let start = chunk as usize * CHUNK_BYTES;
        let data = &bytes[start..bytes.len().min(start + CHUNK_BYTES)];
        let key = key(place, chunk);
        let mut value = Vec::with_capacity(HEADER_BYTES + data.len());
        value.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        value.extend_from_slice(&generation.to_be_bytes());
        value.extend_from_slice(&tag.to_be_bytes());
        value.extend_from_slice(&total.to_be_bytes());
        value.extend_from_slice(data);
        let crc = crc(&key, VERSION, &value[5..]);
        value[1..5].copy_from_slice(&crc.to_be_bytes());
        (key, value)
    })
}

/// Bounds of all chunks of a place, for a range read.
pub(crate) fn chunks(place: Place) -> std::ops::RangeInclusive<[u8; KEY_BYTES]> {
    key(place, 0)..=key(place, u32::MAX)
}

struct Chunk<'a> {
    place: Place,
    chunk: u32,
    tag: u64,
    total: u64,
    /// Data bytes of each chunk but the last.
    data: &'a [u8],
}

fn open<'a>(generation: u32, key: &[u8], value: &'a [u8]) -> Result<Chunk<'a>, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("{what} (key {})", pelton_engine::hex::encode(key)));
    if key.len() != KEY_BYTES {
        return Err(damaged("key has a wrong length"));
    }
    let Some(kind) = Kind::from_byte(key[0]) else {
        return Err(damaged("key has an unknown kind"));
    };
    if value.len() < HEADER_BYTES {
        return Err(damaged("value is shorter than its header"));
    }
    let u64_at = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().expect("four bytes"));
    if u32_at(1) != crc(key, value[0], &value[5..]) {
        return Err(damaged("checksum of a value does not fit"));
    }
    if value[0] != VERSION {
        return Err(StoreError::Format(other_format("a value of the state folder", value[0], VERSION)));
    }
    if u32_at(5) != generation {
        return Err(damaged(&format!("value of generation {} lies in generation {generation}", u32_at(5))));
    }
    let slot = u64::from_be_bytes(key[1..9].try_into().expect("eight bytes"));
    let chunk = u32::from_be_bytes(key[9..].try_into().expect("four bytes"));
    let place = Place { kind, slot };
    Ok(Chunk { place, chunk, tag: u64_at(9), total: u64_at(17), data: &value[HEADER_BYTES..] })
}

/// Puts the chunks of a scan in key order together again.
pub(crate) struct Assembler {
    generation: u32,
    /// The value at hand and its total length; complete when its bytes reach it.
    current: Option<(Value, u64)>,
}

impl Assembler {
    pub(crate) fn new(generation: u32) -> Assembler {
        Assembler { generation, current: None }
    }

    /// Takes the next key; gives a value when this chunk was its last.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Value>, StoreError> {
        let chunk = open(self.generation, key, value)?;
        if chunk.chunk == 0 {
            self.end()?;
            let bytes = Vec::with_capacity(chunk.total.min(64 << 20) as usize);
            self.current = Some((Value { place: chunk.place, tag: chunk.tag, bytes }, chunk.total));
        }
        match self.append(&chunk)? {
            ControlFlow::Continue(()) => Ok(None),
            ControlFlow::Break(value) => Ok(Some(value)),
        }
    }

    fn append(&mut self, chunk: &Chunk<'_>) -> Result<ControlFlow<Value>, StoreError> {
        let place = chunk.place;
        let damaged = |what: &str| StoreError::Damaged(format!("{what} (chunk {} of {place:?})", chunk.chunk));
        let Some((value, total)) = &mut self.current else {
            return Err(damaged("first chunk is missing"));
        };
        if value.place != place {
            return Err(damaged("first chunk is missing"));
        }
        let count = chunk_count(*total);
        if count <= u64::from(chunk.chunk) {
            // Left behind by a longer value that lay here before.
            let stale = place.kind.overwritten() && chunk.tag < value.tag;
            return if stale { Ok(ControlFlow::Continue(())) } else { Err(damaged("chunk behind the end")) };
        }
        let start = u64::from(chunk.chunk) * CHUNK_BYTES as u64;
        if value.bytes.len() as u64 != start {
            return Err(damaged("chunk is missing before this one"));
        }
        if chunk.tag != value.tag || chunk.total != *total {
            return Err(damaged("chunks of different epochs"));
        }
        if chunk.data.len() as u64 != (*total - start).min(CHUNK_BYTES as u64) {
            return Err(damaged("chunk has a wrong length"));
        }
        value.bytes.extend_from_slice(chunk.data);
        if u64::from(chunk.chunk) + 1 < count {
            return Ok(ControlFlow::Continue(()));
        }
        let whole = Value { place, tag: value.tag, bytes: std::mem::take(&mut value.bytes) };
        // The place stays known for chunks left behind; its bytes count as complete.
        Ok(ControlFlow::Break(whole))
    }

    /// The scan is over, or another value begins: the one at hand must be complete.
    pub(crate) fn end(&mut self) -> Result<(), StoreError> {
        match self.current.take() {
            Some((value, _)) if !value.bytes.is_empty() => {
                Err(StoreError::Damaged(format!("last chunks of {:?} are missing", value.place)))
            }
            _ => Ok(()),
        }
    }
}
