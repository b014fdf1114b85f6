//! The one public verb: [`Engine::step`] turns events into effects, for one partition.
//!
//! Synchronous and pure: no IO, no clock, no random. Events are taken in units of [`UNIT_EVENTS`]; stages compute a
//! unit at a time, effects are kept event by event, so that an epoch can be cut between any two events.
//! After an error the state in memory is void: the partition recovers the last committed epoch.

mod chain;

use std::sync::Arc;

pub use pelton_aggregates::HashKey;

use crate::codec::{Damaged, Reader, put_i64};
use crate::codes::{Class, Code};
use crate::effects::{DeadLetter, Effects, Origin, Room};
use crate::epoch::{Position, fingerprint};
use crate::event::RawBatch;
use crate::guest::{Guest, World};
use crate::judge::StepError;
use crate::operator::{self, Operator};
use crate::plan::{Plan, Publish};
use crate::time::{EventTime, Span, WallTime};
use crate::unit::{self, Context, Fate, UNIT_EVENTS, Unit};
use crate::watermark::Watermark;

use chain::Chain;

pub use crate::operator::{Trial, try_rule};
pub use crate::unit::Envelope;

/// Most bytes of the two times that a delta begins with.
const TIMES_STORED_BYTES_MAX: usize = 20;
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

/// The computation of one partition: stages, windows, keyed state, position.
pub struct Engine {
    chain: Chain,
    /// The last stage, when it has state.
    tail: Option<Box<dyn Operator>>,
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
    /// Of the state, when the last epoch ended.
    bytes_at_cut: usize,
}

impl Engine {
    /// An engine with empty state.
    ///
    /// # Errors
    /// When a window rule's plan cannot be had or does not fit its fields.
    pub fn new(plan: Arc<Plan>, mut guests: Vec<Box<dyn Guest>>, options: Options) -> Result<Engine, StepError> {
        assert_eq!(plan.stages.len(), guests.len(), "one guest per stage");
        let descriptors: Vec<_> = guests.iter().map(|guest| guest.descriptor().clone()).collect();
        let digests = guests.iter().map(|guest| guest.digest()).collect();
        let fields = plan.reads(&descriptors);
        let is_stateful = descriptors.last().is_some_and(|last| last.world != World::Transform);
        let last = if is_stateful { guests.pop() } else { None };
        let tail =
            last.map(|guest| operator::stateful(guest, guests.len(), &plan, &fields, options.hash_key)).transpose()?;
        let watermark = Watermark::new(plan.source.watermark.delay);
        let chain = Chain::new(&plan, options.origin.partition, guests, fields, &descriptors);
        let Options { origin, room, envelope, hash_key: _ } = options;
        let is_keyed = |publish: &Publish| publish.subject.contains("{key}");
        let keyed = plan.outputs.iter().map(|output| output.publish.as_ref().is_some_and(is_keyed)).collect();
        let context = Context { plan, origin, room, envelope, keyed };
        Ok(Engine {
            chain,
            tail,
            context,
            watermark,
            position: Position::default(),
            published: WallTime::default(),
            batch: RawBatch::default(),
            next: 0,
            unit: None,
            unit_events: UNIT_EVENTS,
            bytes_at_cut: 0,
            digests,
        })
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

    /// Identifies the layout of the state: state of another one cannot be read.
    #[must_use]
    pub fn layout(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| fingerprint(0, tail.layout().as_bytes()))
    }

    /// What [`Engine::layout`] identifies, as JSON; empty without state.
    #[must_use]
    pub fn layout_text(&self) -> &str {
        self.tail.as_ref().map_or("", |tail| tail.layout())
    }

    /// Where the watermark would stand after this long without an event, when something is due by then.
    #[must_use]
    pub fn due_in_silence(&self, silent: Span) -> Option<EventTime> {
        let then = self.watermark.after_silence(silent)?;
        self.next_due().filter(|due| *due <= then).map(|_| then)
    }

