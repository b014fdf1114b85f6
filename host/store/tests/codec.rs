//! The codec gives back what went in, and an error for everything else.

use pelton_engine::epoch::{Channel, Marker, MarkerFields, Records};
use pelton_store::codec::{CodecError, decode, encode};
use proptest::prelude::*;

use crate::fixture::Chain;

fn records() -> impl Strategy<Value = Records> {
    let channel = prop_oneof![any::<u16>().prop_map(Channel::Output), Just(Channel::DeadLetter), Just(Channel::Late)];
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    proptest::collection::vec((channel, bytes(), bytes(), bytes()), 0..8).prop_map(|rows| {
        let mut records = Records::default();
        for (channel, subject, headers, payload) in rows {
            records.push(channel, &subject, &headers, &payload);
        }
        records
    })
}

proptest! {
    #[test]
    fn an_epoch_comes_back(records in records(), epoch in 1u64..50) {
        let marker = Chain::new(10).epoch(epoch).marker.clone();
        prop_assert_eq!(decode(&encode(&marker, &records)), Ok((marker, records)));
    }

    #[test]
    fn random_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// Behind a valid checksum, so that the reader itself is reached.
    #[test]
    fn random_bodies_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 5..400)) {
        seal(&mut bytes);
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_bodies_never_panic(records in records(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encode(&Chain::new(10).epoch(3).marker, &records);
        let at = at.index(bytes.len());
        bytes[at] = value;
        seal(&mut bytes);
        if let Ok((_, records)) = decode(&bytes) {
            records.rows.iter().for_each(|row| drop(records.slice(&row.payload).to_vec()));
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error(records in records(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encode(&Chain::new(10).epoch(3).marker, &records);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(decode(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_cut_is_an_error(records in records(), at in any::<prop::sample::Index>()) {
        let mut bytes = encode(&Chain::new(10).epoch(3).marker, &records);
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(decode(&bytes).is_err());
    }
}

/// Version 1 and the checksum that fits.
fn seal(bytes: &mut [u8]) {
    bytes[0] = 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[1]), &bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.to_be_bytes());
}

#[test]
fn another_format_is_told_from_damage() {
    let marker = Chain::new(10).epoch(3).marker.clone();
    let mut bytes = encode(&marker, &Records::default());
    bytes[0] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[9]), &bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.to_be_bytes());
    let said = |bytes: &[u8]| match decode(bytes) {
        Err(CodecError::Format(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(said(&bytes).contains("has format 9, which is from a newer version"), "{}", said(&bytes));
    let marker = Marker::new(MarkerFields { needs: vec!["lanes".into()], ..(*marker).clone() });
    let bytes = encode(&marker, &Records::default());
    assert!(said(&bytes).contains("a marker that needs `lanes`"), "{}", said(&bytes));
}
