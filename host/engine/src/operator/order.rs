//! `order = "event-time"`: events are held until the watermark has passed them, and handed on in the order of their time.
//!
//! The raw event is held, and decoded again when it is released, so that the pipeline that releases it decides what is in
//! it. Events of one time keep the order in which they arrived. One that is older than the watermark has missed its place
//! and is late at once, so nothing is held that could not be released in order: what is gone is all up to one place.
//!
//! Each event that arrives may release any number of others. What is released, and where the watermark behind this
//! operator stands before and after each, depends on the events alone, never on where their batches or epochs are cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::decode::{DecodeFault, Decoded, Decoder};
use crate::event::{RawBatch, RawEvent};
use crate::plan::Source;
use crate::time::{EventTime, WallTime};
use crate::unit::UNIT_EVENTS;
use crate::watermark::Watermark;

use super::{Head, Stateful};

const NAME: &str = "order";
const LAYOUT: &str = r#"{"operator":"order","format":1}"#;
const FORMAT: u8 = 1;
/// Rough bytes of an event that is held, besides its own: place, lengths, allocation, its part of the tree.
const HELD_BYTES: usize = 128;
/// Most bytes of an event where it is stored, besides its own: place, arrival, three lengths.
const HELD_STORED_BYTES_MAX: usize = 6 * 10;
/// Most bytes of a delta besides the events: the watermark, the place up to which events are gone, a count.
const HEAD_STORED_BYTES_MAX: usize = 5 * 10;
/// Bytes of events that are released together; one alone may have more.
const RELEASED_BYTES: usize = 8 << 20;

/// Where an event stands in the order: its time, then its sequence.
type Place = (i64, u64);

/// Before all events.
const BEGINNING: Place = (i64::MIN, 0);

/// An event as it arrived.
struct Held {
    published: WallTime,
    subject: usize,
    headers: usize,
    /// Subject, headers and payload.
    bytes: Box<[u8]>,
}

impl Held {
    fn subject(&self) -> &[u8] {
        &self.bytes[..self.subject]
    }

    fn headers(&self) -> &[u8] {
        &self.bytes[self.subject..self.subject + self.headers]
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.subject + self.headers..]
    }

    fn new(published: WallTime, subject: &[u8], headers: &[u8], payload: &[u8]) -> Held {
        let bytes = [subject, headers, payload].concat().into_boxed_slice();
        Held { published, subject: subject.len(), headers: headers.len(), bytes }
    }
}

/// What becomes of an event that arrives.
pub(crate) enum Arrival {
    /// It is held; its time.
    Held(i64),
    /// It is older than the watermark; its time.
    Late(i64),
    /// It cannot be read.
    Refused(DecodeFault),
    /// It is more than can be held at once; its bytes.
    TooLarge(usize),
}

/// What happens next: events arrive, and after each some are released.
#[derive(Default)]
pub(crate) struct Agenda {
    /// The events that are released, in their order.
    pub(crate) released: RawBatch,
    /// The time of each.
    pub(crate) times: Vec<EventTime>,
    pub(crate) phases: Vec<Phase>,
}

impl Agenda {
    /// Where the watermark behind this operator stands after each of the released events: at the time of the next one
    /// of its phase, since nothing older is left, or where the phase leaves it.
    pub(crate) fn watermarks(&self) -> impl Iterator<Item = EventTime> {
        let begins = std::iter::once(0).chain(self.phases.iter().map(|phase| phase.end));
        begins.zip(&self.phases).flat_map(|(begin, phase)| {
            let within = self.times[begin..phase.end].iter().skip(1).copied();
            within.chain((begin < phase.end).then_some(phase.watermark))
        })
    }
}

/// One event that arrives, and those that it releases.
pub(crate) struct Phase {
    /// None when only those are released that were held before, or the clock has moved.
    pub(crate) arrival: Option<Arrival>,
    /// The released events up to this one belong to this phase and those before.
    pub(crate) end: usize,
    /// Where the watermark behind this operator stands then.
    pub(crate) watermark: EventTime,
}

/// What is held, and the watermark of the events as they arrive.
pub(crate) struct Order {
    gate: Gate,
    watermark: Watermark,
    held: BTreeMap<Place, Held>,
    /// What was held up to here has been released.
    released: Place,
    /// Held since the last delta.
    fresh: BTreeSet<Place>,
    fresh_bytes: usize,
    bytes: usize,
}

