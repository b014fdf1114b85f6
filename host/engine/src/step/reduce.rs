//! A reducer as the last stage: state bytes and event-time timers per key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::effects::{DeadLetter, Effects, Headers};
use crate::event::{Events, RawBatch};
use crate::guest::{Change, Fault, Groups, Guest, Metering, OF_SOURCE, Reduced};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::watermark::Watermark;

use super::Context;
use super::chain::{ActKind, Unit, columns_of};
use super::emit::{Envelope, Fate, TOO_MANY, keep_row, push_output, too_many};
use super::fold::guilty;
use super::run;

/// Keys whose timers fire in one call.
const TIMER_GROUPS: usize = 256;
/// Calls for timers in one step; a module that sets timers for ever is cut into epochs, and the host stays responsive.
const TIMER_ROUNDS: usize = 64;
/// Rough bytes of one entry besides key, state and timers.
const ENTRY_BYTES: usize = 96;

/// What is kept of one key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    state: Vec<u8>,
    timers: BTreeSet<i64>,
}

/// Keys in order, so that firing and encoding are the same in every run.
type Overlay = BTreeMap<Vec<u8>, Entry>;

/// The module and the state of all its keys.
pub(crate) struct ReduceTail {
    guest: Box<dyn Guest>,
    digest: [u8; 32],
    stage: usize,
    name: String,
    state_max: usize,
    columns: Vec<usize>,
    entries: FxHashMap<Vec<u8>, Entry>,
    /// All timers, by time and key.
    timers: BTreeSet<(i64, Vec<u8>)>,
    changed: BTreeSet<Vec<u8>>,
    bytes: usize,
    events: Events,
}

/// A record that waits until its event or timer is accounted for.
struct Emitted {
    port: u8,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    time: Option<i64>,
}

/// What a run brings about, before it is kept.
#[derive(Default)]
struct Outcome {
    overlay: Overlay,
    /// Records per flow row, or per timer group.
    records: BTreeMap<u32, Vec<Emitted>>,
    count: usize,
    guilty: BTreeMap<u32, Verdict>,
    rejected: BTreeMap<u32, Vec<(String, String)>>,
    earliest_timer: Option<i64>,
    faults: u64,
}

