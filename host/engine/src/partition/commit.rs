//! Committing: publish behind the fence, read doubtful outcomes from the marker, apply, acknowledge.

use std::sync::Arc;

use crate::epoch::{Epoch, RUN_SHIFT};
use crate::log::{AllDelivered, Published, Request, Response, Snapshot, StoredMarker, StreamFacts, Survey};
use crate::store::{Store, StoreError};

use super::recover::check_input;
use super::recovery::fence_of;
use super::run::Look;
use super::{Asked, Committed, Notice, Partition, Phase, describe};

/// Look at the marker and the input at least every so many epochs.
const EPOCHS_UNCHECKED_MAX: u64 = 50;

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
    sealed: Sealed,
    first_at: u64,
    state: State,
}

enum State {
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
            State::Publishing(asked) | State::Resolving(asked) => Some(asked),
            State::Waiting { .. } => None,
        }
    }
}

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
            running.inflight = Some(InFlight { sealed, first_at: now, state: State::Publishing(asked) });
        }
    }

    pub(super) fn commit_answer(&mut self, response: Response, now: u64, store: &mut dyn Store) {
        let mutants = self.config.mutants;
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(inflight) = &mut running.inflight else { return };
        let epoch = inflight.sealed.epoch.marker.epoch;
        match (&inflight.state, response) {
            (State::Publishing(_), Response::Published(Published::Stored { sequence })) => {
                self.committed_at(sequence, now, store)
            }
            (State::Publishing(_), Response::Published(Published::Rejected(_))) if mutants.rejected_is_success => {
                let sequence = running.head.as_ref().map_or(0, |head| head.sequence) + 1;
                self.committed_at(sequence, now, store);
            }
            (State::Publishing(_), Response::Published(Published::Unknown(_))) if mutants.unknown_is_success => {
                let sequence = running.head.as_ref().map_or(0, |head| head.sequence) + 1;
                self.committed_at(sequence, now, store);
            }
            (State::Publishing(_), Response::Published(Published::Refused(reason))) => {
                inflight.state = State::Waiting { until: now + self.config.retry_ms };
                self.tell(Notice::Paused { reason: format!("epoch {epoch} was refused: {reason}") });
            }
            (State::Publishing(_), response) => {
                let reason = match response {
                    Response::Published(Published::Rejected(reason) | Published::Unknown(reason)) => reason,
                    other => describe(&other),
                };
                self.tell(Notice::Doubt { epoch, reason });
                self.resolve(now);
            }
            (State::Resolving(_), Response::Survey(survey)) => self.resolved(&survey, now, store),
            (State::Resolving(_), Response::Missing { stream }) => {
                self.recover(format!("stream `{stream}` is missing"), now, store)
            }
            (State::Resolving(_) | State::Waiting { .. }, other) => {
                inflight.state = State::Waiting { until: now + self.config.retry_ms };
                self.tell(Notice::Paused { reason: format!("the marker cannot be read: {}", describe(&other)) });
            }
        }
    }

    /// Asks the marker what became of the epoch in flight.
    fn resolve(&mut self, now: u64) {
        let asked = self.ask(Request::Survey { input_sequence: None, epoch: None }, now);
        if let Phase::Running(running) = &mut self.phase
            && let Some(inflight) = &mut running.inflight
        {
            inflight.state = State::Resolving(asked);
        }
    }

    fn resolved(&mut self, survey: &Survey, now: u64, store: &mut dyn Store) {
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(inflight) = &mut running.inflight else { return };
        let mine = &inflight.sealed.epoch.marker;
        let found = survey.marker.as_ref();
        if found.is_some_and(|found| found.marker.epoch == mine.epoch && found.marker.nonce == mine.nonce) {
            let sequence = found.expect("checked above").sequence;
            return self.committed_at(sequence, now, store);
        }
        let before = found.map_or((0, 0), |found| (found.marker.epoch, found.marker.nonce));
        if before == (mine.epoch - 1, mine.prev_nonce) && survey.input.identity == running.input {
            // Not stored: the same bytes again. If an earlier attempt lands first, the fence rejects this one.
            running.head = found.cloned();
            let fence = fence_of(running.head.as_ref());
            let epoch = inflight.sealed.epoch.clone();
            let asked = self.ask(Request::Publish { epoch, fence }, now);
            if let Phase::Running(running) = &mut self.phase
                && let Some(inflight) = &mut running.inflight
            {
                inflight.state = State::Publishing(asked);
            }
            return;
        }
        if self.config.mutants.keep_state_after_fence {
            let found = found.cloned();
            return self.adopt_foreign_head(found, now);
        }
        self.recover(format!("fenced: the stream is at epoch {}, not at ours", before.0), now, store);
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
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(InFlight { sealed, first_at, .. }) = running.inflight.take() else { return };
        let Sealed { epoch, mut facts, snapshot, snap } = sealed;
        facts.commit_ms = now.saturating_sub(first_at);
        let position = epoch.marker.position.sequence;
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
                }
                Err(StoreError::Damaged(reason)) => {
                    self.quarantine(&reason, now, store);
                    return false;
                }
                Err(error) => {
                    running.apply_after = now + self.config.retry_ms;
                    self.tell(Notice::Paused { reason: error.to_string() });
                    return false;
                }
            }
        }
        true
    }

    fn save_snapshot(&mut self, state: Vec<u8>, now: u64, store: &mut dyn Store) {
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(stored) = running.head.clone() else { return };
        let snapshot = Arc::new(Snapshot { stored, state });
        if let Err(error) = store.compact(&snapshot) {
            // The previous generation goes on; the next snapshot tries again.
            self.tell(Notice::Paused { reason: format!("compaction: {error}") });
        }
        let asked = self.ask(Request::SaveSnapshot { snapshot }, now);
        if let Phase::Running(running) = &mut self.phase {
            running.saving = Some(asked);
        }
    }

    pub(super) fn tick_commit(&mut self, now: u64, store: &mut dyn Store) {
        let answer_ms = self.config.answer_ms;
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(inflight) = &mut running.inflight {
            match inflight.state {
                State::Waiting { until } if now >= until => self.resolve(now),
                State::Publishing(asked) | State::Resolving(asked) if now >= asked.at + answer_ms => self.resolve(now),
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

    /// Looks at marker and input again: an idle partition must notice that the stream lost its tail.
    fn check_if_due(&mut self, now: u64, epochs: u64) {
        let (interval, never) = (self.config.idle_check_ms, self.config.mutants.no_idle_check);
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(lost) = running.check.take_if(|look| now >= look.asked.at + 2 * interval) {
            running.jumped_at = lost.jumped_at.or(running.jumped_at);
        }
        let idle = now >= running.checked_at + interval && running.inflight.is_none();
        let due = idle || running.epochs_unchecked >= epochs;
        if never || running.check.is_some() || !due {
            return;
        }
        let head = running.head.clone();
        let sequence = head.as_ref().map(|head| head.marker.position.sequence).filter(|&sequence| sequence > 0);
        let asked = self.ask(Request::Survey { input_sequence: sequence, epoch: None }, now);
        if let Phase::Running(running) = &mut self.phase {
            let jumped_at = running.jumped_at.take();
            running.check = Some(Look { asked, head, jumped_at });
            (running.checked_at, running.epochs_unchecked) = (now, 0);
        }
    }

    /// The answer to the periodic look.
    pub(super) fn checked(&mut self, look: Look, response: &Response, now: u64, store: &mut dyn Store) {
        let life = self.life();
        let Phase::Running(running) = &mut self.phase else { return };
        let survey = match response {
            Response::Survey(survey) => survey,
            Response::Missing { stream } => return self.recover(format!("stream `{stream}` is missing"), now, store),
            _ => {
                running.jumped_at = look.jumped_at.or(running.jumped_at);
                return;
            }
        };
        if survey.input.identity != running.input {
            return self.recover("the input stream was created anew".into(), now, store);
        }
        let place = |head: Option<&StoredMarker>| head.map(|head| (head.sequence, head.marker.nonce));
        // The marker is compared only when nothing was committed or in flight meanwhile; else the fence looks at it.
        let is_still = running.inflight.is_none() && running.epochs_unchecked == 0;
        let head = look.head.as_ref();
        if is_still && place(survey.marker.as_ref()) != place(head) {
            return self.recover("the pipeline stream is not where we left it".into(), now, store);
        }
        let Some(head) = head.filter(|_| !self.config.mutants.no_input_check) else { return };
        let jumped_at = look.jumped_at.or(running.jumped_at).filter(|_| survey.is_alone);
        let seen = jumped_at.unwrap_or_else(|| running.seen(running.last_fetched));
        if let Err(halted) = check_input(head.marker.position, seen, survey) {
            // Another host may have read on, and what it read may be gone by now: only our own chain can miss events.
            let nonce = survey.marker.as_ref().map(|stored| stored.marker.nonce);
            let is_ours = |nonce: u128| nonce == head.marker.nonce || nonce >> RUN_SHIFT == life >> RUN_SHIFT;
            if nonce.is_some_and(is_ours) {
                return self.halt(halted);
            }
            running.jumped_at = look.jumped_at.or(running.jumped_at);
            return;
        }
        let read = running.engine.position().sequence;
        let is_read = |proof: &AllDelivered| proof.delivered <= read || self.config.mutants.delivered_is_read;
        if let Some(proof) = survey.all_delivered.filter(is_read) {
            running.all_delivered = proof;
        }
        // A quiet partition says so before the messages around its position expire: twice per retention time.
        let StreamFacts { first_sequence: first, last_sequence: last, .. } = survey.input;
        let is_stale = first > 1 && head.marker.seen < first + last.saturating_sub(first) / 2;
        if is_stale && is_still && head.marker.seen < running.seen(running.last_fetched) {
            running.opened_at.get_or_insert(now);
        }
    }
}
