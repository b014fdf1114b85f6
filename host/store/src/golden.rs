//! The bytes that this host writes, as they are. A change here is a change of format: it needs another version number,
//! and the old one has to be read on.

use std::collections::VecDeque;

use pelton_engine::epoch::{Channel, Marker, MarkerFields, Position, Records};
use pelton_engine::hex;
use pelton_engine::log::StoredMarker;
use pelton_engine::store::Past;

use crate::codec;
use crate::envelope::{self, Kind, Place};
use crate::identity::Identity;
use crate::pointer::Pointer;
use crate::record::{Base, Head, Page, SnapshotFacts};

fn marker() -> Marker {
    Marker::new(MarkerFields {
        epoch: 7,
        nonce: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        prev_nonce: 6,
        position: Position { sequence: 700, fingerprint: 99 },
        published: 1_700_000_001_000,
        watermark: -5,
        ..MarkerFields::default()
    })
}

fn stored() -> StoredMarker {
    StoredMarker { sequence: 77, marker: marker() }
}

/// The same bytes with the marker cut out: what the store itself adds.
fn without_marker(bytes: &[u8]) -> String {
    let marker = marker().bytes().to_vec();
    let at = bytes.windows(marker.len()).position(|window| window == marker).expect("the marker is in there");
    format!("{} M {}", hex::encode(&bytes[..at - 4]), hex::encode(&bytes[at + marker.len()..]))
}

#[test]
fn the_pointer_file() {
    let text = "pelton-store format=2 current=12 floor=3 crc=b8e5c98f\n";
    let pointer = Pointer { current: 12, floor: 3 };
    assert_eq!(pointer.render(), text);
    assert_eq!(Pointer::parse(text.as_bytes()), Ok(pointer));
}

#[test]
fn the_id_file() {
    let text = "pelton-store-id 0000000000000000000000000000cafe inode=42 crc=1a02707f\n";
    let identity = Identity { id: 0xcafe, inode: 42 };
    assert_eq!(identity.render(), text);
    assert_eq!(Identity::parse(text.as_bytes()), Some(identity));
    for other in ["", "pelton-store-id cafe inode=42 crc=00000000\n", &text.replace("42", "43")] {
        assert_eq!(Identity::parse(other.as_bytes()), None);
    }
}

#[test]
fn the_envelope() {
    let place = Place { kind: Kind::Delta, slot: 5 };
    let sealed: Vec<_> = envelope::seal(3, place, 5, b"delta").collect();
    assert_eq!(sealed.len(), 1);
    assert_eq!(hex::encode(&sealed[0].0), "44000000000000000500000000");
    assert_eq!(hex::encode(&sealed[0].1), "0218a63d66000000030000000000000005000000000000000564656c7461");
    let kinds = [Kind::Head, Kind::Base, Kind::Delta, Kind::History, Kind::Outbox, Kind::Snapshot];
    let letters: Vec<u8> = kinds.map(|kind| envelope::chunks(Place { kind, slot: 0 }).start()[0]).to_vec();
    assert_eq!(letters, b"ABDHOS");
    // A value longer than a chunk goes on under the next number.
    let long = vec![7; envelope::CHUNK_BYTES + 1];
    let chunks: Vec<_> = envelope::seal(3, place, 5, &long).map(|(key, value)| (key[12], value.len())).collect();
    assert_eq!(chunks, [(0, 25 + 2048), (1, 25 + 1)]);
}

#[test]
fn the_records_of_a_generation() {
    let facts = SnapshotFacts { stored: stored(), bytes: 1000, sha256: [6; 32] };
    let base = Base { snapshot: Some(facts), head_epoch: 9, delta_first: 8, outbox_first: 4, history_first: 2 };
    assert_eq!(
        without_marker(&base.encode()),
        "000000000000000900000000000000080000000000000004000000000000000201000000000000004d M 00000000000003e8\
         0606060606060606060606060606060606060606060606060606060606060606"
    );
    let empty = Base { snapshot: None, head_epoch: 0, delta_first: 1, outbox_first: 1, history_first: 1 };
    assert_eq!(hex::encode(&empty.encode()), "000000000000000000000000000000010000000000000001000000000000000100");
    assert_eq!(without_marker(&Head::encode(&stored(), b"sink")), "000000000000004d M 0000000473696e6b");
    let past = |epoch: u64| Past {
        epoch,
        nonce: u128::from(epoch) << 64,
        position: Position { sequence: epoch * 100, fingerprint: 9 },
        sequence: epoch * 7,
    };
    let history: VecDeque<Past> = (63..=64).map(past).collect();
    let page = Page::cut(&history, 1);
    assert_eq!(
        hex::encode(&page.encode()),
        "000000000000003f000000000000000000000000000000400000000000000040000000000000000000000000000019000000000000000009\
         00000000000001c0"
    );
    assert_eq!(Base::decode(&base.encode()), Ok(base));
    assert_eq!(Page::decode(&page.encode()), Ok(page));
}

#[test]
fn an_epoch_of_the_outbox() {
    let mut records = Records::default();
    records.push(Channel::Output(2), b"out.alerts", b"A: 1\r\n", b"payload");
    records.push(Channel::DeadLetter, b"dlq", b"", b"{}");
    records.push(Channel::Late, b"late", b"", b"[]");
    let bytes = codec::encode(&marker(), &records);
    // The checksum covers the marker: only what is behind it is the store's alone.
    let marker_at = 5 + 4;
    assert_eq!(bytes[0], codec::VERSION);
    assert_eq!(&bytes[marker_at..marker_at + marker().bytes().len()], marker().bytes());
    assert_eq!(
        hex::encode(&bytes[marker_at + marker().bytes().len()..]),
        "000000226f75742e616c65727473413a20310d0a7061796c6f6164646c717b7d6c6174655b5d00000003000002000000000000000a0000000a00000010\
         0000001000000017010000000000170000001a0000001a0000001a0000001a0000001c0200000000001c00000020000000200000002000000020\
         00000022"
    );
}
