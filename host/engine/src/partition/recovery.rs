//! Recovery, step by step: load, survey, decide, republish or replay or rebuild (`rebuild`), check the input, reset, run.

mod load;
mod rebuild;

use std::sync::Arc;

use crate::codes::HaltCode;
use crate::epoch::{Position, StreamIdentity};
use crate::log::{Published, Request, Response, StoredMarker, Survey};
use crate::step::Engine;
use crate::store::{Discard, Local, OUTBOX_MAX, Store, StoreError};

use super::compatible::{holds_all, is_compatible};
use super::recover::{Decision, Halted, check_position, decide};
use super::running::{Running, Unsnapped, fence_of};
use super::{Asked, FRUITLESS_MAX, Lease, Notice, Partition, Phase, RecoveryCause, Ticket, describe};
use load::Loading;

/// A stream may be missing for this long while a broker starts; then it is gone.
const MISSING_MS: u64 = 10_000;
/// How often the changes must fail to lead to the same marker before that counts as a fault of the stream.
const LOOKS: u32 = 4;

/// Where recovery stands.
pub(super) struct Recovery {
    asked: Option<Asked>,
    /// When to ask again after an environment fault.
    retry_at: u64,
    missing_since: Option<u64>,
    decision: &'static str,
    local: Option<Local>,
    /// The pipeline stream that was decided upon.
    log: Option<StreamIdentity>,
    /// Epoch of the newest snapshot in the bucket, and bytes of the deltas that came after the state that was loaded.
    snapshot_epoch: Option<u64>,
    delta_bytes: usize,
    step: Step,
}

#[expect(clippy::large_enum_variant, reason = "there is one per partition")]
enum Step {
    Survey,
    /// Epochs of the outbox, one after the other; `base` is the marker that the stream has now.
    Republish {
        next: u64,
        last: u64,
        base: Option<StoredMarker>,
    },
    /// `epoch_max`: no newer one; those above it did not lead to the target.
    FindSnapshot {
        target: StoredMarker,
        reason: &'static str,
        epoch_max: u64,
    },
    /// In many answers, each with a time limit of its own: a large state may take as long as it needs.
    ReadSnapshot {
        target: StoredMarker,
        reason: &'static str,
        loading: Loading,
    },
    Changes {
        engine: Box<Engine>,
        at: Option<StoredMarker>,
        after: u64,
        target: StoredMarker,
        rebuild: Option<Base>,
    },
    CheckInput {
        engine: Box<Engine>,
        head: Option<StoredMarker>,
    },
    Reset {
        engine: Box<Engine>,
        head: Option<StoredMarker>,
        survey: Box<Survey>,
    },
    /// The same look once more: what changed before the reset would be seen by nobody after it.
    Confirm {
        engine: Box<Engine>,
        head: Option<StoredMarker>,
        survey: Box<Survey>,
    },
}

/// What a rebuild starts from.
#[derive(Clone, Copy)]
struct Base {
    reason: &'static str,
    /// Epoch of the snapshot, 0 without one.
    epoch: u64,
}

impl Recovery {
    pub(super) fn waits_for(&self, ticket: Ticket) -> bool {
        self.asked.is_some_and(|asked| asked.ticket == ticket)
    }
}

impl Partition {
    /// Leaves everything in memory behind and starts over from what is stored; at once, or later when that has led to
    /// nothing again and again.
    pub(super) fn recover(&mut self, cause: RecoveryCause, reason: String, now: u64, store: &mut dyn Store) {
        self.fruitless = self.fruitless.saturating_add(1);
        self.tell(Notice::Recovering { cause, reason: reason.clone() });
        if self.fruitless < FRUITLESS_MAX {
            return self.start_over(now, store);
        }
        let attempts = self.fruitless;
        self.tell(Notice::Stuck { position: self.position, attempts, reason });
        self.phase = Phase::Paused { until: now + self.config.backoff_ms(attempts - FRUITLESS_MAX + 1) };
    }

