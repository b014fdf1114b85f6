//! Replies as a broken or hostile guest sends them, and what becomes of each.

use super::*;
use crate::testing::output_to_wit;
use pelton_engine::event::{Column, Values};

fn limits() -> Limits {
    Limits { records_per_event: 3, bytes_per_event: 100, state_bytes: 10, ..Limits::default() }
}

fn rows<'a>(limits: &'a Limits, timer_ends: &'a [u32]) -> Rows<'a> {
    Rows { count: 4, payloads: true, arena_bytes: 50, timer_ends, ports: 2, counters: 1, limits }
}

/// One record per row: the row's key, payload of 10 bytes at `50` (the start of the output arena).
fn emitted(rows: &[u32]) -> wit::Output {
    output_to_wit(Output {
        data: vec![b'x'; 10],
        rows: rows.to_vec(),
        slices: rows.iter().flat_map(|_| [OF_ROW, 0, 50, 10]).collect(),
        ..Output::default()
    })
}

#[track_caller]
fn check(change: impl FnOnce(&mut wit::Output), expected: &str) {
    let limits = limits();
    let mut said = emitted(&[0, 1, 1, 3]);
    change(&mut said);
    let answer = match output(said, &rows(&limits, &[]), &mut Output::default()) {
        Ok(()) => "ok".to_owned(),
        Err(Fault::Contract(message)) => message,
        Err(Fault::Limit(message)) => format!("limit: {message}"),
        Err(fault) => format!("{fault:?}"),
    };
    assert_eq!(answer, expected);
}

#[test]
fn outputs() {
    check(|_| {}, "ok");
    check(|said| said.ports = vec![0, 1, 0, 1], "ok");
    check(|said| said.ports = vec![0], "1 ports for 4 records");
    check(|said| said.ports = vec![0, 0, 2, 0], "record on port 2, module has 2 ports");
    check(|said| said.timestamps = vec![1], "1 timestamps for 4 records");
    check(|said| said.slices.truncate(15), "15 slice numbers for 4 records, need 4 each");
    check(|said| said.rows[3] = 0, "record 3 comes from row 0 after row 1");
    check(|said| said.rows[3] = 4, "record 3 comes from row 4 of 4");
    check(|said| said.rows[3] = u32::MAX, "record 3 comes from row 4294967295 of 4");
    check(|said| said.rows = vec![1, 1, 1, 1], "limit: row 1 emits more than 3 records");
}

#[test]
fn slices() {
    let slice = |index: usize, slice: [u32; 4]| {
        move |said: &mut wit::Output| said.slices[4 * index..][..4].copy_from_slice(&slice)
    };
    check(slice(0, [0, 50, 50, 10]), "ok");
    check(slice(0, [OF_ROW, 7, OF_ROW, 7]), "ok");
    check(slice(0, [60, 0, 50, 0]), "ok");
    check(slice(2, [0, 51, 50, 0]), "record 2 has slices [0, 51, 50, 0] outside of 50 input and 10 output bytes");
    check(slice(2, [0, 1, 50, 11]), "record 2 has slices [0, 1, 50, 11] outside of 50 input and 10 output bytes");
    check(slice(2, [61, 0, 0, 0]), "record 2 has slices [61, 0, 0, 0] outside of 50 input and 10 output bytes");
    check(
        slice(2, [u32::MAX - 1, u32::MAX, 0, 0]),
        "record 2 has slices [4294967294, 4294967295, 0, 0] outside of 50 input and 10 output bytes",
    );
    check(slice(1, [0, 50, 0, 50]), "limit: row 1 emits more than 100 bytes");
}

#[test]
fn rejected_rows() {
    let reject = |row, code: &str| {
        let reject = wit::Reject { row, code: code.into(), detail: "d\n".into(), place: None };
        move |said: &mut wit::Output| said.rejects.push(reject)
    };
    check(reject(2, "bad-type"), "ok");
    check(reject(4, "bad-type"), "row 4 of 4 is rejected");
    check(reject(2, ""), "reject code `` is not 1 to 64 of [a-z0-9-]");
    check(reject(2, "a.b\r\n"), "reject code `a.b\\u{d}\\u{a}` is not 1 to 64 of [a-z0-9-]");
    check(
        |said| {
            reject(2, "a")(said);
            reject(1, "b")(said);
            reject(2, "a")(said);
        },
        "row 2 is rejected twice",
    );
}

#[test]
fn details_cannot_forge_a_header() {
    let limits = limits();
    let mut said = emitted(&[]);
    said.rejects.push(wit::Reject { row: 0, code: "a".into(), detail: "x\r\nEvil: 1".into(), place: None });
    let mut checked = Output::default();
    output(said, &rows(&limits, &[]), &mut checked).unwrap();
    assert_eq!(checked.rejects[0].detail, "x\\u{d}\\u{a}Evil: 1");
}

#[test]
fn panes_have_no_payload() {
    let limits = limits();
    let mut said = emitted(&[1]);
    said.slices = vec![OF_ROW, 0, OF_ROW, 0];
    let rows = Rows { payloads: false, ..rows(&limits, &[]) };
    let fault = output(said, &rows, &mut Output::default()).unwrap_err();
    assert_eq!(fault, Fault::Contract("record 0 takes the payload of row 1, which has none".into()));
}

