//! What the broker answers beside events: leases, deliveries and their numbers, confirmations, changes, states of streams and
//! consumers. Never a panic; nothing is taken for stored, acknowledged or whole that is not.

use std::sync::LazyLock;

use pelton_broker::testing::foreign::{self, Deliveries};
use pelton_engine::epoch::{Marker, MarkerFields};
use pelton_engine::guest::World;
use pelton_engine::log::Published;
use pelton_engine::plan::{Plan, parse};
use serde_json::Value;

use crate::bytes::Bytes;
use crate::kit::Native;

/// The batch whose answers are read.
const BATCH: &str = "batch-1";
const COUNT: usize = 3;
/// More of a kind show nothing new.
const ITEMS_MAX: usize = 24;

/// Streams of every kind.
static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let text = "name = 'p'\nstage = [{ name = 'echo', module = 'echo.wasm' }]\n\
                source = { stream = 'S', subject = 's.{partition}', partitions = 2, format = 'json', key = '/k', \
                time = { field = '/t', unit = 'ms' }, create = { ingest = 'in.*' } }\n\
                output.out = { subject = 'results.{key}', stream = 'OUT' }\n";
    let (draft, problems) = parse(text);
    assert_eq!(problems, []);
    let (plan, problems) = draft.expect("no problems").bind(&[Native::new(World::Transform, &[]).descriptor]);
    assert_eq!(problems, []);
    plan.expect("no problems")
});

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'a' => answer(&script.rest()),
        b'c' => drop(foreign::consumer(&script.rest())),
        b'd' => deliveries(&mut script),
        b'e' => changes(&mut script),
        b'h' => holes(&mut script),
        b's' => stream(&script.rest()),
        _ => lease(&script.rest()),
    }
}

fn lease(value: &[u8]) {
    let (shown, written) = foreign::lease(value);
    let Some(written) = written else { return };
    let again = foreign::lease(&written);
    assert_eq!(again, (shown.clone(), Some(written)), "a lease comes back");
    assert!(u32::try_from(shown.pid).is_ok(), "{shown:?}");
}

/// Only the confirmation of the whole batch, to its last message, says that it is stored.
fn answer(bytes: &[u8]) {
    let json: Option<Value> = serde_json::from_slice(bytes).ok();
    for is_commit in [false, true] {
        let Some(Published::Stored { sequence }) = foreign::published(bytes, is_commit, BATCH, COUNT) else { continue };
        assert!(is_commit);
        // A plain reader refuses more: what lies in fields that nobody wants.
        let Some(json) = &json else { continue };
        assert!(json.get("error").is_none(), "{json}");
        assert_eq!((&json["batch"], &json["count"]), (&Value::from(BATCH), &Value::from(COUNT)), "{json}");
        assert_eq!(json["seq"], sequence, "{json}");
    }
}

/// Reply subjects of deliveries: the numbers of each are those before it or a few more, or anything.
fn deliveries(script: &mut Bytes) {
    let (known, stride) = ([0, 900, u64::MAX - 4][script.below(3)], 1 + script.below(3));
    let first = [0, 7, u64::MAX - 4][script.below(3)];
    let (mut stream_seq, mut consumer_seq) = (known, first);
    let mut replies = Vec::new();
    while !script.is_empty() && replies.len() < ITEMS_MAX {
        stream_seq = stream_seq.saturating_add(script.below(4) as u64);
        consumer_seq = consumer_seq.saturating_add(1);
        let numbers = format!("1.{stream_seq}.{consumer_seq}.1767225600000000000.5");
        replies.push(match script.below(8) {
            7 => String::from_utf8_lossy(&script.short()).into_owned(),
            6 => format!("$JS.ACK.hub.hash.S.C.{numbers}"),
            5 => format!("$JS.ACK.hub.hash.S.C.{numbers}.token"),
            _ => format!("$JS.ACK.S.C.{numbers}"),
        });
    }
    let (deliveries, wrong) = Deliveries::take(first, known, &replies);
    assert!(wrong.as_ref().is_none_or(|reason| !reason.contains(char::is_control)), "{wrong:?}");
    check_deliveries(deliveries, known, &replies, stride);
}

