//! Deliveries: one durable consumer per partition, and what each process believes of it.
//!
//! As in `broker`, a process notices a hole in the consumer's own numbering, a lost connection, or a consumer that is
//! gone or was placed by another process; it places the consumer behind its last delivery and answers `restarted`
//! without events.
//!
//! What is gone from the stream without having been delivered is told with the first delivery behind it, or when there
//! is nothing left to deliver: see [`Fetched::holes`].

use pelton_engine::event::RawBatch;
use pelton_engine::log::{AllDelivered, Fetched, Hole, HoleCause, Response};
use pelton_engine::time::WallTime;

use super::SimLog;

/// Server side.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    exists: bool,
    /// How often it was made or deleted: a process knows its own consumer from one that another process made.
    generation: u64,
    /// Next sequence to deliver.
    next: u64,
    /// Deliveries so far: a consumer that is made again counts from 1.
    delivered: u64,
    ack_floor: u64,
    /// When the oldest delivery without an ack went out.
    unacked_since: Option<u64>,
}

impl Default for Consumer {
    fn default() -> Consumer {
        Consumer { exists: true, generation: 0, next: 1, delivered: 0, ack_floor: 0, unacked_since: None }
    }
}

/// What one process keeps of one partition's connection.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub partition: u32,
    /// Unique per process: tells leases apart.
    pub instance: u64,
    /// Stream sequence of the last delivery, and the consumer's number of it.
    cursor: Option<(u64, u64)>,
    /// Up to here everything of this partition was delivered, told as a hole, or proved not to be there.
    known: u64,
    /// Where the last hole ends that was handed out with nothing after it.
    told: u64,
    created: i64,
    generation: u64,
    /// The connection was lost since the last fetch.
    pub broken: bool,
    /// Revision of the acquisition and of the last renewal.
    pub(super) lease: Option<(u64, u64)>,
}

impl Adapter {
    /// Revision of the lease that this process holds, as far as it knows.
    #[must_use]
    pub fn held_lease(&self) -> Option<u64> {
        self.lease.map(|(held, _)| held)
    }

    /// A fresh connection.
    #[must_use]
    pub fn new(partition: u32, instance: u64) -> Adapter {
        Adapter {
            partition,
            instance,
            cursor: None,
            known: 0,
            told: 0,
            created: 0,
            generation: 0,
            broken: false,
            lease: None,
        }
    }
}

impl SimLog {
    pub(super) fn reset(&mut self, adapter: &mut Adapter, next: u64, read_through: u64) -> Response {
        (adapter.known, adapter.told) = (read_through.max(next.saturating_sub(1)), 0);
        adapter.created = self.input.created();
        self.place(adapter, next.max(1));
        Response::Reset
    }

    fn place(&mut self, adapter: &mut Adapter, next: u64) {
        let consumer = &mut self.consumers[adapter.partition as usize];
        let generation = consumer.generation + 1;
        *consumer = Consumer { generation, next, ack_floor: next - 1, ..Consumer::default() };
        adapter.generation = generation;
        adapter.cursor = Some((next - 1, consumer.delivered));
        adapter.broken = false;
    }

    /// Deletes the consumer, as an operator or a lost broker disk would.
    pub fn delete_consumer(&mut self, partition: u32) {
        let consumer = &mut self.consumers[partition as usize];
        *consumer = Consumer { exists: false, generation: consumer.generation + 1, ..Consumer::default() };
    }

    /// The highest sequence that the consumer of a partition takes for acknowledged.
    #[must_use]
    pub fn ack_floor(&self, partition: u32) -> u64 {
        self.consumers[partition as usize].ack_floor
    }

    pub(super) fn fetch(&mut self, adapter: &mut Adapter, events: u32, bytes: u32, now: u64) -> Response {
        let restarted = || Response::Fetched(Fetched { restarted: true, ..Fetched::default() });
        let consumer = &self.consumers[adapter.partition as usize];
        let Some((cursor, number)) = adapter.cursor else {
            let next = consumer.ack_floor + 1;
            self.reset(adapter, next, next.saturating_sub(1));
            return restarted();
        };
        let is_other = !consumer.exists || !self.is_own(adapter);
        if is_other || consumer.delivered != number || adapter.broken {
            if self.input.created() == adapter.created && cursor < self.input.last() + 1 {
                self.place(adapter, cursor + 1);
            }
            return restarted();
        }
        Response::Fetched(self.deliver(adapter, cursor, events, bytes, now))
    }

