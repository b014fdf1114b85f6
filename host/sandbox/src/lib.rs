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
//! # What is not here
//! Compiling an *uploaded* module in a child process that can be killed is the upload gate's job: shape limits bound
//! the damage of a hostile module, but only a killed process bounds the compiler. Guests that distrust each other
//! belong in different processes.
#![forbid(unsafe_code)]

mod bindings;
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
mod plan;
mod sandbox;
#[doc(hidden)]
pub mod testing;
mod ticker;
mod verbs;
mod verify;

pub use error::{LoadError, Refusal};
pub use limits::{Limits, ShapeLimits};
pub use module::Module;
pub use sandbox::{Options, Sandbox};
