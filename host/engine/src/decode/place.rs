//! Whether a key is in the partition that the broker puts it into.

use crate::codes::Code;
use crate::effects::{key_text, key_token};

use super::{DecodeFault, fault};

/// The partition that is read, of how many: keys come here because the broker maps the last token of the subject that
/// producers publish to, and that token has to be the key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPlace {
    pub(super) partition: u32,
    pub(super) partitions: u32,
}

impl KeyPlace {
    /// Refuses a key that the broker would have put into another partition. Keys that are no token of a subject as they
    /// are stay unjudged: how a producer writes them into one is its own affair.
    pub(super) fn check(self, key: &[u8]) -> Result<(), DecodeFault> {
        let own = partition_of(key, self.partitions);
        if own == self.partition
            || !is_token(key)
            || partition_of(key_token(key).as_bytes(), self.partitions) == self.partition
        {
            return Ok(());
        }
        let KeyPlace { partition, .. } = self;
        let key = key_text(key);
        let message = format!(
            "key `{key}` belongs to partition {own}, and came to {partition}: the last token of its subject was not the key"
        );
        Err(fault(Code::KeyPartition, message))
    }
}

/// The partition that JetStream's `partition(n, token)` chooses: 32-bit FNV-1a, modulo n.
#[must_use]
pub fn partition_of(token: &[u8], partitions: u32) -> u32 {
    token.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) % partitions
}

/// Whether every producer writes a key the same way into a subject: as it is.
fn is_token(key: &[u8]) -> bool {
    !key.is_empty() && key.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>'))
}