    fn deliver(&mut self, adapter: &mut Adapter, cursor: u64, events: u32, bytes: u32, now: u64) -> Fetched {
        let count_max = self.rng.range(1, 40).min(u64::from(events)) as usize;
        let repeats = self.settings.repeats && self.rng.chance(300);
        let consumer = &mut self.consumers[adapter.partition as usize];
        let mut batch = RawBatch::default();
        let overdue = consumer.unacked_since.is_some_and(|since| now >= since + self.settings.ack_wait);
        if overdue {
            // The ack wait is over: deliveries without an ack come again.
            consumer.unacked_since = Some(now);
            let from = consumer.ack_floor + 1;
            let again = (from..=cursor).filter(|&sequence| push(&mut batch, &self.input, adapter.partition, sequence));
            consumer.delivered += again.take(5).count() as u64;
        }
        let (mut newest, mut holes) = (cursor, Vec::new());
        consumer.next = consumer.next.max(self.input.first());
        while consumer.next <= self.input.last() && batch.events.len() < count_max && batch.data.len() < bytes as usize
        {
            let sequence = consumer.next;
            if push(&mut batch, &self.input, adapter.partition, sequence) {
                holes.extend(self.input.holes_between(adapter.known, sequence));
                adapter.known = adapter.known.max(sequence);
                newest = sequence;
                consumer.delivered += 1;
                consumer.unacked_since.get_or_insert(now);
                // What is overdue may come again at any moment, also right behind what is new.
                if repeats && sequence.is_multiple_of(3) && push(&mut batch, &self.input, adapter.partition, sequence) {
                    consumer.delivered += 1;
                }
            }
            consumer.next += 1;
        }
        if self.settings.mutants.ack_on_delivery {
            consumer.ack_floor = newest;
        }
        adapter.cursor = Some((newest, consumer.delivered));
        let caught_up = consumer.next > self.input.last();
        if caught_up && batch.events.is_empty() {
            let first = self.input.first();
            holes.extend(self.input.holes_between(adapter.known, first));
            adapter.known = adapter.known.max(first - 1);
            adapter.told = holes.last().map_or(adapter.told, |hole| hole.last);
        }
        self.settings.mutants.weaken(&mut holes, self.input.is_shared());
        let pending = self.input.last() + 1 - consumer.next.min(self.input.last() + 1);
        Fetched { batch, holes, pending, caught_up, restarted: false }
    }

    /// Whether a process has received everything that the input holds for its partition. If so, nothing of it is unread
    /// up to the end of the stream.
    pub(super) fn all_delivered(&mut self, adapter: &mut Adapter) -> Option<AllDelivered> {
        let consumer = &self.consumers[adapter.partition as usize];
        let (delivered, number) = adapter.cursor?;
        let last = self.input.last();
        let is_ours = |sequence| self.input.get(sequence).is_some_and(|message| message.partition == adapter.partition);
        let is_mine = consumer.exists && self.is_own(adapter) && consumer.delivered == number;
        let is_all = is_mine && !(consumer.next..=last).any(is_ours);
        // What is below the first sequence and unknown may have been ours: it is told before anything is proved.
        let is_whole = self.input.first() <= adapter.known + 1 || self.settings.mutants.proof_hides_loss;
        if !is_all || !is_whole {
            return None;
        }
        self.input.excuse(adapter.partition, adapter.known, last);
        if !self.settings.mutants.proof_is_forgotten {
            adapter.known = adapter.known.max(last);
        }
        Some(AllDelivered { delivered: delivered.max(adapter.told), last })
    }

    /// Whether deliveries come from the consumer that this process placed. Numbers do not tell: they begin anew.
    fn is_own(&self, adapter: &Adapter) -> bool {
        let generation = self.consumers[adapter.partition as usize].generation;
        generation == adapter.generation || self.settings.mutants.numbering_only
    }

    pub(super) fn ack(&mut self, partition: u32, sequence: u64) -> Response {
        let consumer = &mut self.consumers[partition as usize];
        if consumer.exists && consumer.ack_floor < sequence {
            consumer.ack_floor = consumer.ack_floor.max(sequence.min(consumer.next - 1));
            consumer.unacked_since = None;
        }
        Response::Acked
    }
}

fn push(batch: &mut RawBatch, input: &super::Input, partition: u32, sequence: u64) -> bool {
    let Some(message) = input.get(sequence).filter(|message| message.partition == partition) else { return false };
    batch.push(sequence, WallTime(message.published), b"in", b"", &message.payload);
    true
}

impl super::Input {
    /// What is gone between two sequences, both excluded, and how.
    fn holes_between(&self, after: u64, before: u64) -> impl Iterator<Item = Hole> {
        let (first_kept, per_subject) = (self.first(), self.is_limited_per_subject());
        self.gone_between(after, before).into_iter().map(move |(first, last)| {
            let is_expired = last < first_kept || per_subject;
            Hole { first, last, cause: if is_expired { HoleCause::Expired } else { HoleCause::Deleted } }
        })
    }
}
