//! The invariants, checked where they can be seen: each batch as it lands, the whole stream at the end.

use std::collections::BTreeMap;

use pelton_engine::epoch::{Channel, Epoch, Marker, roll, sha256};

use crate::guests::Temper;
use crate::log::{Entry, Input};
use crate::oracle::{Expected, stamp_of, unstamped};
use crate::scenario::Scenario;

/// Up to where the input was gone when a partition began: its first marker says so.
#[must_use]
pub fn begin(first: Option<&Marker>, input: &Input) -> u64 {
    let is_begin = |first: &&Marker| first.position.sequence == 0 && first.input.created == input.created();
    first.filter(is_begin).map_or(0, |first| first.read_through)
}

/// A batch that the stream has just taken, against the one before (I1–I5, I8, conservation). `begin`: see [`begin`].
///
/// # Errors
/// The broken invariant.
pub fn landed(
    (before, begin): (Option<&Marker>, u64),
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
    if before.map_or([0; 32], |before| sha256(before.bytes())) != marker.prev {
        return Err(format!("I1 {here}: was sealed behind another marker"));
    }
    if !epoch.is_whole() {
        return Err(format!("I3 {here}: a hash of delta or records is wrong"));
    }
    let state = before.map_or([0; 32], |before| before.state_hash);
    if marker.state_hash != roll(&state, &sha256(&epoch.delta)) {
        return Err(format!("I5 {here}: its changes do not follow from the state before"));
    }
    if before.is_some_and(|before| marker.watermark < before.watermark) {
        return Err(format!("I8 {here}: watermark moved back"));
    }
    let mut sum = before.map_or(Default::default(), |before| before.totals_sum);
    sum.add(&marker.totals);
    for (name, [count, sum]) in &marker.counters {
        let before = before.and_then(|before| before.counters.get(name)).map_or(0, |[_, sum]| *sum);
        if before + count != *sum {
            return Err(format!("I4 {here}: counter `{name}` was {before}, and {count} more are {sum}"));
        }
    }
    let held_before = before.map_or(0, |before| before.totals.held);
    if !marker.totals.balanced(held_before) || sum != marker.totals_sum {
        return Err(format!("I4 {here}: events do not add up: {:?}", marker.totals));
    }
    let gaps = gaps_of(epoch, epoch.records.rows.len()).map_err(|text| format!("I4 {here}: {text}"))?;
    if is_input_whole {
        if before.is_none()
            && let Some(there) = (1..=begin).find(|&sequence| is_there(input, partition, sequence))
        {
            return Err(format!("I2 {here}: begins behind {begin}, although {there} is there"));
        }
        accounted(position.max(begin), epoch, &gaps, partition, input).map_err(|text| format!("{text} ({here})"))?;
    }
    Ok(())
}

/// Every event of the partition in the range of an epoch is received or lies in a gap that is told with its exact range;
/// what lies in a gap is gone (I2, I4).
fn accounted(position: u64, epoch: &Epoch, gaps: &[(u64, u64)], partition: u32, input: &Input) -> Result<(), String> {
    let marker = &epoch.marker;
    let mut behind = position;
    for &(first, last) in gaps {
        if first <= behind || last < first || marker.position.sequence < last {
            return Err(format!("I4 gap {first}..={last} lies behind {behind}, before {}", marker.position.sequence));
        }
        if let Some(there) = (first..=last).find(|&sequence| input.get(sequence).is_some()) {
            return Err(format!("I4 gap {first}..={last} holds {there}, which is there"));
        }
        behind = last;
    }
    let gone: u64 = gaps.iter().map(|(first, last)| last - first + 1).sum();
    let events = taken(position, marker, gaps, partition, input).len() as u64;
    let totals = &marker.totals;
    if gone != totals.lost || events + gone != totals.received {
        return Err(format!(
            "I4 accounts for {} events and {} as lost; its range holds {events}, its gap records {gone}",
            totals.received - totals.lost,
            totals.lost
        ));
    }
    let is_ours = |sequence: &u64| is_of(input, partition, *sequence) && !input.is_excused(*sequence);
    if let Some(unread) = (position.max(marker.position.sequence) + 1..=marker.read_through).find(is_ours) {
        return Err(format!("I2 claims to have seen all up to {}, not {unread}", marker.read_through));
    }
    let stored = input.fingerprint(marker.position.sequence);
    if marker.position.sequence > 0 && stored.is_some_and(|stored| stored != marker.position.fingerprint) {
        return Err(format!("I2 fingerprint of {} is wrong", marker.position.sequence));
    }
    Ok(())
}

