//! A window rule: the host keeps the aggregates, the module judges panes.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::codec::{Damaged, Reader};
use crate::effects::Effects;
use crate::event::{Column, RawBatch, Values};
use crate::flow::{append_column, empty_columns};
use crate::guest::{Addition, Aggregate, Aggregation, Function, Guest, Output, Panes, Reject, Samples};
use crate::judge::{StepError, Verdict, judge};
use crate::plan::{FieldRead, Plan, declared};
use crate::time::EventTime;
use crate::unit::{Context, Fate, Letter, Scale, Unit, letter_of, take_row};
use crate::watermark::Watermark;
use crate::window::{Placed, Shape, Value, Windows, column};
use pelton_aggregates::HashKey;

use super::panes::{Judged, judge_panes};
use super::{Attempt, Due, Head, Operator, StageModule, Stateful};

/// Panes that are judged in one call.
const PANES_PER_CALL: usize = 1024;

/// Where an aggregate's values come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// A plain count.
    Nothing,
    /// Column of the decoder.
    Declared(usize),
    /// Column of the samples.
    Derived(usize),
}

/// Samples of a unit that the module has derived.
#[derive(Default)]
struct Derived {
    /// Row of the flow that each sample came from, ascending.
    rows: Vec<u32>,
    columns: Vec<Column>,
    /// First sample that no row has taken yet.
    next: usize,
}

impl Derived {
    fn clear(&mut self) {
        self.rows.clear();
        self.columns.iter_mut().for_each(Column::clear);
        self.next = 0;
    }

    /// The samples of a row; rows are taken in order.
    fn take(&mut self, row: u32) -> Range<usize> {
        // Rows of an event that was refused whole have left their samples behind.
        while self.rows.get(self.next).is_some_and(|&of| of < row) {
            self.next += 1;
        }
        let first = self.next;
        while self.rows.get(self.next) == Some(&row) {
            self.next += 1;
        }
        first..self.next
    }
}

/// The rule's guest, its windows and what waits for room.
pub(crate) struct WindowRule {
    module: StageModule,
    plan: Aggregation,
    inputs: Vec<Input>,
    /// Of the aggregates that keep texts.
    texts: Vec<Input>,
    windows: Windows,
    /// Of the unit at hand, when the rule extracts.
    samples: Derived,
    judged: Judged,
    output: Output,
}

impl WindowRule {
    pub(crate) fn new(
        mut guest: Box<dyn Guest>,
        stage: usize,
        plan: &Arc<Plan>,
        fields: &[FieldRead],
    ) -> Result<WindowRule, StepError> {
        let name = plan.stages[stage].name.clone();
        let halt = |reason: String| StepError::Halt { stage: name.clone(), reason };
        let rule = guest.aggregates().map_err(|fault| halt(format!("its aggregates cannot be had: {fault:?}")))?;
        let (mut shapes, mut inputs) = (Vec::new(), Vec::new());
        for aggregate in &rule.aggregates {
            let (shape, input) = input_of(aggregate, &rule, fields).map_err(halt)?;
            shapes.push(shape);
            inputs.push(input);
        }
        check_thresholds(&rule).map_err(halt)?;
        let window = plan.stages[stage].window.as_ref().expect("the plan gives every rule a window");
        let keeps_texts =
            |(aggregate, input): (&Aggregate, &Input)| (aggregate.function == Function::TopK).then_some(*input);
        let texts = rule.aggregates.iter().zip(&inputs).filter_map(keeps_texts).collect();
        let windows = Windows::new(window, shapes, &rule.thresholds, false);
        let module = StageModule::new(guest, stage, plan, fields, Some(&rule));
        Ok(WindowRule {
            module,
            plan: rule,
            inputs,
            texts,
            windows,
            samples: Derived::default(),
            judged: Judged::default(),
            output: Output::default(),
        })
    }