#[test]
fn only_groups_with_due_timers_are_sources() {
    let limits = limits();
    let timer_ends = [0, 2, 2];
    for (source, good) in [(3, true), (4, false), (5, true), (6, false), (7, false), (u32::MAX, false)] {
        let result = output(emitted(&[source]), &rows(&limits, &timer_ends), &mut Output::default());
        assert_eq!(result.is_ok(), good, "source {source}: {result:?}");
    }
}

#[track_caller]
fn check_states(data: usize, ends: &[u32], expected: &str) {
    let said = wit::Strings { data: vec![0; data], ends: ends.to_vec() };
    let answer = match states(said, 2, &limits(), &mut Strings::default()) {
        Ok(()) => "ok".to_owned(),
        Err(Fault::Contract(message) | Fault::Limit(message)) => message,
        Err(fault) => format!("{fault:?}"),
    };
    assert_eq!(answer, expected);
}

#[test]
fn state_bytes() {
    check_states(4, &[4, 4], "ok");
    check_states(0, &[0, 0], "ok");
    check_states(4, &[4], "1 states for 2 keys");
    check_states(4, &[3, 2], "states: ends of 2 rows do not ascend to 4 bytes");
    check_states(4, &[5, 4], "states: ends of 2 rows do not ascend to 4 bytes");
    check_states(4, &[1, 3], "states: ends of 2 rows do not ascend to 4 bytes");
    check_states(4, &[1, u32::MAX], "states: ends of 2 rows do not ascend to 4 bytes");
    check_states(11, &[11, 11], "state of 11 bytes, limit 10 bytes");
}

#[track_caller]
fn check_samples(change: impl FnOnce(&mut WitSamples), expected: &str) {
    let limits = limits();
    let text = wit::Values::Strings(wit::Strings { data: "äb".into(), ends: vec![2, 3] });
    let mut said = WitSamples {
        rows: vec![0, 2],
        columns: vec![
            wit::Column { missing: vec![1], unlike: Vec::new(), values: wit::Values::Integers(vec![7, 0]) },
            wit::Column { missing: Vec::new(), unlike: Vec::new(), values: text },
        ],
        rejects: Vec::new(),
        additions: Vec::new(),
    };
    change(&mut said);
    let mut checked = Samples::default();
    let answer = match samples(said, &[Kind::Integer, Kind::String], &rows(&limits, &[]), &mut checked) {
        Ok(()) => "ok".to_owned(),
        Err(Fault::Contract(message) | Fault::Limit(message)) => message,
        Err(fault) => format!("{fault:?}"),
    };
    assert_eq!(answer, expected);
}

#[test]
fn sample_columns() {
    let text = |data: &[u8], ends: &[u32]| {
        let texts = wit::Strings { data: data.to_vec(), ends: ends.to_vec() };
        move |said: &mut WitSamples| said.columns[1].values = wit::Values::Strings(texts)
    };
    check_samples(|_| {}, "ok");
    check_samples(|said| said.rows[0] = 3, "sample of event 2 after event 3, 4 events");
    check_samples(|said| said.rows[1] = 4, "sample of event 4 after event 0, 4 events");
    check_samples(|said| said.rows = vec![1; 4], "event 1 gives more than 3 samples");
    check_samples(|said| drop(said.columns.pop()), "1 derived columns, plan has 2");
    check_samples(|said| said.columns.swap(0, 1), "derived column 0 is string, plan says integer");
    check_samples(|said| said.rows = vec![0], "derived column 0 has 2 rows for 1 samples");
    let missing = "derived column 0 has missing rows that do not ascend below 2";
    check_samples(|said| said.columns[0].missing = vec![2], missing);
    check_samples(|said| said.columns[0].missing = vec![1, 1], missing);
    check_samples(text(b"\xff\xfe", &[1, 2]), "derived text is not UTF-8");
    check_samples(text("ä".as_bytes(), &[1, 2]), "derived text of row 0 ends inside a character");
    check_samples(text(b"ab", &[2, 1]), "derived column: ends of 2 rows do not ascend to 2 bytes");
}

#[test]
fn good_samples_arrive() {
    let limits = limits();
    let column = wit::Column { missing: vec![], unlike: Vec::new(), values: wit::Values::Integers(vec![7]) };
    let said = WitSamples { rows: vec![3], columns: vec![column], rejects: Vec::new(), additions: Vec::new() };
    let mut checked = Samples { columns: vec![Column::new(Kind::String)], ..Samples::default() };
    samples(said, &[Kind::Integer], &rows(&limits, &[]), &mut checked).unwrap();
    assert_eq!(checked.columns, [Column { missing: vec![], unlike: Vec::new(), values: Values::Integers(vec![7]) }]);
    assert_eq!(checked.rows, [3]);
}

