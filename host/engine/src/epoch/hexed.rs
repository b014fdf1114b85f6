//! Numbers and digests of JSON records as hex digits.

pub(super) mod hex64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(in crate::epoch) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }
    pub(in crate::epoch) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

pub(super) mod hex128 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(in crate::epoch) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:032x}"))
    }
    pub(in crate::epoch) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

pub(super) mod digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(in crate::epoch) fn serialize<S: Serializer>(value: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::hex::encode(value))
    }
    pub(in crate::epoch) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::hex::decode32(&text).ok_or_else(|| D::Error::custom("not 64 hex digits"))
    }
}
