//! The one public verb: [`Engine::step`] turns events into effects, for one partition.
//!
//! Synchronous and pure: no IO, no clock, no random. Events are taken in units of [`UNIT_EVENTS`]; stages compute a
//! unit at a time, effects are kept event by event, so that an epoch can be cut between any two events.
//! After an error the state in memory is void: the partition recovers the last committed epoch.

mod chain;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use pelton_aggregates::HashKey;

use crate::codec::{Damaged, Reader, put_i64};
use crate::codes::{Class, Code};
use crate::effects::{Counter, DeadLetter, Effects, Origin, Room};
use crate::epoch::{
    Clock, DeltaReader, DeltaWriter, Part, Position, SECTION_STORED_BYTES_MAX, Section, fingerprint, layout_of,
};
use crate::event::RawBatch;
use crate::guest::{Descriptor, Guest, World};
use crate::judge::StepError;
use crate::operator::{self, Due, Operator};
use crate::plan::{OutputStream, Plan};
use crate::time::{EventTime, Span, WallTime};
use crate::unit::{self, Context, Fate, UNIT_EVENTS, Unit};
use crate::watermark::Watermark;

use chain::Chain;

pub use crate::operator::{Trial, try_rule};
pub use crate::unit::Envelope;

/// Most bytes of a delta besides its parts and what operators write: its head, key and times.
const REST_STORED_BYTES_MAX: usize = 4 + size_of::<HashKey>() + 20;
/// Most bytes of a part besides what its operator writes: its frame and its format.
const PART_REST_BYTES_MAX: usize = SECTION_STORED_BYTES_MAX + 1;
/// What the engine keeps itself: the section of this name has the key of its hashes, and the watermark.
const CORE: &str = "core";
const CORE_LAYOUT: &str = r#"{"operator":"core","format":1}"#;
const CORE_FORMAT: u8 = 1;
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
    /// Stages with state, in the order of the plan.
    operators: Vec<Box<dyn Operator>>,
    /// No result depends on it, but whoever knows it could forge counts.
    hash_key: HashKey,
    context: Context,
    watermark: Watermark,
    position: Position,
    published: WallTime,
    batch: RawBatch,
    /// Next event of `batch`.
    next: usize,
    unit: Option<Unit>,
    /// How many events the next unit has: fewer while modules make much of each.
    unit_events: usize,
    digests: Vec<[u8; 32]>,
    /// Every counter of the modules, by the name that it has in a marker: `STAGE/COUNTER`.
    counters: Vec<(String, Counter)>,
    /// Of the state, when the last epoch ended.
    bytes_at_cut: usize,
    /// Of a delta in which nothing has changed.
    change_bytes_at_cut: usize,
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
        let watermark = Watermark::new(plan.source.watermark.delay);
        let chain = Chain::new(&plan, options.origin.partition, transforms, fields, &descriptors);
        let Options { origin, room, envelope, hash_key: _ } = options;
        let counters = counters(&plan, &descriptors);
        let is_keyed = |stream: &OutputStream| stream.subject.contains("{key}");
        let keyed = plan.outputs.iter().map(|output| output.stream.as_ref().is_some_and(is_keyed)).collect();
        let context = Context { plan, origin, room, envelope, keyed };
        let mut engine = Engine {
            chain,
            operators,
            hash_key,
            context,
            watermark,
            position: Position::default(),
            published: WallTime::default(),
            batch: RawBatch::default(),
            next: 0,
            unit: None,
            unit_events: UNIT_EVENTS,
            bytes_at_cut: 0,
            change_bytes_at_cut: 0,
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

    /// Event time of this partition.
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

    /// The parts of the state, in the order of the indices of deltas and snapshots.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let section = |name: &str, operator: &str, layout: &str, bytes: usize| Section {
            name: name.to_owned(),
            operator: operator.to_owned(),
            layout: layout_of(layout),
            epoch: 0,
            bytes: bytes as u64,
        };
        let of_stage = |operator: &dyn Operator| {
            let module = operator.module();
            section(&module.name, module.guest.descriptor().identity.world.name(), &module.layout, operator.bytes())
        };
        let core = section(CORE, CORE, CORE_LAYOUT, 0);
        std::iter::once(core).chain(self.operators.iter().map(|operator| of_stage(&**operator))).collect()
    }

    /// What the layouts of [`Engine::sections`] identify, as JSON, in the same order.
    #[must_use]
    pub fn layouts(&self) -> Vec<&str> {
        let of_stages = self.operators.iter().map(|operator| operator.module().layout.as_str());
        std::iter::once(CORE_LAYOUT).chain(of_stages).collect()
    }

    /// Where the watermark would stand after this long without an event, when something is due by then.
    #[must_use]
    pub fn due_in_silence(&self, silent: Span) -> Option<EventTime> {
        let then = self.watermark.after_silence(silent)?;
        self.next_due().filter(|due| *due <= then).map(|_| then)
    }

    /// The earliest instant at which a window or a timer is due.
    fn next_due(&self) -> Option<EventTime> {
        self.operators.iter().filter_map(|operator| operator.next_due()).min()
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
        self.operators.iter().map(|operator| operator.bytes()).sum()
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
                self.watermark.advance(to);
                effects.clock.push(Clock::Idle { value: to.0 });
            }
            Input::End => {
                assert!(self.is_idle(), "the input ends after its last event");
                self.watermark.end();
            }
        }
        self.go_on(effects)
    }

    fn is_idle(&self) -> bool {
        self.unit.is_none() && self.next == self.batch.events.len()
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
            let mut unit = self.compute()?;
            unit.faults.drain(..).for_each(|(stage, faults)| effects.count_faults(stage, faults));
            let changes = Brought(&self.operators);
            unit::weigh_unit(&self.context, &self.digests, &mut unit, &self.batch, &changes);
            self.unit = Some(unit);
        }
        let mut unit = self.unit.take().expect("made above");
        let done = self.take_rows(&mut unit, effects)?;
        if unit.next < unit.events.len() {
            self.unit = Some(unit);
        } else {
            self.next += unit.events.len();
            self.chain.recycle(unit);
        }
        let grown = self.state_bytes().saturating_sub(self.bytes_at_cut);
        Ok(if done && grown <= GROWTH_MAX { Progress::More } else { Progress::Full })
    }

    /// The next unit, as large as it may be: what the stages make of its events has to be held at one time. An event of
    /// which they make too much alone is refused.
    fn compute(&mut self) -> Result<Unit, StepError> {
        loop {
            let end = self.batch.events.len().min(self.next + self.unit_events);
            let mut unit = self.chain.compute(&self.context, &self.batch, self.next..end)?;
            for operator in &mut self.operators {
                if unit.too_much.is_none() {
                    operator.prepare(&mut unit, &self.batch)?;
                }
            }
            let Some(stage) = unit.too_much else {
                unit.settle_fates();
                self.unit_events = (2 * self.unit_events).min(UNIT_EVENTS);
                return Ok(unit);
            };
            if unit.events.len() == 1 {
                self.chain.refuse(&self.context, &mut unit, &self.batch, stage);
                return Ok(unit);
            }
            self.unit_events = unit.events.len() / 2;
            self.chain.recycle(unit);
        }
    }

    /// Accounts for the unit's events one after the other; false when the epoch is full.
    fn take_rows(&mut self, unit: &mut Unit, effects: &mut Effects) -> Result<bool, StepError> {
        while unit.next < unit.events.len() {
            let (context, batch, watermark) = (&self.context, &self.batch, &mut self.watermark);
            let taken = match self.operators.as_mut_slice() {
                [] => unit::take_row(context, unit, batch, effects, &mut |_, _, _, _| Fate::Filtered),
                [operator] => operator.take(context, unit, batch, watermark, effects)?,
                several => operator::take_together(several, context, unit, batch, watermark, effects)?,
            };
            if !taken {
                return Ok(false);
            }
            let last = &unit.events[unit.next - 1];
            self.position.sequence = last.sequence;
            if let Some(time) = unit.times[unit.next - 1] {
                self.watermark.observe(EventTime(time));
            }
            if !self.drain_due(effects)? || self.change_bytes() > self.context.room.change_bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// At least what [`Engine::cut`] would append to a delta; cheap, asked after every event.
    #[must_use]
    pub fn change_bytes(&self) -> usize {
        let parts = (self.operators.len() + 1) * PART_REST_BYTES_MAX;
        REST_STORED_BYTES_MAX + parts + self.operators.iter().map(|operator| operator.change_bytes()).sum::<usize>()
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
            let due_to = Due { sequence: self.position.sequence, change_bytes: all - own };
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

    fn encode(&mut self, all: bool, out: &mut Vec<u8>) {
        let (newest, current) = (self.watermark.newest(), self.watermark.current());
        let mut delta = DeltaWriter::new(out);
        delta.part(0, all, |out| {
            out.push(CORE_FORMAT);
            out.extend_from_slice(&self.hash_key.0);
            put_i64(out, newest.0);
            put_i64(out, current.0);
        });
        for (idx, operator) in (1..).zip(&mut self.operators) {
            delta.part(idx, all, |out| {
                out.push(operator.module().format);
                operator.encode(all, current, out);
            });
        }
    }

    /// Applies a snapshot or a delta that [`Engine::cut`] wrote, in order, starting from empty state. The caller has
    /// compared the marker's sections with those of this engine.
    ///
    /// # Errors
    /// When the bytes are damaged or were written by stages of another kind.
    pub fn restore(&mut self, delta: &[u8]) -> Result<(), Damaged> {
        let mut parts = DeltaReader::new(delta)?;
        while let Some(part) = parts.part()? {
            self.restore_part(part)?;
        }
        Ok(())
    }

    /// [`Engine::restore`] of one section of a snapshot alone: all of them in their order make the state, and no more than
    /// one of them has to be in memory.
    ///
    /// # Errors
    /// As [`Engine::restore`].
    pub fn restore_section(&mut self, section: u8, bytes: &[u8]) -> Result<(), Damaged> {
        self.restore_part(Part { section, is_whole: true, bytes })
    }

    fn restore_part(&mut self, Part { section, is_whole, bytes }: Part<'_>) -> Result<(), Damaged> {
        let mut reader = Reader::new(bytes);
        let format = reader.byte()?;
        let operator = section.checked_sub(1).map(|idx| self.operators.get_mut(usize::from(idx)));
        let known = match &operator {
            None => CORE_FORMAT,
            Some(Some(operator)) => operator.module().format,
            Some(None) => return Err(Damaged(format!("has a section {section}, which this pipeline has not"))),
        };
        if format != known {
            return Err(Damaged(format!("section {section} has format {format}, this host reads {known}")));
        }
        match operator.flatten() {
            None => self.restore_core(&mut reader)?,
            Some(operator) => {
                if is_whole {
                    operator.clear();
                }
                operator.apply(&mut reader, self.watermark.current())?;
            }
        }
        if !reader.is_empty() {
            return Err(Damaged(format!("section {section} has bytes behind its end")));
        }
        Ok(())
    }

    /// The key that the state began with counts.
    fn restore_core(&mut self, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        let key = HashKey(reader.array()?);
        if key != self.hash_key {
            self.hash_key = key;
            self.operators.iter_mut().for_each(|operator| operator.set_hash_key(key));
        }
        let (newest, current) = (EventTime(reader.i64()?), EventTime(reader.i64()?));
        self.watermark.restore(newest, current);
        Ok(())
    }

    /// After the last [`Engine::restore`]: where to go on.
    pub fn resume(&mut self, position: Position) {
        self.position = position;
        self.operators.iter_mut().for_each(|operator| operator.restored());
        self.begin_epoch();
    }
}

/// Every counter of the modules, with its name in a marker.
fn counters(plan: &Plan, descriptors: &[Descriptor]) -> Vec<(String, Counter)> {
    let of_stage = |(stage, descriptor): (usize, &Descriptor)| {
        let name = &plan.stages[stage].name;
        let counter = |(idx, counter): (usize, &String)| {
            (format!("{name}/{counter}"), Counter { stage: stage as u16, idx: idx as u16 })
        };
        descriptor.shape.counters.iter().enumerate().map(counter).collect::<Vec<_>>()
    };
    descriptors.iter().enumerate().flat_map(of_stage).collect()
}
