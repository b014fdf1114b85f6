//! Running: fetch, compute, seal.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::effects::Effects;
use crate::epoch::{Epoch, Marker, Place, StreamIdentity};
use crate::event::RawBatch;
use crate::log::{AllDelivered, Fetched, Hole, HoleCause, Request, Response, StoredMarker, Survey};
use crate::seal::close;
use crate::step::{Engine, Input, Progress};
use crate::store::Store;
use crate::time::{EventTime, Span};

use super::commit::{InFlight, Sealed};
use super::recover::Halted;
use super::{Asked, Committed, Mutants, Notice, Partition, Phase, RecoveryCause, Ticket, describe};

/// Events asked for at a time.
const FETCH_EVENTS: u32 = 8_192;
const FETCH_BYTES: u32 = 8 << 20;
/// No fetch while this much waits.
const QUEUE_BYTES_MAX: usize = 16 << 20;
const QUEUE_BATCHES_MAX: usize = 4;
/// An epoch is not sealed earlier than this after its first event, unless it is full.
const LINGER_MS: u64 = 5;

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
    exit_at: u64,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Last sequence that a fetch has told of, as an event or as a hole.
    pub(super) last_fetched: u64,
    /// The latest proof that nothing of this partition was unread.
    pub(super) all_delivered: AllDelivered,
    fetch: Option<Asked>,
    fetch_after: u64,
    pub(super) pending: u64,
    pub(super) caught_up: bool,
    silence: Silence,
    /// What the clock has brought ends its epoch: no event is taken before that is sealed.
    is_closing: bool,
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
enum Queued {
    Events(RawBatch),
    Hole(Hole),
}

/// What the engine gets next.
enum Next {
    Input(Input),
    Hole(Hole),
}

