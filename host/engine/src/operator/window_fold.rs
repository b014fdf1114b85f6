//! A window-fold: the module owns the accumulators' shape, the host keeps their bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::codec::{Damaged, Reader};
use crate::effects::Effects;
use crate::event::{RawBatch, Strings};
use crate::guest::{self, Addition, Fault, Groups, Guest, Metering, Output, Panes, Reject, States};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::totals::Faults;
use crate::unit::{Context, Fate, Held, Letter, Scale, Unit, keep_row, letter_of, refuse_row};
use crate::watermark::Watermark;
use crate::window::Windows;

use super::panes::{Judged, add_all, judge_panes, pick};
use super::run::{self, Run};
use super::{Attempt, Due, Head, Operator, StageModule, Stateful};

/// Panes that are finished in one call.
const PANES_PER_CALL: usize = 256;

/// The module, its windows and what waits for room.
pub(crate) struct WindowFold {
    module: StageModule,
    state_max: usize,
    /// Events of a run at most: one after the module has refused an event, then twice as many each time that it does not.
    run_events: usize,
    windows: Windows,
    /// Before it is settled.
    attempted: Folded,
    judged: Judged,
    output: Output,
}

impl WindowFold {
    pub(crate) fn new(guest: Box<dyn Guest>, stage: usize, plan: &Arc<Plan>, fields: &[FieldRead]) -> WindowFold {
        let window = plan.stages[stage].window.as_ref().expect("the plan gives every fold a window");
        WindowFold {
            module: StageModule::new(guest, stage, plan, fields, None),
            state_max: plan.limits.state_per_key as usize,
            run_events: usize::MAX,
            windows: Windows::new(window, Vec::new(), &[], true),
            attempted: Folded::default(),
            judged: Judged::default(),
            output: Output::default(),
        }
    }

    /// Folds the run's rows; nothing of it is kept yet.
    fn fold(&mut self, unit: &Unit, batch: &RawBatch, run: &Run) -> Result<Folded, StepError> {
        let flow = unit.flow(self.module.inlet);
        let time = |row: u32| EventTime(flow.decoded.timestamps[row as usize]);
        let mut folded = Folded { held: self.module.held, ..Folded::default() };
        let mut rows = Vec::with_capacity(run.rows.len());
        let mut marks = BTreeMap::new();
        for (&row, &before) in run.rows.iter().zip(&run.before) {
            if self.windows.is_late(time(row), before) {
                folded.late.insert(row, before);
            } else {
                rows.push(row);
                marks.insert(row, before);
            }
        }
        let StageModule { guest, digest, stage, name, columns, events, .. } = &mut self.module;
        let (stage, digest, shape) = (*stage, *digest, guest.descriptor().shape.clone());
        let (windows, state_max) = (&self.windows, self.state_max);
        let folded = std::cell::RefCell::new(folded);
        let judgement = judge(
            name,
            &rows,
            &mut |metering, rows| {
                flow.fill(rows, &shape, columns, batch, &unit.events, events);
                let key = |row: u32| flow.decoded.keys.get(row as usize);
                let (mut groups, places) = group(windows, &folded.borrow().changes, rows, key, &time);
                let mut reply = guest::Folded::default();
                guest.fold(metering, events, &mut groups, &mut reply)?;
                for idx in 0..places.len() {
                    let len = reply.states.get(idx).len();
                    if len > state_max {
                        return Err(Fault::Limit(format!("accumulator has {len} bytes, limit {state_max}")));
                    }
                }
                Ok((groups.keys, places, reply))
            },
            &mut |rows, reply| match reply {
                Ok((keys, places, reply)) => {
                    let folded = &mut *folded.borrow_mut();
                    let before = marks[rows.last().expect("a call has rows")];
                    let change = |(idx, &start): (usize, &i64)| {
                        let (key, state) = (keys.get(idx).to_vec(), reply.states.get(idx).to_vec());
                        Accumulator { key, start, state, before }
                    };
                    folded.changes.extend(places.iter().enumerate().map(change));
                    for reject in &reply.rejects {
                        let row = rows[reject.row as usize];
                        folded.refused.entry(row).or_insert_with(|| letter_of(stage, digest, reject));
                    }
                    for addition in &reply.additions {
                        folded.additions.entry(rows[addition.row as usize]).or_default().push(*addition);
                    }
                    // States become part of the partition's, and have their limit there.
                    let rejects: usize = reply.rejects.iter().map(Reject::bytes).sum();
                    folded.held.add(reply.rejects.len() + reply.additions.len(), rejects)
                }
                Err(Verdict { code, message }) => {
                    let letter = Letter::of(Some(stage), Some(digest), code, message);
                    folded.borrow_mut().refused.insert(rows[0], letter);
                    ControlFlow::Continue(())
                }
            },
        )?;
        let mut folded = folded.into_inner();
        folded.faults = judgement.faults;
        Ok(folded)
    }

