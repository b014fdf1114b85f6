//! What reads the bytes of servers, publishers and people, for `tests/fuzz`, without a server that would say such things.

use std::collections::BTreeMap;

use async_nats::{HeaderMap, Message};
use futures_util::FutureExt as _;
use pelton_engine::epoch::Manifest;
use pelton_engine::event::RawBatch;
use pelton_engine::log::{Change, Hole, HoleCause, Published, StreamFacts};
use pelton_engine::plan::Plan;

use crate::ack::Acks;
use crate::api::{ConsumerState, Fault, StreamInfo};
use crate::bucket::{Layout, Listing, decode_head};
use crate::changes::Assembly;
use crate::expect::ProvisionOptions;
use crate::filling::{Cursor, Filling};
use crate::findings::Checked;
use crate::holes::Jumps;
use crate::inspect;
use crate::lease::LeaseHolder;
use crate::options::ConnectOptions;
use crate::part;
use crate::{api, expect, headers, holes, lease, publish, snapshot, stored};
use crate::{context, options};

pub use crate::bucket::Head;

/// The text of a saved context.
///
/// # Errors
/// Says what is wrong with it.
pub fn context(text: &str) -> Result<ConnectOptions, String> {
    context::options(text)
}

/// Whether the client library takes these options; reads the files that they name.
///
/// # Errors
/// Says what is wrong with them.
pub fn client_options(options: &ConnectOptions) -> Result<(), String> {
    options::client_options(options).map(drop).map_err(|error| error.to_string())
}

/// What a client reads of a stored header block: a line per header, in the order of their names.
///
/// # Errors
/// Says why a client cannot read it.
pub fn headers(block: &[u8]) -> Result<Vec<u8>, String> {
    let mut lines = Vec::new();
    headers::write(&mut lines, &headers::read(block)?);
    Ok(lines)
}

/// The header lines of a record as they go out.
#[must_use]
pub fn kept(lines: &[u8]) -> String {
    let mut out = String::new();
    headers::keep(&mut out, lines);
    out
}

/// An answer to `STREAM.MSG.GET` as the event that the engine gets; none when it cannot be what was asked for.
///
/// # Errors
/// Says why it does not decode.
pub fn stored(answer: &[u8]) -> Result<RawBatch, String> {
    let stored = stored::parse(answer)?;
    let mut scratch = Vec::new();
    let mut filling = Filling::new(Cursor::default(), 0, 1, u32::MAX, &mut scratch);
    filling.take_stored(&stored);
    Ok(filling.batch)
}

/// Bucket and partition of the snapshots here.
fn layout() -> Layout {
    Layout::new("b".to_string(), 0)
}

/// What a bucket holds of partition 0, as the server lists it.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Names of objects.
    pub objects: Vec<String>,
    /// Chunks per id.
    pub chunks: BTreeMap<String, u64>,
}

/// An answer to `STREAM.INFO` with the subjects of the bucket `b`.
///
/// # Errors
/// Says why it does not decode.
pub fn listed(answer: &[u8]) -> Result<Listed, String> {
    let Listing { objects, chunks, .. } = Listing::parse(&layout(), answer)?;
    Ok(Listed { objects: objects.iter().map(|name| layout().object(*name)).collect(), chunks })
}

/// What the head of an object says.
///
/// # Errors
/// Says why it cannot be right.
pub fn head(payload: &[u8]) -> Result<Head, String> {
    decode_head(payload)
}

/// The head as it is written.
///
/// # Errors
/// When a number is too large for this machine.
pub fn encode_head(object: &str, head: &Head) -> Result<Vec<u8>, String> {
    layout().encode_head(object, head)
}

/// A manifest against the objects that are there, and against the bound of the pipeline.
///
/// # Errors
/// Says why it cannot be right.
pub fn check_manifest(manifest: &Manifest, objects: &[&str], bytes_max: u64) -> Result<(), String> {
    let objects = objects.iter().filter_map(|object| layout().name(object)).collect();
    snapshot::check(&layout(), manifest, &Listing { objects, ..Listing::default() }, bytes_max)
}

/// A chunk as it is stored.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub sequence: u64,
    /// What its header says.
    pub offset: Option<String>,
    pub payload: Vec<u8>,
}

