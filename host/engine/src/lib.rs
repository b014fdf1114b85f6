//! The pure core: windows, state, epochs and the commit protocol. No IO, no clock, no log.
//!
//! Lower layers never use higher ones: `time event` < `guest plan codec` < `decode window` < `unit` < `operator` < `step` < `seal` < `partition`.
#![forbid(unsafe_code)]
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::unwrap_used
)]
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests read files and unwrap"))]

pub mod codec;
pub mod codes;
pub mod decode;
pub mod effects;
pub mod epoch;
pub mod event;
mod flow;
pub mod guest;
pub mod hex;
pub mod judge;
pub mod log;
mod operator;
pub mod partition;
pub mod plan;
pub mod problem;
pub mod seal;
pub mod step;
pub mod store;
pub mod text;
pub mod time;
pub mod totals;
mod unit;
pub mod watermark;
mod window;
