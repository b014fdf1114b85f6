//! What was found about the streams of a pipeline: what differs from what is needed, and what should be known.

use pelton_engine::step::HashKey;

/// A setting that is not as expected and stops or spoils the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Empty when it is one of the server or the account.
    pub stream: String,
    /// As the server names it; `stream` when the whole stream is not there.
    pub setting: String,
    pub expected: String,
    pub found: String,
    /// What goes wrong; empty when that is plain.
    pub why: &'static str,
    pub remedy: String,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Drift { stream, setting, expected, found, why, .. } = self;
        match (stream.as_str(), setting.as_str()) {
            ("", _) => write!(f, "broker: {setting} is {found}, expected {expected}")?,
            (_, WHOLE_STREAM) => return write!(f, "stream {stream} is {found}"),
            _ => write!(f, "stream {stream}: {setting} is {found}, expected {expected}")?,
        }
        if why.is_empty() { Ok(()) } else { write!(f, " ({why})") }
    }
}

/// "Setting" of a stream that is not there.
pub(crate) const WHOLE_STREAM: &str = "stream";

/// What [`check`](crate::check) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Stops or spoils the work.
    pub drift: Vec<Drift>,
    /// Works, but should be known.
    pub notes: Vec<Note>,
    /// Of the pipeline; `None` together with drift that says so.
    pub hash_key: Option<HashKey>,
}

/// Something that should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Stream; empty when it is about the server or the account.
    pub stream: String,
    /// As the server names it.
    pub setting: String,
    pub text: String,
    pub remedy: String,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Note { stream, setting, text, .. } = self;
        if stream.is_empty() {
            write!(f, "broker: {setting}: {text}")
        } else {
            write!(f, "stream {stream}: {setting}: {text}")
        }
    }
}

impl Checked {
    pub(crate) fn note(&mut self, stream: &str, setting: &str, text: String, remedy: &str) {
        self.notes.push(Note {
            stream: stream.to_string(),
            setting: setting.to_string(),
            text,
            remedy: remedy.to_string(),
        });
    }
}
