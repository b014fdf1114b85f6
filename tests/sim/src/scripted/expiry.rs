//! Events that are gone before they are read: counted, or the partition halts and stays so.

use pelton_engine::log::Request;
use pelton_engine::partition::Config;

use crate::audit;
use crate::log::{Message, Retention, SimLog};
use crate::rig::{Fate, Rig, Setup, calm};
use crate::scenario::EPOCH_MS;
use crate::world::Weakness;

use super::ensure;

fn accepting(weakness: &Weakness) -> Setup {
    let setup = Setup::new(weakness);
    Setup { config: Config { accept_loss: true, ..setup.config }, ..setup }
}

/// Every published event of a partition is received or in a gap.
fn accounts_for_all(rig: &Rig, partition: u32) -> Result<(), String> {
    audit::chain(rig.log.pipeline.entries(partition), partition, &rig.log.input)?;
    let reached = rig.head(partition).map_or(0, |head| head.position.sequence.max(head.read_through));
    let last = rig.log.input.last_of(partition);
    ensure(reached >= last, || format!("at {reached} of {last}: {}", story(rig)))
}

/// Nothing behind the first unread event is committed, the partition stands still, and does so after a restart.
fn stands_before(rig: &mut Rig, partition: u32, unread: u64) -> Result<(), String> {
    for life in 0..3 {
        let seat = rig.seats.iter().position(|seat| seat.partition == partition).unwrap_or(0);
        let halted = rig.seats[seat].halted().unwrap_or("no halt").to_string();
        ensure(halted.contains("input-gap"), || format!("life {life}: {halted}; {}", story(rig)))?;
        let reached = rig.head(partition).map_or(0, |head| head.position.sequence.max(head.read_through));
        ensure(reached < unread, || format!("life {life}: {unread} was never read, but the marker is at {reached}"))?;
        rig.restart(seat);
        rig.run(15_000);
    }
    audit::chain(rig.log.pipeline.entries(partition), partition, &rig.log.input)
}

/// The same partition with `--accept-loss`: everything is in the account.
fn accept(rig: &mut Rig, partition: u32) -> Result<(), String> {
    let seat = rig.seats.iter().position(|seat| seat.partition == partition).unwrap_or(0);
    rig.seats[seat].setup.config.accept_loss = true;
    rig.restart(seat);
    rig.run(20_000);
    accounts_for_all(rig, partition)
}

pub(super) fn story(rig: &Rig) -> String {
    let told = |seat: &crate::rig::Seat| {
        let news: Vec<&String> = seat.notices.iter().filter(|text| !text.starts_with("committed")).collect();
        format!("{:?}", &news[news.len().saturating_sub(6)..])
    };
    rig.seats.iter().map(told).collect::<Vec<_>>().join("; ")
}

pub(super) fn accepted_while_moving(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&accepting(weakness));
    rig.produce(0, 100);
    rig.run(3_000);
    rig.kill(0);
    // While no host runs 500 events come, and the stream keeps 200.
    rig.log.input.limit(Retention { messages: Some(200), ..Retention::default() });
    rig.produce(0, 500);
    rig.restart(0);
    let mut last = rig.now;
    // One event comes per 2 ms, and one goes.
    let mut hook = move |log: &mut SimLog, _: usize, request: &Request, now: u64| {
        while last + 2 <= now {
            last += 2;
            let (sequence, published) = (log.input.last() + 1, EPOCH_MS + now as i64);
            let payload = format!("{{\"k\":\"k\",\"t\":{},\"v\":1}}", EPOCH_MS + sequence as i64);
            log.input.publish(Message::new(0, published, payload.as_bytes()));
        }
        Fate::After(if matches!(request, Request::Fetch { .. }) { 10 } else { 2 })
    };
    rig.run_with(60_000, &mut hook);
    let seat = &rig.seats[0];
    let (runs, resets) = (seat.count("Running"), seat.asked("reset"));
    ensure((1..=3).contains(&runs) && resets <= 5, || format!("{runs} runs, {resets} resets: {}", story(&rig)))?;
    rig.run(10_000);
    accounts_for_all(&rig, 0)
}

pub(super) fn accepted_while_running(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&accepting(weakness));
    pass_unread(&mut rig);
    rig.run(60_000);
    accounts_for_all(&rig, 0)?;
    let lost = rig.head(0).map_or(0, |head| head.totals_sum.lost);
    ensure(lost > 0 && rig.seats[0].halted().is_none(), || format!("{lost} lost: {}", story(&rig)))
}

/// 50 events are read; the host stands still while 1,000 come and the first 800 of them go. Gives the first unread one.
fn pass_unread(rig: &mut Rig) -> u64 {
    rig.produce(0, 50);
    rig.run(3_000);
    rig.freeze(0, 2_000);
    let unread = rig.log.input.last() + 1;
    rig.produce(0, 1_000);
    rig.log.input.expire(unread + 800);
    unread
}

pub(super) fn halts_alone(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    let unread = pass_unread(&mut rig);
    rig.run(60_000);
    stands_before(&mut rig, 0, unread)?;
    accept(&mut rig, 0)
}