    /// Begins with what the local store holds.
    pub(super) fn start_over(&mut self, now: u64, store: &mut dyn Store) {
        match store.load() {
            Ok(local) => {
                self.refused_since = None;
                self.start_recovery(local, now);
            }
            Err(StoreError::Damaged(reason)) => self.quarantine(&reason, now, store),
            Err(StoreError::Environment(reason)) => self.store_pauses(reason, now),
            Err(error @ StoreError::Format(_)) => self.halt(Halted::new(HaltCode::StoreFormat, error.to_string())),
            Err(error @ StoreError::InUse(_)) => self.halt(Halted::new(HaltCode::StoreInUse, error.to_string())),
        }
    }

    /// Sets a damaged store aside and recovers from the stream alone.
    pub(super) fn quarantine(&mut self, reason: &str, now: u64, store: &mut dyn Store) {
        match store.rebase(None, Discard::Damaged(reason)) {
            Ok(()) => {
                self.refused_since = None;
                self.tell(Notice::Quarantined { reason: reason.into() });
                self.start_recovery(None, now);
            }
            Err(error) => self.store_pauses(error.to_string(), now),
        }
    }

    fn store_pauses(&mut self, reason: String, now: u64) {
        self.store_refuses(reason, now);
        self.phase = Phase::Paused { until: now + self.config.retry_ms };
    }

    fn start_recovery(&mut self, local: Option<Local>, now: u64) {
        let recovery = Recovery {
            asked: None,
            retry_at: now,
            missing_since: None,
            decision: "start",
            delta_bytes: local.iter().flat_map(|local| &local.deltas).map(Vec::len).sum(),
            local,
            log: None,
            snapshot_epoch: None,
            step: Step::Survey,
        };
        self.phase = Phase::Recovering(Box::new(recovery));
        self.ask_next(now);
    }

    /// Asks the question of the current step.
    fn ask_next(&mut self, now: u64) {
        let Phase::Recovering(recovery) = &self.phase else { return };
        let request = match &recovery.step {
            Step::Survey => {
                let head = recovery.local.as_ref().map(|local| &local.head.marker);
                let sequence = head.map(|marker| marker.position.sequence).filter(|&sequence| sequence > 0);
                Request::Survey { input_sequence: sequence, epoch: head.map(|marker| marker.epoch), history: true }
            }
            // Asked when the epoch is read from the outbox.
            Step::Republish { .. } => return,
            Step::FindSnapshot { epoch_max, .. } => Request::FindSnapshot { epoch_max: *epoch_max },
            Step::ReadSnapshot { loading, .. } => loading.next(),
            Step::Changes { after, target, .. } => Request::Changes { after: *after, up_to: target.sequence },
            Step::CheckInput { head, .. } | Step::Confirm { head, .. } => {
                let sequence = head.as_ref().map(|head| head.marker.position.sequence).filter(|&sequence| sequence > 0);
                Request::Survey { input_sequence: sequence, epoch: None, history: false }
            }
            Step::Reset { head, survey, .. } => {
                let next = position_of(head.as_ref()).sequence + 1;
                Request::Reset { next, read_through: seen_in(head.as_ref(), survey).max(next - 1) }
            }
        };
        let asked = self.ask(request, now);
        if let Phase::Recovering(recovery) = &mut self.phase {
            recovery.asked = Some(asked);
        }
    }

    pub(super) fn tick_recovery(&mut self, now: u64, store: &mut dyn Store) {
        let Phase::Recovering(recovery) = &mut self.phase else { return };
        let lost = recovery.asked.is_some_and(|asked| now >= asked.at + self.config.answer_ms);
        let retry = recovery.asked.is_none() && now >= recovery.retry_at;
        if !lost && !retry {
            return;
        }
        recovery.asked = None;
        if matches!(recovery.step, Step::Republish { .. }) {
            // Whether the lost publish landed, only the marker knows.
            return self.recover(
                RecoveryCause::CommitUnknown,
                "an epoch of the outbox was not confirmed".into(),
                now,
                store,
            );
        }
        self.ask_next(now);
    }