fn is_there(input: &Input, partition: u32, sequence: u64) -> bool {
    input.get(sequence).is_some_and(|message| message.partition == partition)
}

fn is_of(input: &Input, partition: u32, sequence: u64) -> bool {
    input.at(sequence).is_some_and(|message| message.partition == partition)
}

/// The events that an epoch has taken: all of its partition in its range that lie in no gap. Messages that were deleted
/// one by one, and of which nobody has to tell, are among them when its count says so.
#[must_use]
pub fn taken(position: u64, marker: &Marker, gaps: &[(u64, u64)], partition: u32, input: &Input) -> Vec<u64> {
    let in_gap = |sequence: u64| gaps.iter().any(|(first, last)| (*first..=*last).contains(&sequence));
    let range = position + 1..=marker.position.sequence;
    let all: Vec<u64> = range.filter(|&sequence| is_of(input, partition, sequence) && !in_gap(sequence)).collect();
    if all.len() as u64 + marker.totals.lost == marker.totals.received {
        return all;
    }
    all.into_iter().filter(|&sequence| !input.is_excused(sequence)).collect()
}

/// The gaps that the first `rows` records of an epoch tell of.
fn gaps_of(epoch: &Epoch, rows: usize) -> Result<Vec<(u64, u64)>, String> {
    let records = &epoch.records;
    let rows = records.rows[..rows].iter().filter(|row| records.slice(&row.subject) == b"dlq.source.gap");
    rows.map(|row| {
        let text = String::from_utf8_lossy(records.slice(&row.payload)).into_owned();
        let number = |name: &str| {
            let digits = text.split_once(&format!("\"{name}\":"))?.1;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        number("first").zip(number("last")).ok_or(format!("a gap record without its range: {text}"))
    })
    .collect()
}

/// All gaps of a stream, in order.
#[must_use]
pub fn gaps(entries: &[Entry]) -> Vec<(u64, u64)> {
    let rows = |entry: &Entry| entry.torn.unwrap_or(entry.epoch.records.rows.len());
    entries.iter().flat_map(|entry| gaps_of(&entry.epoch, rows(entry)).unwrap_or_default()).collect()
}

/// The whole chain of a partition against the published events: each batch as [`landed`] checks it, and no id twice.
///
/// # Errors
/// The broken invariant.
pub fn chain(entries: &[Entry], partition: u32, input: &Input) -> Result<(), String> {
    let mut before: Option<&Marker> = None;
    let begin = begin(entries.first().map(|entry| &entry.epoch.marker), input);
    for entry in entries.iter().filter(|entry| entry.torn.is_none()) {
        landed((before, begin), &entry.epoch, partition, input, true)?;
        before = Some(&entry.epoch.marker);
    }
    unique_ids(entries)
}

/// No two records share a `Pelton-Id` (I16).
///
/// # Errors
/// The first id that stands for two records.
pub fn unique_ids(entries: &[Entry]) -> Result<(), String> {
    let mut seen: BTreeMap<&[u8], u64> = BTreeMap::new();
    for entry in entries {
        let records = &entry.epoch.records;
        for row in &records.rows {
            let headers = records.slice(&row.headers);
            let Some(id) = headers.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Pelton-Id: "))
            else {
                continue;
            };
            if let Some(first) = seen.insert(id, entry.epoch.marker.epoch) {
                let (id, epoch) = (id.trim_ascii_end().escape_ascii(), entry.epoch.marker.epoch);
                return Err(format!("I16 {id} stands for two records, in epochs {first} and {epoch}"));
            }
        }
    }
    Ok(())
}

/// All records of the stream against the sequential run, in order and byte by byte (stamps aside).
///
/// # Errors
/// The first difference.
pub fn same_records(scenario: &Scenario, entries: &[Entry], expected: &Expected) -> Result<(), String> {
    let (at, until) = (first_records(scenario, entries, expected)?, expected.records.rows.len());
    if at < until { Err(format!("{at} of {until} records are there")) } else { Ok(()) }
}

/// The same, for a stream that may end early; gives how many records it holds.
///
/// # Errors
/// The first difference.
pub fn first_records(scenario: &Scenario, entries: &[Entry], expected: &Expected) -> Result<usize, String> {
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
    Ok(at)
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
