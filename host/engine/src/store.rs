//! What the protocol asks of the local working store of one partition.
//!
//! Under a broker the store is a cache that can be rebuilt; without one (file input) it is the commit.
//! `store` implements [`Store`] over sled, with a double in memory.

use crate::epoch::{Epoch, Position};
use crate::log::{Snapshot, StoredMarker};

/// What a store holds when it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// The last applied epoch.
    pub head: StoredMarker,
    /// State at the end of an earlier epoch; `None` means that the deltas start at epoch 1.
    pub snapshot: Option<Snapshot>,
    /// Deltas after the snapshot up to the head, in order, without a gap.
    pub deltas: Vec<Vec<u8>>,
    /// The last epochs, oldest first, at most [`HISTORY_MAX`].
    pub history: Vec<Past>,
    /// What the file sink last said of itself; empty under a broker.
    pub sink: Vec<u8>,
}

/// One applied epoch, as recovery needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub epoch: u64,
    pub nonce: u128,
    pub position: Position,
    /// Stream sequence of its marker.
    pub sequence: u64,
}

/// How many epochs back the history reaches.
pub const HISTORY_MAX: usize = 4096;
/// How many epochs back the outbox reaches: enough to publish a lost tail of the stream again.
pub const OUTBOX_MAX: usize = 64;

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Environment fault: no space, read-only, IO error. Pause and try again.
    #[error("store is not writable: {0}")]
    Environment(String),
    /// The content cannot be trusted. Set it aside and rebuild.
    #[error("store is damaged: {0}")]
    Damaged(String),
    /// Intact, but written by another version of Pelton. Leave it untouched.
    #[error("{0}")]
    Format(String),
    /// Another process has it open.
    #[error("store is in use: {0}")]
    InUse(String),
}

/// What becomes of a store's content when it is dropped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard<'a> {
    /// It cannot be trusted: set aside for people to look at; a few are kept.
    Damaged(&'a str),
    /// It is sound, but the stream has gone on without it: deleted.
    Outdated(&'a str),
}

/// The local working store of one partition. One writer; every write is visible entirely or not at all.
pub trait Store: Send {
    /// Everything needed to rebuild the state in memory, verified; `None` for an empty store.
    ///
    /// # Errors
    /// `Damaged` when any checksum, chain or hash does not fit.
    fn load(&mut self) -> Result<Option<Local>, StoreError>;

    /// Applies one epoch: delta, marker, history, outbox and `sink` in one atomic write.
    ///
    /// # Errors
    /// `Environment` when nothing was written; the epoch may be applied again.
    fn apply(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError>;

    /// Starts a new generation from a snapshot of the head; older deltas go.
    ///
    /// # Errors
    /// `Environment`; the previous generation stays usable.
    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError>;

    /// Drops everything and starts again from `snapshot` (`None`: from nothing), with an empty outbox.
    ///
    /// # Errors
    /// `Environment`.
    fn rebase(&mut self, snapshot: Option<&Snapshot>, old: Discard<'_>) -> Result<(), StoreError>;

    /// An epoch of the outbox, with the bytes it was published with; `None` when it is no longer kept.
    ///
    /// # Errors
    /// `Damaged`.
    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError>;

    /// Makes everything applied so far survive a power cut.
    ///
    /// # Errors
    /// Any error is final for this handle: a failed sync is never repeated.
    fn sync(&mut self) -> Result<(), StoreError>;
}