    pub(super) fn recovery_answer(&mut self, response: Response, now: u64, store: &mut dyn Store) {
        let Phase::Recovering(recovery) = std::mem::replace(&mut self.phase, Phase::Halted) else { return };
        let mut recovery = *recovery;
        recovery.asked = None;
        match (&recovery.step, response) {
            (_, Response::Unavailable(reason)) => {
                self.tell(Notice::Paused { reason });
                recovery.retry_at = now + self.config.retry_ms;
                self.phase = Phase::Recovering(Box::new(recovery));
            }
            (_, Response::Missing { stream }) => self.missing(recovery, &stream, now),
            (_, Response::OtherFormat(evidence)) => self.step_aside(evidence, now),
            (Step::Changes { rebuild, target, .. }, Response::Damaged(evidence)) => {
                let (rebuild, target) = (*rebuild, target.clone());
                self.chain_broken(recovery, target, rebuild, HaltCode::PipelineStreamDamaged, evidence, now);
            }
            (Step::ReadSnapshot { .. }, Response::Damaged(reason)) => self.snapshot_damaged(recovery, reason, now),
            (_, Response::Damaged(reason)) => self.halt(Halted::new(HaltCode::PipelineStreamDamaged, reason)),
            (Step::Survey, Response::Survey(survey)) => self.decided(recovery, &survey, now, store),
            (Step::Republish { .. }, Response::Published(published)) => {
                self.republished(recovery, published, now, store)
            }
            (Step::FindSnapshot { .. }, Response::SnapshotFound(found)) => self.snapshot_found(recovery, found, now),
            (Step::ReadSnapshot { .. }, Response::PartRead(bytes)) => self.snapshot_read(recovery, &bytes, now),
            (Step::Changes { .. }, Response::Changes(changes)) => self.changes_read(recovery, changes, now, store),
            (Step::CheckInput { .. }, Response::Survey(survey)) => self.input_checked(recovery, survey, now, store),
            (Step::Reset { .. }, Response::Reset) => self.confirm(recovery, now),
            (Step::Confirm { .. }, Response::Survey(survey)) => self.confirmed(recovery, &survey, now, store),
            (_, other) => {
                self.tell(Notice::Paused { reason: describe(&other) });
                recovery.retry_at = now + self.config.retry_ms;
                self.phase = Phase::Recovering(Box::new(recovery));
            }
        }
    }

    /// Another version of Pelton works on this partition, or should: this one touches nothing and gives the lease back.
    fn step_aside(&mut self, evidence: String, now: u64) {
        if let Some(Lease { revision, .. }) = self.lease.take() {
            self.ask(Request::ReleaseLease { revision }, now);
        }
        self.halt(Halted::new(HaltCode::PipelineStreamFormat, evidence));
    }

    fn missing(&mut self, mut recovery: Recovery, stream: &str, now: u64) {
        let since = *recovery.missing_since.get_or_insert(now);
        if now >= since + MISSING_MS {
            let evidence =
                format!("stream `{stream}` does not exist; `pelton up` creates it, an old one is gone with its data");
            return self.halt(Halted::new(HaltCode::StreamMissing, evidence));
        }
        self.tell(Notice::Paused { reason: format!("stream `{stream}` does not exist") });
        recovery.retry_at = now + self.config.retry_ms;
        self.phase = Phase::Recovering(Box::new(recovery));
    }

    fn proceed(&mut self, mut recovery: Recovery, step: Step, now: u64) {
        recovery.step = step;
        self.phase = Phase::Recovering(Box::new(recovery));
        self.ask_next(now);
    }

