//! What the host keeps for a key as bytes: state of reducers, accumulators of folds.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value with a byte form. The same value must always give the same bytes.
///
/// Empty bytes mean "none yet" and are never decoded: they are the default.
pub trait State: Default {
    /// Reads the bytes that `encode` wrote.
    ///
    /// # Errors
    /// When the bytes are no such value; the host then stops the partition.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
    /// Appends the bytes.
    fn encode(&self, bytes: &mut Vec<u8>);
}

impl State for Vec<u8> {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Ok(bytes.to_vec())
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }
}

impl State for u64 {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.try_into().map_err(|_| format!("state has {} bytes, wanted 8", bytes.len()))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }
}

impl State for i64 {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.try_into().map_err(|_| format!("state has {} bytes, wanted 8", bytes.len()))?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }
}

/// Any serde value, kept as JSON. Use ordered maps in it, never hash maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned + Default> State for Json<T> {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map(Json).map_err(|error| format!("state is not what was stored: {error}"))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        serde_json::to_writer(bytes, &self.0).expect("the state has a JSON form");
    }
}

/// The bytes as a value; the default when there are none yet.
pub(crate) fn decode<S: State>(bytes: &[u8]) -> Result<S, crate::Failure> {
    if bytes.is_empty() { Ok(S::default()) } else { S::decode(bytes).map_err(crate::Failure::Halt) }
}
