//! A window-fold as the last stage: the module owns the accumulators' shape, the host keeps their bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::codec::{Damaged, Reader};
use crate::effects::Effects;
use crate::event::{Events, RawBatch, TextColumn};
use crate::guest::{Fault, Groups, Guest, Metering, Output, Panes, States};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan};
use crate::time::EventTime;
use crate::unit::{Context, Fate, Held, Unit, keep_row};
use crate::watermark::Watermark;
use crate::window::Windows;

use super::panes::{Judged, judge_panes, pick};
use super::run::{self, Run};
use super::{Operator, columns_of, layout};

/// Panes that are finished in one call.
const PANES_PER_CALL: usize = 256;

/// The module, its windows and what waits for room.
pub(crate) struct WindowFold {
    guest: Box<dyn Guest>,
    digest: [u8; 32],
    stage: usize,
    name: String,
    state_max: usize,
    /// What may be held at one time, with nothing in it.
    held: Held,
    layout: String,
    columns: Vec<usize>,
    windows: Windows,
    judged: Judged,
    events: Events,
    output: Output,
}

impl WindowFold {
    pub(crate) fn new(guest: Box<dyn Guest>, stage: usize, plan: &Arc<Plan>, fields: &[FieldRead]) -> WindowFold {
        let window = plan.stages[stage].window.as_ref().expect("the plan gives every fold a window");
        WindowFold {
            columns: columns_of(guest.as_ref(), fields),
            digest: guest.digest(),
            layout: layout::text(plan, stage, guest.descriptor(), None),
            guest,
            stage,
            name: plan.stages[stage].name.clone(),
            state_max: plan.limits.state_per_key as usize,
            held: Held::new(&plan.limits),
            windows: Windows::new(window, Vec::new(), Vec::new(), true),
            judged: Judged::default(),
            events: Events::default(),
            output: Output::default(),
        }
    }

    /// Folds the run's rows into the accumulators; returns the rows with another fate than that.
    fn fold(
        &mut self,
        unit: &Unit,
        batch: &RawBatch,
        run: &Run,
        effects: &mut Effects,
    ) -> Result<BTreeMap<u32, RowFate>, StepError> {
        let flow = unit.flows.last().expect("decoding made one");
        let time = |row: u32| EventTime(flow.decoded.timestamps[row as usize]);
        let mut fates = BTreeMap::new();
        let mut rows = Vec::with_capacity(run.rows.len());
        let mut marks = BTreeMap::new();
        for (&row, &before) in run.rows.iter().zip(&run.before) {
            if self.windows.is_late(time(row), before) {
                fates.insert(row, RowFate::Late(before));
            } else {
                rows.push(row);
                marks.insert(row, before);
            }
        }
        let descriptor = self.guest.descriptor().clone();
        let (guest, windows, events, columns, state_max) = (
            &mut self.guest,
            std::cell::RefCell::new(&mut self.windows),
            &mut self.events,
            &self.columns,
            self.state_max,
        );
        let judgement = judge(
            &self.name,
            &rows,
            &mut |metering, rows| {
                flow.fill(rows, &descriptor, columns, batch, &unit.events, events);
                let (mut groups, places) =
                    group(&windows.borrow(), rows, |row| flow.decoded.keys.get(row as usize), &time);
                let mut states = States::default();
                guest.fold(metering, events, &mut groups, &mut states)?;
                for idx in 0..places.len() {
                    let len = states.get(idx).len();
                    if len > state_max {
                        return Err(Fault::Limit(format!("accumulator has {len} bytes, limit {state_max}")));
                    }
                }
                Ok((groups.keys, places, states))
            },
            &mut |rows, reply| match reply {
                Ok((keys, places, states)) => {
                    let before = marks[rows.last().expect("a call has rows")];
                    for (idx, &start) in places.iter().enumerate() {
                        windows.borrow_mut().replace(keys.get(idx), start, states.get(idx), before);
                    }
                    // It is part of the state now, and has its limit there.
                    ControlFlow::Continue(())
                }
                Err(verdict) => {
                    fates.insert(rows[0], RowFate::Guilty(verdict));
                    ControlFlow::Continue(())
                }
            },
        )?;
        effects.count_faults(self.stage, judgement.faults);
        Ok(fates)
    }