    fn decided(&mut self, mut recovery: Recovery, survey: &Survey, now: u64, store: &mut dyn Store) {
        let mutants = self.config.mutants();
        let mut survey = survey.clone();
        if let Some(local) = recovery.local.as_ref().filter(|_| mutants.any_log) {
            survey.log.identity = local.head.marker.pipeline_stream.clone();
        }
        let survey = &survey;
        let mut decision =
            decide(recovery.local.as_ref(), survey, &mut |first, last| outbox_reaches(store, first, last));
        if self.config.mutants().no_ancestor_check {
            decision = without_ancestor_check(decision, recovery.local.as_ref());
        }
        recovery.log = Some(survey.log.identity.clone());
        recovery.snapshot_epoch = survey.snapshot_epoch;
        recovery.decision = match &decision {
            Decision::Start => "start",
            Decision::Continue { .. } => "continue",
            Decision::Republish { .. } => "republish",
            Decision::Replay { .. } => "replay",
            Decision::Rebuild { .. } => "rebuild",
            Decision::Halt(_) => "halt",
        };
        match decision {
            Decision::Halt(halted) => self.halt(halted),
            Decision::Start => self.start_afresh(recovery, now, store),
            Decision::Continue { marker } => self.continue_from(recovery, marker, now, store),
            Decision::Republish { first, last, base } => {
                // Before anything is published: where the input was put back with the pipeline stream, publishing what
                // is newer than both would spoil them.
                let head = recovery.local.as_ref().map(|local| local.head.marker.position);
                if !mutants.republish_unchecked
                    && let Err(halted) = check_position(head.unwrap_or_default(), survey)
                    && !self.config.mutants().no_input_check
                {
                    return self.halt(halted);
                }
                recovery.step = Step::Republish { next: first, last, base };
                self.republish(recovery, now, store);
            }
            Decision::Replay { after, marker } => {
                let Some(engine) = self.restored(&mut recovery, now, store) else { return };
                let at = recovery.local.as_ref().map(|local| local.head.clone());
                let step = Step::Changes { engine: Box::new(engine), at, after, target: marker, rebuild: None };
                self.proceed(recovery, step, now);
            }
            Decision::Rebuild { marker, reason } => self.rebuild(recovery, marker, reason, now),
        }
    }

    /// Nothing was ever committed, or nothing but where the partition began.
    fn start_afresh(&mut self, recovery: Recovery, now: u64, store: &mut dyn Store) {
        if recovery.local.is_some()
            && let Err(error) = store.rebase(None, Discard::Outdated("it holds no event"))
        {
            return self.store_pauses(error.to_string(), now);
        }
        let recovery = Recovery { local: None, ..recovery };
        match (self.make_engine)() {
            Ok(engine) => self.proceed(recovery, Step::CheckInput { engine: Box::new(engine), head: None }, now),
            Err(error) => self.step_failed(error, now),
        }
    }

    fn rebuild(&mut self, recovery: Recovery, target: StoredMarker, reason: &'static str, now: u64) {
        let epoch_max = target.marker.epoch;
        self.proceed(recovery, Step::FindSnapshot { target, reason, epoch_max }, now);
    }

    fn continue_from(&mut self, mut recovery: Recovery, marker: StoredMarker, now: u64, store: &mut dyn Store) {
        let Some(engine) = self.restored(&mut recovery, now, store) else { return };
        self.proceed(recovery, Step::CheckInput { engine: Box::new(engine), head: Some(marker) }, now);
    }

    /// An engine with the state of the local store; on damage the store is set aside and recovery begins again.
    fn restored(&mut self, recovery: &mut Recovery, now: u64, store: &mut dyn Store) -> Option<Engine> {
        let mut engine = match (self.make_engine)() {
            Ok(engine) => engine,
            Err(error) => {
                self.step_failed(error, now);
                return None;
            }
        };
        let local = recovery.local.as_mut()?;
        if !self.config.mutants().any_layout
            && let Err(halted) = is_compatible(&local.head.marker, self.config.partition, &engine, None)
        {
            self.halt(halted);
            return None;
        }
        let snapshot = local.snapshot.take().map(|snapshot| snapshot.state);
        let deltas = std::mem::take(&mut local.deltas);
        for delta in snapshot.iter().chain(&deltas) {
            if let Err(damaged) = engine.restore(delta) {
                self.quarantine(&damaged.to_string(), now, store);
                return None;
            }
        }
        Some(engine)
    }