#[test]
fn reduced_groups() {
    let limits = limits();
    let said = |changes: usize, timer_group: u32, timers: usize| wit_reducers::Reduced {
        changes: vec![wit_reducers::Change::Replace; changes],
        states: wit::Strings { data: b"ab".to_vec(), ends: vec![1, 2] },
        timers: vec![wit_reducers::Timer { group: timer_group, at: 5 }; timers],
        cancels: Vec::new(),
        output: emitted(&[0]),
    };
    let check = |said| reduced(said, 2, &rows(&limits, &[0, 0]), &mut Reduced::default());
    assert_eq!(check(said(2, 1, 1)), Ok(()));
    assert_eq!(check(said(1, 1, 1)), Err(Fault::Contract("1 changes for 2 groups".into())));
    assert_eq!(check(said(2, 2, 1)), Err(Fault::Contract("timer of group 2 of 2".into())));
    assert_eq!(check(said(2, 1, 19)), Err(Fault::Limit("19 timers, limit 18".into())));
}

#[test]
fn places_are_json_pointers() {
    let at = |place: &str| {
        let (code, detail, place) = ("a".into(), String::new(), Some(place.to_owned()));
        move |said: &mut wit::Output| said.rejects.push(wit::Reject { row: 2, code, detail, place })
    };
    check(at(""), "ok");
    check(at("/a~1b/0/größe"), "ok");
    check(at("a"), "the place of reject `a` is not a JSON pointer: `a`");
    // The names in it are those of events: what cannot be shown is nobody's fault, and told by what is above.
    let long = format!("/{}", "x".repeat(1023));
    for (place, shown) in [
        ("/a\r\nEvil: 1", ""),
        ("/a/b\u{202e}/c", "/a"),
        ("/a\u{200b}/b", ""),
        (&format!("{long}/1"), &long),
        (&format!("{long}x"), ""),
        (&long, &long),
    ] {
        let (mut said, mut checked) = (emitted(&[]), Output::default());
        at(place)(&mut said);
        assert_eq!(output(said, &rows(&limits(), &[]), &mut checked), Ok(()));
        assert_eq!(checked.rejects[0].place.as_deref(), Some(shown), "{place:?}");
    }
}

#[test]
fn tombstones_are_records_without_a_payload() {
    let delete = |deletes: &'static [u32]| move |said: &mut wit::Output| said.deletes = deletes.to_vec();
    let empty = |said: &mut wit::Output| {
        said.slices[7] = 0;
        said.deletes = vec![1];
    };
    check(empty, "ok");
    check(delete(&[1]), "record 1 deletes its key and has a payload");
    check(delete(&[4]), "record 4 of 4 deletes its key");
    check(delete(&[2, 1]), "deletes do not ascend");
    check(delete(&[1, 1]), "deletes do not ascend");
}

#[test]
fn headers_that_a_module_may_give() {
    let with = |blocks: [&'static str; 4]| {
        move |said: &mut wit::Output| {
            for block in blocks {
                said.headers.extend_from_slice(block.as_bytes());
                said.header_ends.push(said.headers.len() as u32);
            }
        }
    };
    check(with(["", "A: b\r\n", "", "A: \r\nB-1: größe\r\n"]), "ok");
    check(with(["A: b", "", "", ""]), "a header of record 0 does not end with a line break");
    check(with(["", "A:b\r\n", "", ""]), "a header of record 1 is not `name: value`: `A:b`");
    check(with([": b\r\n", "", "", ""]), "a header of record 0 has a name or value that cannot be one: `: b`");
    check(with(["A b: c\r\n", "", "", ""]), "a header of record 0 has a name or value that cannot be one: `A b: c`");
    check(
        with(["A: b\nC\r\n", "", "", ""]),
        "a header of record 0 has a name or value that cannot be one: `A: b\\u{a}C`",
    );
    for name in ["Nats-Msg-Id", "nats-rollup", "Pelton-Id", "KV-Operation"] {
        let block = format!("{name}: x\r\n");
        let expected =
            format!("a header of record 0 has a name that only the server and the host may use: `{name}: x`");
        let change = |said: &mut wit::Output| {
            said.headers = block.clone().into_bytes();
            said.header_ends = vec![block.len() as u32; 4];
        };
        check(change, &expected);
    }
    let few = |said: &mut wit::Output| {
        said.headers = b"A: b\r\n".to_vec();
        said.header_ends = vec![6];
    };
    check(few, "1 header blocks for 4 records");
    let long = |said: &mut wit::Output| {
        said.headers = format!("A: {}\r\n", "x".repeat(16 << 10)).into_bytes();
        said.header_ends = vec![said.headers.len() as u32; 4];
    };
    check(long, "limit: record 0 has 16389 bytes of headers, limit 16384");
}

#[test]
fn additions_are_to_counters_that_there_are() {
    let add = |row, counter| move |said: &mut wit::Output| said.additions.push(wit::Addition { row, counter, add: -1 });
    check(add(3, 0), "ok");
    check(add(4, 0), "an addition of row 4 of 4");
    check(add(3, 1), "an addition to counter 1, module has 1 counters");
    let many = |said: &mut wit::Output| (0..13).for_each(|_| add(0, 0)(said));
    check(many, "limit: 13 additions to counters, limit 12");
}