pub(super) fn halts_when_killed(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    let unread = pass_unread(&mut rig);
    // No look at the streams is answered; it is killed when something behind the hole is committed, if ever.
    let mut blind = |_: &mut SimLog, _: usize, request: &Request, _: u64| match request {
        Request::Survey { .. } => Fate::After(3_000),
        _ => Fate::After(5),
    };
    rig.until(8_000, &mut blind, |rig| rig.head(0).is_some_and(|head| head.position.sequence > unread));
    rig.restart(0);
    rig.run(20_000);
    stands_before(&mut rig, 0, unread)?;
    accept(&mut rig, 0)
}

pub(super) fn halts_among_others(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup { partitions: 2, ..Setup::new(weakness) });
    rig.produce(1, 5);
    let unread = pass_unread(&mut rig);
    rig.run(60_000);
    stands_before(&mut rig, 0, unread)?;
    accept(&mut rig, 0)
}

pub(super) fn first_events(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup { partitions: 2, ..Setup::new(weakness) };
    let mut rig = Rig::new(&setup);
    let quiet = rig.sit(&setup, 1);
    rig.start(quiet);
    rig.produce(0, 500);
    rig.run(30_000);
    rig.kill(quiet);
    rig.produce(1, 100);
    rig.log.input.expire(601);
    rig.produce(1, 10);
    rig.restart(quiet);
    rig.run(20_000);
    stands_before(&mut rig, 1, 501)?;
    accept(&mut rig, 1)
}

/// The busy neighbour's messages come and go 40 times over; the quiet partition must not be accused, in one life or two.
pub(super) fn quiet_neighbour(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup { partitions: 2, ..Setup::new(weakness) };
    let mut rig = Rig::new(&setup);
    let quiet = rig.sit(&setup, 1);
    rig.start(quiet);
    rig.log.input.limit(Retention { messages: Some(2_000), ..Retention::default() });
    rig.produce(1, 1);
    for round in 0..40 {
        // The stream turns over in 20 s: four looks.
        for _ in 0..200 {
            rig.produce(0, 10);
            rig.run(100);
        }
        if round % 13 == 12 {
            rig.restart(quiet);
        }
        let halted = rig.seats[quiet].halted().map(str::to_string);
        ensure(halted.is_none(), || format!("round {round}: {halted:?}"))?;
        if round == 20 {
            rig.produce(1, 1);
        }
    }
    let head = rig.head(1).map(|head| (head.totals_sum.received, head.totals_sum.lost));
    ensure(head == Some((2, 0)), || format!("received and lost of the quiet partition: {head:?}"))
}

/// It has read its last events; they expire, and it learns of nothing else. It must not halt, now or at its next start.
pub(super) fn read_then_gone(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 70);
    rig.run(12_000);
    rig.log.input.expire(71);
    rig.run(12_000);
    rig.restart(0);
    rig.run(5_000);
    rig.produce(0, 5);
    rig.run(5_000);
    ensure(rig.seats[0].halted().is_none(), || story(&rig))?;
    accounts_for_all(&rig, 0)?;
    let lost = rig.head(0).map_or(0, |head| head.totals_sum.lost);
    ensure(lost == 0, || format!("{lost} lost, all were read"))
}

/// Between the question of a look and its answer another host reads on, and what it has read expires.
pub(super) fn read_by_another(weakness: &Weakness) -> Result<(), String> {
    let setup = Setup::new(weakness);
    let mut rig = Rig::new(&setup);
    let other = rig.sit(&setup, 0);
    rig.produce(0, 50);
    rig.run(4_000);
    // The first host hears of nothing but looks at the streams; its lease ends.
    rig.start(other);
    let mut deaf = |_: &mut SimLog, seat: usize, request: &Request, _: u64| match request {
        Request::Survey { .. } if seat == 0 => Fate::After(1),
        _ if seat == 0 => Fate::Lost,
        Request::Fetch { .. } => Fate::After(20),
        _ => Fate::After(1),
    };
    rig.produce(0, 400);
    let mut quiet = |log: &mut SimLog, seat: usize, request: &Request, now: u64| match request {
        // No look either, until there is something to see.
        Request::Survey { .. } if seat == 0 => Fate::Lost,
        _ => deaf(log, seat, request, now),
    };
    let went_on = |rig: &Rig| rig.head(0).is_some_and(|head| head.position.sequence == 450);
    ensure(rig.until(9_000 + 20_000, &mut quiet, went_on), || {
        format!("the other host does not work: {}", story(&rig))
    })?;
    rig.log.input.expire(451);
    rig.run_with(40_000, &mut deaf);
    let halted = rig.seats[0].halted().map(str::to_string);
    ensure(halted.is_none(), || format!("a host halted for what another one has read: {halted:?}"))?;
    rig.run_with(20_000, &mut calm);
    accounts_for_all(&rig, 0)
}

pub(super) fn limited_across_stop(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup { partitions: 2, ..Setup::new(weakness) });
    rig.produce(1, 1);
    rig.produce(0, 100);
    rig.run(5_000);
    rig.kill(0);
    rig.log.input.limit(Retention { per_subject: Some(1_000), ..Retention::default() });
    rig.produce(0, 5_000);
    rig.restart(0);
    rig.run(20_000);
    stands_before(&mut rig, 0, 102)?;
    accept(&mut rig, 0)
}
