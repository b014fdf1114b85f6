//! Native guests: one per world, small enough to check by hand, with every kind of fault a guest can have.
//!
//! Every text that a guest makes carries a stamp, `s=` and 16 hex digits: 0, or the attempt that made it when the guest
//! is to be nondeterministic. State carries it too, and an output repeats the stamp of the state before it as `p=`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pelton_engine::event::{Column, Events, Field, Kind, Need, Values};
use pelton_engine::guest::{
    Addition, Aggregate, AggregateData, Aggregation, Change, Descriptor, Fault, Folded, Function, Groups, Guest,
    Identity, Metering, OF_ROW, Output, Panes, Reduced, Reject, Samples, Shape, States, World,
};

use crate::rng::Rng;

/// How an instance behaves beside its function.
#[derive(Clone)]
pub struct Temper {
    /// 0, or the number of the attempt.
    pub stamp: u64,
    /// While this is set, calls now and then have no result.
    pub stormy: Arc<AtomicBool>,
    /// Decides when.
    pub rng: Rng,
}

impl Temper {
    /// No stamp, no faults.
    #[must_use]
    pub fn calm() -> Temper {
        Temper { stamp: 0, stormy: Arc::new(AtomicBool::new(false)), rng: Rng::new(0, 0) }
    }

    fn fault(&mut self, metering: Metering) -> Result<(), Fault> {
        if !self.stormy.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.rng.below(400) {
            0 => Err(Fault::Retry("not now".into())),
            1 => Err(Fault::Host("no instance".into())),
            2..=5 if metering == Metering::Deadline => Err(Fault::Timeout),
            _ => Ok(()),
        }
    }
}

/// One native module.
pub struct SimGuest {
    descriptor: Descriptor,
    temper: Temper,
}

impl SimGuest {
    /// A module of this world.
    #[must_use]
    pub fn new(world: World, temper: Temper) -> SimGuest {
        let field = |name: &str, kind, required| Field {
            name: name.into(),
            kind,
            need: if required { Need::Required } else { Need::Optional },
        };
        let ports: &[&str] = if world == World::Transform { &["main", "side"] } else { &["main"] };
        let identity = Identity { state_version: 1, ..Identity::new(world, world.name(), "1.0.0") };
        let shape = Shape {
            fields: vec![field("v", Kind::Integer, true), field("u", Kind::String, false)],
            ports: ports.iter().map(|port| (*port).into()).collect(),
            counters: vec!["rows".into(), "sum".into()],
            ..Shape::default()
        };
        SimGuest { descriptor: Descriptor { identity, shape }, temper }
    }
}

fn integers(column: &Column) -> &[i64] {
    match &column.values {
        Values::Integers(values) => values,
        _ => &[],
    }
}

/// Counts a row and its value.
fn tally(output: &mut Output, row: u32, value: i64) {
    output.additions.push(Addition { row, counter: 0, add: 1 });
    output.additions.push(Addition { row, counter: 1, add: value });
}

/// Appends a record with a payload of its own.
fn record(output: &mut Output, input_len: usize, row: u32, port: u8, payload: &str) {
    let offset = (input_len + output.data.len()) as u32;
    output.data.extend_from_slice(payload.as_bytes());
    output.rows.push(row);
    output.ports.push(port);
    output.slices.extend([OF_ROW, 0, offset, payload.len() as u32]);
}

/// Count, sum and stamp as the text that is kept as state.
fn state_of(count: i64, sum: i64, stamp: u64) -> String {
    format!("c={count:08} v={sum:012} s={stamp:016x}")
}

fn parse_state(state: &[u8]) -> (i64, i64, u64) {
    let text = std::str::from_utf8(state).unwrap_or_default();
    let mut parts = text.split(' ').map(|part| part.get(2..).unwrap_or_default());
    let (count, sum, stamp) = (parts.next(), parts.next(), parts.next());
    let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).unwrap_or(0);
    (number(count), number(sum), stamp.and_then(|part| u64::from_str_radix(part, 16).ok()).unwrap_or(0))
}

impl Guest for SimGuest {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn digest(&self) -> [u8; 32] {
        [self.descriptor.identity.world as u8 + 1; 32]
    }

    /// Refuses multiples of 11, drops multiples of 17, tells multiples of 7 twice, traps on multiples of 53.
    fn process(&mut self, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *output = Output::default();
        for (row, &value) in integers(&events.columns[0]).iter().enumerate() {
            let row = row as u32;
            tally(output, row, value);
            match value {
                _ if value % 53 == 0 => return Err(Fault::Trap("fifty-three".into())),
                _ if value % 11 == 0 => {
                    output.rejects.push(Reject {
                        row,
                        code: "eleven".into(),
                        detail: format!("{value} is refused"),
                        place: Some("/v".into()),
                    });
                }
                _ if value % 17 == 0 => {}
                _ => {
                    output.rows.push(row);
                    output.ports.push(0);
                    output.slices.extend([OF_ROW, 0, OF_ROW, 0]);
                    if value % 7 == 0 {
                        let text = format!("side v={value} s={:016x}", self.temper.stamp);
                        record(output, events.data.len(), row, 1, &text);
                    }
                }
            }
        }
        Ok(())
    }