/// The next bytes of an object from `offset` on, and the sequence to go on from; `ask` gives up to so many chunks at or
/// after a sequence, `sequence` is where the bytes before ended.
///
/// # Errors
/// Says what is missing.
pub fn read(
    ask: impl Fn(u64, usize) -> Vec<Chunk>,
    head: &Head,
    offset: u64,
    sequence: Option<u64>,
) -> Result<(Vec<u8>, u64), String> {
    let chunk =
        |chunk: Chunk| part::Chunk::new(&head.id, chunk.sequence, chunk.offset.as_deref(), chunk.payload.into());
    let ask = |from, count| {
        let chunks: Result<Vec<part::Chunk>, Fault> = ask(from, count).into_iter().map(chunk).collect();
        std::future::ready(chunks)
    };
    let stretch = part::read_from(ask, head, offset, sequence).now_or_never();
    stretch.expect("nothing is waited for").map_err(|fault| fault.to_string())
}

/// The value of a lease: the holder for people, and the value as a host would write it, if it is one's.
#[must_use]
pub fn lease(value: &[u8]) -> (LeaseHolder, Option<Vec<u8>>) {
    lease::parse(value)
}

/// A message as the client library hands it out.
fn message(subject: &str, reply: Option<&str>, headers: Option<HeaderMap>, payload: &[u8]) -> Message {
    Message {
        subject: subject.into(),
        reply: reply.map(Into::into),
        payload: payload.to_vec().into(),
        headers,
        status: None,
        description: None,
        length: 0,
    }
}

/// Deliveries of one consumer that are handed out in one answer.
pub struct Deliveries {
    pub batch: RawBatch,
    /// First and last sequence of each run that was left out.
    pub jumps: Jumps,
    acks: Acks,
}

impl Deliveries {
    /// Deliveries with these reply subjects, as far as they can be taken; and why the rest cannot.
    #[must_use]
    pub fn take(consumer_seq: u64, known: u64, replies: &[String]) -> (Deliveries, Option<String>) {
        let (mut scratch, placed) = (Vec::new(), "now".into());
        let cursor = Cursor { stream_seq: known, consumer_seq, pending: 0 };
        let mut filling = Filling::new(cursor, known, u32::MAX, u32::MAX, &mut scratch);
        let mut take = |reply: &String| filling.take(&message("s", Some(reply), None, b"payload"));
        let wrong = replies.iter().find_map(|reply| take(reply).err());
        let mut acks = Acks::default();
        acks.set_known(known);
        acks.add(&filling.prefix, &filling.runs, filling.cursor.reached(&placed));
        (Deliveries { batch: filling.batch, jumps: filling.jumps, acks }, wrong)
    }

    /// The subject that acknowledges everything up to a sequence.
    pub fn ack(&mut self, stream_seq: u64) -> Option<String> {
        self.acks.take(stream_seq)
    }
}

/// The parts of `jumps` that are gone from a stream that begins at `first` and has lost `deleted`.
#[must_use]
pub fn holes(jumps: &[(u64, u64)], first: u64, deleted: &[u64]) -> Vec<Hole> {
    holes::gone(jumps, first, deleted, HoleCause::Deleted)
}

/// What an answer to a batch of `count` messages says; `None` for "received so far".
#[must_use]
pub fn published(answer: &[u8], is_commit: bool, id: &str, count: usize) -> Option<Published> {
    publish::answer(&message("inbox", None, None, answer), is_commit, id, count)
}

/// Changes and markers of the pipeline stream, by subject and payload, as whole epochs.
///
/// # Errors
/// Says what is missing.
pub fn changes(messages: &[(String, Vec<u8>)], up_to: u64) -> Result<Vec<Change>, String> {
    let mut assembly = Assembly::default();
    for (idx, (subject, payload)) in messages.iter().enumerate() {
        assembly.add(idx as u64 + 1, &message(subject, None, None, payload)).map_err(|fault| fault.to_string())?;
    }
    assembly.finish(up_to).map_err(|fault| fault.to_string())
}

/// An answer to `CONSUMER.INFO`: what is acknowledged, and what waits.
///
/// # Errors
/// Says why it does not decode.
pub fn consumer(answer: &[u8]) -> Result<(u64, u64), String> {
    let state: ConsumerState = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    Ok((state.ack_floor.stream_seq, state.num_pending))
}

/// An answer to `STREAM.INFO`, and every setting in which the stream is not what the plan needs, in words.
///
/// # Errors
/// Says why it does not decode.
pub fn stream(answer: &[u8], plan: &Plan) -> Result<(StreamFacts, Vec<String>), String> {
    let info: StreamInfo = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let _ = info.broker_time();
    let mut checked = Checked::default();
    for expected in expect::streams(plan, &ProvisionOptions::default()) {
        checked.drift.extend(expect::compare(&expected, &info.config));
    }
    inspect::log(&info, &mut checked);
    inspect::leases(&info, &mut checked);
    let words = checked.drift.iter().map(ToString::to_string).chain(checked.notes.iter().map(ToString::to_string));
    Ok((api::facts("S", &info), words.collect()))
}
