//! Committing: publish behind the fence, read doubtful outcomes from the marker, apply, acknowledge.

use std::sync::Arc;

use crate::codes::HaltCode;
use crate::epoch::{Epoch, RUN_SHIFT};
use crate::log::{AllDelivered, Published, Request, Response, Snapshot, StoredMarker, StreamFacts, Survey};
use crate::store::{Store, StoreError};

use super::recover::{Halted, check_position, input_gap};
use super::running::{InFlight, Look, Sealed, Sent, fence_of};
use super::{FRUITLESS_MAX, Notice, Partition, Phase, RecoveryCause, describe};

/// Look at the marker and the input at least every so many epochs.
const EPOCHS_UNCHECKED_MAX: u64 = 50;

impl Partition {
    /// Publishes the sealed epoch when nothing else is in flight.
    pub(super) fn publish_sealed(&mut self, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        if running.inflight.is_some() || !running.unapplied.is_empty() {
            return;
        }
        let Some(sealed) = running.sealed.take() else { return };
        let fence = fence_of(running.head.as_ref());
        let asked = self.ask(Request::Publish { epoch: sealed.epoch.clone(), fence }, now);
        if let Phase::Running(running) = &mut self.phase {
            running.inflight = Some(InFlight { sealed, first_at: now, refusals: 0, state: Sent::Publishing(asked) });
        }
    }

    pub(super) fn commit_answer(&mut self, response: Response, now: u64, store: &mut dyn Store) {
        let mutants = self.config.mutants();
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(inflight) = &mut running.inflight else { return };
        let epoch = inflight.sealed.epoch.marker.epoch;
        match (&inflight.state, response) {
            (Sent::Publishing(_), Response::Published(Published::Stored { sequence })) => {
                self.committed_at(sequence, now, store)
            }
            (Sent::Publishing(_), Response::Published(Published::Rejected(_))) if mutants.rejected_is_success => {
                let sequence = running.head.as_ref().map_or(0, |head| head.sequence) + 1;
                self.committed_at(sequence, now, store);
            }
            (Sent::Publishing(_), Response::Published(Published::Unknown(_))) if mutants.unknown_is_success => {
                let sequence = running.head.as_ref().map_or(0, |head| head.sequence) + 1;
                self.committed_at(sequence, now, store);
            }
            (Sent::Publishing(_), Response::Published(Published::Refused(reason))) => {
                inflight.refusals = inflight.refusals.saturating_add(1);
                let (attempts, position) = (inflight.refusals, inflight.sealed.epoch.marker.position.sequence);
                inflight.state = Sent::Waiting { until: now + self.config.backoff_ms(attempts) };
                let reason = format!("epoch {epoch} was refused: {reason}");
                self.tell(if attempts < FRUITLESS_MAX {
                    Notice::Paused { reason }
                } else {
                    Notice::Stuck { position, attempts, reason }
                });
            }
            (Sent::Publishing(_), Response::Published(Published::Permanent(_))) if mutants.retry_permanent => {
                inflight.state = Sent::Waiting { until: now + self.config.retry_ms };
            }
            (Sent::Publishing(_), Response::Published(Published::Permanent(reason))) => {
                let Epoch { marker, .. } = &*inflight.sealed.epoch;
                let evidence = format!(
                    "epoch {epoch}, up to input sequence {}, with {} records in {} messages: {reason}",
                    marker.position.sequence,
                    marker.records,
                    inflight.sealed.epoch.messages()
                );
                self.halt(Halted::new(HaltCode::BatchRefused, evidence));
            }
            (Sent::Publishing(_), response) => {
                let reason = match response {
                    Response::Published(Published::Rejected(reason) | Published::Unknown(reason)) => reason,
                    other => describe(&other),
                };
                self.tell(Notice::Doubt { epoch, reason });
                self.resolve(now);
            }
            (Sent::Resolving(_), Response::Survey(survey)) => self.resolved(&survey, now, store),
            (Sent::Resolving(_), Response::Missing { stream }) => {
                self.recover(RecoveryCause::StreamMissing, format!("stream `{stream}` is missing"), now, store)
            }
            (Sent::Resolving(_) | Sent::Waiting { .. }, other) => {
                inflight.state = Sent::Waiting { until: now + self.config.retry_ms };
                self.tell(Notice::Paused { reason: format!("the marker cannot be read: {}", describe(&other)) });
            }
        }
    }

