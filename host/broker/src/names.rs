//! Names of streams, buckets, consumers and subjects: the one place that builds them.

use pelton_engine::plan::Plan;

/// Key-value bucket of all leases of an account.
pub const LEASE_BUCKET: &str = "PELTON_leases";

const DEFAULT_PREFIX: &str = "$JS.API";

/// The pipeline stream: outputs, dead letters, late events, changes and markers.
#[must_use]
pub fn log_stream(pipeline: &str) -> String {
    format!("PELTON_{pipeline}")
}

/// Object bucket of a pipeline's snapshots.
#[must_use]
pub fn snapshot_bucket(pipeline: &str) -> String {
    format!("PELTON_snapshots_{pipeline}")
}

/// Durable consumer of one partition on the input stream.
#[must_use]
pub fn consumer(pipeline: &str, partition: u32) -> String {
    format!("pelton-{pipeline}-{partition}")
}

/// Subject prefix of one partition in the pipeline stream.
#[must_use]
pub fn prefix(pipeline: &str, partition: u32) -> String {
    format!("pelton.{pipeline}.{partition}")
}

/// Chunks of the state deltas of a partition.
pub(crate) fn delta_subject(prefix: &str) -> String {
    format!("{prefix}.delta")
}

/// What history needs of each epoch, after markers are purged.
pub(crate) fn ledger_subject(prefix: &str) -> String {
    format!("{prefix}.ledger")
}

/// A marker; `slot` is [`Marker::slot`](pelton_engine::epoch::Marker::slot), or a filter for it.
pub(crate) fn marker_subject(prefix: &str, slot: &str) -> String {
    format!("{prefix}.marker.{slot}")
}

/// Matches all markers of a partition.
#[must_use]
pub fn marker_filter(prefix: &str) -> String {
    marker_subject(prefix, ">")
}

/// Input subject of one partition: `{partition}` filled in.
#[must_use]
pub fn source_subject(plan: &Plan, partition: u32) -> String {
    plan.source.subject.replace("{partition}", &partition.to_string())
}

/// Stream behind a key-value bucket.
pub(crate) fn kv_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Stream behind an object bucket.
pub(crate) fn object_stream(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// Where a client publishes to a subject of the key-value space: in a domain, through the prefix of its API, since the
/// bare subject does not pass a leaf node. Objects (`$O.`) and all else pass as they are.
pub(crate) fn in_domain(api_prefix: &str, subject: &str) -> String {
    if api_prefix == DEFAULT_PREFIX { subject.to_string() } else { format!("{api_prefix}.{subject}") }
}

/// Subject of one lease, as it is stored.
pub(crate) fn lease_subject(pipeline: &str, partition: u32) -> String {
    format!("$KV.{LEASE_BUCKET}.{pipeline}.{partition}")
}
