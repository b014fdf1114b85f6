//! The probes.

use std::sync::Arc;

use pelton_engine::epoch::fingerprint;
use pelton_engine::log::{Fence, Published, Request, Response, Snapshot};

use super::{Case, Disturbance, Ended, Probe, ensure, epoch, fence};

/// Every rule with its probe.
pub(super) const CASES: &[Case] = &[
    ("a first batch lands behind nothing, a second first batch does not", first_batch),
    ("a stale fence is refused and nothing is stored", stale_fence),
    ("the right sequence with another marker's slot is refused", wrong_slot),
    ("the right slot with another sequence is refused", wrong_sequence),
    ("the same bytes behind the same fence land once", duplicate_publish),
    ("a batch of 1,001 messages is refused whole", too_many_messages),
    ("a batch behind a marker that was rolled back is refused", rolled_back),
    ("a batch behind a purged marker is refused", purged),
    ("a survey finds the newest marker and that of an epoch", survey_markers),
    ("a survey identifies an input message, and says when there is none", survey_input),
    ("changes come in order, whole, between two markers", changes),
    ("after a reset events come in order, once, from there", reset_and_fetch),
    ("a fetch with nothing to deliver says that it has caught up", caught_up),
    ("a reset beyond the end is taken, and skips", reset_beyond_end),
    ("a reset below the first sequence starts at the first", reset_below_first),
    ("a consumer that is deleted is made again behind the last delivery, and that is said", consumer_deleted),
    ("two processes on one consumer notice each other and lose nothing", two_processes),
    ("an input that is made again has another identity and gives no event unasked", input_recreated),
    ("an input that lost its tail says so before it gives another event", input_rolled_back),
    ("deliveries whose ack is overdue do not hide new ones", ack_wait),
    ("an ack of what was never delivered does no harm", ack_unknown),
    ("a lease is held by one, renewed under its revision, and free after a release", lease),
    ("a lease that ran out is taken over, and its old holder learns it", lease_expired),
    ("the newest snapshot at or below an epoch is found", snapshots),
];

fn refused(published: &Published) -> Result<(), Ended> {
    ensure(matches!(published, Published::Rejected(_)), || format!("expected a refusal, got {published:?}"))
}

fn first_batch(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let first = probe.commit(&epoch(1, 1, 2), None)?;
    let again = probe.publish(&epoch(1, 2, 2), fence(None))?;
    refused(&again)?;
    let found = probe.survey(None, None)?.marker;
    ensure(found.as_ref() == Some(&first), || format!("newest marker is {found:?}"))
}

fn stale_fence(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(3)?;
    let before = probe.survey(None, None)?.log.last_sequence;
    let published = probe.publish(&epoch(3, 9, 2), fence(Some(&chain[1])))?;
    refused(&published)?;
    let after = probe.survey(None, None)?.log.last_sequence;
    ensure(before == after, || format!("a refused batch moved the stream from {before} to {after}"))
}

fn wrong_slot(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(2)?;
    let fence = Fence { sequence: chain[1].sequence, slot: Some(chain[0].marker.slot()) };
    refused(&probe.publish(&epoch(3, 9, 1), fence)?)
}

fn wrong_sequence(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(2)?;
    let fence = Fence { sequence: chain[1].sequence + 1, slot: Some(chain[1].marker.slot()) };
    refused(&probe.publish(&epoch(3, 9, 1), fence)?)
}

fn duplicate_publish(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(1)?;
    let second = epoch(2, 5, 3);
    let stored = probe.commit(&second, chain.last())?;
    refused(&probe.publish(&second, fence(chain.last()))?)?;
    let found = probe.survey(None, Some(2))?;
    ensure(found.marker_of_epoch.as_ref() == Some(&stored), || format!("epoch 2 is {:?}", found.marker_of_epoch))
}

