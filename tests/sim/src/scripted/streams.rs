//! Streams that are made again, lose their markers, move them, or refuse a batch.

use std::sync::Arc;

use pelton_engine::effects::Room;
use pelton_engine::epoch::{Marker, MarkerFields};
use pelton_engine::guest::World;
use pelton_engine::log::{Fence, Published, Request, Response};

use crate::audit;
use crate::log::{Adapter, SimLog};
use crate::rig::{Fate, Rig, Setup, calm};
use crate::world::Weakness;

use super::ensure;
use super::expiry::story;

/// It stands still with this code, also after a restart, and commits nothing.
fn stands(rig: &mut Rig, code: &str) -> Result<(), String> {
    for life in 0..3 {
        let before = rig.log.pipeline.entries(0).len();
        rig.run(12_000);
        let halted = rig.seats[0].halted().unwrap_or("no halt").to_string();
        ensure(halted.contains(code), || format!("life {life}: {halted}, wanted {code}: {}", story(rig)))?;
        ensure(rig.log.pipeline.entries(0).len() == before, || format!("life {life}: it committed"))?;
        rig.restart(0);
    }
    Ok(())
}

fn worked(weakness: &Weakness) -> Rig {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.produce(0, 200);
    rig.run(5_000);
    rig
}

pub(super) fn log_anew_before_first(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup::new(weakness));
    rig.run(1_000);
    rig.log.pipeline.recreate();
    rig.run(20_000);
    rig.produce(0, 100);
    for life in 0..4 {
        rig.run(5_000);
        ensure(rig.seats[0].is_running(), || format!("life {life}: {}", story(&rig)))?;
        let (found, wanted) = (rig.head(0).map(|head| head.pipeline_stream.created), rig.log.pipeline.created());
        ensure(found == Some(wanted), || format!("life {life}: markers are of {found:?}, the stream of {wanted}"))?;
        if life == 1 {
            rig.replace(0)
        } else {
            rig.restart(0)
        }
        rig.produce(0, 10);
    }
    Ok(())
}

pub(super) fn log_anew(weakness: &Weakness) -> Result<(), String> {
    for is_disk_lost in [false, true] {
        let mut rig = worked(weakness);
        rig.kill(0);
        rig.log.pipeline.recreate();
        if is_disk_lost {
            rig.replace(0)
        } else {
            rig.restart(0)
        }
        // Without a disk it is the consumer that remembers.
        stands(&mut rig, if is_disk_lost { "Halted" } else { "pipeline-stream-recreated" })?;
    }
    let mut rig = worked(weakness);
    rig.log.pipeline.recreate();
    stands(&mut rig, "pipeline-stream-recreated")
}

pub(super) fn markers_expired(weakness: &Weakness) -> Result<(), String> {
    for is_disk_lost in [false, true] {
        let mut rig = worked(weakness);
        rig.kill(0);
        rig.log.pipeline.expire(rig.log.pipeline.last() + 1);
        if is_disk_lost {
            rig.replace(0)
        } else {
            rig.restart(0)
        }
        stands(&mut rig, "Halted").map_err(|text| format!("disk lost {is_disk_lost}: {text}"))?;
    }
    let mut rig = worked(weakness);
    rig.log.pipeline.expire(rig.log.pipeline.last() + 1);
    stands(&mut rig, "Halted").map_err(|text| format!("under a running host: {text}"))
}

/// The outcome of an epoch is in doubt while the stream loses the epoch before it, the neighbour takes its sequences, and
/// another host publishes the lost one again: same marker, another place.
pub(super) fn moved_marker(weakness: &Weakness) -> Result<(), String> {
    let mut rig = Rig::new(&Setup { partitions: 2, ..Setup::new(weakness) });
    rig.produce(0, 200);
    rig.produce(1, 1);
    rig.run(5_000);
    let mut is_moved = false;
    let mut hook = |log: &mut SimLog, seat: usize, request: &Request, now: u64| {
        if matches!(request, Request::Publish { .. }) && !is_moved {
            is_moved = true;
            move_marker(log, now);
            return Fate::Instead(Response::Published(Published::Unknown("no answer".into())));
        }
        calm(log, seat, request, now)
    };
    let before = rig.head(0).map_or(0, |head| head.epoch);
    rig.produce(0, 5);
    rig.run_with(10_000, &mut hook);
    ensure(is_moved, || "nothing was published".into())?;
    let after = rig.head(0).map_or(0, |head| head.epoch);
    ensure(after > before, || format!("epoch {before} is still the last one: {}", story(&rig)))?;
    let (runs, rejected) = (rig.seats[0].count("Running"), rig.seats[0].count("Doubt"));
    ensure(runs == 1 && rejected <= 2, || format!("{runs} runs, {rejected} doubts: {}", story(&rig)))?;
    audit::chain(rig.log.pipeline.entries(0), 0, &rig.log.input)
}

