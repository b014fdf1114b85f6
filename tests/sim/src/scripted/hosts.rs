//! Who works, who stands by, and when a process ends.

use pelton_engine::log::{Request, Response};
use pelton_engine::partition::Config;

use crate::audit;
use crate::log::SimLog;
use crate::rig::{Fate, Rig, Setup, calm as calm_hook};
use crate::store::SimStore;
use crate::world::Weakness;

use super::ensure;
use super::expiry::story;

/// Somebody else has the lease: the host stops at once, and asks for no event.
pub(super) fn no_lease_no_work(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 100);
    rig.run(3_000);
    let mut hook = |log: &mut SimLog, seat: usize, request: &Request, now: u64| match request {
        Request::RenewLease { .. } | Request::AcquireLease => {
            Fate::Instead(Response::LeaseTaken { holder: "another host".into() })
        }
        _ => calm_hook(log, seat, request, now),
    };
    rig.run_with(5_000, &mut hook);
    rig.seats[0].clear();
    rig.produce(0, 50);
    rig.run_with(20_000, &mut hook);
    let (fetches, publishes) = (rig.seats[0].asked("fetch"), rig.seats[0].asked("publish"));
    ensure(fetches + publishes == 0, || format!("{fetches} fetches, {publishes} publishes without a lease"))
}

/// The other host works for 100 epochs, or for more than there are slots; then this one comes back.
pub(super) fn away(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup::new(weakness);
    let config = Config { snapshot_epochs: 1_000_000, ..setup.config };
    let mut rig = Rig::new(&Setup { epoch_max_events: 1, config, ..setup });
    let mut other = SimStore::default();
    rig.produce(0, 10);
    rig.run(3_000);
    for epochs in [100, 4_300, 4_300] {
        std::mem::swap(&mut rig.seats[0].store, &mut other);
        rig.restart(0);
        rig.run(500);
        for _ in 0..epochs {
            rig.produce(0, 1);
            rig.run(35);
        }
        std::mem::swap(&mut rig.seats[0].store, &mut other);
        rig.restart(0);
        rig.run(20_000);
        ensure(rig.seats[0].is_running(), || story(&rig))?;
        let aside = rig.seats[0].store.quarantined;
        ensure(aside == 0, || format!("away for {epochs} epochs: {aside} stores set aside: {}", story(&rig)))?;
    }
    let epochs = rig.head(0).map_or(0, |head| head.epoch);
    ensure(epochs > 8_000, || format!("only {epochs} epochs"))
}

/// The disk of the first host is full for good; a second one is at hand.
pub(super) fn yields(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup::new(weakness);
    let mut rig = Rig::new(&setup);
    rig.produce(0, 100);
    rig.run(3_000);
    let rival = rig.sit(&setup, 0);
    rig.start(rival);
    rig.seats[0].store.failing = u32::MAX;
    rig.produce(0, 100);
    rig.run(60_000);
    let reached = rig.head(0).map_or(0, |head| head.position.sequence);
    ensure(reached == 200 && rig.seats[rival].is_running(), || format!("at {reached} of 200: {}", story(&rig)))?;
    ensure(rig.seats[0].count("Yielded") >= 1, || format!("nothing tells why: {}", story(&rig)))
}

/// Publishing is slow; the machine says that it has ended when the last epoch is stored.
pub(super) fn exits_when_caught_up(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup::new(weakness);
    let config = Config { exit_when_caught_up: true, ..setup.config };
    let mut rig = Rig::new(&Setup { config, ..setup });
    rig.restart(0);
    rig.produce(0, 333);
    let mut slow = |_: &mut SimLog, _: usize, request: &Request, _: u64| match request {
        Request::Publish { .. } => Fate::After(1_500),
        Request::Fetch { .. } => Fate::After(20),
        _ => Fate::After(1),
    };
    let ends = rig.until(300_000, &mut slow, |rig| rig.seats[0].stopped);
    ensure(ends, || format!("it does not end: {}", story(&rig)))?;
    let reached = rig.head(0).map_or(0, |head| head.position.sequence);
    ensure(reached == 333, || format!("it ended at {reached} of 333"))?;
    audit::chain(rig.log.pipeline.entries(0), 0, &rig.log.input)
}

/// Two hosts, two partitions, ten minutes: the lease does not change hands, and nobody starts over.
pub(super) fn calm(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup { partitions: 2, ..Setup::new(weakness) };
    let mut rig = Rig::new(&setup);
    let others: Vec<usize> = [1, 0, 1].map(|partition| rig.sit(&setup, partition)).into();
    rig.run(500);
    others.into_iter().for_each(|seat| rig.start(seat));
    for _ in 0..600 {
        rig.produce(0, 2);
        rig.produce(1, 1);
        rig.run(1_000);
        for partition in [0, 1] {
            let working = rig.seats.iter().filter(|seat| seat.partition == partition && seat.is_running()).count();
            ensure(working <= 1, || format!("{working} hosts work on partition {partition}"))?;
        }
    }
    let recoveries: usize = rig.seats.iter().map(|seat| seat.count("Recovering")).sum();
    ensure(recoveries == 2, || format!("{recoveries} recoveries of 2 partitions: {}", story(&rig)))
}
