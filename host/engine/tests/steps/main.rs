//! The engine through its one public verb, with native guests.

mod chain;
mod codec;
mod cuts;
mod kit;
mod oracle;
mod reduce;
mod windows;