    /// Why the one event of a run ends as a dead letter.
    fn refused(&self, folded: &mut Folded) -> Option<Letter> {
        let (stage, digest) = (Some(self.module.stage), Some(self.module.digest));
        let too_much = || folded.held.refusal().map(|refusal| Letter::of(stage, digest, refusal.code, refusal.message));
        folded.refused.pop_first().map(|(_, letter)| letter).or_else(too_much)
    }

    /// A row that was folded is part of the state when its run is settled; one that was late is kept.
    fn keep_folded(&self, context: &Context, unit: &Unit, batch: &RawBatch, row: u32, effects: &mut Effects) -> Fate {
        let Some(mark) = self.attempted.late.get(&row) else {
            self.attempted.additions.get(&row).into_iter().for_each(|all| add_all(self.module.stage, all, effects));
            return Fate::Processed;
        };
        let flow = unit.flow(self.module.inlet);
        let at = row as usize;
        let event = &unit.events[flow.origins[at] as usize];
        let (room, origin, time) = (&context.room, &context.origin, flow.decoded.timestamps[at]);
        effects.push_late(room, origin, &self.module.name, time, mark.0, batch, event);
        Fate::Late
    }

    fn finish(&mut self, mut panes: Panes, effects: &mut Effects) -> Result<(), StepError> {
        let mut held = self.module.held;
        let mut parts: Vec<Vec<Vec<u8>>> = Vec::new();
        for row in 0..panes.len() {
            let part = self.windows.accumulators_of(panes.ends[row], panes.keys.get(row));
            let bytes = part.iter().map(Vec::len).sum();
            parts.push(part);
            if held.add(0, bytes).is_break() {
                break;
            }
        }
        let rows: Vec<u32> = (0..parts.len() as u32).collect();
        if rows.len() < panes.len() {
            panes = pick(&panes, &rows);
        }
        let StageModule { guest, stage, name, held, .. } = &mut self.module;
        let finish = &mut |metering, rows: &[u32], panes: &mut Panes, output: &mut Output| {
            let mut states = merge(guest.as_mut(), metering, rows, &parts)?;
            guest.finish(metering, panes, &mut states, output)
        };
        let (judged, faults) = judge_panes(name, panes, *held, &mut self.output, finish)?;
        effects.count_faults(*stage, faults);
        self.judged = judged;
        Ok(())
    }
}

impl Stateful for WindowFold {
    fn section(&self) -> Head<'_> {
        self.module.section()
    }

    fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.windows.encode(all, watermark, out);
    }

    fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        self.windows.apply(reader, watermark)
    }

    fn clear(&mut self) {
        self.windows.clear();
        self.judged = Judged::default();
    }

    fn restored(&mut self) {
        self.windows.restored();
    }

    fn bytes(&self) -> usize {
        self.windows.bytes()
    }

    fn change_bytes(&self) -> usize {
        self.windows.change_bytes()
    }
}

impl Operator for WindowFold {
    fn module(&self) -> &StageModule {
        &self.module
    }

    fn has_due(&self, watermark: EventTime) -> bool {
        self.windows.has_due(watermark)
    }

    fn next_due(&self) -> Option<EventTime> {
        self.windows.next_due()
    }

    fn take(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let mut limit = self.run_events;
        let (run, mut folded) = loop {
            let (flow, windows) = (unit.flow(self.module.inlet), &self.windows);
            let mut stops = |row: Option<u32>, before: EventTime, after: EventTime| match row {
                Some(row) => windows.corrects(EventTime(flow.decoded.timestamps[row as usize]), before),
                None => windows.has_due(after),
            };
            let Some(run) = run::plan(context, (flow, self.state_max), unit, watermark, effects, limit, &mut stops)
            else {
                return Ok(false);
            };
            let folded = self.fold(unit, batch, &run)?;
            let events = run.end - unit.next;
            if folded.held.is_too_much() && events > 1 {
                limit = events / 2;
                continue;
            }
            // An event that is refused has to be alone: what the module has made of its other rows goes.
            match folded.refused.keys().next() {
                Some(&row) if events > 1 => {
                    let flow = unit.flow(self.module.inlet);
                    limit = (flow.origins[row as usize] as usize - unit.next).max(1);
                }
                _ => break (run, folded),
            }
        };
        effects.count_faults(self.module.stage, folded.faults);
        let start = unit.next;
        if let Some(letter) = self.refused(&mut folded) {
            refuse_row(context, unit, batch, &letter, effects);
            self.run_events = 1;
        } else {
            self.run_events = self.run_events.max((run.end - start).saturating_mul(2));
            self.attempted = folded;
            while unit.next < run.end {
                keep_row(context, unit, batch, effects, &mut |unit, _, row, effects| {
                    self.keep_folded(context, unit, batch, row, effects)
                });
            }
            self.settle();
        }
        for time in unit.times[start..run.end].iter().flatten() {
            watermark.observe(EventTime(*time));
        }
        Ok(true)
    }

