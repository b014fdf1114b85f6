//! The functions of the contract, each in the same four steps: lend the arguments, call, take them back, check the reply.

use pelton_engine::event::{Events, Strings};
use pelton_engine::guest::{
    Aggregation, Before, Descriptor, Fault, Folded, Groups, Guest, Metering, Output, Panes, Reduced, Rewritten,
    Samples, States,
};
use wasmtime::Store;

use crate::aggregation::aggregation;
use crate::bindings::pelton::guest::types as wit;
use crate::convert::{self, Rows};
use crate::host::Host;
use crate::instance::{Exports, Instance, Seat};
use crate::lend::Lend;

impl Seat {
    /// Events as the rows of a reply.
    fn event_rows<'a>(&'a self, events: &Events, timer_ends: &'a [u32]) -> Rows<'a> {
        Rows {
            count: events.len(),
            payloads: true,
            arena_bytes: events.data.len(),
            timer_ends,
            ports: self.descriptor.shape.ports.len(),
            counters: self.descriptor.shape.counters.len(),
            limits: &self.limits,
        }
    }

    /// Panes as the rows of a reply; the input arena is their keys.
    fn pane_rows(&self, panes: &Panes) -> Rows<'_> {
        Rows {
            count: panes.len(),
            payloads: false,
            arena_bytes: panes.keys.data.len(),
            timer_ends: &[],
            ports: self.descriptor.shape.ports.len(),
            counters: self.descriptor.shape.counters.len(),
            limits: &self.limits,
        }
    }
}

impl Guest for Instance {
    fn descriptor(&self) -> &Descriptor {
        &self.seat.descriptor
    }

    fn digest(&self) -> [u8; 32] {
        self.seat.loaded.digest
    }

