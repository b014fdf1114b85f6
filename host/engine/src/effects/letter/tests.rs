//! Dead letters and late events always fit, and tell what they had to leave out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::RawBatch;
use crate::time::WallTime;

fn origin() -> Origin {
    Origin { pipeline: "p".repeat(63), partition: 1023, source: "S".repeat(255), revision: [0; 32] }
}

fn letter<'a>(path: &'a str, message: &'a str) -> DeadLetter<'a> {
    DeadLetter { stage: "source", digest: Some([7; 32]), class: Class::Decode, code: "json-syntax", path, message }
}

fn event(subject: &[u8], headers: &[u8], payload: &[u8], unreadable: bool) -> RawBatch {
    let mut batch = RawBatch::default();
    batch.push(u64::MAX, WallTime(i64::MIN), subject, headers, payload);
    batch.events[0].unreadable = unreadable;
    batch
}

/// Headers by name, and the payload.
fn last(effects: &Effects) -> (BTreeMap<String, String>, Vec<u8>) {
    let row = effects.records.rows.last().expect("a record");
    let block = std::str::from_utf8(effects.records.slice(&row.headers)).expect("header blocks are text");
    let headers = block.split_terminator("\r\n").map(|line| line.split_once(": ").expect("a header"));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (headers, effects.records.slice(&row.payload).to_vec())
}

/// Checks bounds, marks and place of the last record.
fn check(effects: &Effects, room: &Room, batch: &RawBatch, prefix: &str) {
    let row = effects.records.rows.last().expect("a record");
    let (header_bytes, payload_bytes) = (row.headers.len(), row.payload.len());
    assert!(header_bytes <= room.header_bytes, "{header_bytes} bytes of headers");
    assert!(header_bytes + payload_bytes <= room.record_bytes, "{header_bytes} and {payload_bytes} bytes");
    let (headers, payload) = last(effects);
    let original = batch.slice(&batch.events[0].payload);
    assert!(original.starts_with(&payload));
    let place = if prefix == "Pelton-Dlq-" { prefix } else { "Pelton-" };
    assert_eq!(headers[&format!("{place}Sequence")], u64::MAX.to_string());
    assert_eq!(headers[&format!("{place}Stream")], "S".repeat(255));
    let is_cut = payload.len() < original.len();
    let mark =
        |what: &str| (headers.get(&format!("{prefix}{what}-Bytes")), headers.get(&format!("{prefix}{what}-Sha256")));
    let told = |bytes: &[u8]| (bytes.len().to_string(), hex::encode(&sha256(bytes)));
    let (bytes, digest) = told(original);
    assert_eq!(mark("Payload"), if is_cut { (Some(&bytes), Some(&digest)) } else { (None, None) });
    let stored = batch.slice(&batch.events[0].headers);
    if let (Some(bytes), Some(digest)) = mark("Headers") {
        assert_eq!((bytes.clone(), digest.clone()), told(stored));
    } else if batch.events[0].unreadable && !stored.is_empty() {
        let kept = base64::engine::general_purpose::STANDARD.decode(&headers[&format!("{prefix}Headers")]).unwrap();
        assert_eq!(kept, stored);
    } else {
        let lines =
            stored.split(|&byte| byte == b'\n').filter(|line| !line.strip_suffix(b"\r").unwrap_or(line).is_empty());
        let names = lines.count();
        let block = effects.records.slice(&row.headers);
        let kept = block.windows(2).filter(|pair| pair == b"\r\n").count();
        assert!(kept >= names, "{kept} lines, of the event {names}");
    }
}

fn push(effects: &mut Effects, room: &Room, batch: &RawBatch, path: &str, message: &str) {
    effects.push_dead(room, &origin(), &letter(path, message), batch, &batch.events[0]);
    check(effects, room, batch, "Pelton-Dlq-");
    effects.push_late(room, &origin(), &"s".repeat(63), i64::MIN, i64::MIN, batch, &batch.events[0]);
    check(effects, room, batch, "Pelton-Late-");
}

