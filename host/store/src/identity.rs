//! The id file: a random number that belongs to one folder, whatever its content is.
//!
//! ```text
//! pelton-store-id 5f0c6a…32 hex digits inode=1234 crc=89abcdef
//! ```
//! The inode is that of the lock file. A copy of the folder has another one and gets an id of its own, so that two
//! hosts never answer to the same id.

/// What the id file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: u128,
    pub(crate) inode: u64,
}

impl Identity {
    pub(crate) fn random(inode: u64) -> Identity {
        Identity { id: rand::random(), inode }
    }

    pub(crate) fn render(&self) -> String {
        let line = format!("pelton-store-id {:032x} inode={}", self.id, self.inode);
        format!("{line} crc={:08x}\n", crc32c::crc32c(line.as_bytes()))
    }

    /// `None` for anything that no host wrote.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (line, crc) = text.trim_end_matches('\n').rsplit_once(" crc=")?;
        if crc != format!("{:08x}", crc32c::crc32c(line.as_bytes())) {
            return None;
        }
        let (id, inode) = line.strip_prefix("pelton-store-id ")?.split_once(" inode=")?;
        Some(Identity { id: u128::from_str_radix(id, 16).ok()?, inode: inode.parse().ok()? })
    }
}
