//! How a rule says that something is wrong: with one event, with the environment, or with the data as a whole.

use crate::raw;

/// The whole call fails. There is no partial result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The environment is at fault: the host pauses and calls again.
    Retry(String),
    /// The rule refuses to go on: the host stops this partition and alerts.
    Halt(String),
}

impl Failure {
    /// The environment is at fault; call again later.
    pub fn retry(reason: impl Into<String>) -> Failure {
        Failure::Retry(reason.into())
    }

    /// Stop this partition.
    pub fn halt(reason: impl Into<String>) -> Failure {
        Failure::Halt(reason.into())
    }
}

/// Why a rule did not handle one event or pane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// This row becomes a dead letter and the batch goes on. What the row had emitted is dropped.
    Reject {
        /// `[a-z0-9-]`, at most 64 bytes: part of the dead letter's subject.
        code: &'static str,
        /// For people.
        detail: String,
        /// Where in the payload: a JSON pointer (RFC 6901).
        place: Option<String>,
    },
    /// The whole call fails.
    Failure(Failure),
}

impl Error {
    /// Makes the row a dead letter.
    pub fn reject(code: &'static str, detail: impl Into<String>) -> Error {
        Error::Reject { code, detail: detail.into(), place: None }
    }

    /// Makes the row a dead letter, for what is at this place of its payload: a JSON pointer (RFC 6901), such as `/ms_played`.
    pub fn reject_at(place: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Error {
        Error::Reject { code, detail: detail.into(), place: Some(place.into()) }
    }

    /// The environment is at fault; call again later.
    pub fn retry(reason: impl Into<String>) -> Error {
        Error::Failure(Failure::retry(reason))
    }

    /// Stop this partition.
    pub fn halt(reason: impl Into<String>) -> Error {
        Error::Failure(Failure::halt(reason))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Failure(failure)
    }
}

impl From<Failure> for raw::Failure {
    fn from(failure: Failure) -> raw::Failure {
        match failure {
            Failure::Retry(reason) => raw::Failure::Retry(reason),
            Failure::Halt(reason) => raw::Failure::Halt(reason),
        }
    }
}