/// What decides what becomes of an event.
struct Gate {
    /// Of what the source itself needs.
    decoder: Decoder,
    decoded: Decoded,
    /// Bytes of an event where it is stored, at most.
    bytes_max: usize,
}

impl Order {
    /// Holds nothing yet. An event that takes more than `bytes_max` where it is stored is refused.
    pub(crate) fn new(source: &Source, partition: u32, payload_max: u64, bytes_max: usize) -> Order {
        let decoder = Decoder::new(source, Vec::new(), payload_max).in_partition(source, partition);
        Order {
            gate: Gate { decoder, decoded: Decoded::default(), bytes_max },
            watermark: Watermark::new(source.watermark.delay),
            held: BTreeMap::new(),
            released: BEGINNING,
            fresh: BTreeSet::new(),
            fresh_bytes: 0,
            bytes: 0,
        }
    }

    /// How many events are held.
    pub(crate) fn len(&self) -> u64 {
        self.held.len() as u64
    }

    /// The time of the oldest event that is held.
    pub(crate) fn next_due(&self) -> Option<EventTime> {
        self.held.first_key_value().map(|((time, _), _)| EventTime(*time))
    }

    /// The sequence of the last event that was released.
    pub(crate) fn last_released(&self) -> u64 {
        self.released.1
    }

    /// Of the events as they arrive.
    pub(crate) fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// Moves on without an event; never back.
    pub(crate) fn advance(&mut self, to: EventTime) {
        self.watermark.advance(to);
    }

    /// No event will ever come.
    pub(crate) fn end(&mut self) {
        self.watermark.end();
    }

    /// What comes of what is held, and of the events of `batch` from `next` on, up to `limit` released events. It
    /// may end within a phase. Nothing has happened yet.
    pub(crate) fn plan(&mut self, batch: &RawBatch, next: usize, limit: usize) -> Agenda {
        let mut agenda = Agenda::default();
        let mut mark = self.watermark.clone();
        let mut arrived: BTreeMap<Place, usize> = BTreeMap::new();
        let mut held = self.held.iter().peekable();
        let (mut at, mut arrival) = (next, None);
        loop {
            // Both are in order, and so is what comes first of both.
            let first = loop {
                let of_held = held.peek().map(|(place, _)| **place);
                let of_arrived = arrived.first_key_value().map(|(place, _)| *place);
                let first = [of_held, of_arrived].into_iter().flatten().min();
                let Some(place) = first.filter(|(time, _)| *time <= mark.current().0) else { break None };
                let is_full = agenda.times.len() >= limit || agenda.released.data.len() >= RELEASED_BYTES;
                if is_full && !agenda.times.is_empty() {
                    break Some(place);
                }
                if of_held == first {
                    let (_, held) = held.next().expect("just seen");
                    let (subject, headers, payload) = (held.subject(), held.headers(), held.payload());
                    agenda.released.push(place.1, held.published, subject, headers, payload);
                } else {
                    let (_, idx) = arrived.pop_first().expect("just seen");
                    let RawEvent { published, subject, headers, payload, .. } = &batch.events[idx];
                    let (subject, headers, payload) =
                        (batch.slice(subject), batch.slice(headers), batch.slice(payload));
                    agenda.released.push(place.1, *published, subject, headers, payload);
                }
                agenda.times.push(EventTime(place.0));
            };
            let watermark = first.map_or(mark.current(), |(time, _)| EventTime(time));
            agenda.phases.push(Phase { arrival: arrival.take(), end: agenda.times.len(), watermark });
            if first.is_some() || at == batch.events.len() || at - next == UNIT_EVENTS {
                return agenda;
            }
            let decided = self.gate.decide(batch, at, mark.current());
            if let Arrival::Held(time) = decided {
                mark.observe(EventTime(time));
                arrived.insert((time, batch.events[at].sequence), at);
            }
            (at, arrival) = (at + 1, Some(decided));
        }
    }

