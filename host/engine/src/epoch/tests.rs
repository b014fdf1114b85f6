//! What is stored of an epoch, byte by byte: these values lie in streams and folders of every pipeline.

use super::*;

fn fields() -> MarkerFields {
    MarkerFields {
        version: Version,
        needs: Vec::new(),
        host: "pelton 0.1.0".into(),
        pipeline: "p".into(),
        partition: 3,
        partitions: 8,
        key: "field /user".into(),
        epoch: 4099,
        nonce: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        prev_nonce: 0x0123_4567_89ab_cdef_0011_2233_4455_6676,
        prev: [3; 32],
        lease: 7,
        revision: [4; 32],
        input: StreamIdentity { name: "PLAYS".into(), created: 1_767_225_600_000_000_001 },
        pipeline_stream: StreamIdentity { name: "PELTON_p".into(), created: -1 },
        position: Position { sequence: 18, fingerprint: 0xab },
        published: 1_767_225_600_000,
        read_through: 20,
        clock: vec![Clock::Idle { value: 1_767_225_600_001 }],
        watermark: i64::MIN,
        ended: true,
        totals: Totals { received: 7, processed: 1, filtered: 2, late: 1, dead: 1, lost: 1, held: 1 },
        totals_sum: Totals { received: 13, processed: 2, filtered: 4, late: 2, dead: 2, lost: 2, held: 1 },
        counters: BTreeMap::from([("rule/seen".to_owned(), [1, 5])]),
        dead: [("decode".to_owned(), 1)].into(),
        records: 3,
        delta_chunks: 1,
        delta_hash: [0; 32],
        records_hash: [1; 32],
        state_hash: [2; 32],
        sections: vec![Section { name: "core".into(), operator: "core".into(), layout: 0x1f, epoch: 1, bytes: 5 }],
    }
}

const MARKER: &str = concat!(
    r#"{"version":2,"needs":[],"host":"pelton 0.1.0","pipeline":"p","partition":3,"partitions":8,"key":"field /user","#,
    r#""epoch":4099,"nonce":"0123456789abcdef0011223344556677","prev_nonce":"0123456789abcdef0011223344556676","#,
    r#""prev":"0303030303030303030303030303030303030303030303030303030303030303","lease":7,"#,
    r#""revision":"0404040404040404040404040404040404040404040404040404040404040404","#,
    r#""input":{"name":"PLAYS","created":1767225600000000001},"pipeline_stream":{"name":"PELTON_p","created":-1},"#,
    r#""position":{"sequence":18,"fingerprint":"00000000000000ab"},"published":1767225600000,"read_through":20,"#,
    r#""clock":[{"kind":"idle","value":1767225600001}],"watermark":-9223372036854775808,"ended":true,"#,
    r#""totals":{"received":7,"processed":1,"filtered":2,"late":1,"dead":1,"lost":1,"held":1},"#,
    r#""totals_sum":{"received":13,"processed":2,"filtered":4,"late":2,"dead":2,"lost":2,"held":1},"dead":{"decode":1},"#,
    r#""counters":{"rule/seen":[1,5]},"#,
    r#""records":3,"delta_chunks":1,"#,
    r#""delta_hash":"0000000000000000000000000000000000000000000000000000000000000000","#,
    r#""records_hash":"0101010101010101010101010101010101010101010101010101010101010101","#,
    r#""state_hash":"0202020202020202020202020202020202020202020202020202020202020202","#,
    r#""sections":[{"name":"core","operator":"core","layout":"000000000000001f","epoch":1,"bytes":5}]}"#,
);

#[test]
fn a_marker_is_stored_so() {
    let marker = Marker::new(fields());
    assert_eq!(std::str::from_utf8(marker.bytes()).unwrap(), MARKER);
    assert_eq!(Marker::decode(MARKER.as_bytes()), Ok(marker.clone()));
    assert_eq!(marker.slot(), "7-7b5cb71f.3");
}

