//! Leases and snapshots.

use std::sync::Arc;

use pelton_engine::epoch::{DeltaWriter, Manifest};
use pelton_engine::log::{Request, Response, Snapshot, StoredMarker};

use crate::conformance::{Broken, Disturbance, LAYOUTS, Probe, ensure, epoch};

pub(super) fn lease(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let held = probe.ask(0, Request::AcquireLease);
    let Response::LeaseHeld { revision } = held else { return Err(Broken(format!("a free lease: {held:?}"))) };
    let taken = probe.ask(1, Request::AcquireLease);
    ensure(matches!(taken, Response::LeaseTaken { .. }), || format!("a held lease: {taken:?}"))?;
    let again = probe.ask(0, Request::AcquireLease);
    ensure(matches!(again, Response::LeaseHeld { revision: same } if same == revision), || {
        format!("a lease that is held already: {again:?}")
    })?;
    for _ in 0..3 {
        let renewed = probe.ask(0, Request::RenewLease { revision });
        ensure(matches!(renewed, Response::LeaseHeld { revision: same } if same == revision), || {
            format!("renewal: {renewed:?}")
        })?;
    }
    let wrong = probe.ask(1, Request::RenewLease { revision });
    ensure(matches!(wrong, Response::LeaseTaken { .. }), || format!("renewal by another: {wrong:?}"))?;
    let other = probe.ask(0, Request::ReleaseLease { revision: revision + 1_000 });
    ensure(matches!(other, Response::LeaseReleased), || format!("release of another lease: {other:?}"))?;
    let kept = probe.ask(0, Request::RenewLease { revision });
    ensure(matches!(kept, Response::LeaseHeld { revision: same } if same == revision), || {
        format!("renewal after the release of another lease: {kept:?}")
    })?;
    let released = probe.ask(0, Request::ReleaseLease { revision });
    ensure(matches!(released, Response::LeaseReleased), || format!("release: {released:?}"))?;
    let next = probe.ask(1, Request::AcquireLease);
    ensure(matches!(next, Response::LeaseHeld { revision: later } if later > revision), || {
        format!("a released lease: {next:?}")
    })?;
    let late = probe.ask(0, Request::RenewLease { revision });
    ensure(matches!(late, Response::LeaseTaken { .. }), || format!("renewal after the release: {late:?}"))
}

pub(super) fn lease_expired(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let held = probe.ask(0, Request::AcquireLease);
    let Response::LeaseHeld { revision } = held else { return Err(Broken(format!("a free lease: {held:?}"))) };
    probe.disturb(Disturbance::LeaseTime);
    let next = probe.ask(1, Request::AcquireLease);
    ensure(matches!(next, Response::LeaseHeld { revision: later } if later > revision), || {
        format!("an expired lease: {next:?}")
    })?;
    let old = probe.ask(0, Request::RenewLease { revision });
    ensure(matches!(old, Response::LeaseTaken { .. }), || format!("renewal of a lease that was taken: {old:?}"))?;
    let Response::LeaseHeld { revision } = next else { return Ok(()) };
    // Nobody took it: who worked for longer than the lease goes on under the same identity.
    probe.disturb(Disturbance::LeaseTime);
    let late = probe.ask(1, Request::RenewLease { revision });
    ensure(matches!(late, Response::LeaseHeld { revision: same } if same == revision), || {
        format!("renewal of a lease that ran out and that nobody took: {late:?}")
    })?;
    let taken = probe.ask(0, Request::AcquireLease);
    ensure(matches!(taken, Response::LeaseTaken { .. }), || format!("a lease that was renewed late: {taken:?}"))
}