    fn attempt(
        &mut self,
        _: &Context,
        unit: &Unit,
        batch: &RawBatch,
        rows: &[u32],
        watermark: EventTime,
    ) -> Result<Attempt, StepError> {
        let (rows, before) = (rows.to_vec(), vec![watermark; rows.len()]);
        let run = Run { end: unit.next + 1, rows, before, after: Vec::new() };
        let mut folded = self.fold(unit, batch, &run)?;
        let refused = self.refused(&mut folded);
        let change_bytes = folded.changes.iter().map(|change| change.key.len() + change.state.len()).sum();
        let faults = folded.faults;
        self.attempted = folded;
        Ok(Attempt { refused, change_bytes, faults })
    }

    fn put_on(&self, _: &Context, _: &Unit, _: &RawBatch, _: &[u32], scale: &mut Scale<'_>) {
        scale.add_letters(self.attempted.late.len());
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
        self.keep_folded(context, unit, batch, row, effects)
    }

    fn settle(&mut self) {
        for Accumulator { key, start, state, before } in std::mem::take(&mut self.attempted).changes {
            self.windows.replace(&key, start, &state, before);
        }
    }

    fn drain(
        &mut self,
        context: &Context,
        watermark: EventTime,
        _: Due,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        loop {
            if self.judged.is_done() {
                let mut panes = Panes::default();
                if self.windows.due(watermark, PANES_PER_CALL, &mut panes) == 0 {
                    return Ok(true);
                }
                self.finish(panes, effects)?;
            }
            let kept = self.judged.keep(context, self.module.stage, self.module.digest, effects);
            self.windows.settle(kept);
            if !self.judged.is_done() {
                return Ok(false);
            }
        }
    }
}

/// What a run of events brings about.
#[derive(Default)]
struct Folded {
    /// In the order of the calls; of an accumulator that comes several times the last one counts.
    changes: Vec<Accumulator>,
    /// Rows that are late, each with the watermark before its event.
    late: BTreeMap<u32, EventTime>,
    /// Rows that end as dead letters.
    refused: BTreeMap<u32, Letter>,
    /// What the module counts, by row.
    additions: BTreeMap<u32, Vec<Addition>>,
    /// Rejects and additions.
    held: Held,
    faults: Faults,
}

/// The accumulator of a key in the slice at `start`, as the module has left it.
struct Accumulator {
    key: Vec<u8>,
    start: i64,
    state: Vec<u8>,
    /// The watermark before the last event that it was folded with.
    before: EventTime,
}

/// Groups rows by key and slice, groups in order of first appearance, members in order of arrival; states as `changes`
/// has them. Also returns each group's slice start.
fn group<'a>(
    windows: &Windows,
    changes: &[Accumulator],
    rows: &[u32],
    key: impl Fn(u32) -> &'a [u8],
    time: &dyn Fn(u32) -> EventTime,
) -> (Groups, Vec<i64>) {
    let changed: BTreeMap<(&[u8], i64), &[u8]> =
        changes.iter().map(|change| ((change.key.as_slice(), change.start), change.state.as_slice())).collect();
    let mut index: BTreeMap<(&[u8], i64), usize> = BTreeMap::new();
    let mut members: Vec<Vec<u32>> = Vec::new();
    let (mut groups, mut places) = (Groups::default(), Vec::new());
    for (at, &row) in rows.iter().enumerate() {
        let start = windows.slice_start(time(row));
        let idx = *index.entry((key(row), start)).or_insert_with(|| {
            groups.keys.push(key(row));
            match changed.get(&(key(row), start)) {
                Some(state) => groups.states.push(state),
                None => groups.states.push(&windows.accumulator(key(row), time(row)).1),
            }
            places.push(start);
            members.push(Vec::new());
            members.len() - 1
        });
        members[idx].push(at as u32);
    }
    for run in members {
        groups.members.extend(run);
        groups.member_ends.push(groups.members.len() as u32);
    }
    (groups, places)
}

/// Merges each row's slices, in time order, with as few calls as the longest row has slices.
fn merge(guest: &mut dyn Guest, metering: Metering, rows: &[u32], parts: &[Vec<Vec<u8>>]) -> Result<States, Fault> {
    let part = |row: u32, depth: usize| parts[row as usize].get(depth);
    let mut merged: Vec<Vec<u8>> = rows.iter().map(|&row| part(row, 0).cloned().unwrap_or_default()).collect();
    let depth_max = rows.iter().map(|&row| parts[row as usize].len()).max().unwrap_or(0);
    for depth in 1..depth_max {
        let deep: Vec<usize> = (0..rows.len()).filter(|&idx| part(rows[idx], depth).is_some()).collect();
        let (mut left, mut right, mut states) = (Strings::default(), Strings::default(), States::default());
        for &idx in &deep {
            left.push(&merged[idx]);
            right.push(part(rows[idx], depth).expect("filtered above"));
        }
        guest.merge(metering, &mut left, &mut right, &mut states)?;
        for (at, &idx) in deep.iter().enumerate() {
            merged[idx] = states.get(at).to_vec();
        }
    }
    let mut states = States::default();
    merged.iter().for_each(|state| states.push(state));
    Ok(states)
}
