//! Markers, stored epochs and the numbers of state records: an error, or what was written.

use std::fmt::Debug;

use pelton_engine::codec::{Damaged, Reader, put_bytes, put_f64, put_i64, put_u64};
use pelton_engine::epoch::Marker;
use pelton_store::codec;

use crate::bytes::Bytes;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes::new(bytes);
    match input.byte() {
        b'm' => marker(&input.rest()),
        b'e' => epoch(&input.rest()),
        b's' => sealed(&input.rest()),
        _ => numbers(&input.rest()),
    }
}

fn marker(bytes: &[u8]) {
    let Ok(marker) = Marker::decode(bytes) else { return };
    check_marker(&marker);
}

fn check_marker(marker: &Marker) {
    assert_eq!(Marker::decode(marker.bytes()).as_ref(), Ok(marker), "a marker comes back");
    let again = Marker::new((**marker).clone());
    assert_eq!(*Marker::decode(again.bytes()).expect("what is sealed is read"), **marker, "its fields come back");
    // Two tokens of a subject.
    let slot = marker.slot();
    assert_eq!(slot.split('.').count(), 2, "{slot}");
    assert!(slot.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'.')), "{slot}");
}

/// Bytes as they may lie on the disk.
fn epoch(bytes: &[u8]) {
    let Ok((marker, records)) = codec::decode(bytes) else { return };
    check_marker(&marker);
    for row in &records.rows {
        for range in [&row.subject, &row.headers, &row.payload] {
            assert_eq!(records.slice(range).len(), (range.end - range.start) as usize);
        }
    }
    let _ = records.hash();
    let written = codec::encode(&marker, &records);
    assert_eq!(codec::decode(&written), Ok((marker.clone(), records)), "an epoch comes back");
    assert_eq!(written, bytes, "what is accepted is what would be written");
}

/// The same behind a checksum that fits, so that the reader itself is reached.
fn sealed(body: &[u8]) {
    let mut bytes = vec![codec::VERSION];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.extend_from_slice(body);
    epoch(&bytes);
}

/// The first half says what is read, the second half is read.
fn numbers(bytes: &[u8]) {
    let (kinds, data) = bytes.split_at(bytes.len() / 2);
    let mut reader = Reader::new(data);
    for kind in kinds {
        let is_good = match kind % 6 {
            0 => check(reader.u64(), |r| r.u64(), |out, value| put_u64(out, *value)),
            1 => check(reader.i64(), |r| r.i64(), |out, value| put_i64(out, *value)),
            2 => check(reader.u32(), |r| r.u32(), |out, value| put_u64(out, u64::from(*value))),
            3 => {
                check(reader.bytes().map(<[u8]>::to_vec), |r| r.bytes().map(<[u8]>::to_vec), |out, v| put_bytes(out, v))
            }
            4 => {
                let bits = |read: Result<f64, Damaged>| read.map(f64::to_bits);
                check(bits(reader.f64()), |r| r.f64().map(f64::to_bits), |out, v| put_f64(out, f64::from_bits(*v)))
            }
            _ => check(reader.byte(), |r| r.byte(), |out, value| out.push(*value)),
        };
        if !is_good {
            return;
        }
    }
}

/// Whether something was read; it must come back when it is written.
fn check<T: PartialEq + Debug>(
    read: Result<T, Damaged>,
    again: impl Fn(&mut Reader<'_>) -> Result<T, Damaged>,
    put: impl Fn(&mut Vec<u8>, &T),
) -> bool {
    let Ok(value) = read else { return false };
    let mut written = Vec::new();
    put(&mut written, &value);
    let mut reader = Reader::new(&written);
    assert_eq!(again(&mut reader).as_ref(), Ok(&value));
    assert!(reader.is_empty());
    true
}
