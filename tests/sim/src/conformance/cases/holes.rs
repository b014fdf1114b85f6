//! Holes: what is gone from the input without having been delivered.

use pelton_engine::log::{Hole, HoleCause, Request};

use crate::conformance::{Broken, Disturbance, FETCHES_MAX, Probe, ensure};

const fn expired_hole(first: u64, last: u64) -> Hole {
    Hole { first, last, cause: HoleCause::Expired }
}

const fn deleted_hole(first: u64, last: u64) -> Hole {
    Hole { first, last, cause: HoleCause::Deleted }
}

/// Fetches until `count` events are there and a later answer brings neither events nor holes; every hole lies between
/// what was delivered before it and what comes behind it.
fn read(probe: &mut Probe<'_>, client: usize, count: usize) -> Result<(Vec<u64>, Vec<Hole>), Broken> {
    let (mut sequences, mut holes): (Vec<u64>, Vec<Hole>) = Default::default();
    for _ in 0..FETCHES_MAX {
        let fetched = probe.fetch(client)?;
        let events: Vec<u64> = fetched.batch.events.iter().map(|event| event.sequence).collect();
        for hole in &fetched.holes {
            let before = sequences.iter().chain(holes.iter().map(|hole| &hole.last)).max().copied().unwrap_or(0);
            let is_followed = events.iter().any(|&sequence| sequence > hole.last) || events.is_empty();
            let is_between = before < hole.first && hole.first <= hole.last && is_followed;
            let is_gone = !events.iter().any(|sequence| (hole.first..=hole.last).contains(sequence));
            ensure(is_between && is_gone, || format!("{hole:?} behind {before} with the events {events:?}"))?;
            holes.push(*hole);
        }
        if events.is_empty() && fetched.holes.is_empty() && sequences.len() >= count {
            break;
        }
        sequences.extend(events);
    }
    Ok((sequences, holes))
}

fn expect(found: (Vec<u64>, Vec<Hole>), sequences: &[u64], holes: &[Hole]) -> Result<(), Broken> {
    ensure(found.0 == sequences && found.1 == holes, || {
        format!("events {:?} with {:?}, wanted {sequences:?} with {holes:?}", found.0, found.1)
    })
}

pub(super) fn expired(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(10);
    probe.disturb(Disturbance::ExpireInput { first: 6 });
    probe.reset(0, 1)?;
    expect(read(probe, 0, 5)?, &[6, 7, 8, 9, 10], &[expired_hole(1, 5)])?;
    probe.reset(0, 4)?;
    expect(read(probe, 0, 5)?, &[6, 7, 8, 9, 10], &[expired_hole(4, 5)])?;
    probe.reset_behind(0, 4, 5)?;
    expect(read(probe, 0, 5)?, &[6, 7, 8, 9, 10], &[])
}

pub(super) fn expired_under_consumer(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(12);
    probe.reset(0, 1)?;
    probe.disturb(Disturbance::Settle);
    probe.disturb(Disturbance::ExpireInput { first: 9 });
    let (mut all, holes) = read(probe, 0, 4)?;
    ensure(holes.iter().all(|hole| hole.cause == HoleCause::Expired), || format!("{holes:?} of an expired front"))?;
    all.extend(holes.iter().flat_map(|hole| hole.first..=hole.last));
    all.sort_unstable();
    ensure(all == (1..=12).collect::<Vec<_>>(), || format!("delivered or told: {all:?}, holes {holes:?}"))
}

pub(super) fn deleted(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(8);
    for sequence in [3, 4, 6] {
        probe.disturb(Disturbance::DeleteInput { sequence });
    }
    probe.reset(0, 1)?;
    expect(read(probe, 0, 5)?, &[1, 2, 5, 7, 8], &[deleted_hole(3, 4), deleted_hole(6, 6)])?;
    // What is deleted at the front is below the first sequence, whatever took it.
    probe.disturb(Disturbance::ExpireInput { first: 3 });
    probe.reset(0, 2)?;
    expect(read(probe, 0, 3)?, &[5, 7, 8], &[expired_hole(2, 4), deleted_hole(6, 6)])
}

