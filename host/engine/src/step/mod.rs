//! The one public verb: [`Engine::step`] turns events into effects, for one partition.
//!
//! Synchronous and pure: no IO, no clock, no random. Events are taken in units of [`UNIT_EVENTS`]; stages compute a
//! unit at a time, effects are kept event by event, so that an epoch can be cut between any two events.
//! After an error the state in memory is void: the partition recovers the last committed epoch.

mod chain;
mod ordered;
mod sections;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub use pelton_aggregates::HashKey;

use crate::codes::{Class, Code};
use crate::effects::{Counter, DeadLetter, Effects, Origin, Room};
use crate::epoch::{Clock, Position, fingerprint};
use crate::event::RawBatch;
use crate::guest::{Descriptor, Guest, World};
use crate::judge::StepError;
use crate::operator::{self, DUPLICATES, Dedupe, Due, EXPIRED, Operator, Order, Stateful};
use crate::plan::{EventOrder, OutputStream, Plan};
use crate::time::{EventTime, Span, WallTime};
use crate::unit::{self, Context, Fate, UNIT_EVENTS, Unit};
use crate::watermark::Watermark;

use chain::Chain;

pub use crate::operator::{Trial, try_rule};
pub use crate::unit::Envelope;

/// Bytes by which the state may grow in memory in one epoch before it is full: `limits.state` is looked at where an epoch
/// ends.
const GROWTH_MAX: usize = 32 << 20;

/// Everything that can wake the engine.
#[derive(Debug)]
pub enum Input {
    /// Events after the position, in order. Only when the last progress was `NeedInput`.
    Batch(RawBatch),
    /// Go on with what is there.
    Continue,
    /// The source is silent, and the watermark moves on to this instant by the clock.
    Idle(EventTime),
    /// The input has ended: every window closes.
    End,
}

/// Where the engine stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input is worked off and nothing is due.
    NeedInput,
    /// There is more to do; a good moment to look at the clock.
    More,
    /// The epoch holds as much as it may: cut it, then go on.
    Full,
}

/// What the engine is told when it is made.
pub struct Options {
    pub origin: Origin,
    pub room: Room,
    pub envelope: Envelope,
    /// Random, for a state that begins here; one that is restored brings its own. No result depends on it.
    pub hash_key: HashKey,
}

/// What rows may bring to the states of these operators.
struct Brought<'a>(&'a [Box<dyn Operator>]);

impl unit::Changes for Brought<'_> {
    fn of_row(&self, unit: &Unit, operator: u8, row: u32) -> usize {
        let operator = &self.0[usize::from(operator)];
        let key = unit.flow(operator.module().inlet).decoded.keys.get(row as usize);
        key.len().saturating_add(operator.text_bytes(unit, Some(row)))
    }

    fn of_all(&self, unit: &Unit) -> usize {
        let of_one = |operator: &dyn Operator| {
            let keys = unit.flow(operator.module().inlet).decoded.keys.data.len();
            keys.saturating_add(operator.text_bytes(unit, None))
        };
        self.0.iter().map(|operator| of_one(&**operator)).fold(0, usize::saturating_add)
    }
}

/// The computation of one partition: stages, windows, keyed state, position.
pub struct Engine {
    chain: Chain,
    /// When events are held until it is their turn.
    order: Option<Order>,
    /// When repetitions have no effect.
    dedupe: Option<Dedupe>,
    /// Stages with state, in the order of the plan.
    operators: Vec<Box<dyn Operator>>,
    /// No result depends on it, but whoever knows it could forge counts.
    hash_key: HashKey,
    context: Context,
    /// Before which the stages see no more events.
    watermark: Watermark,
    position: Position,
    published: WallTime,
    batch: RawBatch,
    /// Next event of `batch`.
    next: usize,
    unit: Option<Unit>,
    /// With an order: what happens next.
    underway: Option<ordered::Underway>,
    /// How many events the next unit has: fewer while modules make much of each.
    unit_events: usize,
    digests: Vec<[u8; 32]>,
    /// Every counter of the modules, by the name that it has in a marker: `STAGE/COUNTER`.
    counters: Vec<(String, Counter)>,
    /// Of the state, when the last epoch ended.
    bytes_at_cut: usize,
    /// Of a delta in which nothing has changed.
    change_bytes_at_cut: usize,
    /// Events that were held when the last epoch ended.
    held_at_cut: u64,
}

