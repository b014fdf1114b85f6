//! A unit of events on its way through the stages: what was decoded, what modules made of it, and what each event brings
//! about, before any of it is kept. All stages share it, and it knows none of them.

mod context;
mod fate;
mod held;
mod outgoing;

use std::ops::Range;

use crate::codes::{Class, Code};
use crate::decode::DecodeFault;
use crate::effects::{Counter, DeadLetter};
use crate::event::{RawBatch, RawEvent};
use crate::flow::{Flow, View};
use crate::guest::Addition;
use crate::totals::Faults;

pub(crate) use context::Context;
pub use context::Envelope;
pub(crate) use fate::{Changes, Fate, keep_row, refuse_row, take_row, weigh_unit};
pub(crate) use held::Held;
pub(crate) use outgoing::{Cause, Outgoing, Refusal, Scale, state_size};

/// Events that stages compute together.
pub(crate) const UNIT_EVENTS: usize = 256;

/// Up to [`UNIT_EVENTS`] events and everything the stateless stages made of them.
#[derive(Default)]
pub(crate) struct Unit {
    pub(crate) events: Vec<RawEvent>,
    /// Per event, the event time that the watermark observes behind it, which is its own unless the events were held;
    /// `None` for one that cannot be read: it moves no watermark.
    pub(crate) times: Vec<Option<i64>>,
    pub(crate) flows: Vec<Flow>,
    /// What comes out of the source, and out of each transform, by [`outlet`].
    pub(crate) views: Vec<View>,
    /// Bytes that modules made.
    pub(crate) arena: Vec<u8>,
    pub(crate) refused: Vec<DecodeFault>,
    pub(crate) letters: Vec<Letter>,
    /// Faults of modules, by stage.
    pub(crate) faults: Vec<(usize, Faults)>,
    pub(crate) held: Held,
    /// The stage at which the unit became too large to be held; the rest of it was not computed.
    pub(crate) too_much: Option<usize>,
    /// What each event brings about, ordered by event.
    pub(crate) acts: Vec<Act>,
    /// What modules count, ordered by event.
    pub(crate) counts: Vec<Count>,
    /// Next event to account for, and its first act.
    pub(crate) next: usize,
    /// Events from this one on wait for something else.
    pub(crate) stop: usize,
    /// Events up to this one are no repetitions, or have lost their acts.
    pub(crate) screened: usize,
    pub(crate) next_act: usize,
    pub(crate) next_count: usize,
    /// Events that have ended as dead letters, ascending.
    pub(crate) dead: Vec<u32>,
    /// Per event, about how many bytes it brings about.
    pub(crate) weights: Vec<usize>,
}

/// A dead letter of an event that could be read.
pub(crate) struct Letter {
    /// `None` when no stage is to blame.
    pub(crate) stage: Option<usize>,
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) class: Class,
    pub(crate) code: String,
    /// JSON pointer into the payload; empty for all of it.
    pub(crate) path: String,
    pub(crate) message: String,
}

/// What a module adds to one of its counters for an event, unless that ends as a dead letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// Event within the unit.
    pub(crate) origin: u32,
    pub(crate) counter: Counter,
    pub(crate) add: i64,
}

/// One thing that an event brings about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    /// Event within the unit.
    pub(crate) origin: u32,
    pub(crate) kind: ActKind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ActKind {
    /// Index into `Unit::refused`.
    Refused(u32),
    /// Index into `Unit::letters`.
    Dead(u32),
    Emit {
        output: u16,
        key: Bytes,
        payload: Bytes,
        headers: Bytes,
        is_delete: bool,
        time: i64,
    },
    /// A row that reaches a stage with state: the which-th of these, and the row of the flow that it reads.
    Item {
        operator: u8,
        row: u32,
    },
}

/// Where bytes of an act lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes {
    /// In the unit's arena, which may outgrow 32 bits when a module writes much for every event.
    Own {
        start: usize,
        end: usize,
    },
    Payload {
        flow: u32,
        row: u32,
    },
    Key {
        flow: u32,
        row: u32,
    },
}

impl Unit {
    pub(crate) fn reset(&mut self, events: &[RawEvent], held: Held) {
        self.events.clear();
        self.events.extend_from_slice(events);
        self.times.clear();
        // The first flow's columns keep their allocations; others are made new when a module makes new rows.
        self.flows.truncate(1);
        self.arena.clear();
        self.refused.clear();
        self.letters.clear();
        self.acts.clear();
        self.counts.clear();
        self.dead.clear();
        self.faults.clear();
        (self.held, self.too_much) = (held, None);
        (self.next, self.next_act, self.next_count) = (0, 0, 0);
        (self.stop, self.screened) = (events.len(), 0);
        self.views.clear();
    }

    /// What comes out of an outlet: the flow.
    pub(crate) fn flow(&self, outlet: usize) -> &Flow {
        &self.flows[self.views[outlet].flow]
    }