    /// Lets the module derive samples from a fresh unit, when its plan says so.
    fn extract(&mut self, unit: &mut Unit, batch: &RawBatch) -> Result<(), StepError> {
        let rows = unit.rows(self.module.inlet);
        // By its fields: others of the unit are written below.
        let flow = &unit.flows[unit.views[self.module.inlet].flow];
        let samples = &mut self.samples;
        samples.clear();
        if samples.columns.is_empty() {
            samples.columns = empty_columns(self.plan.derived.iter().map(|field| field.kind));
        }
        let StageModule { guest, digest, stage, name, columns, events, .. } = &mut self.module;
        let (stage, digest, raw) = (*stage, *digest, &unit.events);
        let shape = guest.descriptor().shape.clone();
        let (mut letters, mut additions) = (Vec::<(u32, Letter)>::new(), Vec::<(u32, Addition)>::new());
        let held = &mut unit.held;
        let judgement = judge(
            name,
            &rows,
            &mut |metering, rows| {
                flow.fill(rows, &shape, columns, batch, raw, events);
                let mut reply = Samples::default();
                guest.extract(metering, events, &mut reply)?;
                Ok(reply)
            },
            &mut |rows, reply| match reply {
                Ok(reply) => {
                    samples.rows.extend(reply.rows.iter().map(|&of| rows[of as usize]));
                    reply.columns.iter().zip(&mut samples.columns).for_each(|(from, to)| append_column(from, to));
                    for reject in &reply.rejects {
                        letters.push((rows[reject.row as usize], letter_of(stage, digest, reject)));
                    }
                    additions.extend(reply.additions.iter().map(|addition| (rows[addition.row as usize], *addition)));
                    let count = reply.rows.len() + reply.rejects.len() + reply.additions.len();
                    let columns: usize = reply.columns.iter().map(column_bytes).sum();
                    let rejects: usize = reply.rejects.iter().map(Reject::bytes).sum();
                    held.add(count, columns + rejects)
                }
                Err(Verdict { code, message }) => {
                    let (stage, digest) = (Some(stage), Some(digest));
                    letters.push((rows[0], Letter::of(stage, digest, code, message)));
                    ControlFlow::Continue(())
                }
            },
        )?;
        unit.faults.push((stage, judgement.faults));
        if unit.held.is_too_much() {
            unit.too_much = Some(stage);
        }
        let origin = |row: u32| flow.origins[row as usize];
        let buried: Vec<(u32, Letter)> = letters.into_iter().map(|(row, letter)| (origin(row), letter)).collect();
        let counted: Vec<(u32, Addition)> = additions.into_iter().map(|(row, of)| (origin(row), of)).collect();
        counted.iter().for_each(|(origin, addition)| unit.count(*origin, stage, addition));
        let any = !buried.is_empty();
        buried.into_iter().for_each(|(origin, letter)| unit.bury(origin, letter));
        if any {
            unit.acts.sort_by_key(|act| act.origin);
        }
        unit.counts.sort_by_key(|count| count.origin);
        Ok(())
    }
}

impl Stateful for WindowRule {
    fn section(&self) -> Head<'_> {
        self.module.section()
    }

    fn restored(&mut self) {
        self.windows.restored();
    }

    fn bytes(&self) -> usize {
        self.windows.bytes()
    }

    fn set_hash_key(&mut self, key: HashKey) {
        self.windows.hash_key = key;
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

    fn change_bytes(&self) -> usize {
        self.windows.change_bytes()
    }
}

impl Operator for WindowRule {
    fn module(&self) -> &StageModule {
        &self.module
    }

    fn prepare(&mut self, unit: &mut Unit, batch: &RawBatch) -> Result<(), StepError> {
        if self.plan.extracts() { self.extract(unit, batch) } else { Ok(()) }
    }

    fn has_due(&self, watermark: EventTime) -> bool {
        self.windows.has_due(watermark)
    }

    fn next_due(&self) -> Option<EventTime> {
        self.windows.next_due()
    }

    fn text_bytes(&self, unit: &Unit, row: Option<u32>) -> usize {
        if self.texts.is_empty() {
            return 0;
        }
        let flow = unit.flow(self.module.inlet);
        let samples = &self.samples;
        let of_row = match row {
            _ if !self.plan.extracts() => 0..1,
            Some(row) => samples.rows.partition_point(|&of| of < row)..samples.rows.partition_point(|&of| of <= row),
            None => 0..samples.rows.len(),
        };
        let bytes = |input: &Input| match (*input, row) {
            (Input::Nothing, _) => 0,
            (Input::Declared(column), Some(row)) => {
                of_row.len() * text_len(&flow.decoded.columns[column], row as usize)
            }
            (Input::Declared(column), None) => of_row.len() * texts_len(&flow.decoded.columns[column]),
            (Input::Derived(column), Some(_)) => {
                of_row.clone().map(|sample| text_len(&samples.columns[column], sample)).sum()
            }
            (Input::Derived(column), None) => texts_len(&samples.columns[column]),
        };
        self.texts.iter().map(bytes).fold(0, usize::saturating_add)
    }

    fn take(
        &mut self,
        context: &Context,
        unit: &mut Unit,
        batch: &RawBatch,
        watermark: &mut Watermark,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let watermark = watermark.current();
        Ok(take_row(context, unit, batch, effects, &mut |unit, _, row, effects| {
            self.keep(context, unit, batch, row, watermark, effects)
        }))
    }

    fn attempt(&mut self, _: &Context, _: &Unit, _: &RawBatch, _: &[u32], _: EventTime) -> Result<Attempt, StepError> {
        // A row changes what is kept, and nothing can be in its way: its keys and texts were weighed.
        Ok(Attempt::default())
    }

    fn put_on(&self, _: &Context, _: &Unit, _: &RawBatch, rows: &[u32], scale: &mut Scale<'_>) {
        // At most: rows that are late.
        scale.add_letters(rows.len());
    }

