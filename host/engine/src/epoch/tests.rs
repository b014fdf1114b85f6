//! What is stored of an epoch, byte by byte: these values lie in streams and folders of every pipeline.

use super::*;

fn marker() -> Marker {
    Marker {
        version: 1,
        epoch: 4099,
        nonce: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        prev_nonce: 0x0123_4567_89ab_cdef_0011_2233_4455_6676,
        input: StreamIdentity { name: "PLAYS".into(), created: 1_767_225_600_000_000_001 },
        log: StreamIdentity { name: "PELTON_p".into(), created: -1 },
        position: Position { sequence: 18, fingerprint: 0xab },
        seen: 20,
        published: 1_767_225_600_000,
        watermark: i64::MIN,
        modules: vec![[0; 32], [0xfe; 32]],
        layout: 0x1f,
        lease: 7,
        totals: Totals { received: 6, processed: 1, filtered: 2, late: 1, dead: 1, gaps: 1 },
        totals_sum: Totals { received: 12, processed: 2, filtered: 4, late: 2, dead: 2, gaps: 2 },
        records: 3,
        changes: 1,
        batch_hash: [1; 32],
        state_hash: [2; 32],
    }
}

const MARKER: &str = concat!(
    r#"{"version":1,"epoch":4099,"nonce":"0123456789abcdef0011223344556677","#,
    r#""prev_nonce":"0123456789abcdef0011223344556676","input":{"name":"PLAYS","created":1767225600000000001},"#,
    r#""log":{"name":"PELTON_p","created":-1},"position":{"sequence":18,"fingerprint":"00000000000000ab"},"#,
    r#""seen":20,"published":1767225600000,"watermark":-9223372036854775808,"#,
    r#""modules":["0000000000000000000000000000000000000000000000000000000000000000","#,
    r#""fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe"],"layout":"000000000000001f","lease":7,"#,
    r#""totals":{"received":6,"processed":1,"filtered":2,"late":1,"dead":1,"gaps":1},"#,
    r#""totals_sum":{"received":12,"processed":2,"filtered":4,"late":2,"dead":2,"gaps":2},"records":3,"changes":1,"#,
    r#""batch_hash":"0101010101010101010101010101010101010101010101010101010101010101","#,
    r#""state_hash":"0202020202020202020202020202020202020202020202020202020202020202"}"#,
);

#[test]
fn a_marker_is_stored_so() {
    assert_eq!(String::from_utf8(marker().encode()).unwrap(), MARKER);
    assert_eq!(Marker::decode(MARKER.as_bytes()), Ok(marker()));
    assert_eq!(marker().slot(), "7-7b5cb71f.3");
}

#[test]
fn a_newer_marker_is_refused() {
    let newer = MARKER.replace(r#""version":1"#, r#""version":2"#);
    let said = Marker::decode(newer.as_bytes()).unwrap_err();
    assert!(said.contains("version 2"), "{said}");
}

/// Subject, headers and payload.
type Row<'a> = [&'a [u8]; 3];

fn records(rows: &[Row<'_>]) -> Records {
    let mut records = Records::default();
    rows.iter().for_each(|[subject, headers, payload]| records.push(Channel::Late, subject, headers, payload));
    records
}

#[test]
fn the_hash_of_a_batch_covers_bytes_and_lengths() {
    let hex = |delta: &[u8], rows: &[Row<'_>]| crate::hex::encode(&Epoch::hash(delta, &records(rows)));
    let rows: [Row<'_>; 2] = [[b"out.a", b"A: 1\r\n", b"one"], [b"late.s", b"", b"two"]];
    assert_eq!(hex(b"delta", &rows), "dfe6235848da441b238a0bd86eaf0fcca5b77d4b15b1292abd51e20195a6df47");
    assert_eq!(hex(b"", &[]), "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb");
    // The same bytes, divided in another way.
    let others: [(&[u8], &[Row<'_>]); 5] = [
        (b"delt", &rows),
        (b"delta", &[[b"out.", b"aA: 1\r\n", b"one"], [b"late.s", b"", b"two"]]),
        (b"delta", &[[b"out.a", b"A: 1\r\no", b"ne"], [b"late.s", b"", b"two"]]),
        (b"delta", &[[b"out.a", b"A: 1\r\n", b"on"], [b"elate.s", b"", b"two"]]),
        (b"delta", &[[b"out.a", b"A: 1\r\n", b"onelate.stwo"]]),
    ];
    let mut all: Vec<String> = others.iter().map(|(delta, rows)| hex(delta, rows)).collect();
    all.push(hex(b"delta", &rows));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
}

#[test]
fn the_rolling_hash_is_a_chain() {
    let mut hash = [0; 32];
    let mut chain = Vec::new();
    for delta in [&b"one"[..], b"", b"three"] {
        hash = Epoch::roll(&hash, delta);
        chain.push(crate::hex::encode(&hash));
    }
    let expected = [
        "4e233ba6ac7032d3894ecea5974fd96176e564b024af45747eb46357af8d2401",
        "0e30c473409db1880ff85545a7e4e6aa4786dcabdf8ca12ce1ca50b0aabd4701",
        "8205c649a5fdf41b8e9a22460edfe02742d4e6030b298feb40a0c9c08e9f6753",
    ];
    assert_eq!(chain, expected);
}

#[test]
fn a_sealed_epoch_rolls_on_from_the_one_before() {
    let seal = |last: Option<&Marker>, delta: &[u8]| {
        let Marker { nonce, input, log, position, seen, published, watermark, modules, layout, lease, totals, .. } =
            marker();
        let (records, delta) = (Records::default(), delta.to_vec());
        let closed = Closed { position, published, watermark, modules, layout, totals, records, delta, state_bytes: 0 };
        Epoch::seal(last, Place { nonce, input, log, seen, lease }, closed)
    };
    let first = seal(None, b"one");
    let second = seal(Some(&first.marker), b"");
    let (one, two) = (first.marker, second.marker);
    assert_eq!([one.epoch, two.epoch], [1, 2]);
    assert_eq!([one.prev_nonce, two.prev_nonce], [0, one.nonce]);
    assert_eq!(
        [one.state_hash, two.state_hash].map(|hash| crate::hex::encode(&hash)),
        [
            "4e233ba6ac7032d3894ecea5974fd96176e564b024af45747eb46357af8d2401",
            "0e30c473409db1880ff85545a7e4e6aa4786dcabdf8ca12ce1ca50b0aabd4701"
        ]
    );
    assert_eq!([one.totals_sum.received, two.totals_sum.received], [6, 12]);
}

#[test]
fn a_fingerprint_is_of_payload_and_time() {
    let all = [fingerprint(1, b"one"), fingerprint(2, b"one"), fingerprint(1, b"two"), fingerprint(-1, b"")];
    let expected = ["a593b2dc5e87fb5a", "92e131fccf5323a8", "a93bb53cfeed0cc8", "12a3ae445661ce5d"];
    assert_eq!(all.map(|fingerprint| format!("{fingerprint:016x}")), expected);
}
