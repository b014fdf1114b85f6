//! Events of one partition: a durable pull consumer, prefetched, with every lost delivery noticed.
//!
//! The messages that wait are those of the requests in flight, in the subscription of the client. Nothing is moved
//! into the answer before a fetch asks for it, so back-pressure needs no code of its own.
//!
//! Consumer sequences are contiguous. A hole means a delivery that was lost on the way (a full subscription, a lost
//! connection): the consumer is placed again behind the last event handed out, and the next answer says `restarted`.
//!
//! To place the consumer is to delete it and make it again. That ends the requests of another process, which would
//! otherwise take events for as long as they wait, and its numbers begin at 1. A request that is sent later goes to
//! whichever consumer has the name by then, and its deliveries may have just the numbers that are due, behind a hole:
//! so before events are handed out, it is made sure that the consumer is still ours.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use pelton_engine::event::RawBatch;
use pelton_engine::log::Fetched;
use pelton_engine::time::WallTime;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::ack::{self, Acks, Reached, Run};
use crate::api::{ConsumerState, Fault, created};
use crate::code::Class;
use crate::connect::Broker;
use crate::log::{LogOptions, Target};
use crate::pull::{Item, Pull, PullSize};

/// Deliveries that may be without an ack; more than two epochs of any size.
const ACK_PENDING_MAX: u32 = 200_000;
const ACK_WAIT: Duration = Duration::from_secs(60);
/// Keeps the offsets of a batch in 32 bits.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// Reads one partition.
#[derive(Default)]
pub(crate) struct Fetcher {
    pull: Option<Pull>,
    /// Where the last answer ended. Moves only with an answer, so a fetch that is dropped half-way loses nothing.
    cursor: Option<Cursor>,
    /// When the server made the consumer, as it wrote it.
    placed: Arc<str>,
    /// Connections lost when the pull was opened.
    losses: u64,
    /// Messages dropped in the client when the pull was opened.
    drops: u64,
    /// When the input stream was created, as seen by the last reset.
    created: i64,
    scratch: Vec<u8>,
}

/// How far deliveries went.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    stream_seq: u64,
    consumer_seq: u64,
    pending: u64,
}

impl Cursor {
    fn reached(self, placed: &Arc<str>) -> Reached {
        Reached { placed: Arc::clone(placed), stream_seq: self.stream_seq, consumer_seq: self.consumer_seq }
    }
}

/// One answer in the making.
struct Filling<'a> {
    batch: RawBatch,
    runs: Vec<Run>,
    /// Ack prefix of the deliveries.
    prefix: String,
    cursor: Cursor,
    events_max: usize,
    bytes_max: usize,
    scratch: &'a mut Vec<u8>,
}

/// Why draining stopped.
enum Drained {
    Empty,
    Full,
    Broken(String),
}

/// Everything a fetch needs beside its own state.
pub(crate) struct Source<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) target: &'a Target,
    pub(crate) options: &'a LogOptions,
    pub(crate) acks: &'a std::sync::Mutex<Acks>,
}

impl Fetcher {
    /// Lets the consumer deliver from `next` on and drops everything prefetched.
    pub(crate) async fn reset(&mut self, source: &Source<'_>, next: u64) -> Result<(), Fault> {
        let info = source.broker.stream_info(&source.target.stream).await?;
        self.created = created(&info);
        self.place(source, next.max(1)).await
    }

