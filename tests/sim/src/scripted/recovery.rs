//! Recovery that takes long, comes often, or meets something that is not what it was.

use pelton_engine::guest::World;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::Config;

use crate::audit;
use crate::log::SimLog;
use crate::rig::{Fate, Rig, Setup, calm};
use crate::store::Cost;
use crate::world::Weakness;

use super::ensure;
use super::expiry::story;

fn snapping(weakness: &Weakness, epochs: u64) -> Setup {
    let setup = Setup::new(weakness);
    Setup { config: Config { snapshot_epochs: epochs, ..setup.config }, ..setup }
}

/// A state of 200 keys, and at least two snapshots of it.
fn large(weakness: &Weakness) -> Rig {
    let mut rig = Rig::new(&Setup { epoch_max_events: 40, ..snapping(weakness, 8) });
    for n in 0..1_000 {
        rig.produce_at(0, n, &format!("key-{}", n % 200));
    }
    rig.run(8_000);
    rig
}

/// It works, and has done so without a detour.
fn runs_once(rig: &Rig, seat: usize) -> Result<(), String> {
    let (runs, recoveries) = (rig.seats[seat].count("Running"), rig.seats[seat].count("Recovering"));
    ensure(runs == 1 && recoveries <= 2 && rig.seats[seat].is_running(), || {
        format!("{runs} runs, {recoveries} recoveries: {}", story(rig))
    })?;
    audit::chain(rig.log.pipeline.entries(0), 0, &rig.log.input)
}

/// Each part comes within the time limit, all of them together take ten times as long.
pub(super) fn slow_parts(weakness: &Weakness) -> Result<(), String> {
    let mut rig = large(weakness);
    rig.replace(0);
    let mut slow = |_: &mut SimLog, _: usize, request: &Request, _: u64| match request {
        Request::ReadPart { .. } => Fate::After(900),
        Request::Fetch { .. } => Fate::After(20),
        _ => Fate::After(1),
    };
    let before = rig.now;
    rig.until(900_000, &mut slow, |rig| rig.seats[0].is_running());
    ensure(rig.now - before > 50_000, || format!("the snapshot was read in {} ms", rig.now - before))?;
    runs_once(&rig, 0)
}

/// A part of the newest snapshot comes changed; the older one does as well.
pub(super) fn changed_parts(weakness: &Weakness) -> Result<(), String> {
    let mut rig = large(weakness);
    let before = rig.seats[0].machine.as_mut().and_then(pelton_engine::partition::Partition::snapshot);
    rig.replace(0);
    let mut first = None;
    let mut hook = |log: &mut SimLog, seat: usize, request: &Request, now: u64| {
        let Request::ReadPart { part, offset } = request else { return calm(log, seat, request, now) };
        if *offset > 0 || part.object != *first.get_or_insert_with(|| part.object.clone()) {
            return Fate::After(1);
        }
        let mut adapter = crate::log::Adapter::new(0, 99);
        match log.perform(&mut adapter, request, now) {
            Response::PartRead(mut bytes) => {
                // Still well-formed: the key of hashes, or the event time, of the core section.
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                }
                Fate::Instead(Response::PartRead(bytes))
            }
            other => Fate::Instead(other),
        }
    };
    rig.until(20_000, &mut hook, |rig| rig.seats[0].is_running());
    ensure(rig.seats[0].count("SnapshotPassedOver") == 1, || story(&rig))?;
    runs_once(&rig, 0)?;
    let after = rig.seats[0].machine.as_mut().and_then(pelton_engine::partition::Partition::snapshot);
    ensure(before.is_some() && before == after, || "the state is another one after the rebuild".into())
}

/// Two stages with state, and a host without a disk: each of them gets its own section back.
pub(super) fn sections_come_back(weakness: &Weakness) -> Result<(), String> {
    let worlds = vec![World::WindowRule, World::Reducer];
    let mut rig = Rig::new(&Setup { worlds, epoch_max_events: 40, ..snapping(weakness, 8) });
    rig.produce(0, 1_000);
    rig.run(8_000);
    let before = rig.seats[0].machine.as_mut().and_then(pelton_engine::partition::Partition::snapshot);
    ensure(rig.log.pipeline.newest_snapshot(0).is_some(), || "no snapshot was taken".into())?;
    rig.replace(0);
    rig.until(20_000, &mut calm, |rig| rig.seats[0].is_running());
    ensure(rig.seats[0].count("SnapshotPassedOver") == 0, || story(&rig))?;
    runs_once(&rig, 0)?;
    let after = rig.seats[0].machine.as_mut().and_then(pelton_engine::partition::Partition::snapshot);
    ensure(before.is_some() && before == after, || "the state is another one after the rebuild".into())
}

/// Another host is at hand all the time, and takes the lease when it is free.
fn with_rival(rig: &mut Rig) -> usize {
    let setup = rig.seats[0].setup.clone();
    let rival = rig.sit(&setup, 0);
    rig.run(100);
    rig.start(rival);
    rival
}

