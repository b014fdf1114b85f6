//! Which partition of which pipeline is meant, and the names that go with it.

use pelton_engine::plan::Plan;

use crate::names;

/// Which partition of which pipeline, and where its events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub pipeline: String,
    pub partition: u32,
    /// Input stream.
    pub stream: String,
    /// Literal input subject of this partition (a wildcard only without partitions).
    pub subject: String,
    /// Bytes of the largest state that a snapshot may have.
    pub snapshot_bytes_max: u64,
}

/// How much larger than `limits.state` a stored state may be: the limit counts memory roughly, and may have been lowered
/// since. Beyond it an object of the bucket is no state of this pipeline, whoever put it there.
const SNAPSHOT_TIMES_MAX: u64 = 4;
/// For what has no size of its own in the limit.
const SNAPSHOT_EXTRA_BYTES: u64 = 64 << 20;

impl Target {
    /// One partition of a plan.
    #[must_use]
    pub fn new(plan: &Plan, partition: u32) -> Target {
        Target {
            pipeline: plan.name.clone(),
            partition,
            stream: plan.source.stream.clone(),
            subject: names::source_subject(plan, partition),
            snapshot_bytes_max: plan
                .limits
                .state
                .saturating_mul(SNAPSHOT_TIMES_MAX)
                .saturating_add(SNAPSHOT_EXTRA_BYTES),
        }
    }

    pub(crate) fn consumer(&self) -> String {
        names::consumer(&self.pipeline, self.partition)
    }

    pub(crate) fn prefix(&self) -> String {
        names::prefix(&self.pipeline, self.partition)
    }

    pub(crate) fn log_stream(&self) -> String {
        names::log_stream(&self.pipeline)
    }
}
