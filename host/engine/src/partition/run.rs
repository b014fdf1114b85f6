//! Running: fetch, compute, seal.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::effects::Effects;
use crate::epoch::{Epoch, Facts, Marker, StreamIdentity};
use crate::event::RawBatch;
use crate::log::{AllDelivered, Fetched, Request, Response, StoredMarker, StreamFacts};
use crate::step::{Engine, Input, Progress};
use crate::store::Store;
use crate::time::{EventTime, Span};

use super::commit::{InFlight, Sealed};
use super::recover::Halted;
use super::recovery::seen_of;
use super::{Asked, Committed, Notice, Partition, Phase, Ticket, describe};

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
    /// With `drain`: the newest input sequence when this run began; nothing behind it is fetched.
    drain_until: u64,
    queue: VecDeque<RawBatch>,
    queue_bytes: usize,
    pub(super) last_fetched: u64,
    /// The latest proof that nothing of this partition was unread.
    pub(super) all_delivered: AllDelivered,
    /// Since the last look at the input: behind which sequence deliveries first left some out.
    pub(super) jumped_at: Option<u64>,
    fetch: Option<Asked>,
    fetch_after: u64,
    pub(super) pending: u64,
    caught_up: bool,
    /// Since when the source has been silent.
    silent_since: Option<u64>,
    /// A periodic look at both streams.
    pub(super) check: Option<Look>,
    pub(super) checked_at: u64,
    pub(super) epochs_unchecked: u64,
    pub(super) unapplied: VecDeque<(Arc<Epoch>, u64)>,
    pub(super) apply_after: u64,
    pub(super) synced_at: u64,
    pub(super) delta_bytes: usize,
    pub(super) epochs_unsnapped: u64,
    pub(super) saving: Option<Asked>,
}

/// A periodic look at both streams, and what was known when it was asked for.
pub(super) struct Look {
    pub(super) asked: Asked,
    pub(super) head: Option<StoredMarker>,
    pub(super) jumped_at: Option<u64>,
}

impl Running {
    /// `facts`: input and pipeline stream as the last survey saw them.
    pub(super) fn new(
        engine: Engine,
        head: Option<StoredMarker>,
        facts: (StreamFacts, StreamFacts),
        now: u64,
    ) -> Running {
        let position = engine.position();
        Running {
            progress: Progress::More,
            engine,
            effects: Effects::default(),
            opened_at: None,
            last: head.as_ref().map(|head| head.marker.clone()),
            all_delivered: AllDelivered {
                delivered: position.sequence,
                // Recovery compared the start of the stream with the head, or there is no head to compare it with.
                last: seen_of(head.as_ref()).max(facts.0.first_sequence.saturating_sub(1)),
            },
            head,
            sealed: None,
            inflight: None,
            input: facts.0.identity,
            log: facts.1.identity,
            drain_until: facts.0.last_sequence,
            queue: VecDeque::new(),
            queue_bytes: 0,
            last_fetched: position.sequence,
            jumped_at: None,
            fetch: None,
            fetch_after: now,
            pending: 0,
            caught_up: false,
            silent_since: None,
            check: None,
            checked_at: now,
            epochs_unchecked: 0,
            unapplied: VecDeque::new(),
            apply_after: now,
            synced_at: now,
            delta_bytes: 0,
            epochs_unsnapped: 0,
            saving: None,
        }
    }

    /// Events from `first` to `last` are gone; an operator said to go on.
    pub(super) fn skip_gap(&mut self, (first, last): (u64, u64), now: u64) {
        self.engine.skip_gap(first, last, &mut self.effects);
        self.last_fetched = last;
        self.opened_at = Some(now);
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
        self.sealed.is_none()
            && self.unapplied.is_empty()
            && (self.progress != Progress::NeedInput || !self.queue.is_empty())
    }