impl Engine {
    /// An engine with empty state.
    ///
    /// # Errors
    /// When a window rule's plan cannot be had or does not fit its fields.
    pub fn new(plan: Arc<Plan>, guests: Vec<Box<dyn Guest>>, options: Options) -> Result<Engine, StepError> {
        assert_eq!(plan.stages.len(), guests.len(), "one guest per stage");
        let descriptors: Vec<_> = guests.iter().map(|guest| guest.descriptor().clone()).collect();
        let digests = guests.iter().map(|guest| guest.digest()).collect();
        let fields = plan.reads(&descriptors);
        let (mut transforms, mut operators) = (Vec::new(), Vec::new());
        let hash_key = options.hash_key;
        for (stage, guest) in guests.into_iter().enumerate() {
            if descriptors[stage].identity.world == World::Transform {
                transforms.push((stage, guest));
                continue;
            }
            let mut operator = operator::stateful(guest, stage, &plan, &fields)?;
            operator.set_hash_key(hash_key);
            operators.push(operator);
        }
        // Behind an order nothing is out of order.
        let (delay, order) = match plan.source.order {
            EventOrder::Arrival => (plan.source.watermark.delay, None),
            EventOrder::EventTime => {
                let (partition, room) = (options.origin.partition, &options.room);
                let order = Order::new(&plan.source, partition, plan.limits.max_payload, room.change_bytes_at_once);
                (Span(0), Some(order))
            }
        };
        let mut dedupe = plan.source.dedupe.as_ref().map(Dedupe::new);
        dedupe.iter_mut().for_each(|dedupe| dedupe.set_hash_key(hash_key));
        let watermark = Watermark::new(delay);
        let chain = Chain::new(&plan, options.origin.partition, transforms, fields, &descriptors);
        let Options { origin, room, envelope, hash_key: _ } = options;
        let mut counters = counters(&plan, &descriptors);
        counters.extend(dedupe.is_some().then(|| (DUPLICATES.0.to_owned(), DUPLICATES.1)));
        let is_keyed = |stream: &OutputStream| stream.subject.contains("{key}");
        let keyed = plan.outputs.iter().map(|output| output.stream.as_ref().is_some_and(is_keyed)).collect();
        let context = Context { plan, origin, room, envelope, keyed };
        let mut engine = Engine {
            chain,
            order,
            dedupe,
            operators,
            hash_key,
            context,
            watermark,
            position: Position::default(),
            published: WallTime::default(),
            batch: RawBatch::default(),
            next: 0,
            unit: None,
            underway: None,
            unit_events: UNIT_EVENTS,
            bytes_at_cut: 0,
            change_bytes_at_cut: 0,
            held_at_cut: 0,
            digests,
            counters,
        };
        engine.begin_epoch();
        Ok(engine)
    }

    /// The last event that is accounted for. Its fingerprint is right after [`Engine::cut`].
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the broker stored the last event that is accounted for; right after [`Engine::cut`].
    #[must_use]
    pub fn published(&self) -> WallTime {
        self.published
    }

    /// What was counted, under the names that counters have in a marker, also of those that nothing was added to.
    #[must_use]
    pub fn counted(&self, counts: &BTreeMap<Counter, i128>) -> BTreeMap<String, i128> {
        let count = |counter: &Counter| counts.get(counter).copied().unwrap_or(0);
        self.counters.iter().map(|(name, counter)| (name.clone(), count(counter))).collect()
    }