/// Acknowledges so many of them at a time.
fn check_deliveries(mut deliveries: Deliveries, known: u64, replies: &[String], stride: usize) {
    let taken: Vec<u64> = deliveries.batch.events.iter().map(|event| event.sequence).collect();
    // Every sequence behind what was known is one that was taken or one that was left out.
    let mut next = u128::from(known) + 1;
    let mut jumps = deliveries.jumps.iter();
    for sequence in &taken {
        if u128::from(*sequence) > next {
            let (from, to) = jumps.next().expect("what was left out is told");
            assert_eq!((u128::from(*from), u128::from(*to) + 1), (next, u128::from(*sequence)));
        }
        assert!(u128::from(*sequence) >= next, "{taken:?} behind {known}");
        next = u128::from(*sequence) + 1;
    }
    assert!(jumps.next().is_none(), "{:?}", deliveries.jumps);
    // What is acknowledged is a delivery that was handed out: the last one up to there.
    for (idx, sequence) in taken.iter().enumerate().skip(stride - 1).step_by(stride) {
        let up_to = taken.get(idx + 1).map_or(u64::MAX, |next| next - 1);
        let subject = deliveries.ack(up_to).expect("a delivery to acknowledge");
        let numbers: Vec<&str> = subject.rsplit('.').collect();
        let [_, _, consumer_seq, stream_seq, "1", ..] = numbers[..] else { panic!("{subject}") };
        assert_eq!(stream_seq, sequence.to_string(), "{subject}");
        let delivered = format!(".{stream_seq}.{consumer_seq}.");
        assert!(replies.iter().any(|reply| reply.contains(&delivered)), "{subject} was no delivery: {replies:?}");
    }
    let is_left = !taken.len().is_multiple_of(stride);
    assert_eq!(deliveries.ack(u64::MAX).is_some(), is_left, "what was not acknowledged");
}

/// What is gone, against each sequence by itself.
fn holes(script: &mut Bytes) {
    let base = [0, 1000, u64::MAX - 255][script.below(3)];
    let mut number = || base + u64::from(script.byte());
    let (first, mut next) = (number().max(1), base);
    let mut jumps = Vec::new();
    for _ in 0..ITEMS_MAX / 4 {
        let (from, to) = (next.max(1).saturating_add(number() - base), number());
        if from <= to {
            jumps.push((from, to));
            let Some(behind) = to.checked_add(2) else { break };
            next = behind;
        }
    }
    let mut deleted: Vec<u64> = (0..ITEMS_MAX).map(|_| number()).filter(|sequence| *sequence >= first).collect();
    deleted.sort_unstable();
    deleted.dedup();
    let holes = foreign::holes(&jumps, first, &deleted);
    assert!(holes.iter().all(|hole| hole.first <= hole.last), "{holes:?}");
    assert!(holes.windows(2).all(|pair| pair[0].last < pair[1].first), "{holes:?}");
    for sequence in base..=base.saturating_add(255) {
        let is_left_out = jumps.iter().any(|(from, to)| (*from..=*to).contains(&sequence));
        let is_gone = is_left_out && (sequence < first || deleted.binary_search(&sequence).is_ok());
        let is_told = holes.iter().any(|hole| (hole.first..=hole.last).contains(&sequence));
        assert_eq!(is_told, is_gone, "{sequence}: {holes:?} of {jumps:?} from {first} without {deleted:?}");
    }
}

/// Chunks and markers in any order: whole epochs, or told.
fn changes(script: &mut Bytes) {
    let (up_to, mut messages) = (u64::from(script.byte()), Vec::new());
    while !script.is_empty() && messages.len() < ITEMS_MAX {
        let subject = ["pelton.p.0.delta", "pelton.p.0.marker.1-1.1", "pelton.p.0.out.x"][script.below(3)];
        let payload = match script.below(3) {
            0 => script.short(),
            _ => marker(script.byte()),
        };
        messages.push((subject.to_owned(), payload));
    }
    let Ok(changes) = foreign::changes(&messages, up_to) else { return };
    let mut rest = messages.as_slice();
    for change in &changes {
        let chunks = change.stored.marker.delta_chunks as usize;
        let delta: Vec<u8> = rest[..chunks].iter().flat_map(|(_, payload)| payload.clone()).collect();
        assert!(rest[..chunks].iter().all(|(subject, _)| subject.ends_with(".delta")));
        assert_eq!(change.delta, delta);
        assert_eq!(Marker::decode(&rest[chunks].1).as_ref(), Ok(&change.stored.marker));
        rest = &rest[chunks + 1..];
    }
}

/// A true marker of an epoch with so many chunks.
fn marker(chunks: u8) -> Vec<u8> {
    let marker = Marker::decode(&include_bytes!("../corpus/stored/marker")[1..]).expect("a marker");
    Marker::new(MarkerFields { delta_chunks: u32::from(chunks % 4), ..(*marker).clone() }).bytes().to_vec()
}

fn stream(answer: &[u8]) {
    let Ok((facts, words)) = foreign::stream(answer, &PLAN) else { return };
    // A plain reader refuses more: what lies in fields that nobody wants.
    let Ok(json) = serde_json::from_slice::<Value>(answer) else { return };
    assert_eq!(json["state"]["last_seq"], facts.last_sequence, "{facts:?}");
    assert!(words.iter().all(|text| !text.is_empty()), "{words:?}");
}