    /// Takes what a fetch brought; deliveries that were seen before are dropped.
    fn take(&mut self, fetched: Fetched, now: u64, keep_duplicates: bool) {
        let Fetched { mut batch, pending, caught_up, .. } = fetched;
        (self.pending, self.caught_up) = (pending, caught_up);
        let mut newest = self.last_fetched;
        let mut seen = self.seen(newest);
        batch.events.retain(|event| {
            if event.sequence > seen + 1 {
                self.jumped_at.get_or_insert(seen);
            }
            seen = seen.max(event.sequence);
            let is_new = event.sequence > newest || keep_duplicates;
            newest = newest.max(event.sequence);
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
        self.last_fetched = newest;
        if batch.events.is_empty() {
            if caught_up {
                self.silent_since.get_or_insert(now);
            }
            return;
        }
        self.silent_since = None;
        self.queue_bytes += batch.data.len();
        self.queue.push_back(batch);
    }

    /// What the engine gets next.
    fn next_input(&mut self) -> Input {
        if self.progress == Progress::NeedInput
            && let Some(batch) = self.queue.pop_front()
        {
            self.queue_bytes -= batch.data.len();
            return Input::Batch(batch);
        }
        Input::Continue
    }

    pub(super) fn is_drained(&self) -> bool {
        self.progress == Progress::NeedInput && self.queue.is_empty()
    }
}

impl Partition {
    /// Does one step of computation and seals the epoch when it is time.
    pub(super) fn run(&mut self, now: u64, _store: &mut dyn Store) {
        let Phase::Running(running) = &mut self.phase else { return };
        if !running.has_work() {
            return;
        }
        let input = running.next_input();
        self.step(input, now);
        self.pump(now);
    }

    fn step(&mut self, input: Input, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        let before = (running.engine.position(), running.engine.watermark(), running.effects.records.rows.len());
        match running.engine.step(input, &mut running.effects) {
            Ok(progress) => {
                running.progress = progress;
                let after = (running.engine.position(), running.engine.watermark(), running.effects.records.rows.len());
                if before != after {
                    running.opened_at.get_or_insert(now);
                }
            }
            Err(error) => self.step_failed(error, now),
        }
    }

    /// Whatever can be started now: seal, publish, fetch, end.
    pub(super) fn pump(&mut self, now: u64) {
        self.seal_if_due(now);
        let Phase::Running(running) = &mut self.phase else { return };
        let hungry = running.queue_bytes < QUEUE_BYTES_MAX && running.queue.len() < QUEUE_BATCHES_MAX;
        let wanted = !self.config.drain || running.last_fetched < running.drain_until || !running.caught_up;
        if running.fetch.is_none() && hungry && wanted && now >= running.fetch_after && self.stopping.is_none() {
            let asked = self.ask(Request::Fetch { events: FETCH_EVENTS, bytes: FETCH_BYTES }, now);
            if let Phase::Running(running) = &mut self.phase {
                running.fetch = Some(asked);
            }
        }
        self.end_if_drained(now);
    }

    /// With `drain`, ends when everything that the input held is committed. Windows stay open: more may come.
    fn end_if_drained(&mut self, now: u64) {
        let Phase::Running(running) = &self.phase else { return };
        let is_committed = running.inflight.is_none() && running.sealed.is_none() && running.opened_at.is_none();
        if self.config.drain
            && (running.caught_up || running.last_fetched >= running.drain_until)
            && running.is_drained()
            && is_committed
            && running.unapplied.is_empty()
        {
            self.stop(now);
        }
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
            running.progress == Progress::Full || running.effects.totals.received >= u64::from(limits.epoch_events);
        let ripe = running.inflight.is_none()
            && (age >= limits.epoch_time.0.unsigned_abs() || (running.is_drained() && age >= LINGER_MS));
        if full || ripe {
            self.seal(now);
        }
    }

    fn seal(&mut self, now: u64) {
        let nonce = self.nonce();
        let Phase::Running(running) = &mut self.phase else { return };
        let state_bytes = running.engine.state_bytes();
        if state_bytes as u64 > self.plan.limits.state {
            let evidence = format!("state has {state_bytes} bytes, limit {} (`limits.state`)", self.plan.limits.state);
            return self.halt(Halted::new("state-full", evidence));
        }
        let totals = running.effects.totals;
        if !totals.balanced() {
            return self.halt(Halted::new("conservation", format!("events do not add up: {totals:?}")));
        }
        let mut delta = Vec::new();
        let mut position = running.engine.cut(&mut delta);
        if self.config.mutants.position_ahead {
            position.sequence = running.last_fetched;
        }
        let records = std::mem::take(&mut running.effects.records);
        let watermark = running.engine.watermark();
        let facts = Facts {
            nonce,
            input: running.input.clone(),
            log: running.log.clone(),
            position,
            seen: running.seen(position.sequence),
            watermark: watermark.0,
            modules: running.engine.digests().to_vec(),
            layout: running.engine.layout(),
            lease: self.lease.as_ref().map_or(0, |lease| lease.revision),
            totals,
        };
        running.delta_bytes += delta.len();
        let epoch = Epoch::seal(running.last.as_ref(), facts, records, delta);
        let marker = &epoch.marker;
        running.epochs_unsnapped += 1;
        let snap = running.saving.is_none()
            && (running.delta_bytes >= self.config.snapshot_bytes
                || running.epochs_unsnapped >= self.config.snapshot_epochs);
        let snapshot = (snap && !self.config.mutants.late_snapshot).then(|| running.engine.snapshot());
        if snap {
            (running.delta_bytes, running.epochs_unsnapped) = (0, 0);
        }
        let facts = Committed {
            epoch: marker.epoch,
            position: position.sequence,
            watermark: watermark.0,
            published: running.engine.published(),
            totals,
            totals_sum: marker.totals_sum,
            dead_by_code: running.effects.dead_by_code.iter().map(|(code, count)| (code.clone(), *count)).collect(),
            records_by_output: running.effects.records_by_output.clone(),
            faults_by_stage: running.effects.faults_by_stage.iter().map(|(stage, count)| (*stage, *count)).collect(),
            state_bytes,
            epoch_ms: now.saturating_sub(running.opened_at.unwrap_or(now)),
            commit_ms: 0,
            pending: running.pending,
        };
        running.effects.clear();
        running.opened_at = None;
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
            if !self.config.mutants.forget_fetch {
                return self.recover("a fetch was not answered".into(), now, store);
            }
        }
        if running.saving.is_some_and(|asked| now >= asked.at + 6 * answer_ms) {
            running.saving = None;
        }
        self.tick_idle(now);
        self.tick_commit(now, store);
        self.pump(now);
    }

    /// Lets event time go on when the source is silent.
    fn tick_idle(&mut self, now: u64) {
        let idle = self.plan.source.watermark.idle;
        let Phase::Running(running) = &mut self.phase else { return };
        let (Some(idle), Some(since)) = (idle, running.silent_since) else { return };
        let silent = Span(now.saturating_sub(since) as i64);
        if silent >= idle
            && running.is_drained()
            && running.sealed.is_none()
            && running.engine.watermark() != EventTime::MAX
        {
            running.progress = Progress::More;
            self.step(Input::Idle(silent), now);
        }
    }

    pub(super) fn running_answer(&mut self, ticket: Ticket, response: Response, now: u64, store: &mut dyn Store) {
        let (keep_duplicates, ignore_restart) =
            (self.config.mutants.keep_duplicates, self.config.mutants.ignore_restart);
        let retry_ms = self.config.retry_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        let is = |asked: Option<Asked>| asked.is_some_and(|asked| asked.ticket == ticket);
        if is(running.fetch) {
            running.fetch = None;
            match response {
                // The stream may not be what it was: check it against the position before anything more is taken.
                Response::Fetched(fetched) if fetched.restarted && !ignore_restart => {
                    return self.recover("the consumer was lost".into(), now, store);
                }
                Response::Fetched(fetched) => running.take(fetched, now, keep_duplicates),
                Response::Missing { stream } => {
                    return self.recover(format!("stream `{stream}` is missing"), now, store);
                }
                other => {
                    running.fetch_after = now + retry_ms;
                    // Not reachable is not silent.
                    running.silent_since = None;
                    running.caught_up = false;
                    let reason = format!("no events: {}", describe(&other));
                    self.tell(Notice::Paused { reason });
                }
            }
        } else if is(running.saving) {
            running.saving = None;
        } else if let Some(look) = running.check.take_if(|look| is(Some(look.asked))) {
            self.checked(look, &response, now, store);
        } else if running.inflight.as_ref().is_some_and(|inflight| is(inflight.asked())) {
            self.commit_answer(response, now, store);
        }
        self.pump(now);
    }
}