    /// Up to so many events or bytes; waits a little when there are none.
    pub(crate) async fn fetch(&mut self, source: &Source<'_>, events: u32, bytes: u32) -> Result<Fetched, Fault> {
        let deadline = Instant::now() + source.options.fetch_wait;
        wait_for_link(source, deadline).await?;
        if self.losses != source.broker.losses() {
            self.close().await;
        }
        let (Some(mut pull), Some(cursor)) = (self.pull.take(), self.cursor) else {
            return self.restart(source, deadline).await;
        };
        let mut filling = Filling {
            batch: RawBatch::default(),
            runs: Vec::new(),
            prefix: String::new(),
            cursor,
            events_max: events.max(1) as usize,
            bytes_max: (bytes.max(1) as usize).min(BATCH_BYTES_MAX),
            scratch: &mut self.scratch,
        };
        let mut drained = collect(&mut pull, source.broker, &mut filling, deadline).await?;
        if matches!(drained, Drained::Empty) && self.drops != source.broker.drops() {
            // Whatever was dropped may have been the last of a request, with no later delivery to show the hole.
            drained = Drained::Broken("messages were dropped in the client".to_string());
        }
        let Filling { batch, runs, prefix, cursor, .. } = filling;
        let is_empty = batch.events.is_empty();
        if !is_empty && pull.is_unchecked {
            let state = consumer_state(source.broker, source.target).await?;
            if state.is_none_or(|state| state.created != *self.placed) {
                warn!(consumer = %source.target.consumer(), "another process placed the consumer");
                pull.close().await;
                return self.restart(source, deadline).await;
            }
            pull.is_unchecked = false;
        }
        self.cursor = Some(cursor);
        let reached = cursor.reached(&self.placed);
        source.acks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&prefix, &runs, reached);
        if let Drained::Broken(reason) = &drained {
            warn!(consumer = %source.target.consumer(), after = cursor.stream_seq, reason, "consumer is placed again");
            pull.close().await;
            if is_empty {
                return self.restart(source, deadline).await;
            }
            return Ok(Fetched { batch, pending: cursor.pending, ..Fetched::default() });
        }
        let caught_up = cursor.pending == 0 && matches!(drained, Drained::Empty) && !pull.is_silent();
        self.pull = Some(pull);
        Ok(Fetched { batch, pending: cursor.pending, caught_up, restarted: false })
    }

    /// Places the consumer behind the last answer, and answers with no event, so that the caller can check the streams
    /// before it takes any. Leaves it as it is while the stream ends before that position or is another one.
    async fn restart(&mut self, source: &Source<'_>, deadline: Instant) -> Result<Fetched, Fault> {
        let restarted = |pending| Fetched { pending, restarted: true, ..Fetched::default() };
        let next = match self.cursor {
            Some(cursor) => cursor.stream_seq + 1,
            None => {
                let state = consumer_state(source.broker, source.target).await?;
                let next = state.map_or(0, |state| state.ack_floor.stream_seq) + 1;
                self.reset(source, next).await?;
                return Ok(restarted(self.cursor.unwrap_or_default().pending));
            }
        };
        let info = source.broker.stream_info(&source.target.stream).await?;
        if created(&info) != self.created || next > info.state.last_sequence + 1 {
            warn!(next, last = info.state.last_sequence, "input stream was made again or is shorter than before");
            tokio::time::sleep_until(deadline).await;
            return Ok(restarted(0));
        }
        self.place(source, next).await?;
        Ok(restarted(self.cursor.unwrap_or_default().pending))
    }

    async fn place(&mut self, source: &Source<'_>, next: u64) -> Result<(), Fault> {
        // The old inbox goes first: a request that still waits would take events from the placed consumer.
        self.close().await;
        source.acks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        let (losses, drops) = (source.broker.losses(), source.broker.drops());
        let state = place_consumer(source.broker, source.target, next).await?;
        debug!(consumer = %source.target.consumer(), next, pending = state.num_pending, "consumer placed");
        let size = PullSize {
            messages: source.options.pull_messages,
            bytes: source.options.pull_bytes,
            requests: source.options.pull_requests,
        };
        let mut pull = Pull::open(source.broker, &source.target.stream, &source.target.consumer(), size).await?;
        pull.top_up(source.broker).await?;
        self.pull = Some(pull);
        self.losses = losses;
        self.drops = drops;
        let cursor =
            Cursor { stream_seq: next - 1, consumer_seq: state.delivered.consumer_seq, pending: state.num_pending };
        self.placed = state.created.into();
        let reached = cursor.reached(&self.placed);
        source.acks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add("", &[], reached);
        self.cursor = Some(cursor);
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(pull) = self.pull.take() {
            pull.close().await;
        }
    }
}

async fn wait_for_link(source: &Source<'_>, deadline: Instant) -> Result<(), Fault> {
    let mut link = source.broker.link();
    match tokio::time::timeout_at(deadline, link.wait_for(|link| link.up)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Fault::Unavailable("not connected".to_string())),
    }
}

/// Takes what is there; when that is nothing, what comes before the deadline.
async fn collect(
    pull: &mut Pull,
    broker: &Broker,
    filling: &mut Filling<'_>,
    deadline: Instant,
) -> Result<Drained, Fault> {
    loop {
        let drained = tokio::task::unconstrained(async { drain(pull, filling) }).await;
        if matches!(drained, Drained::Broken(_)) {
            return Ok(drained);
        }
        pull.top_up(broker).await?;
        if !filling.batch.events.is_empty() {
            pull.heard();
            return Ok(drained);
        }
        if pull.is_silent() {
            return Ok(Drained::Broken("no heartbeat".to_string()));
        }
        match tokio::time::timeout_at(deadline, pull.next()).await {
            Err(_) => return Ok(Drained::Empty),
            Ok(Item::Status) => {}
            Ok(Item::Gone(reason)) => return Ok(Drained::Broken(reason)),
            Ok(Item::Message(message)) => {
                if let Err(reason) = filling.take(&message) {
                    return Ok(Drained::Broken(reason));
                }
            }
        }
    }
}

