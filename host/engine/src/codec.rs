//! Little-endian base-128 integers and length-prefixed bytes: the alphabet of state deltas and snapshots.
//!
//! Reading never panics and never allocates more than the input is long.

/// The stored bytes are not what the writer of this version writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state record is damaged: {0}")]
pub struct Damaged(pub String);

/// Appends an unsigned integer, 1 to 10 bytes.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer; small magnitudes stay short.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the `put_` functions wrote.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| Damaged("ends early".into()))?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// At the end of the bytes, or when it does not fit into 64 bits.
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged("integer is longer than 64 bits".into()))
    }

    /// A signed integer.
    ///
    /// # Errors
    /// As [`Reader::u64`].
    pub fn i64(&mut self) -> Result<i64, Damaged> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// An unsigned integer that fits into 32 bits.
    ///
    /// # Errors
    /// As [`Reader::u64`], or when it is larger.
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.u64()?).map_err(|_| Damaged("integer is longer than 32 bits".into()))
    }

    /// A count of things that take at least one byte each, so that a damaged count cannot ask for much memory.
    ///
    /// # Errors
    /// When fewer bytes are left than things.
    pub fn count(&mut self) -> Result<usize, Damaged> {
        let count = self.u64()?;
        if count > self.rest.len() as u64 {
            return Err(Damaged(format!("count {count} with {} bytes left", self.rest.len())));
        }
        Ok(count as usize)
    }

    /// Length-prefixed bytes.
    ///
    /// # Errors
    /// When fewer bytes are left than the length says.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let count = self.u64()?;
        self.take(count)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8], Damaged> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (bytes, rest) =
            split.ok_or_else(|| Damaged(format!("{count} bytes expected, {} are left", self.rest.len())))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// 8 bytes as a float, bit for bit.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn f64(&mut self) -> Result<f64, Damaged> {
        self.array().map(f64::from_le_bytes)
    }

    /// So many bytes as they are.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| Damaged("ends early".into()))?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// Appends a float, bit for bit.
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}