    fn process(&mut self, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault> {
        let Instance { seat, events: lent, .. } = self;
        let rows = events.len();
        lent.lend(events);
        let said = seat.call(metering, rows, |exports, store| exports.transform()?.call_process(store, &lent.0));
        lent.take_back(events);
        let checked = said.and_then(|said| convert::output(said, &seat.event_rows(events, &[]), output));
        seat.settle(metering, checked)
    }

    fn aggregates(&mut self) -> Result<Aggregation, Fault> {
        let seat = &mut self.seat;
        let metering = Metering::Deadline;
        let said = seat.call(metering, 1, |exports, store| exports.window_rule()?.call_aggregates(store).map(Ok));
        let fields = &seat.descriptor.shape.fields;
        let broken = |problem| Fault::Contract(format!("aggregates: {problem}"));
        let checked = said.and_then(|said| aggregation(said, fields).map_err(broken));
        let aggregation = seat.settle(metering, checked)?;
        self.derived = Some(aggregation.derived.iter().map(|field| field.kind).collect());
        Ok(aggregation)
    }

    fn extract(&mut self, metering: Metering, events: &mut Events, samples: &mut Samples) -> Result<(), Fault> {
        if self.derived.is_none() {
            self.aggregates()?;
        }
        let Instance { seat, events: lent, derived, .. } = self;
        let rows = events.len();
        lent.lend(events);
        let said = seat.call(metering, rows, |exports, store| exports.window_rule()?.call_extract(store, &lent.0));
        lent.take_back(events);
        let derived = derived.as_deref().expect("`aggregates` sets it and was called above");
        let checked = said.and_then(|said| convert::samples(said, derived, &seat.event_rows(events, &[]), samples));
        seat.settle(metering, checked)
    }

    fn evaluate(&mut self, metering: Metering, panes: &mut Panes, output: &mut Output) -> Result<(), Fault> {
        let Instance { seat, panes: lent, .. } = self;
        let rows = panes.len();
        lent.lend(panes);
        let said = seat.call(metering, rows, |exports, store| {
            exports.window_rule()?.call_evaluate(store, &lent.panes, &lent.values)
        });
        lent.take_back(panes);
        let checked = said.and_then(|said| convert::output(said, &seat.pane_rows(panes), output));
        seat.settle(metering, checked)
    }

    fn reduce(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        reduced: &mut Reduced,
    ) -> Result<(), Fault> {
        let Instance { seat, events: lent, groups: lent_groups, .. } = self;
        let rows = events.len().max(groups.keys.ends.len());
        lent.lend(events);
        lent_groups.swap_with(groups);
        let said =
            seat.call(metering, rows, |exports, store| exports.reducer()?.call_reduce(store, &lent.0, lent_groups));
        lent_groups.swap_with(groups);
        lent.take_back(events);
        let rows = seat.event_rows(events, &groups.timer_ends);
        let checked = said.and_then(|said| convert::reduced(said, groups.keys.ends.len(), &rows, reduced));
        seat.settle(metering, checked)
    }

    fn fold(
        &mut self,
        metering: Metering,
        events: &mut Events,
        groups: &mut Groups,
        folded: &mut Folded,
    ) -> Result<(), Fault> {
        let Instance { seat, events: lent, groups: lent_groups, .. } = self;
        lent.lend(events);
        lent_groups.swap_with(groups);
        let rows = lent.0.timestamps.len();
        let said =
            seat.call(metering, rows, |exports, store| exports.window_fold()?.call_fold(store, &lent.0, lent_groups));
        lent_groups.swap_with(groups);
        lent.take_back(events);
        let rows = seat.event_rows(events, &[]);
        let checked = said.and_then(|said| convert::folded(said, groups.keys.ends.len(), &rows, folded));
        seat.settle(metering, checked)
    }

    fn merge(
        &mut self,
        metering: Metering,
        left: &mut States,
        right: &mut States,
        states: &mut States,
    ) -> Result<(), Fault> {
        let Instance { seat, left: lent_left, right: lent_right, .. } = self;
        let rows = left.ends.len();
        lent_left.swap_with(left);
        lent_right.swap_with(right);
        let said =
            seat.call(metering, rows, |exports, store| exports.window_fold()?.call_merge(store, lent_left, lent_right));
        lent_left.swap_with(left);
        lent_right.swap_with(right);
        let checked = said.and_then(|said| convert::states(said, rows, &seat.limits, states));
        seat.settle(metering, checked)
    }

    fn finish(
        &mut self,
        metering: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault> {
        let Instance { seat, panes: lent, left: lent_states, .. } = self;
        let rows = panes.len();
        lent.lend(panes);
        lent_states.swap_with(states);
        let said = seat
            .call(metering, rows, |exports, store| exports.window_fold()?.call_finish(store, &lent.panes, lent_states));
        lent_states.swap_with(states);
        lent.take_back(panes);
        let checked = said.and_then(|said| convert::output(said, &seat.pane_rows(panes), output));
        seat.settle(metering, checked)
    }

    fn migrate(
        &mut self,
        metering: Metering,
        before: &Before<'_>,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        self.rewrite(metering, keys, states, rewritten, |exports, store, keys, states| {
            exports.migrations()?.call_migrate(store, before.state_version, before.config, keys, states)
        })
    }

    fn erase(
        &mut self,
        metering: Metering,
        subject: &str,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
    ) -> Result<(), Fault> {
        self.rewrite(metering, keys, states, rewritten, |exports, store, keys, states| {
            exports.erasures()?.call_erase(store, subject, keys, states)
        })
    }
}

impl Instance {
    /// A call over keys and their states.
    fn rewrite(
        &mut self,
        metering: Metering,
        keys: &mut Strings,
        states: &mut States,
        rewritten: &mut Rewritten,
        call: impl FnOnce(
            &Exports,
            &mut Store<Host>,
            &wit::Strings,
            &wit::Strings,
        ) -> wasmtime::Result<Result<wit::Rewritten, wit::Failure>>,
    ) -> Result<(), Fault> {
        let Instance { seat, left: lent_keys, right: lent_states, .. } = self;
        let rows = keys.ends.len();
        lent_keys.swap_with(keys);
        lent_states.swap_with(states);
        let said = seat.call(metering, rows, |exports, store| call(exports, store, lent_keys, lent_states));
        lent_keys.swap_with(keys);
        lent_states.swap_with(states);
        let checked = said.and_then(|said| convert::rewritten(said, rows, &seat.limits, rewritten));
        seat.settle(metering, checked)
    }
}