    /// Asks the marker what became of the epoch in flight.
    fn resolve(&mut self, now: u64) {
        let asked = self.ask(Request::Survey { input_sequence: None, epoch: None, history: false }, now);
        if let Phase::Running(running) = &mut self.phase
            && let Some(inflight) = &mut running.inflight
        {
            inflight.state = Sent::Resolving(asked);
        }
    }

    fn resolved(&mut self, survey: &Survey, now: u64, store: &mut dyn Store) {
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(inflight) = &mut running.inflight else { return };
        let mine = &inflight.sealed.epoch.marker;
        let mutants = self.config.mutants();
        let found = survey.marker.as_ref().filter(|_| survey.log.identity == running.log || mutants.any_log);
        if found.is_some_and(|found| found.marker.epoch == mine.epoch && found.marker.nonce == mine.nonce) {
            let sequence = found.expect("checked above").sequence;
            return self.committed_at(sequence, now, store);
        }
        let before = found.map_or((0, 0), |found| (found.marker.epoch, found.marker.nonce));
        let is_here = (survey.input.identity == running.input || mutants.doubt_ignores_input)
            && (survey.log.identity == running.log || mutants.any_log);
        if before == (mine.epoch - 1, mine.prev_nonce) && is_here {
            // Not stored: the same bytes again. If an earlier attempt lands first, the fence rejects this one.
            if !mutants.stale_fence {
                running.head = found.cloned();
            }
            let fence = fence_of(running.head.as_ref());
            let epoch = inflight.sealed.epoch.clone();
            let asked = self.ask(Request::Publish { epoch, fence }, now);
            if let Phase::Running(running) = &mut self.phase
                && let Some(inflight) = &mut running.inflight
            {
                inflight.state = Sent::Publishing(asked);
            }
            return;
        }
        if self.config.mutants().keep_state_after_fence {
            let found = found.cloned();
            return self.adopt_foreign_head(found, now);
        }
        self.recover(
            RecoveryCause::Fenced,
            format!("fenced: the stream is at epoch {}, not at ours", before.0),
            now,
            store,
        );
    }

    /// Mutant: goes on with the state in memory behind a marker of another host.
    fn adopt_foreign_head(&mut self, found: Option<StoredMarker>, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        (running.inflight, running.sealed) = (None, None);
        if let Some(found) = &found {
            running.last = Some(found.marker.clone());
        }
        running.head = found;
        self.pump(now);
    }

    fn committed_at(&mut self, sequence: u64, now: u64, store: &mut dyn Store) {
        self.fruitless = 0;
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(InFlight { sealed, first_at, .. }) = running.inflight.take() else { return };
        let Sealed { epoch, mut facts, snapshot, snap } = sealed;
        facts.commit_ms = now.saturating_sub(first_at);
        let position = epoch.marker.position.sequence;
        self.position = position;
        running.head = Some(StoredMarker { sequence, marker: epoch.marker.clone() });
        running.epochs_unchecked += 1;
        let snapshot = if snap && snapshot.is_none() { Some(running.engine.snapshot()) } else { snapshot };
        running.unapplied.push_back((epoch, sequence));
        self.tell(Notice::Committed(Box::new(facts)));
        if !self.apply(now, store) {
            return;
        }
        if position > 0 {
            self.ask(Request::Ack { sequence: position }, now);
        }
        if let Some(state) = snapshot {
            self.save_snapshot(state, now, store);
        }
        self.check_if_due(now, EPOCHS_UNCHECKED_MAX);
        self.publish_sealed(now);
    }

    /// Applies committed epochs to the store; false when it has to be tried again or everything starts over.
    fn apply(&mut self, now: u64, store: &mut dyn Store) -> bool {
        let Phase::Running(running) = &mut self.phase else { return false };
        while let Some((epoch, sequence)) = running.unapplied.front() {
            match store.apply(epoch, *sequence, &[]) {
                Ok(()) => {
                    running.unapplied.pop_front();
                    self.refused_since = None;
                }
                Err(StoreError::Damaged(reason)) => {
                    self.quarantine(&reason, now, store);
                    return false;
                }
                Err(error) => {
                    running.apply_after = now + self.config.retry_ms;
                    self.store_refuses(error.to_string(), now);
                    return false;
                }
            }
        }
        true
    }

