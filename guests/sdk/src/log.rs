//! Messages to the host's log. Natively they go to standard error.

pub use crate::raw::meta::pelton::guest::log::Level;

/// For the author of the rule.
pub fn debug(message: impl AsRef<str>) {
    log(Level::Debug, message.as_ref());
}

/// For the operator, nothing to do.
pub fn info(message: impl AsRef<str>) {
    log(Level::Info, message.as_ref());
}

/// For the operator, soon.
pub fn warn(message: impl AsRef<str>) {
    log(Level::Warn, message.as_ref());
}

/// For the operator, now.
pub fn error(message: impl AsRef<str>) {
    log(Level::Error, message.as_ref());
}

/// The import of the contract.
#[cfg(target_arch = "wasm32")]
fn log(level: Level, message: &str) {
    crate::raw::meta::pelton::guest::log::log(level, message);
}

/// Outside a host.
#[cfg(not(target_arch = "wasm32"))]
fn log(level: Level, message: &str) {
    eprintln!("[{level:?}] {message}");
}
