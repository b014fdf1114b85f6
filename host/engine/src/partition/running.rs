//! What is in memory while a partition runs: the engine, what waits to be computed, and the epochs on their way out.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::effects::Effects;
use crate::epoch::{Epoch, Marker, StreamIdentity};
use crate::event::RawBatch;
use crate::log::{AllDelivered, Fence, Fetched, Hole, StoredMarker, Survey};
use crate::step::{Engine, Input, Progress};

use super::{Asked, Committed, Mutants};

/// Everything in memory that belongs to the chain behind one marker.
pub(super) struct Running {
    pub(super) engine: Engine,
    /// Of the open epoch.
    pub(super) effects: Effects,
    pub(super) progress: Progress,
    /// When the open epoch got its first content.
    pub(super) opened_at: Option<u64>,
    /// The last committed marker.
    pub(super) head: Option<StoredMarker>,
    /// The last sealed marker, committed or not.
    pub(super) last: Option<Marker>,
    pub(super) sealed: Option<Sealed>,
    pub(super) inflight: Option<InFlight>,
    pub(super) input: StreamIdentity,
    pub(super) log: StreamIdentity,
    /// With `exit_when_caught_up`: the newest input sequence when this run began; nothing after it is fetched.
    pub(super) exit_at: u64,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Last sequence that a fetch has told of, as an event or as a hole.
    pub(super) last_fetched: u64,
    /// The latest proof that nothing of this partition was unread.
    pub(super) all_delivered: AllDelivered,
    pub(super) fetch: Option<Asked>,
    pub(super) fetch_after: u64,
    pub(super) pending: u64,
    pub(super) caught_up: bool,
    pub(super) silence: Silence,
    /// What the clock has brought ends its epoch: no event is taken before that is sealed.
    pub(super) is_closing: bool,
    /// A periodic look at both streams.
    pub(super) check: Option<Look>,
    /// How long until the next one.
    pub(super) check_ms: u64,
    pub(super) checked_at: u64,
    pub(super) epochs_unchecked: u64,
    /// When the last look was answered, and the last input sequence then.
    pub(super) looked: Option<(u64, u64)>,
    /// Looks since the last event that gave no proof.
    pub(super) fruitless_looks: u32,
    /// When an epoch without an event was last opened to say how far the partition has read.
    pub(super) quiet_at: u64,
    pub(super) unapplied: VecDeque<(Arc<Epoch>, u64)>,
    pub(super) apply_after: u64,
    pub(super) synced_at: u64,
    pub(super) unsnapped: Unsnapped,
    pub(super) saving: Option<Saving>,
    /// After a snapshot that was not saved: when to try again.
    pub(super) snapshot_after: u64,
}

/// What waits to be computed, in order.
pub(super) enum Queued {
    Events(RawBatch),
    Hole(Hole),
}

/// What the engine gets next.
pub(super) enum Next {
    Input(Input),
    Hole(Hole),
}

/// How long the source has been silent.
#[derive(Default)]
pub(super) struct Silence {
    /// Since when this run has had nothing; `None` while there are events, and while the broker does not answer.
    pub(super) since: Option<u64>,
    /// Silence before that: of an earlier run by the broker's clock, or before the broker was away, ms.
    pub(super) before: u64,
}

/// What a rebuild would have to replay: epochs and bytes of their deltas since the last stored snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsnapped {
    pub(super) epochs: u64,
    pub(super) bytes: usize,
}

/// A snapshot on its way to the bucket.
#[derive(Clone, Copy)]
pub(super) struct Saving {
    /// `None` until its epoch is committed.
    pub(super) asked: Option<Asked>,
    /// What it covers.
    pub(super) covers: Unsnapped,
}

/// A periodic look at both streams, and what was known when it was asked for.
pub(super) struct Look {
    pub(super) asked: Asked,
    pub(super) head: Option<StoredMarker>,
}

impl Running {
    /// `survey`: the streams as recovery last saw them. `seen`: up to where nothing is unread.
    pub(super) fn new(
        engine: Engine,
        head: Option<StoredMarker>,
        survey: &Survey,
        (seen, unsnapped): (u64, Unsnapped),
        now: u64,
    ) -> Running {
        let position = engine.position();
        let published = head.as_ref().map_or(0, |head| head.marker.published);
        let silent_before = if published > 0 { survey.broker_time.0.saturating_sub(published).max(0) } else { 0 };
        Running {
            progress: Progress::More,
            engine,
            effects: Effects::default(),
            // The first epoch says where the partition began: what expires from then on is a loss.
            opened_at: head.is_none().then_some(now),
            last: head.as_ref().map(|head| head.marker.clone()),
            all_delivered: AllDelivered { delivered: position.sequence, last: seen },
            head,
            sealed: None,
            inflight: None,
            input: survey.input.identity.clone(),
            log: survey.log.identity.clone(),
            exit_at: survey.input.last_sequence,
            queue: VecDeque::new(),
            queue_bytes: 0,
            last_fetched: position.sequence,
            fetch: None,
            fetch_after: now,
            pending: 0,
            caught_up: false,
            silence: Silence { since: None, before: silent_before.unsigned_abs() },
            is_closing: false,
            check: None,
            check_ms: u64::MAX,
            checked_at: now,
            epochs_unchecked: 0,
            looked: None,
            fruitless_looks: 0,
            quiet_at: now,
            unapplied: VecDeque::new(),
            apply_after: now,
            synced_at: now,
            unsnapped,
            saving: None,
            snapshot_after: now,
        }
    }

