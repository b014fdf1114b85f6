//! From wasmtime's errors to the engine's faults.

use pelton_engine::guest::{Fault, World};
use wasmtime::Trap;

use crate::bindings::pelton::guest::types::Failure;
use crate::host::Exceeded;
use crate::limits::DETAIL_BYTES;
use crate::log::printable;

/// The host called a function that the module does not export.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotExported {
    #[error("module is a {}, not a {}", .is.name(), .wanted.name())]
    OtherWorld { is: World, wanted: World },
    #[error("module does not export `{0}`")]
    Optional(&'static str),
}

/// wasmtime keeps the type of this error to itself; its text is pinned by the test of the guest that returns too much.
const REPLY_TOO_LARGE: &str = "fuel allocated for hostcalls has been exhausted";

/// The fault of a call that ended with `error`; `said` is the last error line that the guest logged in it.
pub(crate) fn of_error(error: &wasmtime::Error, said: &str, reply_bytes: usize) -> Fault {
    match of_start(error, said, reply_bytes) {
        // What remains is the reply's encoding: text that is not UTF-8, a list outside of memory, an unknown enum case.
        Fault::Host(text) => Fault::Contract(format!("reply cannot be read: {text}")),
        fault => fault,
    }
}

/// The same for instantiation, where an unknown error is the host's.
pub(crate) fn of_start(error: &wasmtime::Error, said: &str, reply_bytes: usize) -> Fault {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Fault::Timeout,
        Some(Trap::OutOfFuel) => return Fault::Fuel,
        Some(trap) if said.is_empty() => return Fault::Trap(trap.to_string()),
        Some(trap) => return Fault::Trap(format!("{trap}: {said}")),
        None => {}
    }
    if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        return Fault::Limit(exceeded.0.clone());
    }
    if let Some(other) = error.downcast_ref::<NotExported>() {
        return Fault::Contract(other.to_string());
    }
    let text = format!("{error:#}");
    if text.contains(REPLY_TOO_LARGE) {
        return Fault::Limit(format!("reply of more than {reply_bytes} bytes"));
    }
    Fault::Host(printable(&text, DETAIL_BYTES).into_owned())
}

/// The fault that a guest asked for.
pub(crate) fn of_failure(failure: Failure) -> Fault {
    match failure {
        Failure::Retry(reason) => Fault::Retry(printable(&reason, DETAIL_BYTES).into_owned()),
        Failure::Halt(reason) => Fault::Halt(printable(&reason, DETAIL_BYTES).into_owned()),
    }
}
