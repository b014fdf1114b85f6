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
mod error;
mod expect;
mod fetch;
mod filling;
mod findings;
mod hash_key;
mod headers;
mod holes;
mod input;
mod inspect;
mod lag;
mod lease;
mod ledger;
mod limits;
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
mod target;
#[doc(hidden)]
pub mod testing;

pub use batches::BatchProducer;
pub use connect::Broker;
pub use context::load_context;
pub use error::{BrokerError, Trouble, VERSION_MIN};
pub use expect::{Asked, ProvisionOptions};
pub use findings::{Checked, Drift, Note};
pub use inspect::check;
pub use lag::{Lag, lag};
pub use lease::{LeaseHolder, lease_holder};
pub use limits::LogOptions;
pub use log::Log;
pub use names::{LEASE_BUCKET, consumer, log_stream, marker_filter, prefix, snapshot_bucket, source_subject};
pub use options::{ConnectOptions, Tls};
pub use producer::{Producer, ProducerError};
pub use provision::{Down, Provisioned, down, up, verify};
pub use rights::rights;
pub use tail::{Tail, Tailed, tail};
pub use target::Target;
