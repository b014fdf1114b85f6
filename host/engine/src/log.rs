//! What the protocol asks of the broker, and what the broker can answer: a closed list.
//!
//! `broker` carries these out against JetStream, the simulator against a double; one conformance suite runs on both.
//! Every question carries a ticket and every answer repeats it, so that a late answer to an old question is recognised.

use std::sync::Arc;

use crate::codec::Damaged;
use crate::epoch::{DeltaReader, Epoch, Manifest, Marker, Part, SnapshotPart, StreamIdentity};
use crate::event::RawBatch;
use crate::time::WallTime;

/// A question to the broker about one partition.
#[derive(Clone, Debug)]
pub enum Request {
    /// Who should work: create or take the expired lease. It decides liveness only; the fence decides safety.
    AcquireLease,
    /// Keep the lease of this revision.
    RenewLease { revision: u64 },
    /// Give it up.
    ReleaseLease { revision: u64 },
    /// What both streams hold, and what is stored at two places of interest.
    Survey {
        /// Input sequence whose fingerprint is wanted.
        input_sequence: Option<u64>,
        /// Epoch whose latest marker is wanted.
        epoch: Option<u64>,
        /// Also look for traces of earlier work that no marker tells of: [`Survey::snapshot_epoch`].
        history: bool,
    },
    /// Markers and deltas stored after the sequence `after` (of a marker, or 0), up to and including the marker at `up_to`,
    /// in order. May answer with a part; the caller asks again.
    Changes { after: u64, up_to: u64 },
    /// The newest stored snapshot whose epoch is at most `epoch_max`.
    FindSnapshot { epoch_max: u64 },
    /// The bytes of a part of a snapshot from `offset` on: as many as one answer takes, at least one.
    ReadPart { part: SnapshotPart, offset: u64 },
    /// Store a snapshot; afterwards changes and markers below the older of the last two may be purged. `layouts` are the
    /// texts of its sections' layouts.
    SaveSnapshot { snapshot: Arc<Snapshot>, layouts: Vec<String> },
    /// Let the consumer deliver from sequence `next` on. The caller has checked it against the stream's bounds.
    /// Up to `read_through` (at least `next - 1`) nothing of this partition is unread: what is gone there is no hole.
    Reset { next: u64, read_through: u64 },
    /// Events after the last delivered one. Answers when there are some, or after a short wait with none.
    Fetch { events: u32, bytes: u32 },
    /// Publish one epoch as one atomic batch.
    Publish { epoch: Arc<Epoch>, fence: Fence },
    /// Everything up to this input sequence is committed. A hint for lag and retention.
    Ack { sequence: u64 },
}

/// What must be true of the stream for a batch to land.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Stream sequence of the last marker, 0 if there is none: checked against all markers of the partition,
    /// so that *nothing came after it*.
    pub sequence: u64,
    /// Slot ([`Marker::slot`]) of that marker, checked with the same sequence, so that *that marker is mine*
    /// even where a rolled-back stream uses sequences again. `None` for the first epoch.
    pub slot: Option<String>,
}

/// A marker and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMarker {
    pub sequence: u64,
    pub marker: Marker,
}

/// What one stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    pub identity: StreamIdentity,
    pub first_sequence: u64,
    pub last_sequence: u64,
}

/// Sequences of the input that are gone without having been delivered, and that no other message explains. Where the
/// partition shares its stream with other subjects, some of them may have been of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub first: u64,
    /// At least `first`.
    pub last: u64,
    pub cause: HoleCause,
}

/// How a hole came to be, as far as the stream shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleCause {
    /// Below the first sequence of the stream, or where a limit per subject deletes: retention or a purge took what was
    /// not read yet. A loss.
    Expired,
    /// Inside the stream: the message's own time to live, or somebody's delete. A wish.
    Deleted,
}

/// What the consumer of a partition says when it has nothing left to deliver: the input holds no event of this partition
/// behind `delivered` up to and including `last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllDelivered {
    /// Input sequence of the last delivery.
    pub delivered: u64,
    /// Last input sequence when it was asked.
    pub last: u64,
}

