//! A reducer: state bytes and event-time timers per key.

mod kept;
mod outcome;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::codec::{Damaged, Reader};
use crate::codes::Code;
use crate::effects::{Counter, Effects, key_text, letter_bytes};
use crate::event::{Events, RawBatch};
use crate::guest::{Fault, Groups, Guest, Reject};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::unit::{
    Cause, Context, Fate, Letter, Outgoing, Refusal, Scale, Unit, keep_row, letter_of, refuse_row, state_size,
};
use crate::watermark::Watermark;

use super::panes::add_all;
use super::run::{self, Run};
use super::{Attempt, Due, Head, Operator, StageModule, Stateful};
use kept::Kept;
use outcome::{Emitted, Outcome, call, group};

/// Keys whose timers fire in one call.
const TIMER_GROUPS: usize = 256;
/// Calls for timers in one step; a module that sets timers for ever is cut into epochs, and the host stays responsive.
const TIMER_ROUNDS: usize = 64;
/// Timers that a dead letter names.
const TIMERS_TOLD: usize = 256;
/// The module and the state of all its keys.
pub(crate) struct Reducer {
    module: StageModule,
    state_max: usize,
    kept: Kept,
    /// Before it is settled.
    attempted: Outcome,
    /// Events of a run at most: one after the module has refused an event, then twice as many each time that it does not.
    run_events: usize,
}

/// Name of the counter of keys whose time to live was over. A module's counter has no hyphen.
pub(crate) const EXPIRED: &str = "expired-keys";

