//! A reducer as the last stage: state bytes and event-time timers per key.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::effects::{DeadLetter, Effects, Room, key_text, letter_bytes};
use crate::event::{Events, RawBatch};
use crate::guest::{Change, Fault, Groups, Guest, Metering, OF_SOURCE, Reduced};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::watermark::Watermark;

use super::Context;
use super::chain::{Unit, columns_of};
use super::emit::{Fate, keep_row, refuse_row};
use super::fold::guilty;
use super::held::Held;
use super::output::{Cause, Outgoing, Refusal, STATE_SIZE, Scale, TOO_MANY, state_size};
use super::run::{self, Run};

/// Keys whose timers fire in one call.
const TIMER_GROUPS: usize = 256;
/// Calls for timers in one step; a module that sets timers for ever is cut into epochs, and the host stays responsive.
const TIMER_ROUNDS: usize = 64;
/// Timers that a dead letter names.
const TIMERS_TOLD: usize = 256;
/// Rough bytes of one entry besides key, state and timers.
const ENTRY_BYTES: usize = 96;
/// Most bytes of a stored length, time or number.
const COUNT_STORED_BYTES_MAX: usize = 10;

/// What is kept of one key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    state: Vec<u8>,
    timers: BTreeSet<i64>,
}

impl Entry {
    /// At least what it takes where it is stored.
    fn stored_bytes_max(&self, key: &[u8]) -> usize {
        key.len() + self.state.len() + (3 + self.timers.len()) * COUNT_STORED_BYTES_MAX
    }
}

/// Keys in order: firing and encoding are the same in every run, and whoever chooses the keys of events cannot make them
/// collide.
type Entries = BTreeMap<Vec<u8>, Entry>;

/// The module and the state of all its keys.
pub(crate) struct ReduceTail {
    guest: Box<dyn Guest>,
    digest: [u8; 32],
    stage: usize,
    name: String,
    state_max: usize,
    /// What may be held at one time, with nothing in it.
    held: Held,
    columns: Vec<usize>,
    entries: Entries,
    /// All timers, by time and key.
    timers: BTreeSet<(i64, Vec<u8>)>,
    /// Keys that have changed since the last delta, each with the bytes that it takes there.
    changed: BTreeMap<Vec<u8>, usize>,
    /// Sum over `changed`.
    change_bytes: usize,
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
    overlay: Entries,
    /// Records per flow row, or per timer group.
    records: BTreeMap<u32, Vec<Emitted>>,
    guilty: BTreeMap<u32, Verdict>,
    rejected: BTreeMap<u32, Vec<(String, String)>>,
    earliest_timer: Option<i64>,
    held: Held,
    /// Timer groups that were judged, from the first one.
    taken: usize,
    faults: u64,
}

/// What a run brings about, in numbers.
#[derive(Default)]
struct Weight {
    records: usize,
    bytes: usize,
    /// Why the only event of the run is a dead letter.
    refusal: Option<Refusal>,
}

/// Due timers of one key, and the event that has made them due.
#[derive(Clone, Copy)]
struct Firing<'a> {
    key: &'a [u8],
    timers: &'a [i64],
    sequence: u64,
}