/// Answer to [`Request::Survey`]. The input is looked at before the marker: a marker that is the same as before the
/// question was the newest one all the time.
#[derive(Clone, Debug)]
pub struct Survey {
    pub input: StreamFacts,
    /// Every message of the input is of this partition: sequences that are not delivered were lost.
    pub is_alone: bool,
    /// The pipeline stream.
    pub log: StreamFacts,
    /// The newest marker of this partition.
    pub marker: Option<StoredMarker>,
    /// Fingerprint of the input message asked for; `None` when not asked, or not there.
    pub input_fingerprint: Option<u64>,
    /// Newest marker in the slot of the epoch asked for, when its epoch is that one.
    pub marker_of_epoch: Option<StoredMarker>,
    /// `None` while the consumer has more to deliver, or is not there.
    pub all_delivered: Option<AllDelivered>,
    /// Input sequence up to which the consumer is acknowledged; 0 when there is none.
    pub ack_floor: u64,
    /// The broker's clock when it was asked, milliseconds since the Unix epoch.
    pub broker_time: WallTime,
    /// Epoch of the newest stored snapshot, when `history` was asked for and there is one.
    pub snapshot_epoch: Option<u64>,
}

/// One epoch as read back from the stream.
#[derive(Clone, Debug)]
pub struct Change {
    pub stored: StoredMarker,
    pub delta: Vec<u8>,
}

/// The whole state of a partition at the end of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub stored: StoredMarker,
    /// Encoded state: a delta in which every section is whole.
    pub state: Vec<u8>,
}

impl Snapshot {
    /// The bytes of each section of the marker, in order.
    ///
    /// # Errors
    /// When the state does not have each of them, whole, and nothing else.
    pub fn sections(&self) -> Result<Vec<&[u8]>, Damaged> {
        let mut reader = DeltaReader::new(&self.state)?;
        let mut sections = Vec::new();
        while let Some(Part { section, is_whole, bytes }) = reader.part()? {
            if usize::from(section) != sections.len() || !is_whole {
                return Err(Damaged(format!("section {section} is not the next one, or not whole")));
            }
            sections.push(bytes);
        }
        let wanted = self.stored.marker.sections.len();
        if sections.len() != wanted {
            return Err(Damaged(format!("has {} sections, and its marker {wanted}", sections.len())));
        }
        Ok(sections)
    }
}

/// What became of a published batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Stored; the marker lies at this sequence.
    Stored { sequence: u64 },
    /// Refused by a fence or as a duplicate. Proves nothing yet: read the marker and compare the nonce.
    Rejected(String),
    /// No answer, or a lost connection. The batch may or may not land.
    Unknown(String),
    /// Refused for a reason of the environment (no space, no leader, too many batches): nothing was stored.
    Refused(String),
    /// Refused for what the batch itself is (too large, not allowed on this stream): nothing was stored, and the same
    /// bytes will be refused for ever.
    Permanent(String),
}

/// An answer of the broker.
#[derive(Clone, Debug)]
pub enum Response {
    /// The lease is held, or still held, under this revision.
    LeaseHeld {
        revision: u64,
    },
    /// Another host holds the lease.
    LeaseTaken {
        holder: String,
    },
    LeaseReleased,
    Survey(Box<Survey>),
    /// In order, without gaps. Empty only when nothing is left.
    Changes(Vec<Change>),
    /// Its sequence is where the stream holds its marker now.
    SnapshotFound(Option<Box<Manifest>>),
    /// Bytes of a part from the offset that was asked for.
    PartRead(Vec<u8>),
    SnapshotSaved,
    Reset,
    Fetched(Fetched),
    Published(Published),
    Acked,
    /// The stream is not there.
    Missing {
        stream: String,
    },
    /// Environment fault: no connection, time-out, no leader. Ask again later.
    Unavailable(String),
    /// Integrity fault seen while reading: a record that does not decode, a hole in the changes.
    Damaged(String),
    /// What was read is intact, but of another version of Pelton: that one may go on.
    OtherFormat(String),
}

/// Events from the source.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    pub batch: RawBatch,
    /// In order and apart from each other; each lies behind everything delivered before, before or between the events
    /// of `batch`, or behind them when nothing is left.
    pub holes: Vec<Hole>,
    /// Messages of this partition that the broker holds behind this batch, as far as it said.
    pub pending: u64,
    /// The broker said that there is nothing more right now.
    pub caught_up: bool,
    /// The consumer was lost and made again; deliveries may repeat or skip, the protocol checks sequences.
    pub restarted: bool,
}
