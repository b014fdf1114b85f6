//! The pipeline stream: fences, markers, changes.

use pelton_engine::epoch::MARKER_SLOTS;
use pelton_engine::log::{Fence, Published, Request, Response};

use crate::conformance::{Broken, Disturbance, Probe, ensure, epoch, fence, with_headers};

pub(super) fn first_batch(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let first = probe.commit(&epoch(1, 1, 2), None)?;
    let again = probe.publish(&epoch(1, 2, 2), fence(None))?;
    refused(&again)?;
    let found = probe.survey(None, None)?.marker;
    ensure(found.as_ref() == Some(&first), || format!("newest marker is {found:?}"))
}

pub(super) fn stale_fence(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(3)?;
    let before = probe.survey(None, None)?.log.last_sequence;
    let published = probe.publish(&epoch(3, 9, 2), fence(Some(&chain[1])))?;
    refused(&published)?;
    let after = probe.survey(None, None)?.log.last_sequence;
    ensure(before == after, || format!("a refused batch moved the stream from {before} to {after}"))
}

pub(super) fn wrong_slot(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(2)?;
    let fence = Fence { sequence: chain[1].sequence, slot: Some(chain[0].marker.slot()) };
    refused(&probe.publish(&epoch(3, 9, 1), fence)?)
}

pub(super) fn wrong_sequence(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(2)?;
    let fence = Fence { sequence: chain[1].sequence + 1, slot: Some(chain[1].marker.slot()) };
    refused(&probe.publish(&epoch(3, 9, 1), fence)?)
}

pub(super) fn duplicate_publish(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(1)?;
    let second = epoch(2, 5, 3);
    let stored = probe.commit(&second, chain.last())?;
    refused(&probe.publish(&second, fence(chain.last()))?)?;
    let found = probe.survey(None, Some(2))?;
    ensure(found.marker_of_epoch.as_ref() == Some(&stored), || format!("epoch 2 is {:?}", found.marker_of_epoch))
}

pub(super) fn message_ids(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let same = with_headers(1, 1, 2, b"Nats-Msg-Id: same\r\n");
    let first = probe.commit(&same, None)?;
    // Nor does an id of an earlier batch refuse a later one.
    let second = probe.commit(&with_headers(2, 2, 2, b"Nats-Msg-Id: same\r\n"), Some(&first))?;
    ensure((first.sequence, second.sequence) == (5, 10), || {
        format!("markers at {}, {}", first.sequence, second.sequence)
    })
}

pub(super) fn too_many_messages(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let largest = probe.commit(&epoch(1, 1, 997), None)?;
    let published = probe.publish(&epoch(2, 2, 998), fence(Some(&largest)))?;
    ensure(matches!(published, Published::Permanent(_)), || format!("1,001 messages: {published:?}"))?;
    let found = probe.survey(None, None)?;
    ensure(found.marker.as_ref() == Some(&largest) && found.log.last_sequence == largest.sequence, || {
        format!("the stream ends at {}, its marker lies at {}", found.log.last_sequence, largest.sequence)
    })
}

pub(super) fn rolled_back(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let mut chain = probe.chain(1)?;
    probe.disturb(Disturbance::Remember);
    chain.push(probe.commit(&epoch(2, 102, 1), chain.first())?);
    probe.disturb(Disturbance::RollBackLog);
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)?;
    // Another process takes the same sequence for another epoch 2.
    let other = probe.commit(&epoch(2, 50, 1), chain.first())?;
    ensure(other.sequence == chain[1].sequence, || "sequences are used again after a roll-back".into())?;
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)
}

pub(super) fn purged(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(2)?;
    probe.disturb(Disturbance::PurgeLog);
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)?;
    let found = probe.survey(None, Some(2))?;
    ensure(found.marker.is_none() && found.marker_of_epoch.is_none(), || format!("markers after a purge: {found:?}"))?;
    let last = chain[1].sequence;
    ensure((found.log.first_sequence, found.log.last_sequence) == (last + 1, last), || {
        format!("after a purge behind {last}: {:?}", found.log)
    })?;
    let next = probe.commit(&epoch(1, 4, 1), None)?;
    ensure(next.sequence == last + 4, || format!("sequences go on behind {last} at {}", next.sequence))
}

pub(super) fn log_recreated(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(2)?;
    let before = probe.survey(None, None)?.log.identity;
    probe.disturb(Disturbance::RecreateLog);
    let found = probe.survey(None, Some(2))?;
    ensure(found.log.identity != before, || format!("the identity is still {before:?}"))?;
    ensure(found.marker.is_none() && found.marker_of_epoch.is_none() && found.log.last_sequence == 0, || {
        format!("a stream that was made again: {found:?}")
    })?;
    refused(&probe.publish(&epoch(3, 3, 1), fence(chain.last()))?)?;
    probe.commit(&epoch(1, 4, 1), None).map(|_| ())
}

pub(super) fn survey_markers(probe: &mut Probe<'_>) -> Result<(), Broken> {
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

pub(super) fn lost_slot(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let first = probe.commit(&epoch(1, 1, 1), None)?;
    let found = probe.survey(None, Some(1))?.marker_of_epoch;
    ensure(found.as_ref() == Some(&first), || format!("epoch 1 is {found:?}"))?;
    let later = probe.commit(&epoch(1 + MARKER_SLOTS, 2, 1), Some(&first))?;
    let found = probe.survey(None, Some(1))?.marker_of_epoch;
    ensure(found.is_none(), || format!("epoch 1 is {found:?}"))?;
    let found = probe.survey(None, Some(1 + MARKER_SLOTS))?.marker_of_epoch;
    ensure(found.as_ref() == Some(&later), || format!("epoch {} is {found:?}", 1 + MARKER_SLOTS))
}

pub(super) fn changes(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let chain = probe.chain(20)?;
    let (mut after, up_to) = (chain[4].sequence, chain[14].sequence);
    let mut epochs = Vec::new();
    loop {
        let response = probe.ask(0, Request::Changes { after, up_to });
        let Response::Changes(changes) = response else {
            return Err(Broken(format!("changes answered {response:?}")));
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

fn refused(published: &Published) -> Result<(), Broken> {
    ensure(matches!(published, Published::Rejected(_)), || format!("expected a refusal, got {published:?}"))
}