fn too_many_messages(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let largest = probe.commit(&epoch(1, 1, 998), None)?;
    let published = probe.publish(&epoch(2, 2, 999), fence(Some(&largest)))?;
    ensure(matches!(published, Published::Refused(_)), || format!("1,001 messages: {published:?}"))?;
    let found = probe.survey(None, None)?;
    ensure(found.marker.as_ref() == Some(&largest) && found.log.last_sequence == largest.sequence, || {
        format!("the stream ends at {}, its marker lies at {}", found.log.last_sequence, largest.sequence)
    })
}

fn rolled_back(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(2)?;
    probe.disturb(Disturbance::RollBackLog)?;
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)?;
    // Another process takes the same sequence for another epoch 2.
    let other = probe.commit(&epoch(2, 50, 1), chain.first())?;
    ensure(other.sequence == chain[1].sequence, || "sequences are used again after a roll-back".into())?;
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)
}

fn purged(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(2)?;
    probe.disturb(Disturbance::PurgeLog)?;
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)?;
    let found = probe.survey(None, Some(2))?;
    ensure(found.marker.is_none() && found.marker_of_epoch.is_none(), || format!("markers after a purge: {found:?}"))
}

fn survey_markers(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let empty = probe.survey(None, Some(1))?;
    ensure(empty.marker.is_none() && empty.marker_of_epoch.is_none(), || {
        format!("markers in an empty stream: {empty:?}")
    })?;
    let chain = probe.chain(3)?;
    let found = probe.survey(None, Some(2))?;
    ensure(found.marker.as_ref() == chain.last(), || format!("newest is {:?}", found.marker))?;
    ensure(found.marker_of_epoch.as_ref() == Some(&chain[1]), || format!("epoch 2 is {:?}", found.marker_of_epoch))?;
    // The slot of epoch 4 097 is that of epoch 1, but it holds epoch 1.
    let none = probe.survey(None, Some(4_097))?.marker_of_epoch;
    ensure(none.is_none(), || format!("epoch 4097 is {none:?}"))
}

fn survey_input(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let last = probe.produce(3);
    probe.reset(0, 1)?;
    let fetched = loop {
        let fetched = probe.fetch(0)?;
        if !fetched.batch.events.is_empty() {
            break fetched;
        }
    };
    let event = &fetched.batch.events[0];
    let expected = fingerprint(event.published.0, fetched.batch.slice(&event.payload));
    let found = probe.survey(Some(event.sequence), None)?;
    ensure(found.input_fingerprint == Some(expected), || "a delivered event is not the stored one".into())?;
    ensure(found.input.last_sequence == last, || format!("the input ends at {}", found.input.last_sequence))?;
    let none = probe.survey(Some(last + 1), None)?.input_fingerprint;
    ensure(none.is_none(), || "a message beyond the end has a fingerprint".into())
}

fn changes(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let chain = probe.chain(20)?;
    let (mut after, up_to) = (chain[4].sequence, chain[14].sequence);
    let mut epochs = Vec::new();
    loop {
        let response = probe.ask(0, Request::Changes { after, up_to });
        let Response::Changes(changes) = response else {
            return Err(Ended::Broken(format!("changes answered {response:?}")));
        };
        let Some(last) = changes.last() else { break };
        after = last.stored.sequence;
        for change in &changes {
            let number = change.stored.marker.epoch;
            let delta = epoch(number, 100 + u128::from(number), 1).delta.clone();
            ensure(change.delta == delta, || format!("changes of epoch {number} differ"))?;
            epochs.push(number);
        }
    }
    ensure(epochs == (6..=15).collect::<Vec<_>>(), || format!("changes of epochs {epochs:?}"))
}

fn reset_and_fetch(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let last = probe.produce(30);
    probe.reset(0, 1)?;
    let (all, _) = probe.drain(0, 30)?;
    ensure(all == (1..=last).collect::<Vec<_>>(), || format!("from 1: {all:?}"))?;
    probe.reset(0, 12)?;
    let (some, _) = probe.drain(0, 19)?;
    ensure(some == (12..=last).collect::<Vec<_>>(), || format!("from 12: {some:?}"))
}

