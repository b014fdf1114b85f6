//! Holes inside the input, and deliveries that repeat.

use crate::audit;
use crate::log::{Message, Retention};
use crate::rig::{Rig, Setup};
use crate::scenario::EPOCH_MS;
use crate::world::Weakness;

use super::ensure;
use super::expiry::story;

/// Sequence 11 has a short life of its own and is gone before it is read; then the stream keeps its newest 50.
pub(super) fn passed_by_retention(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 10);
    rig.run(2_000);
    rig.log.input.limit(Retention { messages: Some(50), ..Retention::default() });
    rig.kill(0);
    let now = EPOCH_MS + rig.now as i64;
    let mortal = Message::new(0, now, format!("{{\"k\":\"k1\",\"t\":{now},\"v\":1}}").as_bytes());
    rig.log.input.publish(Message { dies: Some(now + 1_000), ..mortal });
    rig.produce(0, 1);
    rig.now += 2_000;
    rig.restart(0);
    for _ in 0..58 {
        rig.produce(0, 1);
        rig.run(50);
    }
    rig.run(20_000);
    gapped(&rig, 70, 1)
}

/// Everything is received, N sequences are lost, and nobody halts.
fn gapped(rig: &Rig, received: u64, lost: u64) -> Result<(), String> {
    ensure(rig.seats[0].halted().is_none(), || story(rig))?;
    audit::chain(rig.log.pipeline.entries(0), 0, &rig.log.input)?;
    let found = rig.head(0).map(|head| (head.totals_sum.received, head.totals_sum.lost));
    ensure(found == Some((received, lost)), || {
        format!("received and lost {found:?}, wanted {received} and {lost}: {}", story(rig))
    })
}

pub(super) fn deleted(weakness: &Weakness) -> Result<(), String> {
    for partitions in [1, 2] {
        let mut rig = Rig::new(&Setup { partitions, ..Setup::new(weakness) });
        rig.produce(0, 20);
        rig.run(2_000);
        rig.freeze(0, 1_000);
        rig.produce(0, 60);
        for sequence in [25, 26, 27, 40, 79] {
            rig.log.input.remove(sequence);
        }
        rig.run(20_000);
        gapped(&rig, 80, 5).map_err(|text| format!("{partitions} partitions: {text}"))?;
        let gaps = audit::gaps(rig.log.pipeline.entries(0));
        ensure(gaps == [(25, 27), (40, 40), (79, 79)], || format!("gaps {gaps:?}"))?;
        rig.restart(0);
        rig.run(5_000);
        gapped(&rig, 80, 5).map_err(|text| format!("{partitions} partitions, after a restart: {text}"))?;
    }
    Ok(())
}

pub(super) fn repeated(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 400);
    rig.run(10_000);
    gapped(&rig, 400, 0)
}
