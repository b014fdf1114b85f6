//! Time spent in guests, per stage: the engine reads no clock, so the clock stands around the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pelton_engine::event::{Events, Strings};
use pelton_engine::guest::{
    Aggregation, Before, Descriptor, Fault, Folded, Groups, Guest, Metering, Output, Panes, Reduced, Rewritten,
    Samples, States,
};

/// Nanoseconds per stage since they were last taken.
#[derive(Clone)]
pub(super) struct Spent(Arc<[AtomicU64]>);

impl Spent {
    pub(super) fn new(stages: usize) -> Spent {
        Spent((0..stages).map(|_| AtomicU64::new(0)).collect())
    }

    /// The time of each stage, which starts again from zero.
    pub(super) fn take(&self) -> impl Iterator<Item = Duration> + '_ {
        self.0.iter().map(|nanos| Duration::from_nanos(nanos.swap(0, Ordering::Relaxed)))
    }
}

/// A guest with a clock around it.
pub(super) struct Timed {
    pub(super) guest: Box<dyn Guest>,
    pub(super) stage: usize,
    pub(super) spent: Spent,
}

impl Timed {
    fn time<T>(&mut self, call: impl FnOnce(&mut dyn Guest) -> T) -> T {
        let start = Instant::now();
        let result = call(self.guest.as_mut());
        self.spent.0[self.stage].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }
}

impl Guest for Timed {
    fn descriptor(&self) -> &Descriptor {
        self.guest.descriptor()
    }

    fn digest(&self) -> [u8; 32] {
        self.guest.digest()
    }

    fn process(&mut self, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault> {
        self.time(|guest| guest.process(metering, events, output))
    }

    fn aggregates(&mut self) -> Result<Aggregation, Fault> {
        self.time(|guest| guest.aggregates())
    }

    fn extract(&mut self, metering: Metering, events: &mut Events, samples: &mut Samples) -> Result<(), Fault> {
        self.time(|guest| guest.extract(metering, events, samples))
    }

    fn evaluate(&mut self, metering: Metering, panes: &mut Panes, output: &mut Output) -> Result<(), Fault> {
        self.time(|guest| guest.evaluate(metering, panes, output))
    }

    fn reduce(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        reduced: &mut Reduced,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.reduce(metering, events, groups, reduced))
    }

    fn fold(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        folded: &mut Folded,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.fold(metering, events, groups, folded))
    }

    fn merge(
        &mut self,
        metering: Metering,
        left: &mut States,
        right: &mut States,
        states: &mut States,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.merge(metering, left, right, states))
    }

    fn finish(
        &mut self,
        metering: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.finish(metering, panes, states, output))
    }

    fn migrate(
        &mut self,
        metering: Metering,
        before: &Before<'_>,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.migrate(metering, before, keys, states, rewritten))
    }

    fn erase(
        &mut self,
        metering: Metering,
        subject: &str,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        self.time(|guest| guest.erase(metering, subject, keys, states, rewritten))
    }
}
