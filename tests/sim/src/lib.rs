//! Seeded simulator that drives the production protocol: the code of `engine`, doubles of everything around it.
//!
//! One seed decides pipeline, inputs, settings and faults. [`simulate`] runs it and compares what the pipeline stream
//! holds at the end with a sequential run of the same engine. The same seed gives the same trace, always.
//!
//! Lower modules never use higher ones: `rng guests trace` < `store log scenario` < `audit oracle host` < `world` <
//! `rig scripted` < `runner` < `mutants`. `conformance` holds the double of the log, and a real server, to the same rules.
#![forbid(unsafe_code)]

pub mod audit;
pub mod conformance;
pub mod faults;
pub mod guests;
pub mod host;
pub mod log;
pub mod mutants;
pub mod oracle;
pub mod rig;
pub mod rng;
pub mod runner;
pub mod scenario;
pub mod scripted;
pub mod store;
pub mod tally;
pub mod trace;
pub mod world;

pub use world::{Outcome, simulate};