    /// Up to where nothing is unread when everything up to `reached` is read.
    pub(super) fn seen(&self, reached: u64) -> u64 {
        reached.max(self.all_delivered.last)
    }

    pub(super) fn committed(&self) -> (u64, u64) {
        self.head.as_ref().map_or((0, 0), |head| (head.marker.position.sequence, head.marker.epoch))
    }

    pub(super) fn is_committing(&self) -> bool {
        self.inflight.is_some()
    }

    pub(super) fn has_work(&self) -> bool {
        self.sealed.is_none() && self.unapplied.is_empty() && (self.progress != Progress::NeedInput || self.has_next())
    }

    /// Whether something waits that may be taken now.
    pub(super) fn has_next(&self) -> bool {
        !self.is_closing && !self.queue.is_empty()
    }

    /// Nothing is open, on its way, or waits to be applied: memory, store and stream are at the same epoch.
    pub(super) fn is_settled(&self) -> bool {
        self.opened_at.is_none() && self.sealed.is_none() && self.inflight.is_none() && self.unapplied.is_empty()
    }

    /// The hole that stands before everything else that waits.
    pub(super) fn hole_ahead(&self) -> Option<Hole> {
        match self.queue.front() {
            Some(Queued::Hole(hole)) if self.progress == Progress::NeedInput => Some(*hole),
            _ => None,
        }
    }

    /// Takes what a fetch brought; deliveries that were seen before are dropped.
    pub(super) fn take(&mut self, fetched: Fetched, now: u64, mutants: Mutants) {
        let Fetched { mut batch, mut holes, pending, caught_up, .. } = fetched;
        if mutants.no_holes {
            holes.clear();
        }
        let keep_duplicates = mutants.keep_duplicates;
        (self.pending, self.caught_up) = (pending, caught_up);
        let mut newest = self.last_fetched;
        batch.events.retain(|event| {
            let is_new = event.sequence > newest || keep_duplicates;
            if !mutants.repeats_in_batch {
                newest = newest.max(event.sequence);
            }
            is_new
        });
        if keep_duplicates {
            // The engine refuses to go back; the mutant gives repeated deliveries new numbers.
            let mut next = self.last_fetched;
            for event in &mut batch.events {
                next = event.sequence.max(next + 1);
                event.sequence = next;
                newest = newest.max(next);
            }
        }
        let is_silent = batch.events.is_empty() && holes.is_empty();
        self.enqueue(batch, holes);
        self.last_fetched = self.last_fetched.max(newest);
        if !is_silent {
            self.silence = Silence::default();
            self.fruitless_looks = 0;
        } else if caught_up {
            self.silence.since.get_or_insert(now);
        }
    }

    /// Puts events and holes into one order.
    fn enqueue(&mut self, mut batch: RawBatch, holes: Vec<Hole>) {
        for hole in holes {
            // What was told before is no news.
            let first = hole.first.max(self.last_fetched + 1);
            if first > hole.last {
                continue;
            }
            let behind = batch.events.partition_point(|event| event.sequence < first);
            let rest = batch.split_off(behind);
            self.enqueue_events(std::mem::replace(&mut batch, rest));
            self.queue.push_back(Queued::Hole(Hole { first, ..hole }));
            self.last_fetched = hole.last;
        }
        self.enqueue_events(batch);
    }

    fn enqueue_events(&mut self, batch: RawBatch) {
        if !batch.events.is_empty() {
            self.queue_bytes += batch.data.len();
            self.queue.push_back(Queued::Events(batch));
        }
    }

    /// What the engine gets next.
    pub(super) fn next(&mut self) -> Next {
        if self.progress == Progress::NeedInput
            && !self.is_closing
            && let Some(queued) = self.queue.pop_front()
        {
            return match queued {
                Queued::Events(batch) => {
                    self.queue_bytes -= batch.data.len();
                    Next::Input(Input::Batch(batch))
                }
                Queued::Hole(hole) => Next::Hole(hole),
            };
        }
        Next::Input(Input::Continue)
    }

    /// The broker does not answer: that is not silence of the source.
    pub(super) fn lose_sight(&mut self, now: u64) {
        if let Some(since) = self.silence.since.take() {
            self.silence.before += now.saturating_sub(since);
        }
        self.caught_up = false;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.progress == Progress::NeedInput && self.queue.is_empty()
    }
}

/// An epoch that is ready to be published.
pub(super) struct Sealed {
    pub(super) epoch: Arc<Epoch>,
    pub(super) facts: Committed,
    /// The state at its end, when a snapshot is due.
    pub(super) snapshot: Option<Vec<u8>>,
    pub(super) snap: bool,
}

/// The epoch that is being published.
pub(super) struct InFlight {
    pub(super) sealed: Sealed,
    pub(super) first_at: u64,
    /// How often it was refused.
    pub(super) refusals: u32,
    pub(super) state: Sent,
}

/// Where its publishing stands.
pub(super) enum Sent {
    Publishing(Asked),
    /// The outcome is in doubt: reading the marker.
    Resolving(Asked),
    /// Read the marker at this time.
    Waiting {
        until: u64,
    },
}

impl InFlight {
    pub(super) fn asked(&self) -> Option<Asked> {
        match self.state {
            Sent::Publishing(asked) | Sent::Resolving(asked) => Some(asked),
            Sent::Waiting { .. } => None,
        }
    }
}

/// The fence behind a marker.
pub(super) fn fence_of(head: Option<&StoredMarker>) -> Fence {
    Fence { sequence: head.map_or(0, |head| head.sequence), slot: head.map(|head| head.marker.slot()) }
}
