//! The broker against a real nats-server, one server per test.
#![forbid(unsafe_code)]

#[path = "jetstream/commit.rs"]
mod commit;
#[path = "jetstream/conformance.rs"]
mod conformance;
#[path = "jetstream/input.rs"]
mod input;
#[path = "jetstream/keep.rs"]
mod keep;
#[path = "jetstream/rig.rs"]
mod rig;
