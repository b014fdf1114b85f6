//! What comes out: idle time, and ids.

use pelton_engine::effects::Effects;
use pelton_engine::event::RawBatch;
use pelton_engine::guest::World;
use pelton_engine::log::{Request, Response};
use pelton_engine::step::{Input, Progress};
use pelton_engine::time::{Span, WallTime};

use crate::guests::Temper;
use crate::log::SimLog;
use crate::rig::{Fate, Rig, Setup};
use crate::scenario::EPOCH_MS;
use crate::world::Weakness;

use super::ensure;
use super::expiry::story;

fn idle(weakness: &Weakness) -> Setup {
    let window_ms = 10_000;
    Setup { worlds: vec![World::WindowRule], idle_timeout: Some(Span(1_000)), window_ms, ..Setup::new(weakness) }
}

/// Epochs of the stream, and how many records they hold.
fn epochs(rig: &Rig) -> (usize, usize) {
    let entries = rig.log.pipeline.entries(0);
    (entries.len(), entries.iter().map(|entry| entry.epoch.records.rows.len()).sum())
}

/// One window is open, one minute of silence: one epoch when it is due, and none before or after.
pub(super) fn idle_is_quiet(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&idle(weakness));
    rig.produce(0, 100);
    rig.run(3_000);
    let before = epochs(&rig);
    rig.run(60_000);
    let after = epochs(&rig);
    ensure(after.0 - before.0 <= 2, || format!("{} epochs in a minute of silence", after.0 - before.0))?;
    ensure(after.1 - before.1 == 5, || format!("{} panes of 5 keys", after.1 - before.1))?;
    rig.run(120_000);
    let later = epochs(&rig);
    ensure(later == after, || format!("{} epochs and then {}", after.0, later.0))
}

/// Silence moves event time as the clock does, and as far behind it as the plan says: who comes in time is not late.
pub(super) fn idle_fires(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&idle(weakness));
    let delay = rig.seats[0].setup.scenario().plan.source.watermark.delay;
    for _ in 0..12 {
        let at = rig.now as i64;
        rig.produce_at(0, at, "a");
        for _ in 0..70 {
            rig.run(100);
            let (now, reached) = (EPOCH_MS + rig.now as i64, rig.head(0).map_or(i64::MIN, |head| head.watermark));
            ensure(reached <= now - delay.0, || format!("the watermark is at {reached}, the clock at {now}"))?;
        }
    }
    let Some(head) = rig.head(0) else { return Err(story(&rig)) };
    ensure(head.totals_sum.late == 0 && head.totals_sum.received == 12, || format!("{:?}", head.totals_sum))?;
    let panes = epochs(&rig).1;
    ensure(panes >= 7, || format!("{panes} panes in 84 s"))
}

/// The broker is away for 30 s, and with it the events of that time: they are not late when they come.
pub(super) fn outage_is_no_silence(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&idle(weakness));
    rig.produce(0, 20);
    rig.run(500);
    let mut away = |_: &mut SimLog, _: usize, request: &Request, _: u64| match request {
        Request::Fetch { .. } => Fate::Instead(Response::Unavailable("no connection".into())),
        _ => Fate::After(1),
    };
    for _ in 0..300 {
        let at = rig.now as i64;
        rig.produce_at(0, at, "a");
        rig.run_with(100, &mut away);
    }
    rig.run(3_000);
    let totals = rig.head(0).map(|head| head.totals_sum).unwrap_or_default();
    ensure(totals.late == 0 && totals.received == 320, || format!("{totals:?}"))
}

/// `Pelton-Id` of every record of one engine that is given a batch.
fn ids(weakness: &Weakness, worlds: &[World], batch: RawBatch) -> Result<Vec<String>, String> {
    let setup = Setup { worlds: worlds.to_vec(), ..Setup::new(weakness) };
    let mut engine = setup.scenario().engine(0, &Temper::calm()).map_err(|error| error.to_string())?;
    let mut effects = Effects::default();
    let mut input = Some(Input::Batch(batch));
    loop {
        let progress = engine.step(input.take().unwrap_or(Input::Continue), &mut effects);
        if progress.map_err(|error| error.to_string())? == Progress::NeedInput {
            break;
        }
    }
    engine.step(Input::End, &mut effects).map_err(|error| error.to_string())?;
    let id = |row: &pelton_engine::epoch::Record| {
        let headers = String::from_utf8_lossy(effects.records.slice(&row.headers)).into_owned();
        headers.lines().find_map(|line| line.strip_prefix("Pelton-Id: ")).map(str::to_string)
    };
    Ok(effects.records.rows.iter().filter_map(id).collect())
}

fn unique(mut ids: Vec<String>, at_least: usize) -> Result<(), String> {
    let many = ids.len();
    ids.sort();
    let doubled: Vec<&String> = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    ensure(doubled.is_empty(), || format!("of {many} ids {} stand for two records: {}", doubled.len(), doubled[0]))?;
    ensure(many >= at_least, || format!("only {many} records"))
}

fn push(batch: &mut RawBatch, key: &str, time: i64, value: u64) {
    let sequence = batch.events.len() as u64 + 1;
    let payload = format!("{{\"k\":\"{key}\",\"t\":{},\"v\":{value}}}", EPOCH_MS + time);
    batch.push(sequence, WallTime(EPOCH_MS + 60_000), b"in", b"", payload.as_bytes());
}

/// Multiples of 7 go to the side port as well, and to the reducer; time stands still within a burst.
pub(super) fn stage_ids(weakness: &Weakness) -> Result<(), String> {
    let mut batch = RawBatch::default();
    for n in 0..60 {
        push(&mut batch, &format!("k{}", n % 2), (n / 20) * 5_000, if n % 3 == 0 { 7 } else { 1 });
    }
    unique(ids(weakness, &[World::Transform, World::Reducer], batch)?, 66)
}

/// A late event sets the timer of the same instant again.
pub(super) fn timer_ids(weakness: &Weakness) -> Result<(), String> {
    let mut batch = RawBatch::default();
    (0..5).for_each(|_| push(&mut batch, "a", 0, 1));
    push(&mut batch, "b", 10_000, 1);
    (0..5).for_each(|_| push(&mut batch, "a", 0, 1));
    let ids = ids(weakness, &[World::Reducer], batch)?;
    ensure(ids.iter().filter(|id| id.contains("timer")).count() >= 2, || format!("no two timers: {ids:?}"))?;
    unique(ids, 13)
}