/// How long the source has been silent.
#[derive(Default)]
struct Silence {
    /// Since when this run has had nothing; `None` while there are events, and while the broker does not answer.
    since: Option<u64>,
    /// Silence before that: of an earlier run by the broker's clock, or before the broker was away, ms.
    before: u64,
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
    fn has_next(&self) -> bool {
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
    fn take(&mut self, fetched: Fetched, now: u64, mutants: Mutants) {
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
    fn next(&mut self) -> Next {
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
    fn lose_sight(&mut self, now: u64) {
        if let Some(since) = self.silence.since.take() {
            self.silence.before += now.saturating_sub(since);
        }
        self.caught_up = false;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.progress == Progress::NeedInput && self.queue.is_empty()
    }
}

impl Partition {
    /// Does one step of computation and seals the epoch when it is time.
    pub(super) fn run(&mut self, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        if !running.has_work() || self.must_halt_at_hole() {
            return;
        }
        let Phase::Running(running) = &mut self.phase else { return };
        match running.next() {
            Next::Input(input) => self.step(input, now),
            Next::Hole(hole) => self.skip(hole, now),
        }
        self.pump(now);
    }

    /// Whether the next thing is input that is lost, and no operator said to go on without it.
    pub(super) fn must_halt_at_hole(&self) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        let accept = self.config.accept_loss || self.config.mutants().skip_unasked;
        running.hole_ahead().is_some_and(|hole| hole.cause == HoleCause::Expired && !accept)
    }

    /// Counts a hole as lost; a gap record says which sequences it was.
    fn skip(&mut self, hole: Hole, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        if self.config.mutants().uncounted_loss {
            return;
        }
        if running.engine.skip_gap(hole.first, hole.last, &mut running.effects) {
            running.opened_at.get_or_insert(now);
            self.tell(Notice::Hole(hole));
        } else {
            // The epoch has no room for one more record.
            running.queue.push_front(Queued::Hole(hole));
            running.is_closing = true;
        }
    }

    fn step(&mut self, input: Input, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        let seen = |running: &Running| {
            let Running { engine, effects, .. } = running;
            (engine.position(), engine.watermark(), effects.records.rows.len(), engine.change_bytes(), engine.held())
        };
        let before = seen(running);
        match running.engine.step(input, &mut running.effects) {
            Ok(progress) => {
                running.progress = progress;
                if before != seen(running) {
                    running.opened_at.get_or_insert(now);
                }
            }
            Err(error) => self.step_failed(error, now),
        }
    }

    /// Whatever can be started now: seal, publish, fetch, end.
    pub(super) fn pump(&mut self, now: u64) {
        self.seal_if_due(now);
        if self.must_halt_at_hole() {
            return self.look_at_hole(now);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        let hungry = running.queue_bytes < QUEUE_BYTES_MAX && running.queue.len() < QUEUE_BATCHES_MAX;
        let wanted = !self.config.exit_when_caught_up || running.last_fetched < running.exit_at || !running.caught_up;
        // A consumer that has delivered is the sign of an earlier marker, so the first one comes before the first event.
        let is_begun = running.head.is_some() || self.config.mutants().no_first_marker;
        if is_begun
            && running.fetch.is_none()
            && hungry
            && wanted
            && now >= running.fetch_after
            && self.stopping.is_none()
        {
            let asked = self.ask(Request::Fetch { events: FETCH_EVENTS, bytes: FETCH_BYTES }, now);
            if let Phase::Running(running) = &mut self.phase {
                running.fetch = Some(asked);
            }
        }
        self.exit_if_caught_up(now);
    }

    /// With `exit_when_caught_up`, ends when everything that the input held is committed. Windows stay open: more may
    /// come.
    fn exit_if_caught_up(&mut self, now: u64) {
        /// Looks without a proof after which the end of the deliveries has to do.
        const LOOKS: u32 = 3;
        let Phase::Running(running) = &mut self.phase else { return };
        let is_done = (running.caught_up || running.last_fetched >= running.exit_at)
            && running.is_drained()
            && (running.is_settled() || self.config.mutants().exit_early);
        if !self.config.exit_when_caught_up || !is_done || self.stopping.is_some() {
            return;
        }
        // The last messages may be gone without a later one that shows it: only a look tells.
        let seen = running.seen(running.last_fetched);
        if seen < running.exit_at && running.fruitless_looks < LOOKS && !self.config.mutants().no_idle_check {
            return self.look(now);
        }
        let said = running.head.as_ref().map_or(0, |head| head.marker.read_through);
        if said < seen && !self.config.mutants().exit_early {
            // What others have in the stream may expire before the next run: this one has seen that it was theirs.
            running.opened_at = Some(now);
            return;
        }
        self.stop(now);
    }

    fn seal_if_due(&mut self, now: u64) {
        let limits = self.plan.limits;
        let Phase::Running(running) = &self.phase else { return };
        let Some(opened_at) = running.opened_at else { return };
        if running.sealed.is_some() {
            return;
        }
        let age = now.saturating_sub(opened_at);
        let full =
            running.progress == Progress::Full || running.effects.totals.received >= u64::from(limits.epoch_max_events);
        let ends_here = running.is_closing || running.hole_ahead().is_some();
        let ripe = running.inflight.is_none()
            && (age >= limits.epoch_max_age.0.unsigned_abs()
                || (running.is_drained() && age >= LINGER_MS)
                || (ends_here && running.progress == Progress::NeedInput));
        if full || ripe {
            self.seal(now);
        }
    }

    fn seal(&mut self, now: u64) {
        let nonce = self.nonce();
        let Phase::Running(running) = &mut self.phase else { return };
        let counters = self.config.mutants().counters_kept.then(|| running.effects.counters.clone());
        let mut closed = match close(&mut running.engine, &mut running.effects) {
            Ok(closed) => closed,
            Err(unsound) => return self.halt(Halted::new(unsound.code(), unsound.to_string())),
        };
        if self.config.mutants().position_ahead {
            closed.position.sequence = running.last_fetched;
        }
        if self.config.mutants().clock_unrecorded {
            closed.clock.clear();
        }
        let place = Place {
            nonce,
            input: running.input.clone(),
            pipeline_stream: running.log.clone(),
            read_through: running.seen(closed.position.sequence),
            lease: self.lease.as_ref().map_or(0, |lease| lease.revision),
        };
        running.unsnapped.bytes += closed.delta.len();
        running.unsnapped.epochs += 1;
        let state_bytes = closed.state_bytes() as usize;
        let epoch = Epoch::seal(running.last.as_ref(), place, closed);
        let marker = &epoch.marker;
        let snap = running.saving.is_none()
            && now >= running.snapshot_after
            && (running.unsnapped.bytes >= self.config.snapshot_bytes
                || running.unsnapped.epochs >= self.config.snapshot_epochs);
        let snapshot = (snap && !self.config.mutants().late_snapshot).then(|| running.engine.snapshot());
        if snap {
            running.saving = Some(Saving { asked: None, covers: running.unsnapped });
        }
        let facts = Committed {
            epoch: marker.epoch,
            position: marker.position.sequence,
            watermark: marker.watermark,
            published: running.engine.published(),
            totals: marker.totals,
            totals_sum: marker.totals_sum,
            counters: marker.counter_sums(),
            dead_by_code: running.effects.dead_by_code.iter().map(|(code, count)| (code.clone(), *count)).collect(),
            records_by_output: running.effects.records_by_output.clone(),
            faults_by_stage: running.effects.faults_by_stage.iter().map(|(stage, count)| (*stage, *count)).collect(),
            state_bytes,
            epoch_ms: now.saturating_sub(running.opened_at.unwrap_or(now)),
            commit_ms: 0,
            pending: running.pending,
        };
        running.effects.clear();
        running.effects.counters.extend(counters.into_iter().flatten());
        (running.opened_at, running.is_closing) = (None, false);
        if running.progress == Progress::Full {
            running.progress = Progress::More;
        }
        running.last = Some(marker.clone());
        running.sealed = Some(Sealed { epoch: Arc::new(epoch), facts, snapshot, snap });
        self.publish_sealed(now);
    }

    pub(super) fn tick_running(&mut self, now: u64, store: &mut dyn Store) {
        let answer_ms = self.config.answer_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        if running.fetch.is_some_and(|asked| now >= asked.at + answer_ms) {
            running.fetch = None;
            // What it delivered, if it did, will not be delivered again: only a reset brings it back.
            if !self.config.mutants().forget_fetch {
                return self.recover(RecoveryCause::FetchUnanswered, "a fetch was not answered".into(), now, store);
            }
        }
        let asked = running.saving.and_then(|saving| saving.asked);
        if asked.is_some_and(|asked| now >= asked.at + 6 * answer_ms) {
            self.snapshot_not_saved("no answer in time".into(), now);
        }
        self.tick_idle(now);
        self.tick_commit(now, store);
        self.pump(now);
    }

    /// Advances the watermark when the source is silent, but only to where something is due: a commit that shows
    /// nothing new would be one more every few milliseconds, forever.
    fn tick_idle(&mut self, now: u64) {
        let idle_timeout = self.plan.source.watermark.idle_timeout;
        let Phase::Running(running) = &mut self.phase else { return };
        let (Some(idle_timeout), Some(since)) = (idle_timeout, running.silence.since) else { return };
        let here = now.saturating_sub(since);
        let is_quiet = running.is_drained() && running.opened_at.is_none() && running.sealed.is_none();
        if (here as i64) < idle_timeout.0 || !is_quiet || running.engine.watermark() == EventTime::MAX {
            return;
        }
        let silent = Span(i64::try_from(running.silence.before.saturating_add(here)).unwrap_or(i64::MAX));
        let always = EventTime(running.engine.watermark().0.saturating_add(1));
        let always = (self.config.mutants().idle_always && always.0 > 0).then_some(always);
        if let Some(to) = running.engine.due_in_silence(silent).or(always) {
            running.is_closing = !self.config.mutants().clock_mid_epoch;
            running.progress = Progress::More;
            self.step(Input::Idle(to), now);
        }
    }

    pub(super) fn running_answer(&mut self, ticket: Ticket, response: Response, now: u64, store: &mut dyn Store) {
        let mutants = self.config.mutants();
        let ignore_restart = mutants.ignore_restart;
        let retry_ms = self.config.retry_ms;
        if let Response::OtherFormat(reason) = response {
            return self.recover(RecoveryCause::OtherFormat, reason, now, store);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        let is = |asked: Option<Asked>| asked.is_some_and(|asked| asked.ticket == ticket);
        if is(running.fetch) {
            running.fetch = None;
            match response {
                // The stream may not be what it was: check it against the position before anything more is taken.
                Response::Fetched(fetched) if fetched.restarted && !ignore_restart => {
                    return self.recover(RecoveryCause::ConsumerLost, "the consumer was lost".into(), now, store);
                }
                Response::Fetched(fetched) => {
                    running.take(fetched, now, mutants);
                    if running.caught_up {
                        // There is nothing that it could be stuck at.
                        self.fruitless = 0;
                    }
                }
                Response::Missing { stream } => {
                    return self.recover(
                        RecoveryCause::StreamMissing,
                        format!("stream `{stream}` is missing"),
                        now,
                        store,
                    );
                }
                other => {
                    running.fetch_after = now + retry_ms;
                    if !mutants.outage_is_silence {
                        running.lose_sight(now);
                    }
                    let reason = format!("no events: {}", describe(&other));
                    self.tell(Notice::Paused { reason });
                }
            }
        } else if let Some(saving) = running.saving.filter(|saving| is(saving.asked)) {
            match response {
                Response::SnapshotSaved => {
                    running.saving = None;
                    running.unsnapped.epochs -= saving.covers.epochs;
                    running.unsnapped.bytes -= saving.covers.bytes;
                }
                other => self.snapshot_not_saved(describe(&other), now),
            }
        } else if let Some(look) = running.check.take_if(|look| is(Some(look.asked))) {
            self.checked(look, &response, now, store);
        } else if running.inflight.as_ref().is_some_and(|inflight| is(inflight.asked())) {
            self.commit_answer(response, now, store);
        }
        self.pump(now);
    }
}