fn caught_up(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let last = probe.produce(3);
    probe.reset(0, last + 1)?;
    let fetched = probe.fetch(0)?;
    let is_empty = fetched.batch.events.is_empty();
    ensure(is_empty && fetched.caught_up && !fetched.restarted, || format!("nothing to deliver: {fetched:?}"))?;
    probe.produce(1);
    let (some, _) = probe.drain(0, 1)?;
    ensure(some == [last + 1], || format!("the next event: {some:?}"))
}

fn reset_beyond_end(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let last = probe.produce(3);
    probe.reset(0, last + 5)?;
    probe.produce(6);
    let (some, _) = probe.drain(0, 2)?;
    ensure(some.first() == Some(&(last + 5)), || format!("from beyond the end: {some:?}"))
}

fn reset_below_first(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(10);
    probe.disturb(Disturbance::ExpireInput { first: 6 })?;
    let found = probe.survey(Some(3), None)?;
    ensure(found.input.first_sequence == 6 && found.input_fingerprint.is_none(), || {
        format!("expired: {:?}", found.input)
    })?;
    probe.reset(0, 2)?;
    let (some, _) = probe.drain(0, 5)?;
    ensure(some == [6, 7, 8, 9, 10], || format!("from below the first: {some:?}"))
}

fn consumer_deleted(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(5);
    probe.reset(0, 1)?;
    probe.drain(0, 5)?;
    probe.disturb(Disturbance::DeleteConsumer)?;
    probe.produce(5);
    let (some, restarted) = probe.drain(0, 5)?;
    ensure(restarted, || "a consumer that was made again is not said".into())?;
    ensure(some == [6, 7, 8, 9, 10], || format!("behind the last delivery: {some:?}"))
}

fn two_processes(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(10);
    probe.reset(0, 1)?;
    probe.drain(0, 10)?;
    probe.reset(1, 6)?;
    let (second, _) = probe.drain(1, 5)?;
    ensure(second == [6, 7, 8, 9, 10], || format!("the second process gets {second:?}"))?;
    probe.produce(4);
    let (first, restarted) = probe.drain(0, 4)?;
    ensure(restarted && first == [11, 12, 13, 14], || {
        format!("the first process gets {first:?}, restarted {restarted}")
    })
}

fn input_recreated(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(8);
    probe.reset(0, 1)?;
    probe.drain(0, 8)?;
    let before = probe.survey(None, None)?.input.identity;
    probe.disturb(Disturbance::RecreateInput)?;
    probe.produce(12);
    let after = probe.survey(None, None)?.input.identity;
    ensure(before != after, || format!("the identity is still {after:?}"))?;
    for _ in 0..5 {
        let fetched = probe.fetch(0)?;
        ensure(fetched.batch.events.is_empty() && !fetched.caught_up, || format!("without a reset: {fetched:?}"))?;
    }
    Ok(())
}

fn input_rolled_back(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(8);
    probe.reset(0, 1)?;
    probe.drain(0, 8)?;
    probe.disturb(Disturbance::RollBackInput { last: 5 })?;
    let fetched = probe.fetch(0)?;
    ensure(fetched.restarted && fetched.batch.events.is_empty(), || format!("after a roll-back: {fetched:?}"))
}

fn ack_wait(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(10);
    probe.reset(0, 1)?;
    probe.drain(0, 10)?;
    probe.disturb(Disturbance::AckWait)?;
    probe.produce(3);
    let mut new = Vec::new();
    for _ in 0..60 {
        let fetched = probe.fetch(0)?;
        new.extend(fetched.batch.events.iter().map(|event| event.sequence).filter(|&sequence| sequence > 10));
        if new.len() >= 3 {
            break;
        }
    }
    ensure(new == [11, 12, 13], || format!("new events after the ack wait: {new:?}"))
}

