//! A state delta: one part per section that has changed. A whole state is the same with all of them, each whole; the
//! bucket of snapshots has the bytes of each by themselves ([`super::Manifest`]).
//!
//! ```text
//! "PD" | version u8 | count u8 | part × count
//! part: section u8 | flags u8 | length u64 | bytes
//! ```
//! Integers are little-endian. `section` is the place in the marker's list of sections; the bytes begin with the format
//! of their operator's own encoding. A length has its full 8 bytes so that it can be filled in behind what it counts: a
//! snapshot may have gigabytes, which are not copied once more to learn how long they are.

use crate::codec::{Damaged, Reader};

/// Format of deltas that this host writes, and the only one that it reads.
const DELTA_VERSION: u8 = 2;
const MAGIC: &[u8; 2] = b"PD";
const HEAD_BYTES: usize = 4;
/// What a part has besides its bytes.
pub const SECTION_STORED_BYTES_MAX: usize = 10;
/// The part replaces all that the section held.
const WHOLE: u8 = 1;

/// Writes a delta, part by part.
pub struct DeltaWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> DeltaWriter<'a> {
    /// Begins a delta behind what is there.
    pub fn new(out: &'a mut Vec<u8>) -> DeltaWriter<'a> {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[DELTA_VERSION, 0]);
        DeltaWriter { out, start }
    }

    /// Adds the part of a section; `write` appends its bytes.
    pub fn part(&mut self, section: u8, is_whole: bool, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(&[section, if is_whole { WHOLE } else { 0 }]);
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0; 8]);
        write(self.out);
        let length = (self.out.len() - length_at - 8) as u64;
        self.out[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
        self.out[self.start + HEAD_BYTES - 1] += 1;
    }
}

/// One part of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Place in the marker's list of sections.
    pub section: u8,
    pub is_whole: bool,
    pub bytes: &'a [u8],
}

/// Reads a delta, part by part, in the order of its sections.
pub struct DeltaReader<'a> {
    reader: Reader<'a>,
    left: u8,
    /// The next part is of this section or a later one.
    next: u16,
}

impl<'a> DeltaReader<'a> {
    /// # Errors
    /// When the bytes are not a delta of the format of this host.
    pub fn new(delta: &'a [u8]) -> Result<DeltaReader<'a>, Damaged> {
        let mut reader = Reader::new(delta);
        if reader.array::<2>()? != *MAGIC {
            return Err(Damaged("is no delta".into()));
        }
        let version = reader.byte()?;
        if version != DELTA_VERSION {
            return Err(Damaged(format!("has format {version}, this host reads {DELTA_VERSION}")));
        }
        let left = reader.byte()?;
        Ok(DeltaReader { reader, left, next: 0 })
    }

    /// The next part; `None` behind the last one.
    ///
    /// # Errors
    /// When the bytes are damaged, or say what this host does not know.
    pub fn part(&mut self) -> Result<Option<Part<'a>>, Damaged> {
        let Some(left) = self.left.checked_sub(1) else {
            return if self.reader.is_empty() { Ok(None) } else { Err(Damaged("has bytes behind its end".into())) };
        };
        self.left = left;
        let (section, flags) = (self.reader.byte()?, self.reader.byte()?);
        if flags & !WHOLE != 0 {
            return Err(Damaged(format!("section {section} has flags {flags:#04x}, which this host does not know")));
        }
        if u16::from(section) < self.next {
            return Err(Damaged(format!("section {section} comes twice, or too late")));
        }
        self.next = u16::from(section) + 1;
        let length = u64::from_le_bytes(self.reader.array()?);
        let bytes = self.reader.take(length)?;
        Ok(Some(Part { section, is_whole: flags & WHOLE != 0, bytes }))
    }
}