    /// What a snapshot would have covered stays uncovered; after a while another one is taken.
    pub(super) fn snapshot_not_saved(&mut self, reason: String, now: u64) {
        let again_ms = self.config.snapshot_retry_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        (running.saving, running.snapshot_after) = (None, now + again_ms);
        self.tell(Notice::SnapshotNotSaved { reason });
    }

    fn save_snapshot(&mut self, state: Vec<u8>, now: u64, store: &mut dyn Store) {
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(stored) = running.head.clone() else { return };
        let layouts = running.engine.layouts().into_iter().map(str::to_owned).collect();
        let snapshot = Arc::new(Snapshot { stored, state });
        if let Err(error) = store.compact(&snapshot) {
            // The previous generation goes on; the next snapshot tries again.
            self.tell(Notice::SnapshotNotSaved { reason: format!("compaction: {error}") });
        }
        let asked = self.ask(Request::SaveSnapshot { snapshot, layouts }, now);
        if let Phase::Running(running) = &mut self.phase
            && let Some(saving) = &mut running.saving
        {
            saving.asked = Some(asked);
        }
    }

    pub(super) fn tick_commit(&mut self, now: u64, store: &mut dyn Store) {
        let answer_ms = self.config.answer_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(inflight) = &mut running.inflight {
            match inflight.state {
                Sent::Waiting { until } if now >= until => self.resolve(now),
                Sent::Publishing(asked) | Sent::Resolving(asked) if now >= asked.at + answer_ms => self.resolve(now),
                _ => {}
            }
        }
        let Phase::Running(running) = &mut self.phase else { return };
        if !running.unapplied.is_empty() && now >= running.apply_after {
            let position = running.head.as_ref().map_or(0, |head| head.marker.position.sequence);
            if self.apply(now, store) {
                self.ask(Request::Ack { sequence: position }, now);
                self.publish_sealed(now);
            }
        }
        self.tick_sync(now, store);
        self.check_if_due(now, u64::MAX);
    }

    fn tick_sync(&mut self, now: u64, store: &mut dyn Store) {
        let sync_ms = self.config.sync_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        if now < running.synced_at + sync_ms {
            return;
        }
        running.synced_at = now;
        if let Err(error) = store.sync() {
            // A failed sync is final for the handle: what it holds is no longer known.
            self.quarantine(&error.to_string(), now, store);
        }
    }

    /// Looks at marker and input again: an idle partition must notice that the stream lost its tail, and a quiet one
    /// beside busy ones has to prove what it has read before that expires.
    fn check_if_due(&mut self, now: u64, epochs: u64) {
        let interval = self.config.idle_check_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        running.check.take_if(|look| now >= look.asked.at + 2 * interval);
        let idle = now >= running.checked_at + interval.min(running.check_ms) && running.inflight.is_none();
        if idle || running.epochs_unchecked >= epochs {
            self.look(now);
        }
    }

    /// Asks what both streams hold, unless that has been asked already.
    pub(super) fn look(&mut self, now: u64) {
        let Phase::Running(running) = &mut self.phase else { return };
        if self.config.mutants().no_idle_check || running.check.is_some() {
            return;
        }
        let head = running.head.clone();
        let sequence = head.as_ref().map(|head| head.marker.position.sequence).filter(|&sequence| sequence > 0);
        let asked = self.ask(Request::Survey { input_sequence: sequence, epoch: None, history: false }, now);
        if let Phase::Running(running) = &mut self.phase {
            running.check = Some(Look { asked, head });
            (running.checked_at, running.epochs_unchecked) = (now, 0);
        }
    }

    /// Input is lost: what came before it is committed first, then both streams are looked at once more, because a host
    /// that was displaced must not take for lost what another one has read.
    pub(super) fn look_at_hole(&mut self, now: u64) {
        let Phase::Running(running) = &self.phase else { return };
        if running.is_settled() {
            self.look(now);
        }
    }