    fn finish(&mut self, mut panes: Panes, effects: &mut Effects) -> Result<(), StepError> {
        let mut held = self.held;
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
        let guest = &mut self.guest;
        let finish = &mut |metering, rows: &[u32], panes: &mut Panes, output: &mut Output| {
            let mut states = merge(guest.as_mut(), metering, rows, &parts)?;
            guest.finish(metering, panes, &mut states, output)
        };
        let (judged, faults) = judge_panes(&self.name, panes, self.held, &mut self.output, finish)?;
        effects.count_faults(self.stage, faults);
        self.judged = judged;
        Ok(())
    }
}

impl Operator for WindowFold {
    fn layout(&self) -> &str {
        &self.layout
    }

    fn has_due(&self, watermark: EventTime) -> bool {
        self.windows.has_due(watermark)
    }

    fn next_due(&self) -> Option<EventTime> {
        self.windows.next_due()
    }

    fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.windows.encode(all, watermark, out);
    }

    fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        self.windows.apply(reader, watermark)
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

    fn take(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let flow = unit.flows.last().expect("decoding made one");
        let windows = &self.windows;
        let mut stops = |row: Option<u32>, before: EventTime, after: EventTime| match row {
            Some(row) => windows.corrects(EventTime(flow.decoded.timestamps[row as usize]), before),
            None => windows.has_due(after),
        };
        let Some(run) = run::plan(context, unit, watermark, effects, usize::MAX, self.state_max, &mut stops) else {
            return Ok(false);
        };
        let mut fates = self.fold(unit, batch, &run, effects)?;
        let start = unit.next;
        while unit.next < run.end {
            let (stage, digest, name) = (self.stage, self.digest, &self.name);
            keep_row(context, unit, batch, effects, &mut |unit, row, effects| {
                let flow = unit.flows.last().expect("decoding made one");
                let at = row as usize;
                let event = &unit.events[flow.origins[at] as usize];
                match fates.remove(&row) {
                    Some(RowFate::Late(mark)) => {
                        let (room, origin) = (&context.room, &context.origin);
                        effects.push_late(room, origin, name, flow.decoded.timestamps[at], mark.0, batch, event);
                        Fate::Late
                    }
                    Some(RowFate::Guilty(verdict)) => {
                        let letter = context.letter(stage, digest, verdict.code, &verdict.message);
                        effects.push_dead(&context.room, &context.origin, &letter, batch, event);
                        Fate::Dead
                    }
                    None => Fate::Processed,
                }
            });
        }
        for time in unit.times[start..run.end].iter().flatten() {
            watermark.observe(EventTime(*time));
        }
        Ok(true)
    }

    fn drain(
        &mut self,
        context: &Context,
        watermark: EventTime,
        _: u64,
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
            let kept = self.judged.keep(context, self.stage, self.digest, effects);
            self.windows.settle(kept);
            if !self.judged.is_done() {
                return Ok(false);
            }
        }
    }
}

/// What became of a row that was not folded.
enum RowFate {
    Late(EventTime),
    Guilty(Verdict),
}

/// Groups rows by key and slice, groups in order of first appearance, members in order of arrival.
/// Also returns each group's slice start.
fn group<'a>(
    windows: &Windows,
    rows: &[u32],
    key: impl Fn(u32) -> &'a [u8],
    time: &dyn Fn(u32) -> EventTime,
) -> (Groups, Vec<i64>) {
    let mut index: BTreeMap<(&[u8], i64), usize> = BTreeMap::new();
    let mut members: Vec<Vec<u32>> = Vec::new();
    let (mut groups, mut places) = (Groups::default(), Vec::new());
    for (at, &row) in rows.iter().enumerate() {
        let start = windows.slice_start(time(row));
        let idx = *index.entry((key(row), start)).or_insert_with(|| {
            let (start, state) = windows.accumulator(key(row), time(row));
            groups.keys.push(key(row));
            groups.states.push(&state);
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
        let (mut left, mut right, mut states) = (TextColumn::default(), TextColumn::default(), States::default());
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