impl ReduceTail {
    pub(crate) fn new(guest: Box<dyn Guest>, stage: usize, plan: &Arc<Plan>, fields: &[FieldRead]) -> ReduceTail {
        ReduceTail {
            columns: columns_of(guest.as_ref(), fields),
            digest: guest.digest(),
            guest,
            stage,
            name: plan.stages[stage].name.clone(),
            state_max: plan.limits.state_per_key as usize,
            entries: FxHashMap::default(),
            timers: BTreeSet::new(),
            changed: BTreeSet::new(),
            bytes: 0,
            events: Events::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_due(&self, watermark: EventTime) -> bool {
        self.timers.first().is_some_and(|(at, _)| *at <= watermark.0)
    }

    /// Accounts for a run of the unit's events; false when the next one does not fit into the epoch.
    ///
    /// A run must not reach beyond a moment at which a timer of its own is due: then it is cut there and done again,
    /// so that results are those of one event at a time.
    pub(crate) fn take_run(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let mut limit = usize::MAX;
        loop {
            let next_timer = self.timers.first().map_or(i64::MAX, |(at, _)| *at);
            let mut stops = |row: Option<u32>, _: EventTime, after: EventTime| row.is_none() && next_timer <= after.0;
            let Some(run) = run::plan(context, unit, watermark, effects, limit, &mut stops) else {
                return Ok(false);
            };
            let events = run.end - unit.next;
            let mut outcome = self.reduce(unit, batch, &run.rows)?;
            if let Some(timer) = outcome.earliest_timer {
                let due_after = run.after.iter().position(|mark| timer <= mark.0).map_or(events, |idx| idx + 1);
                if due_after < events {
                    // Half may do, when it is not the half that sets this timer.
                    limit = due_after.max(events / 2);
                    continue;
                }
            }
            let acts = unit.acts[unit.next_act..].iter().take_while(|act| (act.origin as usize) < run.end);
            let others = acts.filter(|act| !matches!(act.kind, ActKind::Item { .. })).count();
            let count = outcome.count + outcome.guilty.len() + others;
            if !effects.fits(&context.room, count) {
                if events > 1 {
                    limit = events / 2;
                    continue;
                }
                if !effects.records.rows.is_empty() {
                    return Ok(false);
                }
                if count > context.room.records {
                    outcome = Outcome::refused(&run.rows, too_many(context, count), outcome.faults);
                }
            }
            let start = unit.next;
            self.keep(context, unit, batch, run.end, outcome, effects);
            for time in unit.times[start..run.end].iter().flatten() {
                watermark.observe(EventTime(*time));
            }
            return Ok(true);
        }
    }

    /// Calls the module over the run's rows, on an overlay.
    fn reduce(&mut self, unit: &Unit, batch: &RawBatch, rows: &[u32]) -> Result<Outcome, StepError> {
        let flow = unit.flows.last().expect("decoding made one");
        let descriptor = self.guest.descriptor().clone();
        let (guest, events, columns, entries, state_max) =
            (&mut self.guest, &mut self.events, &self.columns, &self.entries, self.state_max);
        let outcome = std::cell::RefCell::new(Outcome::default());
        let faults = judge(
            &self.name,
            rows,
            &mut |metering, rows| {
                flow.fill(rows, &descriptor, columns, batch, &unit.events, events);
                let (mut groups, keys) =
                    group(entries, &outcome.borrow().overlay, rows, |row| flow.decoded.keys.get(row as usize));
                let reduced = call(guest.as_mut(), metering, events, &mut groups, state_max)?;
                Ok((keys, reduced, events.data.clone()))
            },
            &mut |rows, reply| match reply {
                Ok((keys, reduced, input)) => {
                    outcome.borrow_mut().take(entries, &keys, reduced, &input, &|source| rows[source as usize])
                }
                Err(verdict) => {
                    outcome.borrow_mut().guilty.insert(rows[0], verdict);
                }
            },
        )?;
        let mut outcome = outcome.into_inner();
        outcome.faults = faults;
        Ok(outcome)
    }

    /// Keeps what a run brought about.
    fn keep(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        end: usize,
        mut outcome: Outcome,
        effects: &mut Effects,
    ) {
        effects.count_faults(self.stage, outcome.faults);
        let (stage, digest) = (self.stage, self.digest);
        while unit.next < end {
            keep_row(context, unit, batch, effects, &mut |unit, row, effects| {
                let flow = unit.flows.last().expect("decoding made one");
                let event = &unit.events[flow.origins[row as usize] as usize];
                if let Some(verdict) = outcome.guilty.remove(&row) {
                    effects.push_dead(&context.origin, &guilty(context, stage, digest, &verdict), batch, event);
                    return Fate::Dead;
                }
                let (key, time) = (flow.decoded.keys.get(row as usize), flow.decoded.timestamps[row as usize]);
                for (nth, record) in outcome.records.remove(&row).unwrap_or_default().iter().enumerate() {
                    let payload =
                        record.payload.as_deref().unwrap_or_else(|| flow.payload(row as usize, batch, &unit.events));
                    let id =
                        format!("{}/{}/{}/{nth}", context.origin.pipeline, context.origin.partition, event.sequence);
                    emit(context, stage, record, key, time, payload, &id, effects);
                }
                let mut fate = Fate::Processed;
                for (code, detail) in outcome.rejected.remove(&row).unwrap_or_default() {
                    let letter = rejection(context, stage, digest, &code, &detail);
                    effects.push_dead(&context.origin, &letter, batch, event);
                    fate = Fate::Dead;
                }
                fate
            });
        }
        self.commit(outcome.overlay);
    }

    fn commit(&mut self, overlay: Overlay) {
        for (key, entry) in overlay {
            self.put(&key, entry);
            self.changed.insert(key);
        }
    }

    /// Replaces what is kept of a key; nothing is kept of an entry without state and timers.
    fn put(&mut self, key: &[u8], entry: Entry) {
        let size = |entry: &Entry| ENTRY_BYTES + key.len() + entry.state.len() + entry.timers.len() * (key.len() + 48);
        let is_empty = entry.state.is_empty() && entry.timers.is_empty();
        let added = if is_empty { 0 } else { size(&entry) };
        entry.timers.iter().for_each(|&at| {
            self.timers.insert((at, key.to_vec()));
        });
        let fresh = entry.timers.clone();
        let old = if is_empty { self.entries.remove(key) } else { self.entries.insert(key.to_vec(), entry) };
        if let Some(old) = old {
            self.bytes -= size(&old);
            for at in old.timers.difference(&fresh) {
                self.timers.remove(&(*at, key.to_vec()));
            }
        }
        self.bytes += added;
    }

    /// Fires due timers in order of time and key; false when the epoch is full before all have fired.
    pub(crate) fn drain_due(
        &mut self,
        context: &Context,
        watermark: EventTime,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        for _ in 0..TIMER_ROUNDS {
            let due = self.due_groups(watermark);
            if due.is_empty() {
                return Ok(true);
            }
            let mut outcome = self.fire(&due)?;
            effects.count_faults(self.stage, outcome.faults);
            for (idx, (key, timers)) in due.iter().enumerate() {
                // A timer that has just been set may come before the rest.
                if self.timers.first().is_some_and(|(at, first)| (*at, first) < (timers[0], key)) {
                    break;
                }
                let idx = idx as u32;
                let mut records = outcome.records.remove(&idx).unwrap_or_default();
                let mut rejected = outcome.rejected.remove(&idx).unwrap_or_default();
                if records.len() + rejected.len() > context.room.records {
                    let message = too_many(context, records.len() + rejected.len());
                    outcome.guilty.insert(idx, Verdict { class: "limit", code: TOO_MANY, message });
                    (records, rejected) = (Vec::new(), Vec::new());
                }
                let count = records.len() + rejected.len() + usize::from(outcome.guilty.contains_key(&idx));
                if !effects.fits(&context.room, count) && !effects.records.rows.is_empty() {
                    return Ok(false);
                }
                let last = *timers.last().expect("a due group has timers");
                let describe =
                    || serde_json::json!({"key": String::from_utf8_lossy(key), "timers": timers}).to_string();
                for (code, detail) in rejected {
                    let letter = rejection(context, self.stage, self.digest, &code, &detail);
                    effects.push_dead_row(&context.origin, &letter, describe().as_bytes());
                }
                if let Some(verdict) = outcome.guilty.remove(&idx) {
                    let letter = guilty(context, self.stage, self.digest, &verdict);
                    effects.push_dead_row(&context.origin, &letter, describe().as_bytes());
                    outcome.overlay.insert(key.clone(), self.without_timers(key, timers));
                }
                for (nth, record) in records.iter().enumerate() {
                    let token = crate::effects::key_token(key);
                    let origin = &context.origin;
                    let id =
                        format!("{}/{}/{}/{token}/timer/{last}/{nth}", origin.pipeline, origin.partition, self.name);
                    emit(
                        context,
                        self.stage,
                        record,
                        key,
                        last,
                        record.payload.as_deref().unwrap_or_default(),
                        &id,
                        effects,
                    );
                }
                let entry = outcome.overlay.remove(key).unwrap_or_else(|| self.without_timers(key, timers));
                self.put(key, entry);
                self.changed.insert(key.clone());
            }
        }
        Ok(false)
    }

    fn without_timers(&self, key: &[u8], timers: &[i64]) -> Entry {
        let mut entry = self.entries.get(key).cloned().unwrap_or_default();
        timers.iter().for_each(|at| {
            entry.timers.remove(at);
        });
        entry
    }

    fn due_groups(&self, watermark: EventTime) -> Vec<(Vec<u8>, Vec<i64>)> {
        let mut groups: Vec<(Vec<u8>, Vec<i64>)> = Vec::new();
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        for (_, key) in self.timers.iter().take_while(|(at, _)| *at <= watermark.0) {
            if groups.len() == TIMER_GROUPS {
                break;
            }
            if seen.insert(key)
                && let Some(entry) = self.entries.get(key)
            {
                // All that are due, so that a group does not depend on where an epoch was cut.
                groups.push((key.clone(), entry.timers.range(..=watermark.0).copied().collect()));
            }
        }
        groups
    }

    fn fire(&mut self, due: &[(Vec<u8>, Vec<i64>)]) -> Result<Outcome, StepError> {
        let rows: Vec<u32> = (0..due.len() as u32).collect();
        let guest = &mut self.guest;
        let (entries, state_max) = (&self.entries, self.state_max);
        let mut outcome = Outcome::default();
        let mut guilty = BTreeMap::new();
        let faults = judge(
            &self.name,
            &rows,
            &mut |metering, rows| {
                let mut groups = Groups::default();
                for &row in rows {
                    let (key, timers) = &due[row as usize];
                    groups.keys.push(key);
                    groups.states.push(entries.get(key).map_or(&[][..], |entry| &entry.state));
                    groups.member_ends.push(0);
                    groups.timers.extend(timers);
                    groups.timer_ends.push(groups.timers.len() as u32);
                }
                let mut events = Events::default();
                let reduced = call(guest.as_mut(), metering, &mut events, &mut groups, state_max)?;
                for (group, at) in &reduced.timers {
                    let last = due[rows[*group as usize] as usize].1.last().copied().unwrap_or(i64::MIN);
                    if *at <= last {
                        return Err(Fault::Contract(format!("a timer at {last} sets one at {at}, which is not later")));
                    }
                }
                Ok(reduced)
            },
            &mut |rows, reply| match reply {
                Ok(reduced) => {
                    let keys: Vec<Vec<u8>> = rows.iter().map(|&row| due[row as usize].0.clone()).collect();
                    outcome.take(entries, &keys, reduced, &[], &|source| rows[source as usize]);
                }
                Err(verdict) => {
                    guilty.insert(rows[0], verdict);
                }
            },
        )?;
        for (key, timers) in due {
            if let Some(entry) = outcome.overlay.get_mut(key) {
                timers.iter().for_each(|at| {
                    entry.timers.remove(at);
                });
            }
        }
        (outcome.guilty, outcome.faults) = (guilty, faults);
        Ok(outcome)
    }

    /// Appends changed entries, or all of them.
    pub(crate) fn encode(&mut self, all: bool, out: &mut Vec<u8>) {
        let changed = std::mem::take(&mut self.changed);
        let keys: Vec<Vec<u8>> = if all {
            let mut keys: Vec<_> = self.entries.keys().cloned().collect();
            keys.sort_unstable();
            keys
        } else {
            changed.into_iter().collect()
        };
        put_u64(out, keys.len() as u64);
        for key in keys {
            put_bytes(out, &key);
            let none = Entry::default();
            let entry = self.entries.get(&key).unwrap_or(&none);
            put_bytes(out, &entry.state);
            put_u64(out, entry.timers.len() as u64);
            entry.timers.iter().for_each(|&at| put_i64(out, at));
        }
    }

    /// Applies what [`ReduceTail::encode`] wrote.
    pub(crate) fn apply(&mut self, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..reader.count()? {
            let key = reader.bytes()?.to_vec();
            let state = reader.bytes()?.to_vec();
            let timers = (0..reader.count()?).map(|_| reader.i64()).collect::<Result<_, _>>()?;
            self.put(&key, Entry { state, timers });
        }
        Ok(())
    }
}

impl Outcome {
    /// Every row is a dead letter, and nothing else has happened.
    fn refused(rows: &[u32], message: String, faults: u64) -> Outcome {
        let verdict = Verdict { class: "limit", code: TOO_MANY, message };
        let guilty = rows.iter().map(|&row| (row, verdict.clone())).collect();
        Outcome { guilty, faults, ..Outcome::default() }
    }

    /// Takes one call's reply; `row_of` gives the row of a source below the number of rows.
    fn take(
        &mut self,
        entries: &FxHashMap<Vec<u8>, Entry>,
        keys: &[Vec<u8>],
        reduced: Reduced,
        input: &[u8],
        row_of: &dyn Fn(u32) -> u32,
    ) {
        for (idx, key) in keys.iter().enumerate() {
            let entry =
                self.overlay.entry(key.clone()).or_insert_with(|| entries.get(key).cloned().unwrap_or_default());
            match reduced.changes[idx] {
                Change::Keep => {}
                Change::Replace => entry.state = reduced.states.get(idx).to_vec(),
                Change::Delete => entry.state.clear(),
            }
        }
        for (group, at) in &reduced.timers {
            self.overlay.get_mut(&keys[*group as usize]).expect("inserted above").timers.insert(*at);
            self.earliest_timer = Some(self.earliest_timer.map_or(*at, |earliest| earliest.min(*at)));
        }
        for (group, at) in &reduced.cancels {
            self.overlay.get_mut(&keys[*group as usize]).expect("inserted above").timers.remove(at);
        }
        let output = &reduced.output;
        let slice = |offset: u32, len: u32| {
            let (offset, len) = (offset as usize, len as usize);
            match offset.checked_sub(input.len()) {
                None => input[offset..offset + len].to_vec(),
                Some(offset) => output.data[offset..offset + len].to_vec(),
            }
        };
        for (idx, &source) in output.sources.iter().enumerate() {
            let at = &output.slices[4 * idx..4 * idx + 4];
            let record = Emitted {
                port: output.ports.get(idx).copied().unwrap_or(0),
                key: (at[0] != OF_SOURCE).then(|| slice(at[0], at[1])),
                payload: (at[2] != OF_SOURCE).then(|| slice(at[2], at[3])),
                time: output.timestamps.get(idx).copied(),
            };
            self.records.entry(row_of(source)).or_default().push(record);
            self.count += 1;
        }
        for reject in &output.rejects {
            self.rejected.entry(row_of(reject.source)).or_default().push((reject.code.clone(), reject.detail.clone()));
            self.count += 1;
        }
    }
}

fn rejection<'a>(
    context: &'a Context,
    stage: usize,
    digest: [u8; 32],
    code: &'a str,
    detail: &'a str,
) -> DeadLetter<'a> {
    let stage = &context.plan.stages[stage].name;
    DeadLetter { stage, digest: Some(digest), class: "reject", code, path: "", message: detail }
}