    /// Counts the samples of a row.
    fn keep(
        &mut self,
        context: &Context,
        unit: &Unit,
        batch: &RawBatch,
        row: u32,
        watermark: EventTime,
        effects: &mut Effects,
    ) -> Fate {
        let flow = unit.flow(self.module.inlet);
        let at = row as usize;
        let (key, time) = (flow.decoded.keys.get(at), EventTime(flow.decoded.timestamps[at]));
        let samples = if self.plan.extracts() { self.samples.take(row) } else { 0..1 };
        let mut fate = Fate::Filtered;
        for sample in samples {
            let (inputs, derived) = (&self.inputs, &self.samples.columns);
            let placed = self.windows.place(key, time, watermark, |idx| match inputs[idx] {
                Input::Nothing => Value::Integer(1),
                Input::Declared(column) => value_at(&flow.decoded.columns[column], at),
                Input::Derived(column) => value_at(&derived[column], sample),
            });
            if placed == Placed::Late {
                let (room, origin) = (&context.room, &context.origin);
                let event = &unit.events[flow.origins[at] as usize];
                effects.push_late(room, origin, &self.module.name, time.0, watermark.0, batch, event);
                return Fate::Late;
            }
            fate = Fate::Processed;
        }
        fate
    }

    fn settle(&mut self) {}

    fn drain(
        &mut self,
        context: &Context,
        watermark: EventTime,
        _: Due,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        loop {
            if self.judged.is_done() {
                let mut panes = Panes {
                    values: self.windows.shapes().iter().map(|&shape| column(shape)).collect(),
                    ..Panes::default()
                };
                if self.windows.due(watermark, PANES_PER_CALL, &mut panes) == 0 {
                    return Ok(true);
                }
                let StageModule { guest, stage, name, held, .. } = &mut self.module;
                let evaluate = &mut |metering, _: &[u32], panes: &mut Panes, output: &mut Output| {
                    guest.evaluate(metering, panes, output)
                };
                let (judged, faults) = judge_panes(name, panes, *held, &mut self.output, evaluate)?;
                effects.count_faults(*stage, faults);
                self.judged = judged;
            }
            let kept = self.judged.keep(context, self.module.stage, self.module.digest, effects);
            self.windows.settle(kept);
            if !self.judged.is_done() {
                return Ok(false);
            }
        }
    }
}

fn column_bytes(column: &Column) -> usize {
    match &column.values {
        Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
            texts.data.len() + 4 * texts.ends.len()
        }
        Values::Integers(values) => 8 * values.len(),
        Values::Numbers(values) => 8 * values.len(),
        Values::Booleans(values) => values.len(),
    }
}

/// Length of all texts; 0 of anything else.
fn texts_len(column: &Column) -> usize {
    if let Values::Strings(texts) = &column.values { texts.data.len() } else { 0 }
}

/// Length of a text; 0 of anything else.
fn text_len(column: &Column, row: usize) -> usize {
    if let Value::String(text) = value_at(column, row) { text.len() } else { 0 }
}

/// One value of a column.
fn value_at(column: &Column, row: usize) -> Value<'_> {
    if column.is_missing(row) {
        return Value::Missing;
    }
    match &column.values {
        Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
            Value::String(texts.get(row))
        }
        Values::Integers(values) => Value::Integer(values[row]),
        Values::Numbers(values) => Value::Number(values[row]),
        Values::Booleans(values) => Value::Boolean(values[row]),
    }
}

/// Each threshold is on an aggregate that there is.
pub(super) fn check_thresholds(rule: &Aggregation) -> Result<(), String> {
    let (count, all) = (rule.aggregates.len(), rule.thresholds.iter().flatten());
    match all.map(|condition| condition.aggregate).find(|&of| of as usize >= count) {
        Some(of) => Err(format!("it has a threshold on aggregate {of}, but only {count} aggregates")),
        None => Ok(()),
    }
}

/// What is kept of an aggregate, and where its values come from; checked against the fields that it may read.
pub(super) fn input_of(
    aggregate: &Aggregate,
    rule: &Aggregation,
    fields: &[FieldRead],
) -> Result<(Shape, Input), String> {
    let (kind, input) = match &aggregate.field {
        None => (None, Input::Nothing),
        Some(field) => {
            let derived = rule.derived.iter().position(|known| known.name == *field);
            match (derived, declared(fields, field)) {
                (Some(idx), _) => (Some(rule.derived[idx].kind), Input::Derived(idx)),
                (None, Some(idx)) => (Some(fields[idx].kind), Input::Declared(idx)),
                (None, None) => {
                    let name = &aggregate.name;
                    return Err(format!(
                        "aggregate `{name}` reads field `{field}`, which is neither declared nor derived"
                    ));
                }
            }
        }
    };
    Ok((aggregate.shape(kind)?, input))
}