/// That counter of a stage.
pub(crate) fn expired(stage: usize) -> Counter {
    Counter { stage: stage as u16, idx: u16::MAX }
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

impl Reducer {
    pub(crate) fn new(guest: Box<dyn Guest>, stage: usize, plan: &Arc<Plan>, fields: &[FieldRead]) -> Reducer {
        Reducer {
            module: StageModule::new(guest, stage, plan, fields, None),
            state_max: plan.limits.state_per_key as usize,
            kept: Kept::new(plan.stages[stage].ttl),
            attempted: Outcome::default(),
            run_events: usize::MAX,
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
        let flow = unit.flow(self.module.inlet);
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
        let flow = unit.flow(self.module.inlet);
        let at = row as usize;
        let sequence = unit.events[flow.origins[at] as usize].sequence;
        let records_of = |row: u32| outcome.records.get(&row).map_or(&[][..], Vec::as_slice);
        // An event may come as several rows, and its records are numbered through.
        let before = flow.origins[..at].iter().rev().take_while(|origin| **origin == flow.origins[at]).count() as u32;
        let first: usize = (row - before..row).map(|row| records_of(row).len()).sum();
        records_of(row).iter().zip(first..).filter_map(move |(record, nth)| {
            let time = record.time.unwrap_or(flow.decoded.timestamps[at]);
            Some(Outgoing {
                output: context.route(self.module.stage, record.port)?,
                key: record.key.as_deref().unwrap_or_else(|| flow.decoded.keys.get(at)),
                payload: record.payload.as_deref().unwrap_or_else(|| flow.payload(at, batch, &unit.events)),
                headers: &record.headers,
                is_delete: record.is_delete,
                cause: Cause::Event { sequence, nth, time },
            })
        })
    }

    /// Calls the module over rows, on an overlay; with the watermark before the event of each.
    fn reduce(
        &mut self,
        unit: &Unit,
        batch: &RawBatch,
        rows: &[u32],
        before: impl Fn(usize) -> EventTime,
    ) -> Result<Outcome, StepError> {
        let flow = unit.flow(self.module.inlet);
        let StageModule { guest, digest, stage, name, columns, held, events, .. } = &mut self.module;
        let (stage, digest) = (*stage, *digest);
        let shape = guest.descriptor().shape.clone();
        let (entries, state_max) = (self.kept.entries(), self.state_max);
        let outcome = std::cell::RefCell::new(Outcome { held: *held, ..Outcome::default() });
        let judgement = judge(
            name,
            rows,
            &mut |metering, rows| {
                flow.fill(rows, &shape, columns, batch, &unit.events, events);
                let (mut groups, keys) =
                    group(entries, &outcome.borrow().overlay, rows, |row| flow.decoded.keys.get(row as usize));
                let reduced = call(guest.as_mut(), metering, events, &mut groups, state_max)?;
                Ok((keys, reduced, events.data.clone()))
            },
            &mut |rows, reply| match reply {
                Ok((keys, reduced, input)) => {
                    let letter_of = |reject: &Reject| letter_of(stage, digest, reject);
                    outcome.borrow_mut().take(
                        entries,
                        &keys,
                        reduced,
                        &input,
                        &|source| rows[source as usize],
                        &letter_of,
                    )
                }
                Err(Verdict { code, message }) => {
                    let letter = Letter::of(Some(stage), Some(digest), code, message);
                    outcome.borrow_mut().refused.insert(rows[0], letter);
                    ControlFlow::Continue(())
                }
            },
        )?;
        let mut outcome = outcome.into_inner();
        outcome.faults = judgement.faults;
        if self.kept.ttl().is_some() {
            for (idx, &row) in rows.iter().enumerate() {
                if let Some(entry) = outcome.overlay.get_mut(flow.decoded.keys.get(row as usize)) {
                    let time = flow.decoded.timestamps[row as usize];
                    entry.touched = entry.touched.max(before(idx).0).max(time);
                }
            }
        }
        Ok(outcome)
    }

    /// How many records a firing has, and their bytes. When they cannot be kept, the firing is refused.
    fn weigh_firing(&self, context: &Context, firing: &Firing<'_>, idx: u32, outcome: &mut Outcome) -> (usize, usize) {
        let changes = outcome.overlay.get(firing.key).map_or(0, |entry| entry.stored_bytes_max(firing.key));
        let limit = context.room.change_bytes_at_once;
        if changes > limit {
            outcome.refused.entry(idx).or_insert_with(|| self.letter(Code::StateSize, state_size(changes, limit)));
        }
        if outcome.refused.contains_key(&idx) {
            return (1, 0);
        }
        let records = outcome.records.get(&idx).map_or(&[][..], Vec::as_slice);
        let weighed = Scale::weigh(context, |scale| {
            self.fired(context, firing, records).for_each(|record| scale.add(&record));
        });
        match weighed {
            Ok(scale) => (scale.records, scale.bytes),
            Err(Refusal { code, message, .. }) => {
                outcome.refused.insert(idx, self.letter(code, message));
                (1, 0)
            }
        }
    }

    /// What the host says of something at this stage.
    fn letter(&self, code: Code, message: String) -> Letter {
        Letter::of(Some(self.module.stage), Some(self.module.digest), code, message)
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
                output: context.route(self.module.stage, record.port)?,
                key: record.key.as_deref().unwrap_or(key),
                payload: record.payload.as_deref().unwrap_or_default(),
                headers: &record.headers,
                is_delete: record.is_delete,
                cause: Cause::Timer { key, at, sequence, nth, time: record.time.unwrap_or(at) },
            })
        })
    }

    fn fire(&mut self, due: &[(Vec<u8>, Vec<i64>)]) -> Result<Outcome, StepError> {
        let rows: Vec<u32> = (0..due.len() as u32).collect();
        let StageModule { guest, digest, stage, name, held, .. } = &mut self.module;
        let (stage, digest) = (*stage, *digest);
        let (entries, state_max) = (self.kept.entries(), self.state_max);
        let mut outcome = Outcome { held: *held, ..Outcome::default() };
        let judgement = judge(
            name,
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
                    let letter_of = |reject: &Reject| letter_of(stage, digest, reject);
                    outcome.take(entries, &keys, reduced, &[], &|source| rows[source as usize], &letter_of)
                }
                Err(Verdict { code, message }) => {
                    outcome.refused.insert(rows[0], Letter::of(Some(stage), Some(digest), code, message));
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
        (outcome.faults, outcome.taken) = (judgement.faults, judgement.taken);
        Ok(outcome)
    }
}