fn hostile(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let text =
        prop::sample::select(vec!["\r\n", "\n", ":", "A: 1\r\n", "Pelton-Dlq-Sequence: 1\r\n", "Nats-", "ä", "\u{0}"]);
    (prop_oneof![bytes, text.prop_map(|text| text.as_bytes().to_vec())], 0..=max)
        .prop_map(|(unit, len)| unit.into_iter().cycle().take(len).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_letter_always_fits(
        subject in hostile(5000),
        headers in hostile(80 << 10),
        payload in hostile(140 << 10),
        unreadable in any::<bool>(),
        text in prop::sample::select(vec!["", "a\r\nb", "ä", "\u{1f600}"]),
        repeats in prop::sample::select(vec![0, 1, 100, 5000]),
        record_bytes in prop::sample::select(vec![OWN_BYTES_MAX, 16 << 10, 64 << 10, (128 << 10) + 1]),
        header_bytes in prop::sample::select(vec![OWN_BYTES_MAX, 16 << 10, 62 << 10]),
    ) {
        let room = Room { record_bytes, header_bytes, ..Room::default() };
        let batch = event(&subject, &headers, &payload, unreadable);
        let (path, message) = (text.repeat(repeats), text.repeat(repeats));
        push(&mut Effects::default(), &room, &batch, &path, &message);
        let free = Room { record_bytes: usize::MAX, header_bytes: usize::MAX, ..room };
        let mut effects = Effects::default();
        push(&mut effects, &free, &batch, &path, &message);
        prop_assert_eq!(last(&effects).1, payload);
    }
}

/// Around the very size at which something has to be left out.
#[test]
fn a_letter_is_cut_by_the_byte() {
    let room = Room::default();
    for size in (room.record_bytes - 1200..=room.record_bytes + 700).step_by(37).chain([1 << 20, (1 << 20) + 1]) {
        let batch = event(b"plays", b"User: 1\r\n", &vec![b'x'; size], false);
        push(&mut Effects::default(), &room, &batch, "/a", "why");
    }
    for size in (room.header_bytes - 1200..room.header_bytes + 700).step_by(23) {
        let batch = event(b"plays", format!("User: {}\r\n", "x".repeat(size)).as_bytes(), b"{}", false);
        push(&mut Effects::default(), &room, &batch, "/a", "why");
    }
}

/// A source that kept only the beginning tells what the whole was, and it may be larger than any arena.
#[test]
fn the_beginning_of_a_payload_tells_what_the_whole_was() {
    let whole = Whole { bytes: (4 << 30) + 1, sha256: [0xab; 32] };
    for size in [0, 1, 64, 1 << 20] {
        let mut batch = event(b"", b"User: 1\r\n", &vec![b'x'; size], false);
        batch.events[0].whole = Some(Box::new(whole.clone()));
        let mut effects = Effects::default();
        let free = Room { record_bytes: usize::MAX, header_bytes: usize::MAX, ..Room::default() };
        effects.push_dead(&free, &origin(), &letter("", "why"), &batch, &batch.events[0]);
        let (headers, payload) = last(&effects);
        assert_eq!(payload.len(), size);
        assert_eq!(headers["Pelton-Dlq-Payload-Bytes"], "4294967297");
        assert_eq!(headers["Pelton-Dlq-Payload-Sha256"], "ab".repeat(32));
        assert_eq!(headers["User"], "1");
    }
}

#[test]
fn what_fits_is_kept_untouched() {
    let batch = event(b"plays.in.u1", b"User: 1\r\nNats-Msg-Id: 2\r\n", b"no json", false);
    let mut effects = Effects::default();
    effects.push_dead(&Room::default(), &origin(), &letter("/a", "why"), &batch, &batch.events[0]);
    let row = &effects.records.rows[0];
    let expected = format!(
        "Pelton-Dlq-Pipeline: {}\r\nPelton-Dlq-Partition: 1023\r\nPelton-Dlq-Stage: source\r\nPelton-Dlq-Class: decode\r\n\
         Pelton-Dlq-Code: json-syntax\r\nPelton-Dlq-Path: /a\r\nPelton-Dlq-Message: why\r\nPelton-Dlq-Module: {}\r\n\
         Pelton-Dlq-Stream: {}\r\nPelton-Dlq-Sequence: {}\r\nPelton-Dlq-Subject: plays.in.u1\r\nPelton-Dlq-Timestamp: {}\r\n\
         User: 1\r\nPelton-Original-Nats-Msg-Id: 2\r\n",
        "p".repeat(63),
        "07".repeat(32),
        "S".repeat(255),
        u64::MAX,
        i64::MIN,
    );
    assert_eq!(std::str::from_utf8(effects.records.slice(&row.headers)), Ok(expected.as_str()));
    assert_eq!(effects.records.slice(&row.payload), b"no json");
    assert_eq!(effects.records.slice(&row.subject), b"dlq.source.json-syntax");
}

/// Letters of one event share the bytes of one epoch: the later ones say only what the first ones hold.
#[test]
fn many_letters_of_one_event_stay_within_an_epoch() {
    let room = Room::default();
    let batch = event(b"plays", b"User: 1\r\n", &vec![b'x'; 1 << 20], false);
    let mut effects = Effects::default();
    effects.begin_event();
    for _ in 0..room.records / 2 {
        push(&mut effects, &room, &batch, "", "why");
    }
    let most = room.bytes + room.records * OWN_BYTES_MAX;
    assert!(effects.records.data.len() <= most, "{} bytes", effects.records.data.len());
    // The next event has all the room again.
    effects.begin_event();
    push(&mut effects, &room, &batch, "", "why");
    assert!(last(&effects).1.len() > 1_000_000);
}

/// Headers that no client reads are kept as they were stored.
#[test]
fn an_unreadable_block_is_kept_as_base64() {
    let block = b"NATS/1.0\r\nUser: Andr\xe9\r\n\r\n";
    let batch = event(b"plays", block, b"{}", true);
    let mut effects = Effects::default();
    effects.push_dead(&Room::default(), &origin(), &letter("", "why"), &batch, &batch.events[0]);
    let (headers, payload) = last(&effects);
    assert_eq!(headers["Pelton-Dlq-Headers"], "TkFUUy8xLjANClVzZXI6IEFuZHLpDQoNCg==");
    assert_eq!(payload, b"{}");
}
