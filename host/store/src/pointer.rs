//! The pointer file: one line that says which generation counts.
//!
//! Its crc is the last word of the line in every format, so that a newer format can be told from a damaged file.

use pelton_engine::store::StoreError;

use crate::codec::other_format;

/// Format of the folder.
pub(crate) const FORMAT: u8 = 2;

/// Which generation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) current: u32,
    /// Older generations from here on may stand in for a damaged current one; those below belong to another past.
    pub(crate) floor: u32,
}

impl Pointer {
    pub(crate) fn render(self) -> String {
        let line = format!("pelton-store format={FORMAT} current={} floor={}", self.current, self.floor);
        format!("{line} crc={:08x}\n", crc32c::crc32c(line.as_bytes()))
    }

    /// # Errors
    /// `Damaged`; `Format` for an intact line of another version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Pointer, StoreError> {
        let damaged = || StoreError::Damaged(format!("pointer file of {} bytes does not parse", bytes.len()));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let (line, crc) = text.trim_end_matches('\n').rsplit_once(" crc=").ok_or_else(damaged)?;
        if crc != format!("{:08x}", crc32c::crc32c(line.as_bytes())) {
            return Err(damaged());
        }
        let mut words = line.split(' ');
        let mut number = |name: &str| words.next().and_then(|word| word.strip_prefix(name)).map(str::to_string);
        number("pelton-store").ok_or_else(damaged)?;
        let found: u8 = number("format=").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        if found != FORMAT {
            return Err(StoreError::Format(other_format("the state folder", found, FORMAT)));
        }
        let mut number = |name: &str| number(name).and_then(|text| text.parse().ok()).ok_or_else(damaged);
        Ok(Pointer { current: number("current=")?, floor: number("floor=")? })
    }
}