fn move_marker(log: &mut SimLog, now: u64) {
    let entries = log.pipeline.entries(0);
    let [.., before, newest] = entries else { return };
    let (again, fence) =
        (newest.epoch.clone(), Fence { sequence: before.sequence, slot: Some(before.epoch.marker.slot()) });
    let neighbour = Arc::new(pelton_engine::epoch::Epoch {
        marker: Marker::new(MarkerFields { epoch: 1, nonce: 77, prev_nonce: 0, ..(*again.marker).clone() }),
        ..(*again).clone()
    });
    log.pipeline.lose_tail(1);
    let first = Fence { sequence: 0, slot: None };
    log.perform(&mut Adapter::new(1, 50), &Request::Publish { epoch: neighbour, fence: first }, now);
    log.perform(&mut Adapter::new(0, 51), &Request::Publish { epoch: again, fence }, now);
}

pub(super) fn input_anew_in_doubt(weakness: &Weakness) -> Result<(), String> {
    let mut rig = worked(weakness);
    let created = rig.log.input.created();
    let mut is_anew = false;
    let mut hook = |log: &mut SimLog, seat: usize, request: &Request, now: u64| {
        if matches!(request, Request::Publish { .. }) && !is_anew {
            is_anew = true;
            // Connections stay up, and the consumer is not missed yet.
            log.input.recreate();
            return Fate::Instead(Response::Published(Published::Unknown("no answer".into())));
        }
        calm(log, seat, request, now)
    };
    let before = rig.log.pipeline.entries(0).len();
    rig.produce(0, 5);
    rig.run_with(10_000, &mut hook);
    ensure(is_anew && rig.log.input.created() != created, || "nothing was published".into())?;
    let after = rig.log.pipeline.entries(0).len();
    ensure(after == before, || format!("{} epochs of the old input were committed", after - before))?;
    stands(&mut rig, "input-recreated")
}

pub(super) fn refused_for_good(weakness: &Weakness) -> Result<(), String> {
    let mut rig = worked(weakness);
    let mut tries = 0;
    let mut hook = |log: &mut SimLog, seat: usize, request: &Request, now: u64| {
        if matches!(request, Request::Publish { .. }) {
            tries += 1;
            let reason = "message 3 of 5: maximum payload exceeded".into();
            return Fate::Instead(Response::Published(Published::Permanent(reason)));
        }
        calm(log, seat, request, now)
    };
    rig.produce(0, 5);
    rig.run_with(10_000, &mut hook);
    let halted = rig.seats[0].halted().unwrap_or("no halt").to_string();
    ensure(halted.contains("batch-refused") && halted.contains("message 3 of 5"), || {
        format!("{halted}: {}", story(&rig))
    })?;
    ensure(tries == 1, || format!("it was sent {tries} times"))
}

/// Events that the broker takes, and whose records it would not take: they are told in a form that fits.
pub(super) fn too_large(weakness: &Weakness) -> Result<(), String> {
    let room = Room { record_bytes: 1_000, header_bytes: 700, ..Room::default() };
    let mut rig = Rig::new(&Setup { room, worlds: vec![World::Transform], ..Setup::new(weakness) });
    rig.log.settings.message_bytes = room.record_bytes;
    let now = crate::scenario::EPOCH_MS;
    for n in 0..40_usize {
        // Good ones that are forwarded, refused ones, and ones that are no JSON, around the limit.
        let value = [1, 11, 53][n % 3];
        let fill = "x".repeat(550 + 10 * n);
        let end = if n % 4 == 3 { "" } else { "}" };
        let payload = format!("{{\"k\":\"k\",\"t\":{now},\"v\":{value},\"u\":\"{fill}\"{end}");
        rig.log.input.publish(crate::log::Message::new(0, now, payload.as_bytes()));
    }
    rig.run(20_000);
    ensure(rig.seats[0].halted().is_none(), || story(&rig))?;
    let received = rig.head(0).map_or(0, |head| head.totals_sum.received);
    ensure(received == 40, || format!("received {received} of 40: {}", story(&rig)))?;
    audit::chain(rig.log.pipeline.entries(0), 0, &rig.log.input)
}
