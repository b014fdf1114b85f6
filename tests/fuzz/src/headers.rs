//! Any header block of a stored message, up to the batch that its dead letter goes out with: what a client reads comes back,
//! what it cannot read is named and kept, and nobody but the host says what the host says.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pelton_broker::testing::foreign;
use pelton_engine::effects::{Effects, Origin, Room};
use pelton_engine::event::RawBatch;
use pelton_engine::guest::{Guest, World};
use pelton_engine::plan::{Plan, parse};
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Options};

use crate::bytes::Bytes;
use crate::kit::Native;

const VERSION: &str = "NATS/1.0";
/// What a batch puts before the headers of a record.
const BATCH: &str = "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\n";
const KEPT: &str = "Pelton-Original-";
/// What the host says of a dead letter that was in the stream once.
const OURS: [&str; 10] =
    ["Pipeline", "Partition", "Stage", "Class", "Code", "Path", "Message", "Stream", "Sequence", "Subject"];
/// The same of one that was cut, or that no client can read; and when it was stored.
const MARKS: [&str; 6] = ["Headers", "Headers-Bytes", "Headers-Sha256", "Payload-Bytes", "Payload-Sha256", "Timestamp"];
const SEQUENCE: u64 = 7;

static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let text = "name = 'p'\nstage = [{ name = 'echo', module = 'echo.wasm' }]\noutput.out = {}\n\
                source = { stream = 'S', subject = 's', format = 'json', key = '/k', \
                time = { field = '/t', unit = 'ms' } }\n";
    let (draft, problems) = parse(text);
    assert_eq!(problems, []);
    let (plan, problems) = draft.expect("no problems").bind(&[Native::new(World::Transform, &[]).descriptor]);
    assert_eq!(problems, []);
    Arc::new(plan.expect("no problems"))
});

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'a' => answer(&script.rest()),
        b'k' => drop(kept(&script.rest())),
        b'r' => drop(read(&script.rest())),
        _ => letter(&mut script),
    }
}

/// What a client reads of a block, checked.
fn read(block: &[u8]) -> Result<String, String> {
    let plain = plain(block);
    match foreign::headers(block) {
        Ok(lines) => {
            let lines = String::from_utf8(lines).expect("what a client reads is text");
            check_lines(&lines);
            let again = foreign::headers(format!("{VERSION}\r\n{lines}\r\n").as_bytes());
            assert_eq!(again.as_deref(), Ok(unfolded(&lines).as_bytes()), "what is accepted comes back");
            assert!(plain.is_none_or(|plain| plain == lines), "{lines:?}");
            Ok(lines)
        }
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains(char::is_control), "{reason:?}");
            assert!(plain.is_none(), "every client reads this: {reason}");
            Err(reason)
        }
    }
}

/// The same without the space that a value begins with when its first line is empty.
fn unfolded(lines: &str) -> String {
    let unfolded = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a name and a value");
        format!("{name}: {}\r\n", value.trim_start())
    };
    lines.split_terminator("\r\n").map(unfolded).collect()
}

/// The headers of a block without anything that has to be interpreted, sorted by name.
fn plain(block: &[u8]) -> Option<String> {
    let text = str::from_utf8(block).ok()?.strip_prefix(VERSION)?.strip_prefix("\r\n")?.strip_suffix("\r\n\r\n")?;
    let mut headers = Vec::new();
    for line in text.split("\r\n") {
        let (name, value) = line.split_once(": ")?;
        let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_plain || value != value.trim() || value.contains(['\r', '\n']) {
            return None;
        }
        headers.push((name, value));
    }
    headers.sort_by_key(|(name, _)| *name);
    Some(headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect())
}

/// Lines that every client reads, each of them a header.
fn check_lines(lines: &str) {
    assert!(lines.is_empty() || lines.ends_with("\r\n"), "{lines:?}");
    for line in lines.split_terminator("\r\n") {
        let name = line.split_once(':').map(|(name, _)| name);
        assert!(name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_graphic())), "{line:?} in {lines:?}");
        assert!(!line.contains(['\r', '\n']), "{line:?} in {lines:?}");
    }
}

/// The headers of any record go out: none is a command to the server, and all of them can be had back.
fn kept(lines: &[u8]) -> String {
    let out = foreign::kept(lines);
    check_lines(&out);
    let block = format!("{VERSION}\r\n{BATCH}{out}\r\n");
    let sent = read(block.as_bytes()).expect("what goes out can be read");
    let commands: String = sent.split_inclusive("\r\n").filter(|line| begins(line, "Nats-")).collect();
    assert_eq!(commands, BATCH, "the host alone commands the server: {out:?}");
    let whole = out.strip_prefix("Pelton-Original-Headers: ").and_then(|text| STANDARD.decode(text.trim_end()).ok());
    if whole.is_none_or(|whole| whole != lines) {
        let back: String = out.split_inclusive("\r\n").map(unkept).collect();
        let original = str::from_utf8(lines).expect("what is no text goes out as base64");
        let original: String = original.split_inclusive("\r\n").map(unkept).collect();
        assert_eq!(back, original);
    }
    sent
}

