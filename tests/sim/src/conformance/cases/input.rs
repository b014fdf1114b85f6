//! The input stream: deliveries, and what a process learns when they are not what it expects.

use pelton_engine::epoch::fingerprint;
use pelton_engine::log::{AllDelivered, Fetched, Request, Response};

use crate::conformance::{Broken, Disturbance, FETCHES_MAX, Probe, ensure};

pub(super) fn survey_input(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let last = probe.produce(3);
    probe.reset(0, 1)?;
    let fetched = probe.fetch_some(0)?;
    let event = &fetched.batch.events[0];
    let expected = fingerprint(event.published.0, fetched.batch.slice(&event.payload));
    let found = probe.survey(Some(event.sequence), None)?;
    ensure(found.input_fingerprint == Some(expected), || "a delivered event is not the stored one".into())?;
    ensure(found.input.last_sequence == last, || format!("the input ends at {}", found.input.last_sequence))?;
    let none = probe.survey(Some(last + 1), None)?.input_fingerprint;
    ensure(none.is_none(), || "a message beyond the end has a fingerprint".into())
}

pub(super) fn reset_and_fetch(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let last = probe.produce(30);
    probe.reset(0, 1)?;
    let (all, _) = probe.drain(0, 30)?;
    ensure(all == (1..=last).collect::<Vec<_>>(), || format!("from 1: {all:?}"))?;
    probe.reset(0, 12)?;
    let (some, _) = probe.drain(0, 19)?;
    ensure(some == (12..=last).collect::<Vec<_>>(), || format!("from 12: {some:?}"))
}

pub(super) fn no_reset(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(6);
    let is_said = |fetched: &Fetched| fetched.restarted && fetched.batch.events.is_empty();
    let fetched = probe.fetch(0)?;
    ensure(is_said(&fetched), || format!("the first fetch of all: {fetched:?}"))?;
    let (all, _) = probe.drain(0, 6)?;
    ensure(all == [1, 2, 3, 4, 5, 6], || format!("without a consumer: {all:?}"))?;
    probe.ask(0, Request::Ack { sequence: 4 });
    let fetched = probe.fetch(1)?;
    ensure(is_said(&fetched), || format!("the first fetch of another process: {fetched:?}"))?;
    // An ack is a hint and may be late, so more may come again; but nothing is left out.
    let (some, _) = probe.drain(1, 2)?;
    ensure(some.first() <= Some(&5) && is_run(&some) && some.last() <= Some(&6), || {
        format!("behind the acknowledged: {some:?}")
    })
}

pub(super) fn caught_up(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let last = probe.produce(3);
    probe.reset(0, last + 1)?;
    let fetched = probe.fetch(0)?;
    let is_empty = fetched.batch.events.is_empty();
    ensure(is_empty && fetched.caught_up && !fetched.restarted, || format!("nothing to deliver: {fetched:?}"))?;
    probe.produce(1);
    let (some, _) = probe.drain(0, 1)?;
    ensure(some == [last + 1], || format!("the next event: {some:?}"))
}

pub(super) fn reset_beyond_end(probe: &mut Probe<'_>) -> Result<(), Broken> {
    let last = probe.produce(3);
    probe.reset(0, last + 5)?;
    probe.produce(6);
    let (some, _) = probe.drain(0, 2)?;
    ensure(some.first() == Some(&(last + 5)), || format!("from beyond the end: {some:?}"))
}

pub(super) fn reset_below_first(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(10);
    probe.disturb(Disturbance::ExpireInput { first: 6 });
    let found = probe.survey(Some(3), None)?;
    ensure(found.input.first_sequence == 6 && found.input_fingerprint.is_none(), || {
        format!("expired: {:?}", found.input)
    })?;
    probe.reset(0, 2)?;
    let (some, _) = probe.drain(0, 5)?;
    ensure(some == [6, 7, 8, 9, 10], || format!("from below the first: {some:?}"))
}

pub(super) fn consumer_deleted(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.reset(0, 1)?;
    probe.drain(0, 5)?;
    probe.disturb(Disturbance::DeleteConsumer);
    probe.produce(5);
    let (some, restarted) = probe.drain(0, 5)?;
    ensure(restarted, || "a consumer that was made again is not said".into())?;
    ensure(some == [6, 7, 8, 9, 10], || format!("behind the last delivery: {some:?}"))
}