    /// The earliest instant at which a window or a timer is due.
    fn next_due(&self) -> Option<EventTime> {
        self.tail.as_ref().and_then(|tail| tail.next_due())
    }

    /// Reports sequences that were gone before they could be read: they count as gaps, and a record tells which.
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
        effects.totals.gaps += last - first + 1;
        (self.batch, self.next) = (RawBatch::default(), 0);
        self.position = Position { sequence: last, fingerprint: 0 };
        true
    }

    /// Rough memory of the typed state, bytes.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.bytes())
    }

    /// Does one bounded piece of work and adds what it brings about to `effects`.
    ///
    /// # Errors
    /// The step did not happen and this engine must not be used any more.
    pub fn step(&mut self, input: Input, effects: &mut Effects) -> Result<Progress, StepError> {
        match input {
            Input::Batch(batch) => {
                assert!(self.is_idle(), "a batch is given only when the last one is worked off");
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
            let text_bytes =
                |unit: &Unit, row: Option<u32>| self.tail.as_ref().map_or(0, |tail| tail.text_bytes(unit, row));
            unit::weigh_unit(&self.context, &self.digests, &mut unit, &self.batch, &text_bytes);
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
            if let (Some(tail), None) = (&mut self.tail, unit.too_much) {
                tail.prepare(&mut unit, &self.batch)?;
            }
            let Some(stage) = unit.too_much else {
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
            let taken = match &mut self.tail {
                None => unit::take_row(&self.context, unit, &self.batch, effects, &mut |_, _, _| Fate::Filtered),
                Some(tail) => tail.take(&self.context, unit, &self.batch, &mut self.watermark, effects)?,
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
        TIMES_STORED_BYTES_MAX + self.tail.as_ref().map_or(0, |tail| tail.change_bytes())
    }

    /// Judges what is due at the watermark; false when the epoch is full before all is judged.
    #[inline]
    fn drain_due(&mut self, effects: &mut Effects) -> Result<bool, StepError> {
        let watermark = self.watermark.current();
        match &mut self.tail {
            Some(tail) if tail.has_due(watermark) => {
                tail.drain(&self.context, watermark, self.position.sequence, effects)
            }
            _ => Ok(true),
        }
    }

    /// Ends the epoch: appends the state delta to `delta` and returns the position with its fingerprint.
    pub fn cut(&mut self, delta: &mut Vec<u8>) -> Position {
        self.identify_position();
        let (before, bound) = (delta.len(), self.change_bytes());
        self.encode(false, delta);
        debug_assert!(delta.len() - before <= bound, "a delta of {} bytes, {bound} expected", delta.len() - before);
        self.bytes_at_cut = self.state_bytes();
        self.position
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
        put_i64(out, self.watermark.newest().0);
        put_i64(out, self.watermark.current().0);
        if let Some(tail) = &mut self.tail {
            tail.encode(all, self.watermark.current(), out);
        }
    }

    /// Applies a snapshot or a delta that [`Engine::cut`] wrote, in order, starting from empty state.
    ///
    /// # Errors
    /// When the bytes are damaged or were written by stages of another kind.
    pub fn restore(&mut self, delta: &[u8]) -> Result<(), Damaged> {
        let mut reader = Reader::new(delta);
        let (newest, current) = (EventTime(reader.i64()?), EventTime(reader.i64()?));
        self.watermark.restore(newest, current);
        if let Some(tail) = &mut self.tail {
            tail.apply(&mut reader, current)?;
        }
        if reader.is_empty() { Ok(()) } else { Err(Damaged("has bytes behind its end".into())) }
    }

    /// After the last [`Engine::restore`]: where to go on.
    pub fn resume(&mut self, position: Position) {
        self.position = position;
        if let Some(tail) = &mut self.tail {
            tail.restored();
        }
        self.bytes_at_cut = self.state_bytes();
    }
}