pub(super) fn limited_per_subject(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.disturb(Disturbance::LimitSubject { messages: 3 });
    probe.produce_other(1);
    probe.produce(10);
    probe.reset(0, 1)?;
    expect(read(probe, 0, 3)?, &[9, 10, 11], &[expired_hole(2, 8)])
}

pub(super) fn others(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(1);
    probe.produce_other(3);
    probe.produce(1);
    probe.reset(0, 1)?;
    expect(read(probe, 0, 2)?, &[1, 5], &[])?;
    probe.produce_other(2);
    probe.produce(1);
    // One of the others is gone: what it was, nobody can tell any more.
    probe.disturb(Disturbance::DeleteInput { sequence: 3 });
    probe.reset(0, 2)?;
    expect(read(probe, 0, 2)?, &[5, 8], &[deleted_hole(3, 3)])
}

pub(super) fn quiet(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(2);
    probe.reset(0, 1)?;
    expect(read(probe, 0, 2)?, &[1, 2], &[])?;
    let last = probe.produce_other(5);
    let mut proved = None;
    for _ in 0..FETCHES_MAX {
        proved = probe.survey(None, None)?.all_delivered;
        if proved.is_some() {
            break;
        }
    }
    ensure(proved.is_some_and(|proof| proof.last == last), || format!("proof of a quiet partition: {proved:?}"))?;
    probe.disturb(Disturbance::ExpireInput { first: last });
    expect(read(probe, 0, 0)?, &[], &[])?;
    probe.produce(1);
    expect(read(probe, 0, 1)?, &[last + 1], &[])
}

pub(super) fn all_gone(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.disturb(Disturbance::ExpireInput { first: 6 });
    probe.reset(0, 3)?;
    let mut holes = Vec::new();
    for _ in 0..FETCHES_MAX {
        let fetched = probe.fetch(0)?;
        ensure(fetched.batch.events.is_empty(), || format!("from nothing: {fetched:?}"))?;
        holes.extend(fetched.holes);
        if !holes.is_empty() && fetched.caught_up {
            break;
        }
    }
    ensure(holes == [expired_hole(3, 5)], || format!("with nothing behind it: {holes:?}"))?;
    probe.produce(2);
    expect(read(probe, 0, 2)?, &[6, 7], &[])
}

pub(super) fn unproved(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.disturb(Disturbance::ExpireInput { first: 6 });
    probe.reset(0, 3)?;
    let early = probe.survey(None, None)?.all_delivered;
    ensure(early.is_none(), || format!("3 to 5 are lost, and yet all is said to be read: {early:?}"))?;
    let (mut holes, mut proof) = (Vec::new(), None);
    for _ in 0..FETCHES_MAX {
        holes.extend(probe.fetch(0)?.holes);
        proof = probe.survey(None, None)?.all_delivered;
        if proof.is_some() {
            break;
        }
    }
    ensure(holes == [expired_hole(3, 5)], || format!("told: {holes:?}"))?;
    ensure(proof.is_some_and(|proof| proof.last == 5), || format!("after it was told: {proof:?}"))
}

pub(super) fn known(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(10);
    for sequence in [4, 6, 7, 9] {
        probe.disturb(Disturbance::DeleteInput { sequence });
    }
    probe.reset_behind(0, 6, 7)?;
    expect(read(probe, 0, 2)?, &[8, 10], &[deleted_hole(9, 9)])?;
    // A consumer that is placed again by the adapter itself keeps what it knows.
    probe.disturb(Disturbance::DeleteConsumer);
    probe.ask(0, Request::Ack { sequence: 10 });
    probe.produce(1);
    expect(read(probe, 0, 1)?, &[11], &[])
}