    fn aggregates(&mut self) -> Result<Aggregation, Fault> {
        let aggregate = |name: &str, function, field: Option<&str>| Aggregate {
            name: name.into(),
            function,
            field: field.map(Into::into),
            limit: 3,
        };
        Ok(Aggregation {
            aggregates: vec![
                aggregate("n", Function::Count, None),
                aggregate("sum", Function::Sum, Some("v")),
                aggregate("max", Function::Max, Some("v")),
                aggregate("users", Function::Distinct, Some("u")),
            ],
            ..Aggregation::default()
        })
    }

    fn extract(&mut self, _: Metering, _: &mut Events, _: &mut Samples) -> Result<(), Fault> {
        Err(Fault::Contract("the plan extracts nothing".into()))
    }

    fn evaluate(&mut self, metering: Metering, panes: &mut Panes, output: &mut Output) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *output = Output::default();
        for row in 0..panes.len() {
            let mut text = format!("pane {}", panes.timings[row].name());
            for column in &panes.values {
                if let AggregateData::Integers(values) = &column.data {
                    text.push_str(&format!(" {}", values[row]));
                }
            }
            text.push_str(&format!(" s={:016x}", self.temper.stamp));
            tally(output, row as u32, 0);
            record(output, panes.keys.data.len(), row as u32, 0, &text);
        }
        Ok(())
    }

    /// Counts and sums per key. Every fifth event of a key sets a timer; a timer beyond 12 events forgets the key.
    fn reduce(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        reduced: &mut Reduced,
    ) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *reduced = Reduced::default();
        let stamp = self.temper.stamp;
        let mut said: Vec<(u32, String)> = Vec::new();
        let (mut first, mut first_timer) = (0, 0);
        for group in 0..groups.member_ends.len() {
            let (mut count, mut sum, mut before) = parse_state(groups.states.get(group));
            let members = first..groups.member_ends[group] as usize;
            let timers = first_timer..groups.timer_ends[group] as usize;
            (first, first_timer) = (members.end, timers.end);
            let mut change = Change::Replace;
            for &row in &groups.members[members] {
                let value = integers(&events.columns[0])[row as usize];
                (count, sum) = (count + 1, sum + value);
                said.push((row, format!("c={count} v={sum} p={before:016x} s={stamp:016x}")));
                before = stamp;
                if count % 5 == 0 {
                    reduced.timers.push((group as u32, events.timestamps[row as usize] + 700));
                }
            }
            for _ in &groups.timers[timers] {
                said.push((
                    (events.len() + group) as u32,
                    format!("timer c={count} v={sum} p={before:016x} s={stamp:016x}"),
                ));
                before = stamp;
                if count > 12 {
                    change = Change::Delete;
                }
            }
            reduced.changes.push(change);
            reduced.states.push(state_of(count, sum, stamp).as_bytes());
        }
        said.sort_by_key(|(row, _)| *row);
        for (row, text) in &said {
            tally(&mut reduced.output, *row, 1);
            record(&mut reduced.output, events.data.len(), *row, 0, text);
        }
        Ok(())
    }

    fn fold(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        folded: &mut Folded,
    ) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *folded = Folded::default();
        let mut first = 0;
        for group in 0..groups.member_ends.len() {
            let (mut count, mut sum, _) = parse_state(groups.states.get(group));
            let end = groups.member_ends[group] as usize;
            for &row in &groups.members[first..end] {
                let value = integers(&events.columns[0])[row as usize];
                (count, sum) = (count + 1, sum + value);
                if value % 19 == 0 {
                    let detail = format!("{value} is refused");
                    folded.rejects.push(Reject { row, code: "nineteen".into(), detail, place: None });
                }
                folded.additions.push(Addition { row, counter: 1, add: value });
            }
            first = end;
            folded.states.push(state_of(count, sum, self.temper.stamp).as_bytes());
        }
        Ok(())
    }

    fn merge(
        &mut self,
        metering: Metering,
        left: &mut States,
        right: &mut States,
        states: &mut States,
    ) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *states = States::default();
        for row in 0..left.ends.len() {
            let ((count, sum, _), (more, other, _)) = (parse_state(left.get(row)), parse_state(right.get(row)));
            states.push(state_of(count + more, sum + other, self.temper.stamp).as_bytes());
        }
        Ok(())
    }

    fn finish(
        &mut self,
        metering: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault> {
        self.temper.fault(metering)?;
        *output = Output::default();
        for row in 0..panes.len() {
            let (count, sum, _) = parse_state(states.get(row));
            let text = format!("fold {} c={count} v={sum} s={:016x}", panes.timings[row].name(), self.temper.stamp);
            tally(output, row as u32, 0);
            record(output, panes.keys.data.len(), row as u32, 0, &text);
        }
        Ok(())
    }
}
