//! Events in the order of their time: each arrives, and releases those that the watermark has passed.

use crate::codes::Code;
use crate::effects::{DeadLetter, Effects, letter_bytes};
use crate::event::RawBatch;
use crate::judge::StepError;
use crate::operator::{Agenda, Arrival, Phase};
use crate::unit::{Fate, Unit, state_size};

use super::{Engine, Progress};

/// An agenda that is being carried out.
pub(super) struct Underway {
    agenda: Agenda,
    /// Of the events that are released; `None` when there are none.
    unit: Option<Unit>,
    /// The phase at hand, and whether its event has arrived.
    phase: usize,
    has_arrived: bool,
}

impl Engine {
    /// As [`Engine::go_on`], when events are held.
    pub(super) fn go_on_in_order(&mut self, effects: &mut Effects) -> Result<Progress, StepError> {
        // What is due comes before any further event.
        if !self.drain_due(effects)? {
            return Ok(Progress::Full);
        }
        let mut underway = match self.underway.take() {
            Some(underway) => underway,
            None => match self.plan_ahead(effects)? {
                Some(underway) => underway,
                None => return Ok(Progress::NeedInput),
            },
        };
        let batch = std::mem::take(&mut self.batch);
        let done = self.carry_out(&mut underway, &batch, effects)?;
        self.batch = batch;
        if done {
            underway.unit.into_iter().for_each(|unit| self.chain.recycle(unit));
        } else {
            self.underway = Some(underway);
        }
        Ok(if done && !self.has_grown() { Progress::More } else { Progress::Full })
    }

    /// What happens next, if anything does.
    fn plan_ahead(&mut self, effects: &mut Effects) -> Result<Option<Underway>, StepError> {
        loop {
            let order = self.order.as_mut().expect("the plan has one");
            let agenda = order.plan(&self.batch, self.next, self.unit_events);
            if let [Phase { arrival: None, end: 0, watermark }] = agenda.phases[..]
                && watermark <= self.watermark.current()
            {
                return Ok(None);
            }
            let unit = match agenda.released.events.len() {
                0 => None,
                released => match self.compute(&agenda.released, 0..released, effects)? {
                    Some(unit) => Some(unit),
                    None => continue,
                },
            };
            let unit = unit.map(|mut unit| {
                unit.times = agenda.watermarks().map(|watermark| Some(watermark.0)).collect();
                unit
            });
            return Ok(Some(Underway { agenda, unit, phase: 0, has_arrived: false }));
        }
    }

    /// Goes from phase to phase; false when the epoch is full.
    fn carry_out(
        &mut self,
        underway: &mut Underway,
        batch: &RawBatch,
        effects: &mut Effects,
    ) -> Result<bool, StepError> {
        let Underway { agenda: Agenda { released, times, phases }, unit, phase: at, has_arrived } = underway;
        while let Some(phase) = phases.get(*at) {
            if let (Some(arrival), false) = (&phase.arrival, *has_arrived) {
                if !self.arrive(arrival, batch, effects) {
                    return Ok(false);
                }
                *has_arrived = true;
                if self.change_bytes() > self.context.room.change_bytes {
                    return Ok(false);
                }
            }
            while let Some(unit) = unit.as_mut().filter(|unit| unit.next < phase.end) {
                // Everything older has been released: what is due by then comes before the event.
                self.watermark.observe(times[unit.next]);
                if !self.drain_due(effects)? {
                    return Ok(false);
                }
                let first = unit.next;
                unit.stop = phase.end;
                if !self.take_next(unit, released, effects)? {
                    return Ok(false);
                }
                self.order.as_mut().expect("the plan has one").release(unit.next - first);
                if !self.drain_due(effects)? || self.change_bytes() > self.context.room.change_bytes {
                    return Ok(false);
                }
            }
            (*at, *has_arrived) = (*at + 1, false);
            self.watermark.observe(phase.watermark);
            if !self.drain_due(effects)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the next event of the batch: it is held, or ends at once. False when what is left of it does not fit into the
    /// epoch: then nothing has happened.
    fn arrive(&mut self, arrival: &Arrival, batch: &RawBatch, effects: &mut Effects) -> bool {
        let event = &batch.events[self.next];
        let (room, origin) = (&self.context.room, &self.context.origin);
        let order = self.order.as_mut().expect("the plan has one");
        if !matches!(arrival, Arrival::Held(_))
            && !effects.fits_bytes(room, 1, letter_bytes(event))
            && !effects.records.rows.is_empty()
        {
            return false;
        }
        effects.begin_event();
        match arrival {
            Arrival::Held(time) => order.hold(*time, batch, event),
            Arrival::Late(time) => {
                let watermark = order.watermark().current();
                effects.push_late(room, origin, "order", *time, watermark.0, batch, event);
                Fate::Late.count(effects);
            }
            Arrival::Refused(fault) => {
                let (code, path, message) = (fault.code.name(), fault.path.as_str(), fault.message.as_str());
                let class = fault.code.class();
                let letter = DeadLetter { stage: "source", digest: None, class, code, path, message };
                effects.push_dead(room, origin, &letter, batch, event);
                Fate::Dead.count(effects);
            }
            Arrival::TooLarge(bytes) => {
                let message = &state_size(*bytes, room.change_bytes_at_once);
                let (code, class) = (Code::StateSize.name(), Code::StateSize.class());
                let letter = DeadLetter { stage: "order", digest: None, class, code, path: "", message };
                effects.push_dead(room, origin, &letter, batch, event);
                Fate::Dead.count(effects);
            }
        }
        effects.totals.received += 1;
        self.position.sequence = event.sequence;
        self.next += 1;
        true
    }
}