    /// Holds an event of this time.
    pub(crate) fn hold(&mut self, time: i64, batch: &RawBatch, event: &RawEvent) {
        let place = (time, event.sequence);
        assert!(place > self.released, "what is older than the watermark is late");
        self.watermark.observe(EventTime(time));
        let (subject, headers, payload) =
            (batch.slice(&event.subject), batch.slice(&event.headers), batch.slice(&event.payload));
        let held = Held::new(event.published, subject, headers, payload);
        self.bytes += HELD_BYTES + held.bytes.len();
        self.fresh_bytes += HELD_STORED_BYTES_MAX + held.bytes.len();
        self.fresh.insert(place);
        self.held.insert(place, held);
    }

    /// The first `count` events that are held are gone.
    pub(crate) fn release(&mut self, count: usize) {
        for _ in 0..count {
            let (place, held) = self.held.pop_first().expect("what is released was held");
            self.bytes -= HELD_BYTES + held.bytes.len();
            if self.fresh.remove(&place) {
                self.fresh_bytes -= HELD_STORED_BYTES_MAX + held.bytes.len();
            }
            self.released = place;
        }
    }
}

impl Gate {
    /// What becomes of event `idx`, at this watermark.
    fn decide(&mut self, batch: &RawBatch, idx: usize, watermark: EventTime) -> Arrival {
        let event = &batch.events[idx];
        let (subject, headers, payload) =
            (batch.slice(&event.subject), batch.slice(&event.headers), batch.slice(&event.payload));
        self.decoded.clear();
        match self.decoder.decode(event, subject, headers, payload, &mut self.decoded) {
            Err(fault) => return Arrival::Refused(fault),
            Ok(()) if self.decoded.timestamps[0] < watermark.0 => return Arrival::Late(self.decoded.timestamps[0]),
            Ok(()) => {}
        }
        let bytes = HELD_STORED_BYTES_MAX + subject.len() + headers.len() + payload.len();
        if bytes > self.bytes_max { Arrival::TooLarge(bytes) } else { Arrival::Held(self.decoded.timestamps[0]) }
    }
}

impl Stateful for Order {
    fn section(&self) -> Head<'_> {
        Head { name: NAME, operator: NAME, layout: LAYOUT, format: FORMAT }
    }

    fn encode(&mut self, all: bool, _: EventTime, out: &mut Vec<u8>) {
        put_i64(out, self.watermark.newest().0);
        put_i64(out, self.watermark.current().0);
        put_i64(out, self.released.0);
        put_u64(out, self.released.1);
        let mut put = |(place, held): (&Place, &Held)| {
            put_i64(out, place.0);
            put_u64(out, place.1);
            put_i64(out, held.published.0);
            put_bytes(out, held.subject());
            put_bytes(out, held.headers());
            put_bytes(out, held.payload());
        };
        if all {
            self.held.iter().for_each(&mut put);
        } else {
            let fresh = self.fresh.iter().map(|place| (place, &self.held[place]));
            fresh.for_each(&mut put);
            self.fresh.clear();
            self.fresh_bytes = 0;
        }
    }

    fn apply(&mut self, reader: &mut Reader<'_>, _: EventTime) -> Result<(), Damaged> {
        let (newest, current) = (EventTime(reader.i64()?), EventTime(reader.i64()?));
        self.watermark.restore(newest, current);
        let released = (reader.i64()?, reader.u64()?);
        while self.held.first_key_value().is_some_and(|(place, _)| *place <= released) {
            self.release(1);
        }
        self.released = released;
        while !reader.is_empty() {
            let place = (reader.i64()?, reader.u64()?);
            let published = WallTime(reader.i64()?);
            let held = Held::new(published, reader.bytes()?, reader.bytes()?, reader.bytes()?);
            if place <= released {
                return Err(Damaged(format!("an event that is held at {place:?} was released before")));
            }
            self.bytes += HELD_BYTES + held.bytes.len();
            if self.held.insert(place, held).is_some() {
                return Err(Damaged(format!("two events are held at {place:?}")));
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.watermark.restore(EventTime::MIN, EventTime::MIN);
        self.held.clear();
        self.fresh.clear();
        (self.released, self.fresh_bytes, self.bytes) = (BEGINNING, 0, 0);
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn change_bytes(&self) -> usize {
        HEAD_STORED_BYTES_MAX + self.fresh_bytes
    }
}
