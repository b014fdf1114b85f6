//! State from the stream: a snapshot, section by section, then the changes after it, link by link.

use super::super::compatible::is_compatible;
use super::super::recover::Halted;
use super::super::{Notice, Partition, Phase};
use super::load::Loading;
use super::{Base, LOOKS, Recovery, Step};
use crate::codes::HaltCode;
use crate::epoch::{Epoch, Manifest, Marker, roll, sha256};
use crate::log::{Change, Snapshot, StoredMarker};
use crate::store::{Discard, Store, StoreError};

impl Partition {
    /// Nothing of it is read before it is known that this engine can read it.
    pub(super) fn snapshot_found(&mut self, recovery: Recovery, found: Option<Box<Manifest>>, now: u64) {
        let Step::FindSnapshot { target, reason, .. } = &recovery.step else { return };
        let (target, reason) = (target.clone(), *reason);
        let engine = match (self.make_engine)() {
            Ok(engine) => Box::new(engine),
            Err(error) => return self.step_failed(error, now),
        };
        let (partition, any_layout) = (self.config.partition, self.config.mutants().any_layout);
        let fits = |marker: &Marker| {
            if any_layout { Ok(()) } else { is_compatible(marker, partition, &engine, found.as_deref()) }
        };
        if let Err(halted) = fits(&target.marker) {
            return self.halt(halted);
        }
        if let Some(Err(Halted { evidence, .. })) = found.as_ref().map(|manifest| fits(&manifest.marker)) {
            let epoch = found.map_or(0, |manifest| manifest.marker.epoch);
            return self.pass_over(recovery, (target, reason), epoch, evidence, now);
        }
        let step = match found {
            Some(manifest) => Step::ReadSnapshot { target, reason, loading: Loading::new(manifest, engine) },
            None => {
                let rebuild = Some(Base { reason, epoch: 0 });
                Step::Changes { engine, at: None, after: 0, target, rebuild }
            }
        };
        self.proceed(recovery, step, now);
    }

    pub(super) fn snapshot_read(&mut self, mut recovery: Recovery, bytes: &[u8], now: u64) {
        let mutants = self.config.mutants();
        let Step::ReadSnapshot { loading, .. } = &mut recovery.step else { return };
        match loading.take(bytes, mutants) {
            Err(evidence) => return self.snapshot_damaged(recovery, evidence, now),
            Ok(false) => {
                let progress = loading.progress();
                self.tell(progress);
                self.phase = Phase::Recovering(Box::new(recovery));
                return self.ask_next(now);
            }
            Ok(true) => {}
        }
        let Step::ReadSnapshot { target, reason, loading } = recovery.step else { return };
        let recovery = Recovery { step: Step::Survey, ..recovery };
        let Loading { manifest, engine, .. } = loading;
        let Manifest { marker, sequence: after, .. } = *manifest;
        let rebuild = Some(Base { reason, epoch: marker.epoch });
        let at = Some(StoredMarker { sequence: after, marker });
        self.proceed(recovery, Step::Changes { engine, at, after, target, rebuild }, now);
    }

    pub(super) fn snapshot_damaged(&mut self, recovery: Recovery, evidence: String, now: u64) {
        let Step::ReadSnapshot { target, reason, loading } = &recovery.step else { return };
        let (wanted, epoch) = ((target.clone(), *reason), loading.manifest.marker.epoch);
        self.pass_over(recovery, wanted, epoch, evidence, now);
    }