fn ack_unknown(probe: &mut Probe<'_>) -> Result<(), Ended> {
    probe.produce(5);
    probe.reset(0, 1)?;
    let response = probe.ask(0, Request::Ack { sequence: 4_000 });
    ensure(matches!(response, Response::Acked), || format!("ack answered {response:?}"))?;
    let (some, _) = probe.drain(0, 5)?;
    ensure(some == [1, 2, 3, 4, 5], || format!("after a wild ack: {some:?}"))
}

fn lease(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let held = probe.ask(0, Request::AcquireLease);
    let Response::LeaseHeld { revision } = held else { return Err(Ended::Broken(format!("a free lease: {held:?}"))) };
    let taken = probe.ask(1, Request::AcquireLease);
    ensure(matches!(taken, Response::LeaseTaken { .. }), || format!("a held lease: {taken:?}"))?;
    for _ in 0..3 {
        let renewed = probe.ask(0, Request::RenewLease { revision });
        ensure(matches!(renewed, Response::LeaseHeld { revision: same } if same == revision), || {
            format!("renewal: {renewed:?}")
        })?;
    }
    let wrong = probe.ask(1, Request::RenewLease { revision });
    ensure(matches!(wrong, Response::LeaseTaken { .. }), || format!("renewal by another: {wrong:?}"))?;
    let released = probe.ask(0, Request::ReleaseLease { revision });
    ensure(matches!(released, Response::LeaseReleased), || format!("release: {released:?}"))?;
    let next = probe.ask(1, Request::AcquireLease);
    ensure(matches!(next, Response::LeaseHeld { revision: later } if later > revision), || {
        format!("a released lease: {next:?}")
    })
}

fn lease_expired(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let held = probe.ask(0, Request::AcquireLease);
    let Response::LeaseHeld { revision } = held else { return Err(Ended::Broken(format!("a free lease: {held:?}"))) };
    probe.disturb(Disturbance::LeaseTime)?;
    let next = probe.ask(1, Request::AcquireLease);
    ensure(matches!(next, Response::LeaseHeld { revision: later } if later > revision), || {
        format!("an expired lease: {next:?}")
    })?;
    let old = probe.ask(0, Request::RenewLease { revision });
    ensure(matches!(old, Response::LeaseTaken { .. }), || format!("renewal of an expired lease: {old:?}"))
}

fn snapshots(probe: &mut Probe<'_>) -> Result<(), Ended> {
    let none = probe.ask(0, Request::LoadSnapshot { epoch_max: 99 });
    ensure(matches!(none, Response::Snapshot(None)), || format!("no snapshot: {none:?}"))?;
    let chain = probe.chain(9)?;
    for idx in [1, 4, 7] {
        let snapshot = Snapshot { stored: chain[idx].clone(), state: format!("state {idx}").into_bytes() };
        let saved = probe.ask(0, Request::SaveSnapshot { snapshot: Arc::new(snapshot) });
        ensure(matches!(saved, Response::SnapshotSaved), || format!("save: {saved:?}"))?;
    }
    for (epoch_max, expected) in [(9, 8), (8, 8), (7, 5), (5, 5)] {
        let response = probe.ask(0, Request::LoadSnapshot { epoch_max });
        let found = match &response {
            Response::Snapshot(Some(snapshot)) => snapshot.stored == chain[expected - 1],
            _ => false,
        };
        ensure(found, || format!("snapshot at or below {epoch_max}: {response:?}"))?;
    }
    let after = probe.ask(0, Request::Changes { after: chain[7].sequence, up_to: chain[8].sequence });
    let is_last = matches!(&after, Response::Changes(changes) if changes.len() == 1 && changes[0].stored == chain[8]);
    ensure(is_last, || format!("changes behind the newest snapshot: {after:?}"))?;
    // Below the older of the two, changes may be gone; if they are, that is said.
    let below = probe.ask(0, Request::Changes { after: 0, up_to: chain[8].sequence });
    let is_said = match &below {
        Response::Damaged(_) => true,
        Response::Changes(changes) => changes.first().is_some_and(|change| change.stored == chain[0]),
        _ => false,
    };
    ensure(is_said, || format!("changes below the snapshots: {below:?}"))
}
