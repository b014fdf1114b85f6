//! Choices out of bytes: when they are used up, every further choice is the first one.

/// Takes choices from the front.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    at: usize,
}

impl Bytes {
    pub(crate) fn new(bytes: &[u8]) -> Bytes {
        Bytes { bytes: bytes.to_vec(), at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some(&byte) = self.bytes.get(self.at) else { return 0 };
        self.at += 1;
        byte
    }

    /// A number below `bound`, out of one byte.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    pub(crate) fn i64(&mut self) -> i64 {
        (i64::from(self.u32()) << 32) | i64::from(self.u32())
    }

    /// As many bytes as the next byte says, if so many are left.
    pub(crate) fn short(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte());
        self.take(count)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.take(usize::MAX)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let end = self.at.saturating_add(count).min(self.bytes.len());
        let taken = self.bytes[self.at..end].to_vec();
        self.at = end;
        taken
    }
}