/// A line without what says that it was kept.
fn unkept(line: &str) -> &str {
    match line.strip_prefix(KEPT) {
        Some(rest) if begins(rest, "Nats-") => rest,
        _ => line,
    }
}

fn begins(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Any answer of the server.
fn answer(bytes: &[u8]) {
    match foreign::stored(bytes) {
        Ok(batch) if batch.events.is_empty() => {}
        Ok(batch) => check_letter(batch, None, Room::default()),
        Err(reason) => assert!(!reason.is_empty()),
    }
}

/// A message with any block, in room for it or not.
fn letter(script: &mut Bytes) {
    let room = Room {
        header_bytes: script.pick(&[Room::default().header_bytes, 10 << 10, 9 << 10]),
        record_bytes: script.pick(&[Room::default().record_bytes, 12 << 10, 9 << 10]),
        ..Room::default()
    };
    let (subject, payload, block) = (script.short(), script.short(), script.rest());
    let message = serde_json::json!({
        "message": {
            "subject": String::from_utf8_lossy(&subject),
            "seq": SEQUENCE,
            "hdrs": STANDARD.encode(&block),
            "data": STANDARD.encode(&payload),
            "time": "2026-01-01T00:00:00.5Z",
        },
    });
    let batch = foreign::stored(message.to_string().as_bytes()).expect("a message as the server tells it");
    let event = &batch.events[0];
    assert_eq!((event.sequence, event.published.0), (SEQUENCE, 1_767_225_600_500));
    assert_eq!(batch.slice(&event.payload), payload);
    match read(&block) {
        Ok(lines) => assert!(!event.unreadable && batch.slice(&event.headers) == lines.as_bytes()),
        Err(_) => assert!(event.unreadable && batch.slice(&event.headers) == block, "it is kept whole"),
    }
    check_letter(batch, Some(&block), room);
}

/// The dead letter of the event, as it goes out. `block` is what was stored.
fn check_letter(batch: RawBatch, block: Option<&[u8]>, room: Room) {
    let origin = Origin { pipeline: "p".into(), partition: 3, source: "S".into(), revision: [0; 32] };
    let options = Options { origin, room, envelope: Envelope::Headers, hash_key: HashKey::default() };
    let mut guest = Native::new(World::Transform, &[]);
    guest.process = Some(Arc::new(|_, _, _| Ok(())));
    let guests: Vec<Box<dyn Guest>> = vec![Box::new(guest)];
    let mut engine = Engine::new(Arc::clone(&PLAN), guests, options).expect("a transform has no plan");
    let (event, mut effects) = (batch.events[0].clone(), Effects::default());
    engine.step(Input::Batch(batch), &mut effects).expect("this guest has no faults");
    // An event that is right is dropped by the guest.
    let [row] = &effects.records.rows[..] else { return assert!(effects.records.rows.is_empty() && !event.unreadable) };
    let lines = effects.records.slice(&row.headers);
    assert!(lines.len() <= room.header_bytes, "{} bytes of headers, room for {}", lines.len(), room.header_bytes);
    let out = kept(lines);
    let ours: Vec<(&str, &str)> = out
        .split_terminator("\r\n")
        .filter(|line| begins(line, "Pelton-") && !line.starts_with(KEPT))
        .map(|line| line.split_once(": ").expect("a name and a value"))
        .collect();
    let names: BTreeSet<String> = ours.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names.len(), ours.len(), "a word of the host comes twice: {ours:?}");
    let is_ours =
        |name: &str| name.strip_prefix("Pelton-Dlq-").is_some_and(|word| OURS.contains(&word) || MARKS.contains(&word));
    assert!(ours.iter().all(|(name, _)| is_ours(name)), "{ours:?}");
    let said = |word: &str| {
        ours.iter().find(|(name, _)| name.strip_prefix("Pelton-Dlq-") == Some(word)).map(|(_, value)| *value)
    };
    assert_eq!((said("Pipeline"), said("Partition"), said("Stream")), (Some("p"), Some("3"), Some("S")));
    assert_eq!(said("Sequence"), Some(event.sequence.to_string().as_str()));
    assert_eq!(said("Timestamp"), Some(event.published.0.to_string().as_str()));
    if let (true, Some(block)) = (event.unreadable, block) {
        let kept = said("Headers").map_or(Ok(Vec::new()), |text| STANDARD.decode(text)).expect("base64");
        let is_all = said("Headers-Bytes").is_none();
        assert!(if is_all { kept == block } else { block.starts_with(&kept) }, "a block that no client reads is kept");
    }
}