fn drain(pull: &mut Pull, filling: &mut Filling<'_>) -> Drained {
    loop {
        if filling.batch.events.len() >= filling.events_max || filling.batch.data.len() >= filling.bytes_max {
            return Drained::Full;
        }
        match pull.try_next() {
            None => return Drained::Empty,
            Some(Item::Status) => {}
            Some(Item::Gone(reason)) => return Drained::Broken(reason),
            Some(Item::Message(message)) => {
                if let Err(reason) = filling.take(&message) {
                    return Drained::Broken(reason);
                }
            }
        }
    }
}

impl Filling<'_> {
    /// Copies one delivery; the error says why the consumer must be placed again.
    fn take(&mut self, message: &Message) -> Result<(), String> {
        let reply = message.reply.as_ref().map_or("", |reply| reply.as_str());
        let delivery = ack::parse(reply).ok_or_else(|| format!("delivery without an ack subject: {reply:?}"))?;
        if delivery.consumer_seq != self.cursor.consumer_seq + 1 {
            let expected = self.cursor.consumer_seq + 1;
            return Err(format!("delivery {} came where {expected} was due", delivery.consumer_seq));
        }
        self.cursor.consumer_seq = delivery.consumer_seq;
        self.cursor.pending = delivery.pending;
        if delivery.stream_seq <= self.cursor.stream_seq {
            // Delivered again after its ack was overdue.
            return Ok(());
        }
        self.cursor.stream_seq = delivery.stream_seq;
        if self.prefix.is_empty() {
            self.prefix.push_str(&reply[..delivery.prefix_len]);
        }
        ack::extend(&mut self.runs, delivery.stream_seq, delivery.consumer_seq);
        self.scratch.clear();
        if let Some(headers) = &message.headers {
            write_headers(self.scratch, headers);
        }
        let published = WallTime(delivery.stored_nanos.div_euclid(1_000_000));
        let subject = message.subject.as_bytes();
        self.batch.push(delivery.stream_seq, published, subject, self.scratch, &message.payload);
        Ok(())
    }
}

/// `name: value\r\n` per header, in the order of names: the same message gives the same bytes every time.
fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut sorted: Vec<(&str, _)> = headers.iter().map(|(name, values)| (name.as_ref(), values)).collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    for (name, values) in sorted {
        for value in values {
            for part in [name, ": ", value.as_str(), "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

/// State of the durable consumer, if there is one.
pub(crate) async fn consumer_state(broker: &Broker, target: &Target) -> Result<Option<ConsumerState>, Fault> {
    let verb = format!("CONSUMER.INFO.{}.{}", target.stream, target.consumer());
    match broker.api(&target.stream, &verb, &json!({})).await {
        Ok(state) => Ok(Some(state)),
        Err(fault) if fault.is(Class::NoConsumer) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Makes the durable consumer anew, so that it delivers from `next` on.
async fn place_consumer(broker: &Broker, target: &Target, next: u64) -> Result<ConsumerState, Fault> {
    delete_consumer(broker, target).await?;
    let name = target.consumer();
    let inbox = broker.client().new_inbox();
    let config = json!({
        "name": name,
        "durable_name": name,
        "description": format!("pelton: pipeline {}, partition {}", target.pipeline, target.partition),
        // Two processes that place it at the same position at the same time must not both be told that they made it.
        "metadata": { "pelton-placed-by": inbox.rsplit('.').next().unwrap_or(&inbox) },
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": next,
        "ack_policy": "all",
        "ack_wait": ACK_WAIT.as_nanos() as u64,
        "max_deliver": -1,
        "max_ack_pending": ACK_PENDING_MAX,
        "filter_subject": target.subject,
        "replay_policy": "instant",
        "num_replicas": 0,
    });
    let verb = format!("CONSUMER.CREATE.{}.{name}.{}", target.stream, target.subject);
    let body = json!({ "stream_name": target.stream, "config": config, "action": "create" });
    broker.api(&target.stream, &verb, &body).await
}

/// Deletes the consumer; it is fine when there is none.
pub(crate) async fn delete_consumer(broker: &Broker, target: &Target) -> Result<(), Fault> {
    let verb = format!("CONSUMER.DELETE.{}.{}", target.stream, target.consumer());
    match broker.api::<Value>(&target.stream, &verb, &json!({})).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.is(Class::NoConsumer) => Ok(()),
        Err(fault) => Err(fault),
    }
}