    fn republish(&mut self, mut recovery: Recovery, now: u64, store: &mut dyn Store) {
        let Step::Republish { next, base, .. } = &recovery.step else { return };
        let Ok(Some(epoch)) = store.outbox(*next) else {
            return self.pause(format!("epoch {next} left the outbox while it was published again"), now);
        };
        let request = Request::Publish { epoch: Arc::new(epoch), fence: fence_of(base.as_ref()) };
        recovery.asked = Some(self.ask(request, now));
        self.phase = Phase::Recovering(Box::new(recovery));
    }

    fn republished(&mut self, mut recovery: Recovery, published: Published, now: u64, store: &mut dyn Store) {
        let Published::Stored { sequence } = published else {
            return self.republish_failed(published, now);
        };
        let Step::Republish { next, last, base } = &mut recovery.step else { return };
        let Ok(Some(epoch)) = store.outbox(*next) else {
            return self.pause(format!("epoch {next} left the outbox while it was published again"), now);
        };
        let stored = StoredMarker { sequence, marker: epoch.marker };
        if *next == *last {
            return self.continue_from(recovery, stored, now, store);
        }
        *base = Some(stored);
        *next += 1;
        self.republish(recovery, now, store);
    }

    fn republish_failed(&mut self, published: Published, now: u64) {
        let Published::Permanent(reason) = published else {
            return self.pause(format!("publishing the outbox again: {published:?}"), now);
        };
        self.halt(Halted::new(HaltCode::BatchRefused, format!("an epoch of the outbox, published again: {reason}")));
    }

    fn input_checked(&mut self, recovery: Recovery, survey: Box<Survey>, now: u64, store: &mut dyn Store) {
        let Step::CheckInput { engine, head } = recovery.step else { return };
        let found = survey.marker.as_ref().map(|stored| stored.marker.nonce);
        if found != head.as_ref().map(|head| head.marker.nonce) {
            return self.recover(RecoveryCause::StreamChanged, "the marker changed during recovery".into(), now, store);
        }
        if recovery.log.as_ref().is_some_and(|log| *log != survey.log.identity) {
            return self.recover(
                RecoveryCause::StreamRecreated,
                "the pipeline stream was created anew".into(),
                now,
                store,
            );
        }
        if head.as_ref().is_some_and(|head| !head.marker.is_fresh() && head.marker.input != survey.input.identity) {
            return self.recover(
                RecoveryCause::StreamRecreated,
                "the input stream was created anew".into(),
                now,
                store,
            );
        }
        if let Err(halted) = self.check_input(head.as_ref(), &survey) {
            return self.halt(halted);
        }
        let recovery = Recovery { step: Step::Survey, ..recovery };
        if self.config.mutants().no_reset && position_of(head.as_ref()).sequence > 0 {
            let step = Step::Confirm { engine, head, survey };
            return self.start_running(Recovery { step, ..recovery }, now);
        }
        self.proceed(recovery, Step::Reset { engine, head, survey }, now);
    }

    /// Whether the input still holds what was consumed. What it lacks behind that is not judged here: another host may
    /// have read it without having committed it yet, so the fetch tells of it and both streams are looked at again.
    fn check_input(&self, head: Option<&StoredMarker>, survey: &Survey) -> Result<(), Halted> {
        if self.config.mutants().no_input_check {
            return Ok(());
        }
        check_position(position_of(head), survey)
    }

    fn confirm(&mut self, mut recovery: Recovery, now: u64) {
        let Step::Reset { engine, head, survey } = recovery.step else { return };
        let step = Step::Confirm { engine, head, survey };
        recovery.step = Step::Survey;
        if self.config.mutants().no_second_look {
            return self.start_running(Recovery { step, ..recovery }, now);
        }
        self.proceed(recovery, step, now);
    }

