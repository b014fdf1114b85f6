//! The key of a pipeline's hashes, in the metadata of the pipeline stream: the same for all partitions, so that what they
//! have counted can be merged, and unknown to producers, so that nobody can choose values that collide.

use async_nats::jetstream::stream::Config;
use pelton_engine::step::HashKey;

/// Name of the entry.
pub(crate) const NAME: &str = "pelton-hash-key";

/// A key that nobody knows.
pub(crate) fn random() -> HashKey {
    HashKey(rand::random())
}

/// The key as it is stored.
pub(crate) fn text(HashKey(key): HashKey) -> String {
    format!("{:032x}", u128::from_be_bytes(key))
}

/// The key of a stream, if it has one.
pub(crate) fn of(config: &Config) -> Option<HashKey> {
    let is_key = |text: &&String| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text = config.metadata.get(NAME).filter(is_key)?;
    u128::from_str_radix(text, 16).ok().map(|key| HashKey(key.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_stored_and_nothing_else_is_one() {
        let with = |text: &str| Config { metadata: [(NAME.to_owned(), text.to_owned())].into(), ..Config::default() };
        let key = HashKey(*b"\0\x01 any 16 bytes.");
        assert_eq!(of(&with(&text(key))), Some(key));
        assert_eq!(of(&Config::default()), None);
        for wrong in ["", "12", "x0000000000000000000000000000000", "+0000000000000000000000000000001"] {
            assert_eq!(of(&with(wrong)), None, "{wrong}");
        }
        assert_ne!(random(), random());
    }
}
