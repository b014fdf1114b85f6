//! The broker against a real nats-server, one server per test.
#![forbid(unsafe_code)]

#[path = "jetstream/commit.rs"]
mod commit;
#[path = "jetstream/conformance.rs"]
mod conformance;
#[path = "jetstream/holes.rs"]
mod holes;
#[path = "jetstream/input.rs"]
mod input;
#[path = "jetstream/keep.rs"]
mod keep;
#[path = "jetstream/leaf.rs"]
mod leaf;
#[path = "jetstream/needs.rs"]
mod needs;
#[path = "jetstream/permissions.rs"]
mod permissions;
#[path = "jetstream/poison.rs"]
mod poison;
#[path = "jetstream/produce.rs"]
mod produce;
#[path = "jetstream/rig.rs"]
mod rig;
#[path = "jetstream/rights.rs"]
mod rights;
#[path = "jetstream/slow.rs"]
mod slow;
#[path = "jetstream/snapshot.rs"]
mod snapshot;
