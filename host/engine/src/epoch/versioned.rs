//! The number of a JSON record's format, and the words that its reader must know.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Words for what a host must understand to read a record; this host knows none, and writes none.
const NEEDS_KNOWN: &[&str] = &[];

/// The number of a format, which is the same in every record of this kind that this host reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version<const NUMBER: u8>;

impl<const NUMBER: u8> Serialize for Version<NUMBER> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(NUMBER)
    }
}

impl<'de, const NUMBER: u8> Deserialize<'de> for Version<NUMBER> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = u8::deserialize(deserializer)?;
        if version == NUMBER { Ok(Version) } else { Err(D::Error::custom(format!("version {version}"))) }
    }
}

/// Why bytes are not a record for this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Intact, but of another version of Pelton: that one may go on, this one must touch nothing.
    #[error("{0}")]
    Format(String),
    #[error("{0}")]
    Damaged(String),
}

impl Unreadable {
    /// `what` is the kind of record.
    pub(super) fn damaged(what: &str, error: &serde_json::Error) -> Unreadable {
        Unreadable::Damaged(format!("{what} does not decode: {error}"))
    }
}

/// Whether this host can read a record: looks at its version and its needs, and at nothing else.
///
/// # Errors
/// When it is of another version, needs what this host does not know, or has neither.
pub(super) fn check(bytes: &[u8], what: &str, version: u8) -> Result<(), Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        version: u8,
        #[serde(default)]
        needs: Vec<String>,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| Unreadable::damaged(what, &error))?;
    let found = head.version;
    if found > version {
        return Err(Unreadable::Format(format!("a newer version of Pelton wrote {what} format {found}")));
    }
    if found < version {
        return Err(Unreadable::Format(format!("{what} format {found} is from before the first release of Pelton")));
    }
    if let Some(unknown) = head.needs.iter().find(|need| !NEEDS_KNOWN.contains(&need.as_str())) {
        return Err(Unreadable::Format(format!("a newer version of Pelton wrote a {what} that needs `{unknown}`")));
    }
    Ok(())
}