    /// What comes out of an outlet: the rows of its flow.
    pub(crate) fn rows(&self, outlet: usize) -> Vec<u32> {
        let View { flow, selected } = &self.views[outlet];
        selected.clone().unwrap_or_else(|| (0..self.flows[*flow].decoded.len() as u32).collect())
    }

    pub(crate) fn spare_flow(&mut self) -> Flow {
        let mut flow = self.flows.pop().unwrap_or_default();
        flow.decoded.clear();
        flow.origins.clear();
        flow.payloads = None;
        flow
    }

    /// Appends bytes that a module made.
    pub(crate) fn own(&mut self, bytes: &[u8]) -> Bytes {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Bytes::Own { start, end: self.arena.len() }
    }

    /// Adds a dead letter by a stage.
    pub(crate) fn bury(&mut self, origin: u32, letter: Letter) {
        self.acts.push(Act { origin, kind: ActKind::Dead(self.letters.len() as u32) });
        self.letters.push(letter);
    }

    /// Notes what a module counts for a row that came of event `origin`.
    pub(crate) fn count(&mut self, origin: u32, stage: usize, addition: &Addition) {
        let counter = Counter { stage: stage as u16, idx: addition.counter };
        self.counts.push(Count { origin, counter, add: addition.add });
    }

    /// Gives each event one fate: where it ends as a dead letter it leaves the first one and nothing else, neither what
    /// stages before have made of it nor what later ones say. Acts are ordered by event, and by stage within one.
    pub(crate) fn settle_fates(&mut self) {
        if self.refused.is_empty() && self.letters.is_empty() {
            return;
        }
        let mut kept = Vec::with_capacity(self.acts.len());
        for acts in self.acts.chunk_by(|one, other| one.origin == other.origin) {
            let letter = acts.iter().find(|act| matches!(act.kind, ActKind::Refused(_) | ActKind::Dead(_)));
            kept.extend_from_slice(letter.map_or(acts, std::slice::from_ref));
        }
        self.acts = kept;
    }

    /// The acts of event `event`, of which `first` is the first, if it has any.
    pub(crate) fn acts_of(&self, event: usize, first: usize) -> Range<usize> {
        let count = self.acts[first..].iter().take_while(|act| act.origin as usize == event).count();
        first..first + count
    }

    /// What modules count for the unit's next event.
    pub(crate) fn counts_of_next(&self) -> Range<usize> {
        let is_of_next = |count: &&Count| count.origin as usize == self.next;
        self.next_count..self.next_count + self.counts[self.next_count..].iter().take_while(is_of_next).count()
    }

    /// The rows that reach stages with state, among some acts: which of these, and the row.
    pub(crate) fn rows_of(&self, acts: Range<usize>) -> impl Iterator<Item = (u8, u32)> {
        self.acts[acts].iter().filter_map(|act| match act.kind {
            ActKind::Item { operator, row } => Some((operator, row)),
            _ => None,
        })
    }

    /// Resolves bytes of an act.
    pub(crate) fn bytes<'a>(&'a self, bytes: Bytes, batch: &'a RawBatch) -> &'a [u8] {
        match bytes {
            Bytes::Own { start, end } => &self.arena[start..end],
            Bytes::Payload { flow, row } => self.flows[flow as usize].payload(row as usize, batch, &self.events),
            Bytes::Key { flow, row } => self.flows[flow as usize].decoded.keys.get(row as usize),
        }
    }
}

/// Where what the stage reads comes out: 0 of the source, else one behind the stage's place in the plan.
pub(crate) fn outlet(from: Option<usize>) -> usize {
    from.map_or(0, |stage| stage + 1)
}

impl Letter {
    /// The host says so; of a stage whose module has this digest.
    pub(crate) fn of(stage: Option<usize>, digest: Option<[u8; 32]>, code: Code, message: String) -> Letter {
        Letter { stage, digest, class: code.class(), code: code.name().to_owned(), path: String::new(), message }
    }
}

impl Context {
    /// A letter as it is written.
    pub(crate) fn dead_letter<'a>(&'a self, letter: &'a Letter) -> DeadLetter<'a> {
        let Letter { stage, digest, class, code, path, message } = letter;
        let stage = stage.map_or("pipeline", |stage| self.plan.stages[stage].name.as_str());
        DeadLetter { stage, digest: *digest, class: *class, code, path, message }
    }
}

/// The dead letter of a reject.
pub(crate) fn letter_of(stage: usize, digest: [u8; 32], reject: &crate::guest::Reject) -> Letter {
    let (code, message) = (reject.code.clone(), reject.detail.clone());
    let path = reject.place.clone().unwrap_or_default();
    Letter { stage: Some(stage), digest: Some(digest), class: Class::Reject, code, path, message }
}