/// Calls the module and holds it to its limits.
fn call(
    guest: &mut dyn Guest,
    metering: Metering,
    events: &mut Events,
    groups: &mut Groups,
    state_max: usize,
) -> Result<Reduced, Fault> {
    let mut reduced = Reduced::default();
    guest.reduce(metering, events, groups, &mut reduced)?;
    for idx in 0..reduced.changes.len() {
        let len = reduced.states.get(idx).len();
        if reduced.changes[idx] == Change::Replace && len > state_max {
            return Err(Fault::Limit(format!("state of a key has {len} bytes, limit {state_max}")));
        }
    }
    Ok(reduced)
}

/// Groups rows by key in order of first appearance, with states as the overlay has them.
fn group<'a>(
    entries: &FxHashMap<Vec<u8>, Entry>,
    overlay: &Overlay,
    rows: &[u32],
    key: impl Fn(u32) -> &'a [u8],
) -> (Groups, Vec<Vec<u8>>) {
    let mut index: BTreeMap<&[u8], usize> = BTreeMap::new();
    let (mut members, mut keys): (Vec<Vec<u32>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for (at, &row) in rows.iter().enumerate() {
        let idx = *index.entry(key(row)).or_insert_with(|| {
            keys.push(key(row).to_vec());
            members.push(Vec::new());
            members.len() - 1
        });
        members[idx].push(at as u32);
    }
    let mut groups = Groups::default();
    for (key, run) in keys.iter().zip(members) {
        let entry = overlay.get(key).or_else(|| entries.get(key));
        groups.keys.push(key);
        groups.states.push(entry.map_or(&[][..], |entry| &entry.state));
        groups.members.extend(run);
        groups.member_ends.push(groups.members.len() as u32);
        groups.timer_ends.push(0);
    }
    (groups, keys)
}

#[expect(clippy::too_many_arguments, reason = "the parts of a record come from five places")]
fn emit(
    context: &Context,
    stage: usize,
    record: &Emitted,
    key: &[u8],
    time: i64,
    payload: &[u8],
    id: &str,
    effects: &mut Effects,
) {
    let Some(output) = context.route(stage, record.port) else { return };
    let key = record.key.as_deref().unwrap_or(key);
    let mut headers = Headers::default();
    if context.envelope == Envelope::Headers {
        headers
            .put("Pelton-Id", id)
            .put("Pelton-Key", String::from_utf8_lossy(key))
            .put("Pelton-Time", record.time.unwrap_or(time));
    }
    push_output(context, output, key, headers.bytes(), payload, effects);
}