    /// The answer to the periodic look.
    pub(super) fn checked(&mut self, look: Look, response: &Response, now: u64, store: &mut dyn Store) {
        let must_halt = self.must_halt_at_hole();
        let Phase::Running(running) = &mut self.phase else { return };
        let survey = match response {
            Response::Survey(survey) => survey,
            Response::Missing { stream } => {
                return self.recover(RecoveryCause::StreamMissing, format!("stream `{stream}` is missing"), now, store);
            }
            _ => return,
        };
        if survey.input.identity != running.input {
            return self.recover(
                RecoveryCause::StreamRecreated,
                "the input stream was created anew".into(),
                now,
                store,
            );
        }
        if survey.log.identity != running.log && !self.config.mutants().any_log {
            return self.recover(
                RecoveryCause::StreamRecreated,
                "the pipeline stream was created anew".into(),
                now,
                store,
            );
        }
        let place = |head: Option<&StoredMarker>| head.map(|head| (head.sequence, head.marker.nonce));
        // The marker is compared only when nothing was committed or in flight meanwhile; else the fence looks at it.
        let is_still = running.inflight.is_none() && running.epochs_unchecked == 0;
        if is_still && place(survey.marker.as_ref()) != place(look.head.as_ref()) {
            return self.recover(
                RecoveryCause::StreamChanged,
                "the pipeline stream is not where we left it".into(),
                now,
                store,
            );
        }
        if let Some(halted) = self.is_rolled_back(&look, survey) {
            return self.halt(halted);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(hole) = running.hole_ahead().filter(|_| must_halt && is_still && running.is_settled()) {
            return self.halt(input_gap((hole.first, hole.last), survey));
        }
        self.prove(survey, now);
        self.say_how_far(survey, is_still, now);
    }

    /// Whether the input is not what was consumed. Only our own chain can tell: another host may have read on.
    fn is_rolled_back(&self, look: &Look, survey: &Survey) -> Option<Halted> {
        let head = look.head.as_ref().filter(|_| !self.config.mutants().no_input_check)?;
        let halted = check_position(head.marker.position, survey).err()?;
        let life = self.life();
        let nonce = survey.marker.as_ref().map(|stored| stored.marker.nonce)?;
        (nonce == head.marker.nonce || nonce >> RUN_SHIFT == life >> RUN_SHIFT).then_some(halted)
    }

    /// Keeps a proof that nothing is unread, and decides when to look again: as often as the stream turns over, since
    /// what others have made expire since the last proof might have been ours.
    fn prove(&mut self, survey: &Survey, now: u64) {
        /// Looks per time in which the stream replaces all that it holds.
        const LOOKS: u64 = 4;
        const LOOK_MS_MIN: u64 = 100;
        let Phase::Running(running) = &mut self.phase else { return };
        let read = running.engine.position().sequence;
        let is_read = |proof: &AllDelivered| proof.delivered <= read || self.config.mutants().delivered_is_read;
        match survey.all_delivered.filter(is_read) {
            Some(proof) => (running.all_delivered, running.fruitless_looks) = (proof, 0),
            None => running.fruitless_looks += 1,
        }
        let StreamFacts { first_sequence: first, last_sequence: last, .. } = survey.input;
        let (at, before) = running.looked.replace((now, last)).unwrap_or((now, last));
        let (passed, arrived) = (now.saturating_sub(at), last.saturating_sub(before));
        running.check_ms = if first > 1 && arrived > 0 {
            let held = last.saturating_sub(first) + 1;
            (held.saturating_mul(passed) / arrived / LOOKS).max(LOOK_MS_MIN)
        } else {
            u64::MAX
        };
    }

    /// A quiet partition says how far it has read before the messages around its position expire: twice per retention
    /// time, but not more often than it takes to keep a silent day small.
    fn say_how_far(&mut self, survey: &Survey, is_still: bool, now: u64) {
        let quiet_ms = if self.config.mutants().quiet_says_nothing { u64::MAX / 2 } else { self.config.quiet_ms };
        let Phase::Running(running) = &mut self.phase else { return };
        let StreamFacts { first_sequence: first, last_sequence: last, .. } = survey.input;
        let said = running.head.as_ref().map_or(0, |head| head.marker.read_through);
        let is_stale = first > 1 && said < first + last.saturating_sub(first) / 2;
        let is_news = said < running.seen(running.last_fetched) && running.hole_ahead().is_none();
        if is_stale && is_still && is_news && now >= running.quiet_at + quiet_ms {
            running.quiet_at = now;
            running.opened_at.get_or_insert(now);
        }
    }
}
