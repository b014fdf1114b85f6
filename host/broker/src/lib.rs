//! NATS JetStream: streams, pulls, fenced commits, leases and snapshots.
//!
//! The protocol is decided in `engine`; this crate carries its [`engine::log::Request`]s out and reports what came
//! back. One [`Broker`] is a connection, one [`Log`] is one partition of one pipeline on it.
//!
//! Nothing here panics on what a server says or fails to say: every outcome is a
//! [`Response`](pelton_engine::log::Response) or a [`BrokerError`].
//!
//! [`engine::log::Request`]: pelton_engine::log::Request
#![forbid(unsafe_code)]

mod ack;
mod ack_pending;
mod address;
mod api;
mod batches;
mod bucket;
mod care;
mod changes;
mod code;
mod connect;
mod consumer;
mod context;
mod expect;
mod fetch;
mod filling;
mod hash_key;
mod headers;
mod holes;
mod input;
mod inspect;
mod lag;
mod lease;
mod ledger;
mod link;
mod log;
mod names;
mod options;
mod part;
mod patch;
mod producer;
mod provision;
mod publish;
mod pull;
mod reasons;
mod rights;
mod snapshot;
mod stored;
mod survey;
mod tail;
#[doc(hidden)]
pub mod testing;

pub use batches::BatchProducer;
pub use connect::{Broker, BrokerError, Trouble, VERSION_MIN};
pub use context::load_context;
pub use inspect::{Checked, Note, check};
pub use lag::{Lag, lag};
pub use lease::{LeaseHolder, lease_holder};
pub use log::{Log, LogOptions, Target};
pub use names::{LEASE_BUCKET, consumer, log_stream, marker_filter, prefix, snapshot_bucket, source_subject};
pub use options::{ConnectOptions, Tls};
pub use producer::{Producer, ProducerError};
pub use provision::{Asked, Down, Drift, ProvisionOptions, Provisioned, down, up, verify};
pub use rights::rights;
pub use tail::{Tail, Tailed, tail};