    /// An older snapshot and the changes after it may do as well.
    fn pass_over(
        &mut self,
        recovery: Recovery,
        (target, reason): (StoredMarker, &'static str),
        epoch: u64,
        evidence: String,
        now: u64,
    ) {
        self.tell(Notice::SnapshotPassedOver { epoch, reason: evidence });
        self.proceed(recovery, Step::FindSnapshot { target, reason, epoch_max: epoch.saturating_sub(1) }, now);
    }

    pub(super) fn changes_read(
        &mut self,
        mut recovery: Recovery,
        changes: Vec<Change>,
        now: u64,
        store: &mut dyn Store,
    ) {
        let (no_check, no_hash) = (self.config.mutants().no_chain_check, self.config.mutants().no_state_hash);
        let Step::Changes { engine, at, after, target, rebuild } = &mut recovery.step else { return };
        let (target, rebuild) = (target.clone(), *rebuild);
        let is_empty = changes.is_empty();
        recovery.delta_bytes += changes.iter().map(|change| change.delta.len()).sum::<usize>();
        for change in changes {
            let link = if no_check { Ok(()) } else { follows(at.as_ref(), &change, no_hash) };
            let applied = link.and_then(|()| engine.restore(&change.delta).map_err(|damaged| damaged.to_string()));
            if let Err(evidence) = applied {
                return self.chain_broken(recovery, target, rebuild, HaltCode::EpochChainBroken, evidence, now);
            }
            if rebuild.is_none() {
                // Records are not read back: such an epoch is kept for its state, never published again.
                let epoch =
                    Epoch { marker: change.stored.marker.clone(), records: Default::default(), delta: change.delta };
                match store.apply(&epoch, change.stored.sequence, &[]) {
                    Ok(()) => {}
                    Err(StoreError::Damaged(reason)) => return self.quarantine(&reason, now, store),
                    Err(error) => return self.store_pauses(error.to_string(), now),
                }
            }
            *after = change.stored.sequence;
            *at = Some(change.stored);
        }
        let reached = at
            .as_ref()
            .is_some_and(|at| at.marker.nonce == target.marker.nonce && at.marker.epoch == target.marker.epoch);
        if !reached && !is_empty && at.as_ref().is_some_and(|at| at.marker.epoch < target.marker.epoch) {
            self.phase = Phase::Recovering(Box::new(recovery));
            return self.ask_next(now);
        }
        if !reached {
            let evidence = format!(
                "the changes end at epoch {} before epoch {} is reached",
                at.as_ref().map_or(0, |at| at.marker.epoch),
                target.marker.epoch
            );
            return self.chain_broken(recovery, target, rebuild, HaltCode::EpochChainBroken, evidence, now);
        }
        if let Some(Base { reason, .. }) = rebuild {
            let snapshot = Snapshot { stored: target.clone(), state: engine.snapshot() };
            if let Err(error) = store.rebase(Some(&snapshot), Discard::Outdated(reason)) {
                return self.store_pauses(error.to_string(), now);
            }
        }
        let Step::Changes { engine, .. } = recovery.step else { return };
        recovery.step = Step::Survey;
        self.proceed(recovery, Step::CheckInput { engine, head: Some(target) }, now);
    }

    /// The changes do not lead to the target. A snapshot may be of epochs that the stream has lost, and the stream may
    /// have changed since the survey; it is an integrity fault only when nothing older helps and later looks agree.
    pub(super) fn chain_broken(
        &mut self,
        recovery: Recovery,
        target: StoredMarker,
        rebuild: Option<Base>,
        code: HaltCode,
        evidence: String,
        now: u64,
    ) {
        let nonce = target.marker.nonce;
        let looks = 1 + self.unreached.filter(|(last, _)| *last == nonce).map_or(0, |(_, looks)| looks);
        match rebuild {
            None => self.rebuild(recovery, target, "the changes after our epoch do not follow from it", now),
            Some(Base { reason, epoch }) if epoch > 0 => {
                self.proceed(recovery, Step::FindSnapshot { target, reason, epoch_max: epoch - 1 }, now);
            }
            Some(_) if looks < LOOKS => {
                self.unreached = Some((nonce, looks));
                self.pause(format!("looking again: {evidence}"), now);
            }
            Some(_) => self.halt(Halted::new(code, evidence)),
        }
    }
}

/// Whether a change is the next link of the chain: its marker, and the rolling hash of the state.
fn follows(at: Option<&StoredMarker>, change: &Change, no_hash: bool) -> Result<(), String> {
    let (marker, before) = (&change.stored.marker, at.map(|at| &at.marker));
    marker.follows(before)?;
    let hash = roll(&before.map_or([0; 32], |before| before.state_hash), &sha256(&change.delta));
    if !no_hash && hash != marker.state_hash {
        return Err(format!("the delta of epoch {} does not hash to what its marker says", marker.epoch));
    }
    Ok(())
}