pub(super) fn snapshots(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let none = probe.ask(0, Request::FindSnapshot { epoch_max: 99 });
    ensure(matches!(none, Response::SnapshotFound(None)), || format!("no snapshot: {none:?}"))?;
    let chain = probe.chain(9)?;
    for idx in [1, 4, 7] {
        save(probe, &chain[idx])?;
    }
    for (epoch_max, expected) in [(9, Some(7)), (8, Some(7)), (7, Some(4)), (5, Some(4)), (4, None)] {
        load(probe, epoch_max, expected.map(|idx: usize| &chain[idx]))?;
    }
    let after = probe.ask(0, Request::Changes { after: chain[7].sequence, up_to: chain[8].sequence });
    let is_last = matches!(&after, Response::Changes(changes) if changes.len() == 1 && changes[0].stored == chain[8]);
    ensure(is_last, || format!("changes behind the newest snapshot: {after:?}"))?;
    let since = probe.ask(0, Request::Changes { after: chain[4].sequence, up_to: chain[5].sequence });
    let is_next = matches!(&since, Response::Changes(changes) if changes.len() == 1 && changes[0].stored == chain[5]);
    ensure(is_next, || format!("changes behind the older snapshot: {since:?}"))?;
    let below = probe.ask(0, Request::Changes { after: 0, up_to: chain[8].sequence });
    ensure(matches!(below, Response::Damaged(_)), || format!("changes below the snapshots: {below:?}"))
}

pub(super) fn stale_snapshots(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(3)?;
    save(probe, &chain[0])?;
    probe.disturb(Disturbance::Remember);
    let lost = probe.commit(&epoch(4, 104, 1), chain.last())?;
    save(probe, &lost)?;
    probe.disturb(Disturbance::RollBackLog);
    // Another process takes the same sequence.
    let other = probe.commit(&epoch(4, 50, 1), chain.last())?;
    ensure(other.sequence == lost.sequence, || "sequences are used again after a roll-back".into())?;
    save(probe, &chain[1])?;
    load(probe, 99, Some(&chain[1]))?;
    load(probe, 1, Some(&chain[0]))
}

/// The state of the partition after an epoch: a section that is another one each time, and one that never changes.
fn state(stored: &StoredMarker) -> [Vec<u8>; 2] {
    [format!("state of epoch {}", stored.marker.epoch).into_bytes(), b"the same in every epoch".to_vec()]
}

fn save(probe: &mut Probe<'_>, stored: &StoredMarker) -> Result<(), Broken> {
    let mut encoded = Vec::new();
    let mut delta = DeltaWriter::new(&mut encoded);
    (0..).zip(state(stored)).for_each(|(section, bytes)| delta.part(section, true, |out| out.extend(bytes)));
    let snapshot = Arc::new(Snapshot { stored: stored.clone(), state: encoded });
    let layouts = LAYOUTS.map(String::from).to_vec();
    let saved = probe.ask(0, Request::SaveSnapshot { snapshot, layouts });
    ensure(matches!(saved, Response::SnapshotSaved), || format!("save: {saved:?}"))
}

fn load(probe: &mut Probe<'_>, epoch_max: u64, expected: Option<&StoredMarker>) -> Result<(), Broken> {
    let response = probe.ask(0, Request::FindSnapshot { epoch_max });
    let Response::SnapshotFound(found) = response else {
        return Err(Broken(format!("snapshot at or below {epoch_max}: {response:?}")));
    };
    let place = |manifest: &Manifest| StoredMarker { sequence: manifest.sequence, marker: manifest.marker.clone() };
    ensure(found.as_deref().map(place).as_ref() == expected, || {
        format!("snapshot at or below {epoch_max}: {found:?}")
    })?;
    let (Some(manifest), Some(stored)) = (found, expected) else { return Ok(()) };
    for (section, wanted) in manifest.sections.iter().zip(state(stored)) {
        let mut bytes = Vec::new();
        for part in &section.parts {
            let end = bytes.len() as u64 + part.bytes;
            while (bytes.len() as u64) < end {
                let offset = part.bytes - (end - bytes.len() as u64);
                match probe.ask(0, Request::ReadPart { part: part.clone(), offset }) {
                    Response::PartRead(more) if !more.is_empty() => bytes.extend(more),
                    other => return Err(Broken(format!("{part:?} at {offset}: {other:?}"))),
                }
            }
        }
        ensure(bytes == wanted, || format!("section {} of the snapshot: {}", section.name, bytes.escape_ascii()))?;
    }
    Ok(())
}