    fn confirmed(&mut self, recovery: Recovery, survey: &Survey, now: u64, store: &mut dyn Store) {
        let Step::Confirm { head, survey: before, .. } = &recovery.step else { return };
        let nonce = |stored: Option<&StoredMarker>| stored.map(|stored| stored.marker.nonce);
        let is_same = nonce(survey.marker.as_ref()) == nonce(head.as_ref())
            && survey.input.identity == before.input.identity
            && survey.log.identity == before.log.identity;
        if !is_same {
            return self.recover(RecoveryCause::StreamChanged, "a stream changed during recovery".into(), now, store);
        }
        if self.check_input(head.as_ref(), survey).is_err() {
            return self.recover(RecoveryCause::StreamChanged, "the input changed during recovery".into(), now, store);
        }
        self.start_running(recovery, now);
    }

    fn start_running(&mut self, recovery: Recovery, now: u64) {
        let Step::Confirm { mut engine, head, survey } = recovery.step else { return };
        let position = position_of(head.as_ref());
        engine.resume(position);
        if let Some(Err(halted)) = head.as_ref().map(|head| holds_all(&head.marker, &engine)) {
            return self.halt(halted);
        }
        #[cfg(feature = "mutants")]
        if self.config.mutants().held_lost {
            engine.forget_held();
        }
        self.unreached = None;
        self.position = position.sequence;
        self.runs = self.runs.wrapping_add(1) % (1 << 24);
        let epoch = head.as_ref().map_or(0, |head| head.marker.epoch);
        let (watermark, state_bytes, held) = (engine.watermark().0, engine.state_bytes(), engine.held());
        let counters = head.as_ref().map_or_else(Vec::new, |head| head.marker.counter_sums());
        self.tell(Notice::Running { epoch, decision: recovery.decision, watermark, state_bytes, held, counters });
        // A snapshot of a later epoch is of a past that the stream has lost.
        let since = recovery.snapshot_epoch.filter(|snapshot| *snapshot <= epoch).unwrap_or(0);
        let unsnapped = Unsnapped { epochs: epoch - since, bytes: recovery.delta_bytes };
        let seen = seen_in(head.as_ref(), &survey);
        let unsnapped = if self.config.mutants().unsnapped_reset { Unsnapped::default() } else { unsnapped };
        let mut running = Running::new(*engine, head, &survey, (seen, unsnapped), now);
        if self.config.mutants().no_first_marker {
            running.opened_at = None;
        }
        self.phase = Phase::Running(Box::new(running));
        self.pump(now);
    }
}

/// Whether the outbox holds every epoch of a range with the bytes that its marker promises.
fn outbox_reaches(store: &mut dyn Store, first: u64, last: u64) -> bool {
    last - first < OUTBOX_MAX as u64
        && (first..=last).all(|epoch| matches!(store.outbox(epoch), Ok(Some(epoch)) if epoch.is_whole()))
}

/// Position of a committed marker; 0 before the first one.
fn position_of(head: Option<&StoredMarker>) -> Position {
    head.map_or(Position::default(), |head| head.marker.position)
}

/// Up to where nothing of the partition is unread: as the marker says. Before the first one a partition begins wherever
/// the stream begins; an input that was made again after that is unread from its first message on.
fn seen_in(head: Option<&StoredMarker>, survey: &Survey) -> u64 {
    match head {
        Some(head) if head.marker.input == survey.input.identity => head.marker.read_through,
        Some(_) => 0,
        None => survey.input.first_sequence.saturating_sub(1),
    }
}

/// Mutant: takes any epoch for one of ours.
fn without_ancestor_check(decision: Decision, local: Option<&Local>) -> Decision {
    match (decision, local) {
        (Decision::Rebuild { marker, .. }, Some(local)) if marker.marker.epoch > local.head.marker.epoch => {
            Decision::Replay { after: local.head.sequence, marker }
        }
        (Decision::Rebuild { marker, .. }, Some(local)) if marker.marker.epoch == local.head.marker.epoch => {
            Decision::Continue { marker }
        }
        (decision, _) => decision,
    }
}
