//! Time and size limits of one partition.

use std::time::Duration;

use crate::ack_pending;

/// Time and size limits of a [`Log`](crate::Log).
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// How long a batch may stay without an answer.
    pub publish_timeout: Duration,
    /// How long a fetch waits for the first event.
    pub fetch_wait: Duration,
    /// Messages of one pull request.
    pub pull_messages: u32,
    /// Bytes of one pull request.
    pub pull_bytes: u32,
    /// Pull requests in flight.
    pub pull_requests: u32,
    /// Deliveries that may be without an ack; more than two epochs of any size, so that nothing waits for acks.
    pub ack_pending: u64,
    /// Who holds the lease, for people: usually the host name.
    pub holder: String,
    /// Id of the store that this process has locked: a lease that an earlier process on it left is taken over at once.
    pub store: Option<String>,
    /// Bytes of one part of an answer to `Changes`, about.
    pub changes_bytes: usize,
    /// What is there of a snapshot without a manifest is deleted when the youngest of it is so old.
    pub abandoned_after: Duration,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            publish_timeout: Duration::from_secs(5),
            fetch_wait: Duration::from_millis(50),
            pull_messages: 8192,
            pull_bytes: 8 << 20,
            pull_requests: 3,
            ack_pending: ack_pending::WANTED,
            holder: "unnamed".to_string(),
            store: None,
            changes_bytes: 16 << 20,
            abandoned_after: Duration::from_secs(3600),
        }
    }
}
