//! The invariants, checked where they can be seen: each batch as it lands, the whole stream at the end.

use std::collections::BTreeMap;

use pelton_engine::epoch::{Channel, Epoch, Marker};

use crate::guests::Temper;
use crate::log::{Entry, Input};
use crate::oracle::{Expected, stamp_of, unstamped};
use crate::scenario::Scenario;

/// A batch that the stream has just taken, against the one before (I1–I5, I8, conservation).
///
/// # Errors
/// The broken invariant.
pub fn landed(
    before: Option<&Marker>,
    epoch: &Epoch,
    partition: u32,
    input: &Input,
    is_input_whole: bool,
) -> Result<(), String> {
    let marker = &epoch.marker;
    let here = format!("partition {partition}, epoch {}", marker.epoch);
    let (last, nonce) = before.map_or((0, 0), |before| (before.epoch, before.nonce));
    let position = before.map_or(0, |before| before.position.sequence);
    if marker.epoch != last + 1 {
        return Err(format!("I1 {here}: comes after epoch {last}"));
    }
    if marker.prev_nonce != nonce {
        return Err(format!("I1 {here}: follows nonce {:032x}, the stream has {nonce:032x}", marker.prev_nonce));
    }
    if marker.position.sequence < position {
        return Err(format!("I2 {here}: position moved back from {position} to {}", marker.position.sequence));
    }
    if marker.batch_hash != Epoch::hash(&epoch.delta, &epoch.records) {
        return Err(format!("I3 {here}: batch hash is wrong"));
    }
    let state = before.map_or([0; 32], |before| before.state_hash);
    if marker.state_hash != Epoch::roll(&state, &epoch.delta) {
        return Err(format!("I5 {here}: its changes do not follow from the state before"));
    }
    if before.is_some_and(|before| marker.watermark < before.watermark) {
        return Err(format!("I8 {here}: watermark moved back"));
    }
    let mut sum = before.map_or(Default::default(), |before| before.totals_sum);
    sum.add(&marker.totals);
    if !marker.totals.balanced() || sum != marker.totals_sum {
        return Err(format!("I4 {here}: events do not add up: {:?}", marker.totals));
    }
    if is_input_whole {
        let range = position + 1..=marker.position.sequence;
        let events =
            range.filter(|&sequence| input.at(sequence).is_some_and(|message| message.partition == partition)).count();
        if events as u64 != marker.totals.received {
            return Err(format!("I4 {here}: accounts for {} events of {events} in its range", marker.totals.received));
        }
        let is_ours = |sequence| input.at(sequence).is_some_and(|message| message.partition == partition);
        if let Some(unread) = (marker.position.sequence + 1..=marker.seen).find(|&sequence| is_ours(sequence)) {
            return Err(format!("I2 {here}: claims to have seen all up to {}, not {unread}", marker.seen));
        }
        let stored = input.fingerprint(marker.position.sequence);
        if marker.position.sequence > 0 && stored.is_some_and(|stored| stored != marker.position.fingerprint) {
            return Err(format!("I2 {here}: fingerprint of {} is wrong", marker.position.sequence));
        }
    }
    Ok(())
}

/// All records of the stream against the sequential run, in order and byte by byte (stamps aside).
///
/// # Errors
/// The first difference.
pub fn same_records(scenario: &Scenario, entries: &[Entry], expected: &Expected) -> Result<(), String> {
    let until = expected.records.rows.len();
    let mut at = 0;
    for entry in entries {
        let records = &entry.epoch.records;
        let mut attempt = None;
        for row in &records.rows[..entry.torn.unwrap_or(records.rows.len())] {
            let found = [records.slice(&row.subject), records.slice(&row.headers), records.slice(&row.payload)];
            let Some(wanted) = expected.records.rows.get(at) else {
                return Err(format!("record {at} is one too many: {}", text(&found)));
            };
            let slice = |range| expected.records.slice(range);
            let wanted_parts = [slice(&wanted.subject), slice(&wanted.headers), slice(&wanted.payload)];
            let is_same = found[..2] == wanted_parts[..2]
                && row.channel == wanted.channel
                && if scenario.nondeterministic {
                    unstamped(found[2]) == wanted_parts[2]
                } else {
                    found[2] == wanted_parts[2]
                };
            if !is_same {
                return Err(format!(
                    "record {at} differs:\n  expected {}\n  found    {}",
                    text(&wanted_parts),
                    text(&found)
                ));
            }
            if let Some(stamp) = stamp_of(found[2], b's').filter(|_| scenario.nondeterministic && !is_dead(row.channel))
            {
                if attempt.is_some_and(|attempt| attempt != stamp) {
                    return Err(format!("epoch {} mixes two attempts: {}", entry.epoch.marker.epoch, text(&found)));
                }
                attempt = Some(stamp);
            }
            at += 1;
        }
    }
    if at < until { Err(format!("{at} of {until} records are there")) } else { Ok(()) }
}

fn is_dead(channel: Channel) -> bool {
    channel == Channel::DeadLetter
}

/// For reducers: every output repeats the stamp of the state before it, so state and outputs are from one history.
///
/// # Errors
/// The first broken link.
pub fn linked_states(entries: &[Entry]) -> Result<(), String> {
    let mut before: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for entry in entries {
        let records = &entry.epoch.records;
        for row in &records.rows {
            let payload = records.slice(&row.payload);
            let (Some(stamp), Some(previous)) = (stamp_of(payload, b's'), stamp_of(payload, b'p')) else { continue };
            let headers = String::from_utf8_lossy(records.slice(&row.headers)).into_owned();
            let key = headers.lines().find_map(|line| line.strip_prefix("Pelton-Key: ")).unwrap_or_default();
            let known = before.insert(key.as_bytes().to_vec(), stamp).unwrap_or(0);
            // A key that was forgotten begins again without a stamp.
            if previous != known && previous != 0 {
                return Err(format!(
                    "epoch {}: {} follows {known:016x}",
                    entry.epoch.marker.epoch,
                    String::from_utf8_lossy(payload)
                ));
            }
        }
    }
    Ok(())
}

/// The state that the changes of the stream give, against the sequential run (I5).
///
/// # Errors
/// When they differ or do not read.
pub fn same_state(
    scenario: &Scenario,
    partition: u32,
    entries: &[Entry],
    expected: &Expected,
) -> Result<Vec<u8>, String> {
    let mut engine = scenario.engine(partition, &Temper::calm()).map_err(|error| error.to_string())?;
    for entry in entries {
        engine.restore(&entry.epoch.delta).map_err(|error| format!("epoch {}: {error}", entry.epoch.marker.epoch))?;
    }
    let position = entries.last().map_or(Default::default(), |entry| entry.epoch.marker.position);
    engine.resume(position);
    let state = engine.snapshot();
    let same = if scenario.nondeterministic { unstamped(&state) == expected.state } else { state == expected.state };
    // Keys have numbers inside; which one has which depends on restarts. What the state means does not.
    if same || crate::oracle::rest(engine) == expected.rest {
        return Ok(state);
    }
    let (found, wanted) = (state.escape_ascii(), expected.state.escape_ascii());
    Err(format!("I5 the changes give another state than the sequential run:\n  expected {wanted}\n  found    {found}"))
}

fn text(parts: &[&[u8]]) -> String {
    parts.iter().map(|part| String::from_utf8_lossy(part).replace("\r\n", " | ")).collect::<Vec<_>>().join(" :: ")
}