fn outlasts(rig: &mut Rig, rival: usize) -> Result<(), String> {
    rig.until(60_000, &mut calm, |rig| rig.seats[0].is_running());
    ensure(rig.seats[rival].count("Running") == 0, || format!("the rival works: {}", story(rig)))?;
    runs_once(rig, 0)?;
    rig.run(10_000);
    let reached = rig.head(0).map_or(0, |head| head.position.sequence);
    ensure(reached == rig.log.input.last(), || format!("at {reached}: {}", story(rig)))
}

pub(super) fn longer_than_lease(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 200);
    rig.run(5_000);
    rig.seats[0].store.cost = Cost { load: 11_000, ..Cost::default() };
    rig.restart(0);
    rig.produce(0, 10);
    let rival = with_rival(&mut rig);
    outlasts(&mut rig, rival)
}

pub(super) fn rebuild_longer_than_lease(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&snapping(weakness, 8));
    rig.produce(0, 400);
    rig.run(5_000);
    rig.seats[0].store.cost = Cost { load: 2_000, rebase: 14_000, ..Cost::default() };
    rig.replace(0);
    rig.produce(0, 10);
    let rival = with_rival(&mut rig);
    outlasts(&mut rig, rival)
}

/// A bit flips in a stored change, and its message is well-formed: a rebuild stops at it.
pub(super) fn altered_change(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 200);
    rig.run(5_000);
    rig.log.pipeline.damage_newest(0);
    rig.replace(0);
    rig.run(30_000);
    let halted = rig.seats[0].halted().unwrap_or("no halt").to_string();
    ensure(halted.contains("epoch-chain-broken"), || format!("{halted}: {}", story(&rig)))
}

pub(super) fn unsaved_snapshot(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup { epoch_max_events: 4, ..snapping(weakness, 5) });
    rig.produce(0, 400);
    let mut full = |_: &mut SimLog, _: usize, request: &Request, _: u64| match request {
        Request::SaveSnapshot { .. } => Fate::Instead(Response::Unavailable("maximum bytes exceeded".into())),
        Request::Fetch { .. } => Fate::After(20),
        _ => Fate::After(1),
    };
    rig.run_with(30_000, &mut full);
    let told = rig.seats[0].count("SnapshotNotSaved");
    ensure(told > 0, || format!("{} saves failed, and nothing tells", rig.seats[0].asked("save snapshot")))?;
    ensure(rig.log.pipeline.newest_snapshot(0).is_none(), || "a snapshot was saved".into())?;
    // The bucket has room again.
    for _ in 0..12 {
        rig.produce(0, 1);
        rig.run(10_000);
    }
    ensure(rig.log.pipeline.newest_snapshot(0).is_some(), || format!("it was not tried again: {}", story(&rig)))
}

/// Fewer epochs between two recoveries than between two snapshots.
pub(super) fn often(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&snapping(weakness, 20));
    for _ in 0..12 {
        for _ in 0..8 {
            rig.produce(0, 5);
            rig.run(200);
        }
        rig.restart(0);
        rig.run(500);
    }
    let epochs = rig.head(0).map_or(0, |head| head.epoch);
    let newest = rig.log.pipeline.newest_snapshot(0).unwrap_or(0);
    ensure(epochs > 60 && newest + 30 >= epochs, || format!("the newest snapshot is of epoch {newest} of {epochs}"))
}

pub(super) fn other_layout(weakness: &Weakness) -> Result<(), String> {
    let worlds = vec![World::WindowRule];
    for is_disk_lost in [false, true] {
        let mut rig = Rig::new(&Setup { worlds: worlds.clone(), ..Setup::new(weakness) });
        rig.produce(0, 100);
        rig.run(3_000);
        rig.seats[0].setup.window_ms = 3_000;
        if is_disk_lost {
            rig.replace(0)
        } else {
            rig.restart(0)
        }
        rig.run(5_000);
        let halted = rig.seats[0].halted().unwrap_or("no halt").to_string();
        ensure(halted.contains("state-incompatible"), || format!("{halted}: {}", story(&rig)))?;
    }
    Ok(())
}

/// Both streams have lost their tails, and the input has used its sequences again: what is in the outbox was computed
/// from events that are no more.
pub(super) fn rolled_back_before_republish(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 100);
    rig.run(3_000);
    rig.kill(0);
    rig.log.pipeline.lose_tail(3);
    rig.log.input.lose_tail(30);
    rig.produce(0, 200);
    let kept = rig.log.pipeline.entries(0).len();
    rig.restart(0);
    rig.run(10_000);
    let halted = rig.seats[0].halted().unwrap_or("no halt").to_string();
    ensure(halted.contains("input-rolled-back"), || format!("{halted}: {}", story(&rig)))?;
    let now = rig.log.pipeline.entries(0).len();
    ensure(now == kept, || format!("{} epochs were published again", now - kept))
}
