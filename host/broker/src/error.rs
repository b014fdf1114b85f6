//! What goes wrong outside the protocol, and how long an answer may take.

use std::time::Duration;

/// The oldest server that stores atomic batches.
pub const VERSION_MIN: (u32, u32) = (2, 12);
/// How long one request to the JetStream API may take.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stream may take to be made or deleted: a cluster places it, and files are synced.
pub(crate) const PROVISION_TIMEOUT: Duration = Duration::from_secs(30);

/// What went wrong outside the protocol: connecting and provisioning.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("cannot connect to {servers}: {cause}")]
    Connect { servers: String, trouble: Trouble, cause: String },
    #[error("nats-server {found} is too old: atomic batches need {major}.{minor} or newer", major = VERSION_MIN.0, minor = VERSION_MIN.1)]
    Version { found: String },
    #[error("nats-server at {servers} runs without JetStream")]
    NoJetStream { servers: String },
    #[error("{0}")]
    Options(String),
    /// The server refused, or did not answer.
    #[error("{what}: {cause}")]
    Request { what: String, cause: String },
}

impl BrokerError {
    /// `what` was asked of the server.
    pub(crate) fn request(what: String, cause: String) -> BrokerError {
        BrokerError::Request { what, cause }
    }
}

/// Why a connection was not made: each has another remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers there.
    Unreachable,
    /// The server's certificate, or what TLS made of it.
    Tls,
    /// The server does not know these credentials.
    Credentials,
    /// The address itself.
    Address,
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