    /// Events that are kept for later.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.order.as_ref().map_or(0, Order::len)
    }

    /// Loses what is held.
    #[cfg(feature = "mutants")]
    pub(crate) fn forget_held(&mut self) {
        if let Some(order) = &mut self.order {
            order.clear();
        }
    }

    /// Those that were kept when the last epoch ended.
    #[must_use]
    pub fn held_before(&self) -> u64 {
        self.held_at_cut
    }

    /// Event time of this partition, as its stages see it.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        self.watermark.current()
    }

    /// sha256 of each stage's module.
    #[must_use]
    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// Who writes.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.context.origin
    }

    /// What it computes.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.context.plan
    }

    /// Where the watermark would stand after this long without an event, when something is due by then.
    #[must_use]
    pub fn due_in_silence(&self, silent: Span) -> Option<EventTime> {
        let watermark = self.order.as_ref().map_or(&self.watermark, Order::watermark);
        let then = watermark.after_silence(silent)?;
        self.next_due().filter(|due| *due <= then).map(|_| then)
    }

    /// The earliest instant at which an event that is held, a window or a timer is due.
    fn next_due(&self) -> Option<EventTime> {
        let of_order = self.order.as_ref().and_then(Order::next_due);
        self.operators.iter().filter_map(|operator| operator.next_due()).chain(of_order).min()
    }

    /// Reports sequences that were gone before they could be read: they count as lost, and a record tells which.
    /// False when the epoch is full: then nothing has happened.
    pub fn skip_gap(&mut self, first: u64, last: u64, effects: &mut Effects) -> bool {
        if !effects.fits(&self.context.room, 1) {
            return false;
        }
        let is_behind = self.position.sequence < first && first <= last;
        assert!(self.is_idle() && is_behind, "a gap lies behind the position");
        let letter = DeadLetter {
            stage: "source",
            digest: None,
            class: Class::Gap,
            code: Code::Gap.name(),
            path: "",
            message: &format!("sequences {first}..={last} expired before they were read"),
        };
        let body = serde_json::json!({"first": first, "last": last}).to_string();
        effects.push_dead_row(&self.context.origin, &letter, body.as_bytes());
        effects.totals.received += last - first + 1;
        effects.totals.lost += last - first + 1;
        (self.batch, self.next) = (RawBatch::default(), 0);
        self.position = Position { sequence: last, fingerprint: 0 };
        true
    }

    /// Rough memory of the typed state, bytes.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.stateful().map(|operator| operator.bytes()).sum()
    }

    /// Does one bounded piece of work and adds what it brings about to `effects`.
    ///
    /// # Errors
    /// The step did not happen and this engine must not be used any more.
    pub fn step(&mut self, input: Input, effects: &mut Effects) -> Result<Progress, StepError> {
        match input {
            Input::Batch(batch) => {
                assert!(self.is_idle(), "a batch is given only when the last one is worked off");
                assert!(effects.clock.is_empty(), "what comes from a clock ends its epoch");
                let first = batch.events.first().map_or(u64::MAX, |event| event.sequence);
                assert!(first > self.position.sequence, "events come in order and once");
                // The epoch may be cut before the first event of the new batch is taken.
                self.identify_position();
                self.batch = batch;
                self.next = 0;
            }
            Input::Continue => {}
            Input::Idle(to) => {
                assert!(self.is_idle(), "silence comes after the last event");
                match &mut self.order {
                    Some(order) => order.advance(to),
                    None => self.watermark.advance(to),
                }
                effects.clock.push(Clock::Idle { value: to.0 });
            }
            Input::End => {
                assert!(self.is_idle(), "the input ends after its last event");
                match &mut self.order {
                    Some(order) => order.end(),
                    None => self.watermark.end(),
                }
            }
        }
        if self.order.is_some() { self.go_on_in_order(effects) } else { self.go_on(effects) }
    }

    fn is_idle(&self) -> bool {
        self.unit.is_none() && self.underway.is_none() && self.next == self.batch.events.len()
    }

    fn go_on(&mut self, effects: &mut Effects) -> Result<Progress, StepError> {
        // What is due comes before any further event.
        if !self.drain_due(effects)? {
            return Ok(Progress::Full);
        }
        if self.unit.is_none() {
            if self.next == self.batch.events.len() {
                return Ok(Progress::NeedInput);
            }
            let batch = std::mem::take(&mut self.batch);
            let unit = loop {
                let end = batch.events.len().min(self.next + self.unit_events);
                if let Some(unit) = self.compute(&batch, self.next..end, effects)? {
                    break unit;
                }
            };
            (self.batch, self.unit) = (batch, Some(unit));
        }
        let (mut unit, batch) = (self.unit.take().expect("made above"), std::mem::take(&mut self.batch));
        let done = self.take_rows(&mut unit, &batch, effects)?;
        self.batch = batch;
        if unit.next < unit.events.len() {
            self.unit = Some(unit);
        } else {
            self.next += unit.events.len();
            self.chain.recycle(unit);
        }
        Ok(if done && !self.has_grown() { Progress::More } else { Progress::Full })
    }

    /// Whether the state has grown by as much as it may in one epoch.
    fn has_grown(&self) -> bool {
        self.state_bytes().saturating_sub(self.bytes_at_cut) > GROWTH_MAX
    }

    /// What the stages make of these events has to be held at one time. `None` when that is too much: then fewer of them
    /// are to be tried. An event of which they make too much alone is refused.
    fn compute(
        &mut self,
        batch: &RawBatch,
        range: Range<usize>,
        effects: &mut Effects,
    ) -> Result<Option<Unit>, StepError> {
        let mut unit = self.chain.compute(&self.context, batch, range)?;
        for operator in &mut self.operators {
            if unit.too_much.is_none() {
                operator.prepare(&mut unit, batch)?;
            }
        }
        match unit.too_much {
            None => {
                unit.settle_fates();
                self.unit_events = (2 * self.unit_events).min(UNIT_EVENTS);
            }
            Some(stage) if unit.events.len() == 1 => self.chain.refuse(&self.context, &mut unit, batch, stage),
            Some(_) => {
                self.unit_events = unit.events.len() / 2;
                self.chain.recycle(unit);
                return Ok(None);
            }
        }
        unit.faults.drain(..).for_each(|(stage, faults)| effects.count_faults(stage, faults));
        self.dedupe.iter_mut().for_each(|dedupe| dedupe.read(&unit));
        unit::weigh_unit(&self.context, &self.digests, &mut unit, batch, &Brought(&self.operators));
        Ok(Some(unit))
    }

    /// Accounts for the unit's events one after the other; false when the epoch is full.
    fn take_rows(&mut self, unit: &mut Unit, batch: &RawBatch, effects: &mut Effects) -> Result<bool, StepError> {
        while unit.next < unit.events.len() {
            let before = unit.next;
            if !self.take_next(unit, batch, effects)? {
                return Ok(false);
            }
            effects.totals.received += (unit.next - before) as u64;
            self.position.sequence = unit.events[unit.next - 1].sequence;
            if !self.drain_due(effects)? || self.change_bytes() > self.context.room.change_bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Accounts for the unit's next event, or for more of them, and moves the watermark; false when it does not fit into
    /// the epoch: then nothing has happened.
    #[inline]
    fn take_next(&mut self, unit: &mut Unit, batch: &RawBatch, effects: &mut Effects) -> Result<bool, StepError> {
        let (context, watermark, first, stop) = (&self.context, &mut self.watermark, unit.next, unit.stop);
        if let Some(dedupe) = &mut self.dedupe {
            if unit.next == unit.screened {
                unit.screened = dedupe.screen(unit, watermark, stop);
            }
            unit.stop = unit.screened;
        }
        let taken = match self.operators.as_mut_slice() {
            [] => unit::take_row(context, unit, batch, effects, &mut |_, _, _, _| Fate::Filtered),
            [operator] => operator.take(context, unit, batch, watermark, effects)?,
            several => operator::take_together(several, context, unit, batch, watermark, effects)?,
        };
        if taken && let Some(time) = unit.times[unit.next - 1] {
            watermark.observe(EventTime(time));
        }
        if let Some(dedupe) = &mut self.dedupe {
            dedupe.settle(unit, first, watermark.current());
            unit.stop = stop;
        }
        Ok(taken)
    }

    /// Judges what is due at the watermark, stage after stage; false when the epoch is full before all is judged.
    #[inline]
    fn drain_due(&mut self, effects: &mut Effects) -> Result<bool, StepError> {
        let watermark = self.watermark.current();
        for idx in 0..self.operators.len() {
            if !self.operators[idx].has_due(watermark) {
                continue;
            }
            let (all, own) = (self.change_bytes(), self.operators[idx].change_bytes());
            // Not behind an event that has filled the epoch: what it may bring at once is counted once.
            if all > self.context.room.change_bytes.max(self.change_bytes_at_cut) {
                return Ok(false);
            }
            let sequence = self.order.as_ref().map_or(self.position.sequence, Order::last_released);
            let due_to = Due { sequence, change_bytes: all - own };
            if !self.operators[idx].drain(&self.context, watermark, due_to, effects)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the epoch: appends the state delta to `delta` and returns the position with its fingerprint.
    pub fn cut(&mut self, delta: &mut Vec<u8>) -> Position {
        self.identify_position();
        let (before, bound) = (delta.len(), self.change_bytes());
        self.encode(false, delta);
        debug_assert!(delta.len() - before <= bound, "a delta of {} bytes, {bound} expected", delta.len() - before);
        self.begin_epoch();
        self.position
    }

    fn begin_epoch(&mut self) {
        (self.bytes_at_cut, self.change_bytes_at_cut) = (self.state_bytes(), self.change_bytes());
        self.held_at_cut = self.held();
    }

    /// The whole state, for a snapshot. Call it right after [`Engine::cut`].
    #[must_use]
    pub fn snapshot(&mut self) -> Vec<u8> {
        let mut state = Vec::new();
        self.encode(true, &mut state);
        state
    }

    fn identify_position(&mut self) {
        let taken = self.next + self.unit.as_ref().map_or(0, |unit| unit.next);
        if let Some(event) = taken.checked_sub(1).and_then(|last| self.batch.events.get(last)) {
            assert_eq!(event.sequence, self.position.sequence, "the position is the last event taken");
            self.published = event.published;
            self.position.fingerprint = fingerprint(event.published.0, self.batch.slice(&event.payload));
        }
    }

    /// After the last [`Engine::restore`]: where to go on.
    pub fn resume(&mut self, position: Position) {
        self.position = position;
        self.stateful_mut().for_each(|operator| operator.restored());
        self.begin_epoch();
    }
}

/// Every counter of the modules, and of the host beside them, with its name in a marker.
fn counters(plan: &Plan, descriptors: &[Descriptor]) -> Vec<(String, Counter)> {
    let of_stage = |(stage, descriptor): (usize, &Descriptor)| {
        let name = &plan.stages[stage].name;
        let counter = |(idx, counter): (usize, &String)| {
            (format!("{name}/{counter}"), Counter { stage: stage as u16, idx: idx as u16 })
        };
        let of_host = plan.stages[stage].ttl.map(|_| (format!("{name}/{EXPIRED}"), operator::expired(stage)));
        descriptor.shape.counters.iter().enumerate().map(counter).chain(of_host).collect::<Vec<_>>()
    };
    descriptors.iter().enumerate().flat_map(of_stage).collect()
}
