//! sled: the rebuildable working store of one partition.
//!
//! [`SledStore`] keeps a snapshot, the deltas since, the last epochs and their history in one sled tree per
//! generation. Under a broker all of it can be rebuilt from the stream, so the rule here is not "never lose" but
//! **never serve a mixture**: what loads is the state at the end of one epoch, byte for byte, or it is an error.
//! [`MemoryStore`] is its double for tests and the simulator.
//!
//! Found: missing, foreign, older or newer values within a generation, a snapshot or delta with other bytes, a history
//! or an outbox with holes. Not found: a whole generation as it was some epochs ago (a tail that the disk lost). That is
//! an older epoch of the same run; the caller compares it with the stream and takes it from there.
//!
//! Reading order: [`codec`] (bytes of an epoch) → `record` (what else is stored) → `envelope` (how bytes become
//! keys and values) → `generation` (one sled) → `scan` (what must hold before it is believed) → `disk`, `lock`,
//! `folder`, `layout` (the folder) → `sled_store` (the verbs).
#![forbid(unsafe_code)]

mod build;
pub mod codec;
pub mod disk;
mod envelope;
mod folder;
mod generation;
#[cfg(test)]
mod golden;
mod guard;
mod identity;
mod layout;
mod lock;
mod memory;
mod pointer;
mod record;
mod rules;
mod scan;
mod sled_store;
mod space;
mod working;

pub use folder::{Unsafe, check_folder};
pub use memory::MemoryStore;
pub use sled_store::{Options, SledStore};
