//! Running: fetch, compute, seal.

use std::sync::Arc;

use crate::epoch::{Epoch, Place};
use crate::log::{Hole, HoleCause, Request, Response};
use crate::seal::close;
use crate::step::{Input, Progress};
use crate::store::Store;
use crate::time::{EventTime, Span};

use super::recover::Halted;
use super::running::{Next, Queued, Running, Saving, Sealed};
use super::{Asked, Committed, Notice, Partition, Phase, RecoveryCause, Ticket, describe};

/// Events asked for at a time.
const FETCH_EVENTS: u32 = 8_192;
const FETCH_BYTES: u32 = 8 << 20;
/// No fetch while this much waits.
const QUEUE_BYTES_MAX: usize = 16 << 20;
const QUEUE_BATCHES_MAX: usize = 4;
/// An epoch is not sealed earlier than this after its first event, unless it is full.
const LINGER_MS: u64 = 5;

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
