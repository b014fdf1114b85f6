//! What the machine of a partition tells about itself.

use super::Halted;
use crate::log::Hole;
use crate::time::WallTime;
use crate::totals::{Faults, Totals};

/// News for logs and metrics. Nothing depends on them.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Another host works on this partition.
    Standby {
        holder: String,
    },
    Recovering {
        cause: RecoveryCause,
        reason: String,
    },
    /// Ready to take events.
    Running {
        epoch: u64,
        decision: &'static str,
        /// Milliseconds of event time.
        watermark: i64,
        state_bytes: usize,
        /// Events that are kept for later.
        held: u64,
        /// Counters of modules, as `STAGE/COUNTER`: their sums.
        counters: Vec<(String, i128)>,
    },
    /// An epoch is committed and applied.
    Committed(Box<Committed>),
    /// The outcome of a publish is not known; the marker decides.
    Doubt {
        epoch: u64,
        reason: String,
    },
    /// Environment fault: waiting.
    Paused {
        reason: String,
    },
    /// A snapshot is being read.
    Loading {
        bytes: u64,
        of: u64,
    },
    /// A snapshot cannot be used; an older one is tried.
    SnapshotPassedOver {
        epoch: u64,
        reason: String,
    },
    /// A snapshot was not stored; it is tried again.
    SnapshotNotSaved {
        reason: String,
    },
    /// Recovery came back to the same position again and again without a commit.
    Stuck {
        /// Input sequence of the position.
        position: u64,
        attempts: u32,
        reason: String,
    },
    /// Input that is gone: it is counted as lost, or the partition halts.
    Hole(Hole),
    /// The lease is given back because this host cannot work; another one may.
    Yielded {
        reason: String,
    },
    /// The local store was set aside.
    Quarantined {
        reason: String,
    },
    Halted(Halted),
}

/// Why a partition recovers its state from what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryCause {
    /// The lease was taken: a start, or a fail-over.
    Start,
    /// Another host has committed.
    Fenced,
    StreamMissing,
    StreamRecreated,
    /// A stream is not as it was left, or as it was when recovery began.
    StreamChanged,
    /// The stream holds what this version does not know.
    OtherFormat,
    /// An epoch that was published again may be stored or not.
    CommitUnknown,
    FetchUnanswered,
    ConsumerLost,
}

impl RecoveryCause {
    /// The word of the metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RecoveryCause::Start => "start",
            RecoveryCause::Fenced => "fenced",
            RecoveryCause::StreamMissing => "stream-missing",
            RecoveryCause::StreamRecreated => "stream-recreated",
            RecoveryCause::StreamChanged => "stream-changed",
            RecoveryCause::OtherFormat => "other-format",
            RecoveryCause::CommitUnknown => "commit-unknown",
            RecoveryCause::FetchUnanswered => "fetch-unanswered",
            RecoveryCause::ConsumerLost => "consumer-lost",
        }
    }
}

/// Facts of one committed epoch.
#[derive(Clone, Debug)]
pub struct Committed {
    pub epoch: u64,
    pub position: u64,
    pub watermark: i64,
    /// When the broker stored the last event of the epoch.
    pub published: WallTime,
    pub totals: Totals,
    pub totals_sum: Totals,
    /// Counters of modules, as `STAGE/COUNTER`: their sums.
    pub counters: Vec<(String, i128)>,
    pub dead_by_code: Vec<(String, u64)>,
    pub records_by_output: Vec<u64>,
    pub faults_by_stage: Vec<(usize, Faults)>,
    pub state_bytes: usize,
    /// From the first event to the seal, ms.
    pub epoch_ms: u64,
    /// From the first publish to the answer, ms.
    pub commit_ms: u64,
    /// Events that the broker holds behind the last fetch.
    pub pending: u64,
}
