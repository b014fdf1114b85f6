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
//!
//! A message whose delivery ends the connection again and again is read past without a consumer (see `care`).

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use pelton_engine::log::{Fetched, Hole};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ack::Acks;
use crate::api::{Fault, StreamInfo, created};
use crate::care::Care;
use crate::connect::Broker;
use crate::consumer::{consumer_state, place_consumer};
use crate::filling::{Cursor, Filling};
use crate::holes::Deleted;
use crate::limits::LogOptions;
use crate::link::Action;
use crate::pull::{Item, Pull, PullSize};
use crate::stored::Walk;
use crate::target::Target;

/// How often a quiet partition asks whether anything is gone.
const LOOK: Duration = Duration::from_secs(1);
/// How long messages are read one at a time before an answer goes out.
const WALK: Duration = Duration::from_millis(200);

/// Reads one partition.
#[derive(Default)]
pub(crate) struct Fetcher {
    pull: Option<Pull>,
    /// Where the last answer ended. Moves only with an answer, so a fetch that is dropped half-way loses nothing.
    cursor: Option<Cursor>,
    /// When the server made the consumer, as it wrote it.
    placed: Arc<str>,
    placed_at: Option<std::time::Instant>,
    /// From where the consumer delivers.
    start: u64,
    /// Connections lost when the pull was opened.
    losses: u64,
    /// Messages dropped in the client when the pull was opened.
    drops: u64,
    /// When the input stream was created, as seen by the last reset.
    created: i64,
    care: Care,
    walk: Walk,
    /// Messages were read past the consumer: it is behind.
    is_behind: bool,
    /// What is gone inside the stream.
    deleted: Deleted,
    /// When it was last made sure that nothing is left; nothing since a delivery.
    looked: Option<Instant>,
    /// Since when nothing comes although something is there.
    starved: Option<Instant>,
    scratch: Vec<u8>,
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

impl Source<'_> {
    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetcher {
    /// Lets the consumer deliver from `next` on and drops everything prefetched. Up to `read_through` nothing is unread.
    pub(crate) async fn reset(&mut self, source: &Source<'_>, next: u64, read_through: u64) -> Result<(), Fault> {
        let info = source.broker.stream_info(&source.target.stream).await?;
        self.created = created(&info);
        let next = next.max(1);
        self.place(source, next).await?;
        source.acks().set_known(read_through.max(next - 1));
        Ok(())
    }

    /// Up to so many events or bytes; waits a little when there are none.
    pub(crate) async fn fetch(&mut self, source: &Source<'_>, events: u32, bytes: u32) -> Result<Fetched, Fault> {
        let deadline = Instant::now() + source.options.fetch_wait;
        wait_for_link(source, deadline).await?;
        if self.losses != source.broker.losses() {
            self.close().await;
            return self.restart(source, deadline).await;
        }
        if let Some(text) = self.pull.as_ref().and_then(|pull| pull.forbidden(source.broker)) {
            return Err(Fault::Unavailable(text));
        }
        if let Some(cursor) = self.cursor
            && self.care.is_reading()
        {
            return self.read_singly(source, cursor, (events, bytes), deadline).await;
        }
        if let Some(cursor) = self.cursor
            && self.is_behind
        {
            self.place(source, cursor.stream_seq.saturating_add(1)).await?;
            info!(consumer = %source.target.consumer(), after = cursor.stream_seq, "reading by the consumer again");
        }
        let (Some(pull), Some(cursor)) = (self.pull.take(), self.cursor) else {
            return self.restart(source, deadline).await;
        };
        self.read_pull(source, pull, cursor, (events, bytes), deadline).await
    }

    async fn read_pull(
        &mut self,
        source: &Source<'_>,
        mut pull: Pull,
        cursor: Cursor,
        (events, bytes): (u32, u32),
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let known = source.acks().known();
        let mut filling = Filling::new(cursor, known, events, bytes, &mut self.scratch);
        let mut drained = collect(&mut pull, source.broker, &mut filling, deadline).await?;
        if matches!(drained, Drained::Empty) && self.drops != source.broker.drops() {
            // Whatever was dropped may have been the last of a request, with no later delivery to show the hole.
            drained = Drained::Broken("messages were dropped in the client".to_string());
        }
        let Filling { batch, runs, prefix, cursor, jumps, .. } = filling;
        let is_empty = batch.events.is_empty();
        if !is_empty && pull.is_unchecked {
            if !self.is_ours(source).await? {
                pull.close().await;
                return self.restart(source, deadline).await;
            }
            pull.is_unchecked = false;
        }
        let holes = self.deleted.holes(source.broker, &source.target.stream, self.created, &jumps).await?;
        self.cursor = Some(cursor);
        source.acks().add(&prefix, &runs, cursor.reached(&self.placed));
        if let Drained::Broken(reason) = &drained {
            warn!(consumer = %source.target.consumer(), after = cursor.stream_seq, reason, "consumer is placed again");
            pull.close().await;
            if is_empty {
                return self.restart(source, deadline).await;
            }
            return Ok(Fetched { batch, holes, pending: cursor.pending, ..Fetched::default() });
        }
        let is_caught_up = cursor.pending == 0 && matches!(drained, Drained::Empty) && !pull.is_silent();
        self.pull = Some(pull);
        if !is_empty {
            (self.looked, self.starved) = (None, None);
            return Ok(Fetched { batch, holes, pending: cursor.pending, caught_up: is_caught_up, restarted: false });
        }
        self.look(source, cursor, is_caught_up).await
    }

    /// Nothing came: says whether anything is gone that will never come, or why nothing comes.
    async fn look(&mut self, source: &Source<'_>, cursor: Cursor, is_caught_up: bool) -> Result<Fetched, Fault> {
        let nothing = Fetched { pending: cursor.pending, caught_up: is_caught_up, ..Fetched::default() };
        let is_due = if is_caught_up {
            self.starved = None;
            self.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        } else {
            // Something should come, and gets time to do so first.
            self.starved.get_or_insert_with(Instant::now).elapsed() >= LOOK
        };
        if !is_due {
            return Ok(nothing);
        }
        let Ok(info) = source.broker.stream_info(&source.target.stream).await else {
            return Ok(Fetched { caught_up: false, ..nothing });
        };
        let Ok(Some(state)) = consumer_state(source.broker, source.target).await else {
            return Ok(Fetched { caught_up: false, ..nothing });
        };
        if state.created != *self.placed || created(&info) != self.created {
            // The pull will notice.
            return Ok(Fetched { caught_up: false, ..nothing });
        }
        self.looked = Some(Instant::now());
        self.starved = None;
        if state.num_pending > 0 {
            let limit = u64::try_from(state.config.max_ack_pending).unwrap_or(0);
            if limit > 0 && state.num_ack_pending >= limit {
                return Err(Fault::Unavailable(self.stopped(source, limit)));
            }
            return Ok(Fetched { caught_up: false, pending: state.num_pending, ..nothing });
        }
        if state.delivered.consumer_seq != cursor.consumer_seq {
            return Ok(Fetched { caught_up: false, ..nothing });
        }
        // What was said to be behind the last delivery has expired since.
        self.cursor = Some(Cursor { pending: 0, ..cursor });
        let holes = self.settle(source, &info).await?;
        Ok(Fetched { holes, pending: 0, caught_up: true, ..nothing })
    }

    /// Everything that the stream holds was delivered: what is gone behind that will never come, and is told now.
    async fn settle(&mut self, source: &Source<'_>, info: &StreamInfo) -> Result<Vec<Hole>, Fault> {
        let (from, last) = (source.acks().known().saturating_add(1), info.state.last_sequence);
        let jumps: &[(u64, u64)] = if from <= last { &[(from, last)] } else { &[] };
        let mut holes = self.deleted.among(source.broker, &source.target.stream, info, jumps).await?;
        let mut acks = source.acks();
        // A survey may have proven more in the meantime.
        let known = acks.known();
        holes.retain(|hole| known < hole.last);
        if let Some(first) = holes.first_mut() {
            first.first = first.first.max(known.saturating_add(1));
        }
        acks.set_known(known.max(last));
        if let Some(hole) = holes.last() {
            acks.tell(hole.last);
        }
        Ok(holes)
    }

    /// Why deliveries have stopped although more is there.
    fn stopped(&self, source: &Source<'_>, limit: u64) -> String {
        let prefix = format!(".{}.{}.", source.target.stream, source.target.consumer());
        let is_ack = |action, subject: &str| {
            action == Action::Publish && subject.starts_with("$JS.ACK.") && subject.contains(&prefix)
        };
        let reason = self.placed_at.and_then(|placed| source.broker.denials().find(placed, is_ack));
        let reason = reason.unwrap_or_else(|| "acknowledgements do not arrive".to_string());
        format!("deliveries stopped at {limit} unacknowledged messages: {reason}")
    }

    /// Reads without the consumer, for as long as a message may come that would end the connection.
    async fn read_singly(
        &mut self,
        source: &Source<'_>,
        cursor: Cursor,
        (events, bytes): (u32, u32),
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let Source { broker, target, .. } = source;
        let info = broker.stream_info(&target.stream).await?;
        let until = Instant::now() + WALK;
        let mut care = self.care.clone();
        let known = source.acks().known();
        let mut filling = Filling::new(cursor, known, events, bytes, &mut self.scratch);
        let mut is_end = false;
        while care.is_reading() && !filling.is_full() && !is_end && Instant::now() < until {
            let from = filling.cursor.stream_seq.saturating_add(1);
            let found = self.walk.next(broker, &target.stream, &target.subject, from).await?;
            is_end = found.is_empty();
            for message in &found {
                if filling.is_full() {
                    break;
                }
                if let Some(unreadable) = &message.unreadable
                    && care.tell()
                {
                    let (sequence, reason) = (message.sequence, &unreadable.reason);
                    warn!(stream = %target.stream, sequence, ?reason, "a message that no client can read was read past");
                }
                filling.take_stored(message);
                care.met(message.sequence, message.unreadable.is_none());
            }
        }
        let Filling { batch, mut cursor, jumps, .. } = filling;
        if !self.is_ours(source).await? {
            return self.restart(source, deadline).await;
        }
        let mut holes = self.deleted.holes(broker, &target.stream, self.created, &jumps).await?;
        cursor.pending = if is_end { 0 } else { cursor.pending.max(1) };
        (self.care, self.cursor) = (care, Some(cursor));
        self.is_behind |= !batch.events.is_empty();
        {
            let mut acks = source.acks();
            let known = acks.known().max(cursor.stream_seq);
            acks.set_known(known);
        }
        if batch.events.is_empty() && is_end {
            holes.extend(self.settle(source, &info).await?);
            tokio::time::sleep_until(deadline).await;
        }
        Ok(Fetched { batch, holes, pending: cursor.pending, caught_up: is_end, restarted: false })
    }

    /// Whether the consumer is the one that was placed here.
    async fn is_ours(&self, source: &Source<'_>) -> Result<bool, Fault> {
        let state = consumer_state(source.broker, source.target).await?;
        let is_ours = state.is_some_and(|state| state.created == *self.placed);
        if !is_ours {
            warn!(consumer = %source.target.consumer(), "another process placed the consumer");
        }
        Ok(is_ours)
    }

    /// Places the consumer behind the last answer, and answers with no event, so that the caller can check the streams
    /// before it takes any. Leaves it as it is while the stream ends before that position or is another one.
    async fn restart(&mut self, source: &Source<'_>, deadline: Instant) -> Result<Fetched, Fault> {
        let restarted = |pending| Fetched { pending, restarted: true, ..Fetched::default() };
        let next = match self.cursor {
            Some(cursor) => cursor.stream_seq.saturating_add(1),
            None => {
                let state = consumer_state(source.broker, source.target).await?;
                let next = state.map_or(0, |state| state.ack_floor.stream_seq).saturating_add(1);
                self.reset(source, next, next.saturating_sub(1)).await?;
                return Ok(restarted(self.cursor.unwrap_or_default().pending));
            }
        };
        let info = source.broker.stream_info(&source.target.stream).await?;
        if created(&info) != self.created || next > info.state.last_sequence.saturating_add(1) {
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
        source.acks().clear();
        let (losses, drops) = (source.broker.losses(), source.broker.drops());
        if self.losses != losses {
            self.note_loss(source).await?;
            self.losses = losses;
        }
        let state = place_consumer(source.broker, source.target, next, source.options.ack_pending).await?;
        debug!(consumer = %source.target.consumer(), next, pending = state.num_pending, "consumer placed");
        if !self.care.is_reading() {
            let size = PullSize {
                messages: source.options.pull_messages,
                bytes: source.options.pull_bytes,
                requests: source.options.pull_requests,
            };
            let mut pull = Pull::open(source.broker, &source.target.stream, &source.target.consumer(), size).await?;
            pull.top_up(source.broker).await?;
            self.pull = Some(pull);
        }
        self.drops = drops;
        self.start = next;
        self.is_behind = false;
        (self.looked, self.starved) = (None, None);
        self.placed_at = Some(std::time::Instant::now());
        let cursor =
            Cursor { stream_seq: next - 1, consumer_seq: state.delivered.consumer_seq, pending: state.num_pending };
        self.placed = state.created.into();
        source.acks().add("", &[], cursor.reached(&self.placed));
        self.cursor = Some(cursor);
        Ok(())
    }

    /// The connection was lost: looks whether deliveries of our consumer were under way.
    async fn note_loss(&mut self, source: &Source<'_>) -> Result<(), Fault> {
        let Some(cursor) = self.cursor else { return Ok(()) };
        let state = consumer_state(source.broker, source.target).await?;
        let state = state.filter(|state| state.created == *self.placed);
        let under_way = state.filter(|state| state.delivered.consumer_seq > cursor.consumer_seq);
        self.care.lost(self.start, under_way.map(|state| state.delivered.stream_seq));
        if self.care.is_reading() {
            warn!(
                consumer = %source.target.consumer(), from = self.start,
                "the connection is lost whenever messages from here are delivered, reading them one at a time"
            );
        }
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
        if filling.is_full() {
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
