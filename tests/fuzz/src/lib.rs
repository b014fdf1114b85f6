//! Every place where the host reads bytes that others wrote, as a function over arbitrary bytes.
//!
//! A target returns when all is well and panics when a promise is broken: a panic of the code under test, or an
//! assertion of the target. `tests/corpus.rs` runs what is kept in `corpus/` and mutations of it; `src/fuzz.rs` lets
//! libFuzzer search; `src/replay.rs` runs one file.

mod address;
mod bytes;
mod cache;
mod control;
mod decode;
mod guest;
mod headers;
mod module;
pub mod mutate;
mod object;
mod plan;
mod snapshot;
mod stored;
mod windows;

/// The engine's own driver and oracle, which know nothing of fuzzing.
#[path = "../../../host/engine/tests/steps/kit.rs"]
mod kit;
#[path = "../../../host/engine/tests/steps/oracle.rs"]
mod oracle;

/// Takes any bytes; panics when a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by name; each has a folder in `corpus/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("address", address::run),
    ("cache", cache::run),
    ("control", control::run),
    ("decode", decode::run),
    ("guest", guest::run),
    ("headers", headers::run),
    ("module", module::run),
    ("object", object::run),
    ("plan", plan::run),
    ("snapshot", snapshot::run),
    ("stored", stored::run),
    ("windows", windows::run),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
