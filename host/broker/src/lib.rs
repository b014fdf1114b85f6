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
mod api;
mod changes;
mod code;
mod connect;
mod context;
mod expect;
mod fetch;
mod lease;
mod log;
mod names;
mod producer;
mod provision;
mod publish;
mod pull;
mod snapshot;
mod survey;
mod tail;
#[doc(hidden)]
pub mod testing;

pub use connect::{Broker, BrokerError, ConnectOptions, Tls, VERSION_MIN};
pub use context::load_context;
pub use log::{Log, LogOptions, Target};
pub use names::{LEASE_BUCKET, consumer, log_stream, marker_filter, prefix, snapshot_bucket, source_subject};
pub use producer::{Producer, ProducerError};
pub use provision::{Down, Drift, ProvisionOptions, Provisioned, down, up, verify};
pub use tail::{Tail, Tailed, tail};
