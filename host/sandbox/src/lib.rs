//! wasmtime: verify, compile, link, limit and call guest modules.
//!
//! The road of a module: bytes → [`Sandbox::load`] (shape limits, imports, world, compile, `describe`) → [`Module`]
//! → [`Module::instantiate`] (`configure`) → `Box<dyn Guest>`, which the engine calls.
//!
//! # What holds
//! - A guest reaches nothing but `log`: any other import is refused before anything is compiled.
//! - No reply of a guest panics the host: each is checked by hand in `convert`, and a bad one is a
//!   [`Fault`](pelton_engine::guest::Fault).
//! - Every call is bounded in time or fuel, memory, bytes copied out, records and log lines.
//! - A fault costs one instance and no data: the next call runs on a fresh, configured one.
//! - A call of a whole batch allocates nothing on our side; columns are lent to the guest by moving vectors.
//!
//! - A module that is hard to compile costs a child process, which is killed at its limits ([`Compiler::Child`]).
//!
//! # What is not here
//! A defence against a compiler or a processor that is broken: guests that distrust each other belong in different
//! processes.
#![deny(unsafe_code)]

mod aggregation;
mod bindings;
mod compile;
mod convert;
mod describe;
mod engines;
mod error;
mod fault;
mod host;
mod instance;
mod lend;
mod limits;
mod log;
mod module;
mod sandbox;
mod shape;
#[doc(hidden)]
pub mod testing;
mod ticker;
mod verbs;
mod verify;

pub use compile::{Child, Compiler, serve};
pub use error::{LoadError, Refusal};
pub use limits::{CompileLimits, Limits, ShapeLimits};
pub use module::Module;
pub use sandbox::{Options, Sandbox};