impl Firing<'_> {
    /// As JSON: the payload of its dead letter.
    fn describe(&self) -> String {
        let told = &self.timers[..self.timers.len().min(TIMERS_TOLD)];
        let mut row = serde_json::json!({"key": key_text(self.key), "timers": told});
        if told.len() < self.timers.len() {
            row["timers_count"] = self.timers.len().into();
        }
        row.to_string()
    }
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
            held: Held::new(&plan.limits),
            entries: Entries::default(),
            timers: BTreeSet::new(),
            changed: BTreeMap::new(),
            change_bytes: 0,
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

    /// The earliest timer.
    pub(crate) fn next_due(&self) -> Option<EventTime> {
        self.timers.first().map(|(at, _)| EventTime(*at))
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
            let Some(run) = run::plan(context, unit, watermark, effects, limit, 0, &mut stops) else {
                return Ok(false);
            };
            let events = run.end - unit.next;
            let outcome = self.reduce(unit, batch, &run.rows)?;
            let is_too_much = outcome.held.is_too_much() || outcome.change_bytes() > context.room.change_bytes_at_once;
            if is_too_much && events > 1 {
                limit = events / 2;
                continue;
            }
            if let Some(timer) = outcome.earliest_timer {
                let due_after = run.after.iter().position(|mark| timer <= mark.0).map_or(events, |idx| idx + 1);
                if due_after < events {
                    // Half may do, when it is not the half that sets this timer.
                    limit = due_after.max(events / 2);
                    continue;
                }
            }
            let weight = match outcome
                .too_much(&context.room)
                .map_or_else(|| self.weigh(context, unit, batch, &run, &outcome), |refusal| Err((0, refusal)))
            {
                Ok(weight) => weight,
                // What comes before the event goes its way, then it is alone.
                Err((before, _)) if events > 1 => {
                    limit = before.max(1);
                    continue;
                }
                Err((_, refusal)) => Weight { records: 1, bytes: 0, refusal: Some(refusal) },
            };
            if !effects.fits_bytes(&context.room, weight.records, weight.bytes) {
                if events > 1 {
                    limit = events / 2;
                    continue;
                }
                if !effects.records.rows.is_empty() {
                    return Ok(false);
                }
            }
            let start = unit.next;
            match weight.refusal {
                Some(refusal) => {
                    effects.count_faults(self.stage, outcome.faults);
                    let letter = too_large(context, self.stage, self.digest, &refusal);
                    refuse_row(context, unit, batch, &letter, effects);
                }
                None => self.keep(context, unit, batch, run.end, outcome, effects),
            }
            for time in unit.times[start..run.end].iter().flatten() {
                watermark.observe(EventTime(*time));
            }
            return Ok(true);
        }
    }

    /// Weighs what the run brings about. An event whose records cannot be kept is an error: how many events of the run
    /// are before it, and why.
    fn weigh(
        &self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        run: &Run,
        outcome: &Outcome,
    ) -> Result<Weight, (usize, Refusal)> {
        let flow = unit.flows.last().expect("decoding made one");
        let mut weight = Weight::default();
        let (mut act, mut row) = (unit.next_act, 0);
        for idx in unit.next..run.end {
            let acts = unit.acts_of(idx, act);
            act = acts.end;
            let count = run.rows[row..].iter().take_while(|row| flow.origins[**row as usize] as usize == idx).count();
            let rows = &run.rows[row..row + count];
            row += count;
            let scale = Scale::weigh(context, |scale| {
                let others = acts.start..acts.end - count;
                unit.put_on(context, batch, others, scale);
                for &row in rows {
                    self.outgoing(context, unit, batch, row, outcome).for_each(|record| scale.add(&record));
                    let rejected = outcome.rejected.get(&row).map_or(0, Vec::len);
                    scale.add_letters(rejected + usize::from(outcome.guilty.contains_key(&row)));
                }
            });
            let scale = scale.map_err(|refusal| (idx - unit.next, refusal))?;
            let letters = (scale.records - scale.outputs).saturating_mul(letter_bytes(&unit.events[idx]));
            weight.records += scale.records;
            weight.bytes = weight.bytes.saturating_add(scale.bytes).saturating_add(letters);
        }
        Ok(weight)
    }

    /// The records that the module made of a row, as far as an output takes them.
    fn outgoing<'a>(
        &'a self,
        context: &'a Context,
        unit: &'a Unit,
        batch: &'a RawBatch,
        row: u32,
        outcome: &'a Outcome,
    ) -> impl Iterator<Item = Outgoing<'a>> {
        let flow = unit.flows.last().expect("decoding made one");
        let at = row as usize;
        let sequence = unit.events[flow.origins[at] as usize].sequence;
        let records = outcome.records.get(&row).map_or(&[][..], Vec::as_slice);
        records.iter().enumerate().filter_map(move |(nth, record)| {
            let time = record.time.unwrap_or(flow.decoded.timestamps[at]);
            Some(Outgoing {
                output: context.route(self.stage, record.port)?,
                key: record.key.as_deref().unwrap_or_else(|| flow.decoded.keys.get(at)),
                payload: record.payload.as_deref().unwrap_or_else(|| flow.payload(at, batch, &unit.events)),
                cause: Cause::Event { sequence, nth, time },
            })
        })
    }

    /// Calls the module over the run's rows, on an overlay.
    fn reduce(&mut self, unit: &Unit, batch: &RawBatch, rows: &[u32]) -> Result<Outcome, StepError> {
        let flow = unit.flows.last().expect("decoding made one");
        let descriptor = self.guest.descriptor().clone();
        let (guest, events, columns, entries, state_max) =
            (&mut self.guest, &mut self.events, &self.columns, &self.entries, self.state_max);
        let outcome = std::cell::RefCell::new(Outcome { held: self.held, ..Outcome::default() });
        let judgement = judge(
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
                    ControlFlow::Continue(())
                }
            },
        )?;
        let mut outcome = outcome.into_inner();
        outcome.faults = judgement.faults;
        Ok(outcome)
    }

    /// Keeps what a run brought about.
    fn keep(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        end: usize,
        outcome: Outcome,
        effects: &mut Effects,
    ) {
        effects.count_faults(self.stage, outcome.faults);
        let (this, stage, digest) = (&*self, self.stage, self.digest);
        while unit.next < end {
            keep_row(context, unit, batch, effects, &mut |unit, row, effects| {
                let flow = unit.flows.last().expect("decoding made one");
                let event = &unit.events[flow.origins[row as usize] as usize];
                if let Some(verdict) = outcome.guilty.get(&row) {
                    let letter = guilty(context, stage, digest, verdict);
                    effects.push_dead(&context.room, &context.origin, &letter, batch, event);
                    return Fate::Dead;
                }
                this.outgoing(context, unit, batch, row, &outcome).for_each(|record| record.push(context, effects));
                let mut fate = Fate::Processed;
                for (code, detail) in outcome.rejected.get(&row).into_iter().flatten() {
                    let letter = rejection(context, stage, digest, code, detail);
                    effects.push_dead(&context.room, &context.origin, &letter, batch, event);
                    fate = Fate::Dead;
                }
                fate
            });
        }
        self.commit(outcome.overlay);
    }

    fn commit(&mut self, overlay: Entries) {
        for (key, entry) in overlay {
            self.change(key, entry);
        }
    }

    fn change(&mut self, key: Vec<u8>, entry: Entry) {
        let bytes = entry.stored_bytes_max(&key);
        self.put(&key, entry);
        self.change_bytes += bytes;
        self.change_bytes -= self.changed.insert(key, bytes).unwrap_or(0);
    }

    /// At least what [`ReduceTail::encode`] would append of what has changed.
    pub(crate) fn change_bytes(&self) -> usize {
        self.change_bytes + COUNT_STORED_BYTES_MAX
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

    /// Fires due timers in order of time and key, at the end of the input each key's once; false when the epoch is full before all have fired.
    /// `sequence` is the event that has made them due.
    pub(crate) fn drain_due(
        &mut self,
        context: &Context,
        watermark: EventTime,
        sequence: u64,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        for _ in 0..TIMER_ROUNDS {
            let due = self.due_groups(watermark);
            if due.is_empty() {
                return Ok(true);
            }
            let mut outcome = self.fire(&due)?;
            effects.count_faults(self.stage, outcome.faults);
            // Those behind what could be held stay due.
            for (idx, (key, timers)) in due.iter().enumerate().take(outcome.taken) {
                // A timer that has just been set may come before the rest.
                if self.timers.first().is_some_and(|(at, first)| (*at, first) < (timers[0], key)) {
                    break;
                }
                let idx = idx as u32;
                let firing = Firing { key, timers, sequence };
                let (count, bytes) = self.weigh_firing(context, &firing, idx, &mut outcome);
                if !effects.fits_bytes(&context.room, count, bytes) && !effects.records.rows.is_empty() {
                    return Ok(false);
                }
                if let Some(verdict) = outcome.guilty.get(&idx) {
                    let letter = guilty(context, self.stage, self.digest, verdict);
                    effects.push_dead_row(&context.origin, &letter, firing.describe().as_bytes());
                    outcome.overlay.insert(key.clone(), self.without_timers(key, timers));
                } else {
                    for (code, detail) in outcome.rejected.get(&idx).into_iter().flatten() {
                        let letter = rejection(context, self.stage, self.digest, code, detail);
                        effects.push_dead_row(&context.origin, &letter, firing.describe().as_bytes());
                    }
                    let records = outcome.records.get(&idx).map_or(&[][..], Vec::as_slice);
                    self.fired(context, &firing, records).for_each(|record| record.push(context, effects));
                }
                let mut entry = outcome.overlay.remove(key).unwrap_or_else(|| self.without_timers(key, timers));
                if watermark == EventTime::MAX {
                    // All timers of the key have fired together. One that is set now would be for a time that never
                    // comes; a module that looks again every hour would do so for millions of years.
                    entry.timers.clear();
                }
                self.change(key.clone(), entry);
                if self.change_bytes() > context.room.change_bytes {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// How many records a firing has, and their bytes. When they cannot be kept, the firing is guilty.
    fn weigh_firing(&self, context: &Context, firing: &Firing<'_>, idx: u32, outcome: &mut Outcome) -> (usize, usize) {
        let changes = outcome.overlay.get(firing.key).map_or(0, |entry| entry.stored_bytes_max(firing.key));
        let limit = context.room.change_bytes_at_once;
        if changes > limit {
            let verdict = Verdict { class: "limit", code: STATE_SIZE, message: state_size(changes, limit) };
            outcome.guilty.insert(idx, verdict);
        }
        let records = outcome.records.get(&idx).map_or(&[][..], Vec::as_slice);
        let letters = outcome.rejected.get(&idx).map_or(0, Vec::len) + usize::from(outcome.guilty.contains_key(&idx));
        let weighed = Scale::weigh(context, |scale| {
            self.fired(context, firing, records).for_each(|record| scale.add(&record));
            scale.add_letters(letters);
        });
        match weighed {
            Ok(scale) => (scale.records, scale.bytes),
            Err(Refusal { code, message, .. }) => {
                outcome.guilty.insert(idx, Verdict { class: "limit", code, message });
                (1, 0)
            }
        }
    }

    /// The records of a firing, as far as an output takes them.
    fn fired<'a>(
        &'a self,
        context: &'a Context,
        firing: &'a Firing<'a>,
        records: &'a [Emitted],
    ) -> impl Iterator<Item = Outgoing<'a>> {
        let Firing { key, timers, sequence } = *firing;
        let at = *timers.last().expect("a due group has timers");
        records.iter().enumerate().filter_map(move |(nth, record)| {
            Some(Outgoing {
                output: context.route(self.stage, record.port)?,
                key: record.key.as_deref().unwrap_or(key),
                payload: record.payload.as_deref().unwrap_or_default(),
                cause: Cause::Timer { key, at, sequence, nth, time: record.time.unwrap_or(at) },
            })
        })
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
        let judgement = judge(
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
                    outcome.take(entries, &keys, reduced, &[], &|source| rows[source as usize])
                }
                Err(verdict) => {
                    guilty.insert(rows[0], verdict);
                    ControlFlow::Continue(())
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
        (outcome.guilty, outcome.faults, outcome.taken) = (guilty, judgement.faults, judgement.taken);
        Ok(outcome)
    }

    /// Appends changed entries, or all of them.
    pub(crate) fn encode(&mut self, all: bool, out: &mut Vec<u8>) {
        let changed = std::mem::take(&mut self.changed);
        self.change_bytes = 0;
        let keys: Vec<Vec<u8>> =
            if all { self.entries.keys().cloned().collect() } else { changed.into_keys().collect() };
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
    /// Takes one call's reply; `row_of` gives the row of a source below the number of rows.
    fn take(
        &mut self,
        entries: &Entries,
        keys: &[Vec<u8>],
        reduced: Reduced,
        input: &[u8],
        row_of: &dyn Fn(u32) -> u32,
    ) -> ControlFlow<()> {
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
        }
        for reject in &output.rejects {
            self.rejected.entry(row_of(reject.source)).or_default().push((reject.code.clone(), reject.detail.clone()));
        }
        let states = self.held.add(keys.len() + reduced.timers.len(), reduced.states.data.len());
        if states.is_break() { states } else { self.held.add_output(output) }
    }

    /// At least what the changed keys take where they are stored.
    fn change_bytes(&self) -> usize {
        self.overlay.iter().map(|(key, entry)| entry.stored_bytes_max(key)).sum()
    }

    /// Why a run of one event cannot be kept.
    fn too_much(&self, room: &Room) -> Option<Refusal> {
        if self.held.is_too_much() {
            let message = format!("the module makes more of this event than can be held, {}", self.held.limit());
            return Some(Refusal { code: TOO_MANY, stage: None, message });
        }
        let (changes, limit) = (self.change_bytes(), room.change_bytes_at_once);
        let message = || state_size(changes, limit);
        (changes > limit).then(|| Refusal { code: STATE_SIZE, stage: None, message: message() })
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

/// The dead letter of an event whose records cannot be kept.
fn too_large<'a>(context: &'a Context, stage: usize, digest: [u8; 32], refusal: &'a Refusal) -> DeadLetter<'a> {
    let stage = &context.plan.stages[stage].name;
    let (code, message) = (refusal.code, refusal.message.as_str());
    DeadLetter { stage, digest: Some(digest), class: "limit", code, path: "", message }
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
    entries: &Entries,
    overlay: &Entries,
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