pub(super) fn two_processes(probe: &mut Probe<'_>) -> Result<(), Broken> {
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

pub(super) fn displaced(probe: &mut Probe<'_>) -> Result<(), Broken> {
    // In each round the first process has had as many deliveries as the second one has had when the first one asks again.
    for held in 1..=3 {
        let last = probe.produce(held);
        probe.reset(0, last + 1 - held)?;
        let mut first = probe.drain(0, held as usize)?.0;
        probe.reset(1, last + 1)?;
        let more = probe.produce(held);
        let second = probe.drain(1, held as usize)?.0;
        ensure(is_run(&second) && second.last() == Some(&more), || format!("the second process gets {second:?}"))?;
        probe.produce(4);
        first.extend(probe.drain(0, held as usize + 4)?.0);
        ensure(is_run(&first) && first.last() == Some(&(more + 4)), || format!("the first process gets {first:?}"))?;
    }
    Ok(())
}

pub(super) fn displaced_unasked(probe: &mut Probe<'_>) -> Result<(), Broken> {
    // The first process may have used up what it asked for, and then asks for more when the consumer is the second one's.
    probe.produce(2);
    probe.reset(0, 1)?;
    probe.disturb(Disturbance::Settle);
    probe.reset(1, 2)?;
    probe.produce(1);
    probe.disturb(Disturbance::Settle);
    let mut first = probe.drain(0, 2)?.0;
    probe.produce(2);
    first.extend(probe.drain(0, 5 - first.len())?.0);
    ensure(first == [1, 2, 3, 4, 5], || format!("the first process gets {first:?}"))
}

pub(super) fn all_delivered(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(4);
    let expect = |probe: &mut Probe<'_>, what: &str, expected: Option<u64>| {
        let found = probe.survey(None, None)?.all_delivered;
        let expected = expected.map(|last| AllDelivered { delivered: last, last });
        ensure(found == expected, || format!("{what}: {found:?}"))
    };
    expect(probe, "before a reset", None)?;
    probe.reset(0, 1)?;
    probe.drain(0, 4)?;
    expect(probe, "when all is delivered", Some(4))?;
    probe.produce(1);
    expect(probe, "with one more", None)?;
    probe.drain(0, 1)?;
    expect(probe, "when that is delivered", Some(5))?;
    probe.reset(1, 4)?;
    probe.produce(3);
    let (other, _) = probe.drain(1, 5)?;
    ensure(other == [4, 5, 6, 7, 8], || format!("the second process gets {other:?}"))?;
    // It had five deliveries, as the first one had.
    expect(probe, "when another process received it", None)
}

pub(super) fn input_recreated(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(8);
    probe.reset(0, 1)?;
    probe.drain(0, 8)?;
    let before = probe.survey(None, None)?.input.identity;
    probe.disturb(Disturbance::RecreateInput);
    probe.produce(12);
    let after = probe.survey(None, None)?.input.identity;
    ensure(before != after, || format!("the identity is still {after:?}"))?;
    for _ in 0..5 {
        let fetched = probe.fetch(0)?;
        ensure(fetched.batch.events.is_empty() && !fetched.caught_up, || format!("without a reset: {fetched:?}"))?;
    }
    Ok(())
}

pub(super) fn input_rolled_back(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.disturb(Disturbance::Remember);
    probe.produce(3);
    probe.reset(0, 1)?;
    probe.drain(0, 8)?;
    probe.disturb(Disturbance::RollBackInput);
    let fetched = probe.fetch(0)?;
    ensure(fetched.restarted && fetched.batch.events.is_empty(), || format!("after a roll-back: {fetched:?}"))
}

pub(super) fn input_regrown(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.disturb(Disturbance::Remember);
    probe.produce(3);
    probe.reset(0, 1)?;
    probe.drain(0, 8)?;
    let before = probe.survey(Some(8), None)?;
    probe.disturb(Disturbance::RollBackInput);
    let last = probe.produce(5);
    ensure(last == 10, || format!("sequences are used again after a roll-back: {last}"))?;
    let after = probe.survey(Some(8), None)?;
    ensure(before.input.identity == after.input.identity, || "it is another stream".into())?;
    ensure(after.input_fingerprint.is_some() && before.input_fingerprint != after.input_fingerprint, || {
        format!("message 8 is {:?}, was {:?}", after.input_fingerprint, before.input_fingerprint)
    })?;
    let fetched = probe.fetch(0)?;
    ensure(fetched.restarted && fetched.batch.events.is_empty(), || format!("after a roll-back: {fetched:?}"))?;
    let (some, _) = probe.drain(0, 2)?;
    ensure(some == [9, 10], || format!("behind the last delivery: {some:?}"))
}

pub(super) fn ack_wait(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(10);
    probe.reset(0, 1)?;
    probe.drain(0, 10)?;
    probe.disturb(Disturbance::AckWait);
    probe.produce(3);
    let mut new = Vec::new();
    for _ in 0..FETCHES_MAX {
        let fetched = probe.fetch(0)?;
        new.extend(fetched.batch.events.iter().map(|event| event.sequence).filter(|&sequence| sequence > 10));
        if new.len() >= 3 {
            break;
        }
    }
    ensure(new == [11, 12, 13], || format!("new events after the ack wait: {new:?}"))
}

pub(super) fn ack_unknown(probe: &mut Probe<'_>) -> Result<(), Broken> {
    probe.produce(5);
    probe.reset(0, 1)?;
    let acked = |response: Response| ensure(matches!(response, Response::Acked), || format!("ack: {response:?}"));
    acked(probe.ask(0, Request::Ack { sequence: 4_000 }))?;
    let (some, _) = probe.drain(0, 5)?;
    ensure(some == [1, 2, 3, 4, 5], || format!("after a wild ack: {some:?}"))?;
    acked(probe.ask(0, Request::Ack { sequence: 4_000 }))?;
    probe.produce(5);
    let (other, _) = probe.drain(1, 5)?;
    ensure(other.first() <= Some(&6) && is_run(&other) && other.len() >= 5, || {
        format!("a process without a reset gets {other:?}")
    })
}

/// Consecutive sequences.
fn is_run(sequences: &[u64]) -> bool {
    sequences.windows(2).all(|pair| pair[0] + 1 == pair[1])
}
