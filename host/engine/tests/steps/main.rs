//! The engine through its one public verb, with native guests.

mod chain;
mod codec;
mod kit;
mod reduce;
mod windows;
