//! The engine through its one public verb, with native guests.

mod aggregates;
mod chain;
mod codec;
mod cuts;
mod dedupe;
mod deltas;
mod fates;
mod golden;
mod held;
mod kit;
mod oracle;
mod order;
mod reduce;
mod sizes;
mod tree;
mod trial;
mod windows;