impl Stateful for Reducer {
    fn section(&self) -> Head<'_> {
        self.module.section()
    }

    fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.kept.encode(all, watermark, out);
    }

    fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        self.kept.apply(reader, watermark)
    }

    fn clear(&mut self) {
        self.kept.clear();
    }

    fn bytes(&self) -> usize {
        self.kept.bytes()
    }

    fn change_bytes(&self) -> usize {
        self.kept.change_bytes()
    }
}

impl Operator for Reducer {
    fn module(&self) -> &StageModule {
        &self.module
    }

    /// Accounts for a run of the unit's events; false when the next one does not fit into the epoch.
    ///
    /// A run must not reach beyond a moment at which a timer of its own is due: then it is cut there and done again,
    /// so that results are those of one event at a time.
    fn take(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let mut limit = self.run_events;
        loop {
            let flow = unit.flow(self.module.inlet);
            let timer = self.kept.next_timer().unwrap_or(i64::MAX);
            let mut due = self.kept.next_expiry().map_or(timer, |expiry| expiry.min(timer));
            let mut stops = |row: Option<u32>, _: EventTime, after: EventTime| {
                // Of keys that are new in the run, too.
                if let (Some(row), Some(ttl)) = (row, self.kept.ttl()) {
                    due = due.min(flow.decoded.timestamps[row as usize].saturating_add(ttl.0));
                }
                row.is_none() && due <= after.0
            };
            let Some(run) = run::plan(context, (flow, 0), unit, watermark, effects, limit, &mut stops) else {
                return Ok(false);
            };
            let events = run.end - unit.next;
            let mut outcome = self.reduce(unit, batch, &run.rows, |idx| run.before[idx])?;
            let is_too_much = outcome.held.is_too_much() || outcome.change_bytes() > context.room.change_bytes_at_once;
            if is_too_much && events > 1 {
                limit = events / 2;
                continue;
            }
            // An event that is refused has to be alone: what the module has made of its other rows, and of its key, goes.
            let refused = outcome.refused.keys().next().map(|&row| {
                let flow = unit.flow(self.module.inlet);
                flow.origins[row as usize] as usize - unit.next
            });
            if let Some(before) = refused.filter(|_| events > 1) {
                limit = before.max(1);
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
            let refusal = weight.refusal.map(|refusal| self.letter(refusal.code, refusal.message));
            let letter = outcome.refused.pop_first().map(|(_, letter)| letter).or(refusal);
            match letter {
                Some(letter) => {
                    effects.count_faults(self.module.stage, outcome.faults);
                    refuse_row(context, unit, batch, &letter, effects);
                    self.run_events = 1;
                }
                None => {
                    self.run_events = self.run_events.max(events.saturating_mul(2));
                    effects.count_faults(self.module.stage, outcome.faults);
                    self.attempted = outcome;
                    while unit.next < run.end {
                        keep_row(context, unit, batch, effects, &mut |unit, _, row, effects| {
                            self.keep(context, unit, batch, row, EventTime::MIN, effects)
                        });
                    }
                    self.settle();
                }
            }
            for time in unit.times[start..run.end].iter().flatten() {
                watermark.observe(EventTime(*time));
            }
            return Ok(true);
        }
    }

    fn attempt(
        &mut self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        rows: &[u32],
        watermark: EventTime,
    ) -> Result<Attempt, StepError> {
        let mut outcome = self.reduce(unit, batch, rows, |_| watermark)?;
        let too_much = outcome.too_much(&context.room).map(|refusal| self.letter(refusal.code, refusal.message));
        let refused = outcome.refused.pop_first().map(|(_, letter)| letter).or(too_much);
        let attempt = Attempt { refused, change_bytes: outcome.change_bytes(), faults: outcome.faults };
        self.attempted = outcome;
        Ok(attempt)
    }

    fn put_on(&self, context: &Context, unit: &Unit, batch: &RawBatch, rows: &[u32], scale: &mut Scale<'_>) {
        for &row in rows {
            self.outgoing(context, unit, batch, row, &self.attempted).for_each(|record| scale.add(&record));
        }
    }

    fn keep(
        &mut self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        row: u32,
        _: EventTime,
        effects: &mut Effects,
    ) -> Fate {
        self.outgoing(context, unit, batch, row, &self.attempted).for_each(|record| record.push(context, effects));
        self.attempted.additions.get(&row).into_iter().for_each(|all| add_all(self.module.stage, all, effects));
        Fate::Processed
    }

    fn settle(&mut self) {
        self.kept.change_all(std::mem::take(&mut self.attempted).overlay);
    }

    /// Fires due timers in order of time and key, at the end of the input each key's once; false when the epoch is full
    /// before all have fired.
    fn drain(
        &mut self,
        context: &Context,
        watermark: EventTime,
        due_to: Due,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let sequence = due_to.sequence;
        for _ in 0..TIMER_ROUNDS {
            while self.kept.expire_next(watermark) {
                effects.add(expired(self.module.stage), 1);
                if self.change_bytes() + due_to.change_bytes > context.room.change_bytes {
                    return Ok(false);
                }
            }
            let due = self.kept.due_groups(watermark, TIMER_GROUPS);
            if due.is_empty() {
                return Ok(true);
            }
            let mut outcome = self.fire(&due)?;
            effects.count_faults(self.module.stage, outcome.faults);
            // Those behind what could be held stay due.
            for (idx, (key, timers)) in due.iter().enumerate().take(outcome.taken) {
                // A timer that has just been set may come before the rest.
                if self.kept.first_timer().is_some_and(|first| first < (timers[0], key)) {
                    break;
                }
                let idx = idx as u32;
                let firing = Firing { key, timers, sequence };
                let (count, bytes) = self.weigh_firing(context, &firing, idx, &mut outcome);
                if !effects.fits_bytes(&context.room, count, bytes) && !effects.records.rows.is_empty() {
                    return Ok(false);
                }
                if let Some(letter) = outcome.refused.get(&idx) {
                    let letter = context.dead_letter(letter);
                    effects.push_dead_row(&context.origin, &letter, firing.describe().as_bytes());
                    outcome.overlay.insert(key.clone(), self.kept.without_timers(key, timers));
                } else {
                    let records = outcome.records.get(&idx).map_or(&[][..], Vec::as_slice);
                    self.fired(context, &firing, records).for_each(|record| record.push(context, effects));
                    outcome.additions.get(&idx).into_iter().for_each(|all| add_all(self.module.stage, all, effects));
                }
                let mut entry = outcome.overlay.remove(key).unwrap_or_else(|| self.kept.without_timers(key, timers));
                if watermark == EventTime::MAX {
                    // All timers of the key have fired together. One that is set now would be for a time that never
                    // comes; a module that looks again every hour would do so for millions of years.
                    entry.timers.clear();
                }
                self.kept.change(key.clone(), entry);
                if self.change_bytes() + due_to.change_bytes > context.room.change_bytes {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    fn has_due(&self, watermark: EventTime) -> bool {
        let is_past = |at: i64| at <= watermark.0;
        self.kept.next_timer().is_some_and(is_past)
            || watermark != EventTime::MAX && self.kept.next_expiry().is_some_and(is_past)
    }

    /// Not when keys go: nobody can see that.
    fn next_due(&self) -> Option<EventTime> {
        self.kept.next_timer().map(EventTime)
    }
}