#[test]
fn what_rarely_holds_is_left_out() {
    let usual = MarkerFields { clock: Vec::new(), ended: false, dead: BTreeMap::new(), ..fields() };
    let marker = Marker::new(usual);
    let text = std::str::from_utf8(marker.bytes()).unwrap();
    assert!(!text.contains(r#""clock""#) && !text.contains(r#""ended""#) && !text.contains(r#""dead":{"#), "{text}");
    assert_eq!(Marker::decode(marker.bytes()), Ok(marker.clone()));
}

#[test]
fn a_marker_of_another_format_is_told_from_damage() {
    let said = |text: &str| match Marker::decode(text.as_bytes()) {
        Err(Unreadable::Format(text)) => text,
        other => panic!("{other:?}"),
    };
    let older = r#"{"version":1,"epoch":3,"modules":[],"layout":"00"}"#;
    assert_eq!(said(older), "marker format 1 is from before the first release of Pelton");
    let newer = r#"{"version":3,"epochs":[3]}"#;
    assert_eq!(said(newer), "a newer version of Pelton wrote marker format 3");
    let needs = MARKER.replace(r#""needs":[]"#, r#""needs":["lanes"]"#);
    assert_eq!(said(&needs), "a newer version of Pelton wrote a marker that needs `lanes`");
    for damaged in ["", "{}", "[2]", &MARKER.replace(r#""epoch":4099"#, r#""epoch":"x""#), &MARKER[..300]] {
        assert!(matches!(Marker::decode(damaged.as_bytes()), Err(Unreadable::Damaged(_))), "{damaged}");
    }
}

/// A host of this version goes on behind a newer one, and publishes the newer one's marker again as it was.
#[test]
fn what_is_not_known_and_not_needed_is_kept() {
    let newer = MARKER.replace(r#""epoch":4099"#, r#""lanes":[{"name":"plays"}],"epoch":4099"#);
    let marker = Marker::decode(newer.as_bytes()).unwrap();
    assert_eq!(*marker, fields());
    assert_eq!(marker.bytes(), newer.as_bytes());
    assert_eq!(marker.digest(), sha256(newer.as_bytes()));
    assert_ne!(marker, Marker::new(fields()));
}

#[test]
fn a_marker_follows_one_marker_only() {
    let first =
        Epoch::new(MarkerFields { epoch: 1, nonce: 5, ..fields() }, None, Records::default(), Vec::new()).marker;
    assert!(first.follows(None).is_err(), "its nonce names one before it");
    let next = MarkerFields { epoch: 2, nonce: 6, prev_nonce: 5, ..fields() };
    let second = Epoch::new(next, Some(&first), Records::default(), Vec::new()).marker;
    assert_eq!(second.follows(Some(&first)), Ok(()));
    let totals = Totals { received: 9, processed: 4, ..first.totals };
    let others = [
        MarkerFields { totals, ..(*first).clone() },
        MarkerFields { epoch: 2, ..(*first).clone() },
        MarkerFields { nonce: 4, ..(*first).clone() },
    ];
    for other in others {
        assert!(second.follows(Some(&Marker::new(other.clone()))).is_err(), "{other:?}");
    }
}

/// Subject, headers and payload.
type Row<'a> = [&'a [u8]; 3];

fn records(rows: &[Row<'_>]) -> Records {
    let mut records = Records::default();
    rows.iter().for_each(|[subject, headers, payload]| records.push(Channel::Late, subject, headers, payload));
    records
}

#[test]
fn the_hash_of_records_covers_bytes_and_lengths() {
    let hex = |rows: &[Row<'_>]| crate::hex::encode(&records(rows).hash());
    let rows: [Row<'_>; 2] = [[b"out.a", b"A: 1\r\n", b"one"], [b"late.s", b"", b"two"]];
    // Computed in Python.
    assert_eq!(hex(&rows), "7799c69d174cf49bcb11c781fe251ea5cd58313eda3de9327bb7f1ac5a4a4b5e");
    assert_eq!(hex(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    // The same bytes, divided in another way.
    let others: [&[Row<'_>]; 4] = [
        &[[b"out.", b"aA: 1\r\n", b"one"], [b"late.s", b"", b"two"]],
        &[[b"out.a", b"A: 1\r\no", b"ne"], [b"late.s", b"", b"two"]],
        &[[b"out.a", b"A: 1\r\n", b"on"], [b"elate.s", b"", b"two"]],
        &[[b"out.a", b"A: 1\r\n", b"onelate.stwo"]],
    ];
    let mut all: Vec<String> = others.iter().map(|rows| hex(rows)).collect();
    all.push(hex(&rows));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
}

#[test]
fn the_rolling_hash_is_a_chain() {
    let mut hash = [0; 32];
    let mut chain = Vec::new();
    for delta in [&b"one"[..], b"", b"three"] {
        hash = roll(&hash, &sha256(delta));
        chain.push(crate::hex::encode(&hash));
    }
    // Computed in Python.
    let expected = [
        "c7e3347570821fed43690c2125ce36b1fb0ca7787ba0f219b8e75ee0fc7b4644",
        "7d677fe577d4854770e5043471cb8f872a93901f91668ec9e834cc7a3a19b331",
        "0734968ba12c99179bff2d6f128c3be1774dac2b59485d8faccf17a0fb1e243a",
    ];
    assert_eq!(chain, expected);
}

#[test]
fn a_sealed_epoch_goes_on_from_the_one_before() {
    let section = |name: &str| Section { name: name.into(), ..fields().sections[0].clone() };
    let seal = |last: Option<&Marker>, nonce: u128, delta: &[u8], names: &[&str]| {
        let closed = Closed {
            totals: fields().totals,
            delta: delta.to_vec(),
            sections: names.iter().map(|name| section(name)).collect(),
            ..Closed::default()
        };
        Epoch::seal(last, Place { nonce, ..Place::default() }, closed)
    };
    let first = seal(None, 5, b"one", &["core"]);
    let second = seal(Some(&first.marker), 6, b"", &["core", "farm"]);
    assert!(first.is_whole() && second.is_whole());
    let (one, two) = (&first.marker, &second.marker);
    assert_eq!((one.follows(None), two.follows(Some(one))), (Ok(()), Ok(())));
    assert_eq!([one.epoch, two.epoch], [1, 2]);
    assert_eq!(two.state_hash, roll(&roll(&[0; 32], &sha256(b"one")), &sha256(b"")));
    assert_eq!([one.totals_sum.received, two.totals_sum.received], [7, 14]);
    // When each section began.
    let began = |marker: &Marker| marker.sections.iter().map(|section| section.epoch).collect::<Vec<_>>();
    assert_eq!((began(one), began(two)), (vec![1], vec![1, 2]));
    let other = Epoch { delta: b"two".to_vec(), ..first.clone() };
    assert!(!other.is_whole());
    let other = Epoch { records: records(&[[b"out.a", b"", b"one"]]), ..first };
    assert!(!other.is_whole());
}

fn delta(parts: &[(u8, bool, &[u8])]) -> Vec<u8> {
    let mut out = b"behind".to_vec();
    let mut delta = DeltaWriter::new(&mut out);
    parts.iter().for_each(|(section, is_whole, bytes)| delta.part(*section, *is_whole, |out| out.extend(*bytes)));
    out.split_off(6)
}

fn parts(delta: &[u8]) -> Result<Vec<(u8, bool, Vec<u8>)>, String> {
    let mut reader = DeltaReader::new(delta).map_err(|error| error.to_string())?;
    let mut parts = Vec::new();
    while let Some(part) = reader.part().map_err(|error| error.to_string())? {
        parts.push((part.section, part.is_whole, part.bytes.to_vec()));
    }
    Ok(parts)
}

#[test]
fn a_delta_is_stored_so() {
    assert_eq!(crate::hex::encode(&delta(&[])), "50440200");
    let two = delta(&[(0, false, b"ab"), (2, true, b"")]);
    assert_eq!(crate::hex::encode(&two), "50440202000002000000000000006162 0201 0000000000000000".replace(' ', ""));
    assert_eq!(parts(&two), Ok(vec![(0, false, b"ab".to_vec()), (2, true, Vec::new())]));
}

#[test]
fn a_delta_of_another_kind_is_refused() {
    let good = delta(&[(0, false, b"ab"), (2, true, b"")]);
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        parts(&bad).expect_err("it is not what was written")
    };
    for (at, byte, said) in [
        (0, b'X', "is no delta"),
        (2, 3, "format 3"),
        (3, 1, "bytes behind its end"),
        (3, 3, "ends early"),
        (5, 2, "flags 0x02"),
        (5, 0x81, "flags 0x81"),
        (16, 0, "twice"),
        (6, 3, "ends early"),
        (13, 0xff, "are left"),
    ] {
        let text = with(at, byte);
        assert!(text.contains(said), "{at}: {text}");
    }
    for length in 0..good.len() {
        assert!(parts(&good[..length]).is_err(), "{length}");
    }
    let mut longer = good;
    longer.push(0);
    assert!(parts(&longer).is_err());
}

#[test]
fn a_fingerprint_is_of_payload_and_time() {
    let all = [fingerprint(1, b"one"), fingerprint(2, b"one"), fingerprint(1, b"two"), fingerprint(-1, b"")];
    let expected = ["a593b2dc5e87fb5a", "92e131fccf5323a8", "a93bb53cfeed0cc8", "12a3ae445661ce5d"];
    assert_eq!(all.map(|fingerprint| format!("{fingerprint:016x}")), expected);
}
