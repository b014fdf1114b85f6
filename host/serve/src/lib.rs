//! Over HTTP: what the host counts (`/metrics`) and how its partitions are (`/healthz`).
//!
//! Partition threads write through a [`Partition`] handle: label sets are made once, afterwards a count is one atomic
//! addition. The server only reads. Dropping every handle leaves the last values standing.
#![forbid(unsafe_code)]

mod board;
mod http;
mod metrics;
mod token;

pub use board::{Board, Health, PartitionStatus, Progress, Status};
pub use http::{Access, Server, StartError};
pub use metrics::{CommitResult, Fates, Partition, Shape};
pub use token::{Token, TokenError};
