//! Lends the engine's vectors to a call and takes them back, so that no event is copied on the way in.
//!
//! The generated types own their vectors. Vectors are swapped with the empty ones of a [`Lent`] that is kept per
//! instance; `take_back` undoes it after every call, also after a trap.

use std::mem::swap;

use pelton_engine::event::{Column, Events, Strings, Values};
use pelton_engine::guest::{AggregateColumn, AggregateData, Groups, Panes, Timing};

use crate::bindings::exports::pelton::guest::window_rules::{AggregateData as WitData, AggregateValues, Tops};
use crate::bindings::pelton::guest::types as wit;

/// Arguments of one kind of call in the shape that bindgen wants.
pub(crate) trait Lend<Ours> {
    /// Swaps the contents of `ours` into `self`, and back when called again.
    fn swap_with(&mut self, ours: &mut Ours);
}

impl Lend<Strings> for wit::Strings {
    fn swap_with(&mut self, ours: &mut Strings) {
        swap(&mut self.data, &mut ours.data);
        swap(&mut self.ends, &mut ours.ends);
    }
}

/// No strings.
pub(crate) fn no_strings() -> wit::Strings {
    strings(Strings::default())
}

pub(crate) fn strings(Strings { data, ends }: Strings) -> wit::Strings {
    wit::Strings { data, ends }
}

fn strings_of(wit::Strings { data, ends }: wit::Strings) -> Strings {
    Strings { data, ends }
}

/// A batch of events on loan.
pub(crate) struct LentEvents(pub(crate) wit::Events);

impl LentEvents {
    pub(crate) fn new() -> LentEvents {
        LentEvents(wit::Events {
            data: Vec::new(),
            ends: Vec::new(),
            timestamps: Vec::new(),
            sequences: Vec::new(),
            lanes: Vec::new(),
            columns: Vec::new(),
            headers: Vec::new(),
            header_ends: Vec::new(),
        })
    }

    pub(crate) fn lend(&mut self, events: &mut Events) {
        self.swap_flat(events);
        self.0.columns.extend(events.columns.drain(..).map(to_wit));
    }

    pub(crate) fn take_back(&mut self, events: &mut Events) {
        self.swap_flat(events);
        events.columns.extend(self.0.columns.drain(..).map(from_wit));
    }

    fn swap_flat(&mut self, events: &mut Events) {
        let lent = &mut self.0;
        swap(&mut lent.data, &mut events.data);
        swap(&mut lent.ends, &mut events.ends);
        swap(&mut lent.timestamps, &mut events.timestamps);
        swap(&mut lent.sequences, &mut events.sequences);
        swap(&mut lent.headers, &mut events.headers);
        swap(&mut lent.header_ends, &mut events.header_ends);
    }
}

pub(crate) fn to_wit(column: Column) -> wit::Column {
    let values = match column.values {
        Values::Strings(texts) => wit::Values::Strings(strings(texts)),
        Values::Decimals(texts) => wit::Values::Decimals(strings(texts)),
        Values::Jsons(texts) => wit::Values::Jsons(strings(texts)),
        Values::Blobs(blobs) => wit::Values::Blobs(strings(blobs)),
        Values::Integers(values) => wit::Values::Integers(values),
        Values::Numbers(values) => wit::Values::Numbers(values),
        Values::Booleans(values) => wit::Values::Booleans(values),
    };
    wit::Column { missing: column.missing, unlike: column.unlike, values }
}

/// A column of the engine; its contents are not checked here.
pub(crate) fn from_wit(column: wit::Column) -> Column {
    let values = match column.values {
        wit::Values::Strings(texts) => Values::Strings(strings_of(texts)),
        wit::Values::Decimals(texts) => Values::Decimals(strings_of(texts)),
        wit::Values::Jsons(texts) => Values::Jsons(strings_of(texts)),
        wit::Values::Blobs(blobs) => Values::Blobs(strings_of(blobs)),
        wit::Values::Integers(values) => Values::Integers(values),
        wit::Values::Numbers(values) => Values::Numbers(values),
        wit::Values::Booleans(values) => Values::Booleans(values),
    };
    Column { missing: column.missing, unlike: column.unlike, values }
}

/// Panes and their aggregates on loan.
pub(crate) struct LentPanes {
    pub(crate) panes: wit::Panes,
    pub(crate) values: Vec<AggregateValues>,
}

impl LentPanes {
    pub(crate) fn new() -> LentPanes {
        let panes = wit::Panes {
            keys: no_strings(),
            starts: Vec::new(),
            ends: Vec::new(),
            labels: no_strings(),
            timings: Vec::new(),
            indexes: Vec::new(),
            lasts: Vec::new(),
            watermarks: Vec::new(),
            replaced: Vec::new(),
        };
        LentPanes { panes, values: Vec::new() }
    }

    pub(crate) fn lend(&mut self, panes: &mut Panes) {
        self.swap_flat(panes);
        self.panes.timings.clear();
        self.panes.timings.extend(panes.timings.iter().map(|timing| match timing {
            Timing::Early => wit::Timing::Early,
            Timing::OnTime => wit::Timing::OnTime,
            Timing::Late => wit::Timing::Late,
        }));
        self.values.extend(panes.values.drain(..).map(values_to_wit));
    }

    pub(crate) fn take_back(&mut self, panes: &mut Panes) {
        self.swap_flat(panes);
        panes.values.extend(self.values.drain(..).map(values_from_wit));
    }

    fn swap_flat(&mut self, panes: &mut Panes) {
        let lent = &mut self.panes;
        lent.keys.swap_with(&mut panes.keys);
        swap(&mut lent.starts, &mut panes.starts);
        swap(&mut lent.ends, &mut panes.ends);
        swap(&mut lent.indexes, &mut panes.indexes);
        swap(&mut lent.lasts, &mut panes.lasts);
        swap(&mut lent.watermarks, &mut panes.watermarks);
    }
}

fn values_to_wit(column: AggregateColumn) -> AggregateValues {
    let AggregateColumn { missing, clipped, data } = column;
    let data = match data {
        AggregateData::Integers(values) => WitData::Integers(values),
        AggregateData::Numbers(values) => WitData::Numbers(values),
        AggregateData::Tops { items, counts, errors, pane_ends } => {
            WitData::Tops(Tops { items: strings(items), counts, errors, pane_ends })
        }
    };
    AggregateValues { missing, clipped, data }
}

fn values_from_wit(values: AggregateValues) -> AggregateColumn {
    let AggregateValues { missing, clipped, data } = values;
    let data = match data {
        WitData::Integers(values) => AggregateData::Integers(values),
        WitData::Numbers(values) => AggregateData::Numbers(values),
        WitData::Tops(Tops { items, counts, errors, pane_ends }) => {
            AggregateData::Tops { items: strings_of(items), counts, errors, pane_ends }
        }
        WitData::Decimals(_) | WitData::Strings(_) | WitData::Blobs(_) => unreachable!("only what was lent comes back"),
    };
    AggregateColumn { missing, clipped, data }
}

impl Lend<Groups> for wit::Groups {
    fn swap_with(&mut self, groups: &mut Groups) {
        self.keys.swap_with(&mut groups.keys);
        self.states.swap_with(&mut groups.states);
        swap(&mut self.member_ends, &mut groups.member_ends);
        swap(&mut self.members, &mut groups.members);
        swap(&mut self.timer_ends, &mut groups.timer_ends);
        swap(&mut self.timers, &mut groups.timers);
    }
}

/// Empty groups.
pub(crate) fn groups() -> wit::Groups {
    wit::Groups {
        keys: no_strings(),
        states: no_strings(),
        member_ends: Vec::new(),
        members: Vec::new(),
        timer_ends: Vec::new(),
        timers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pelton_engine::event::Kind;

    #[test]
    fn events_come_back_as_they_were_with_their_allocations() {
        let mut events = Events { data: b"kp".to_vec(), ends: vec![1, 2], ..Events::default() };
        events.timestamps.push(7);
        events.sequences.push(9);
        for kind in Kind::ALL {
            events.columns.push(Column::new(kind));
        }
        let before = events.clone();
        let (data, columns) = (events.data.as_ptr(), events.columns.as_ptr());
        let mut lent = LentEvents::new();
        lent.lend(&mut events);
        assert!(events.is_empty() && events.columns.is_empty());
        lent.take_back(&mut events);
        assert_eq!(events, before);
        assert_eq!((events.data.as_ptr(), events.columns.as_ptr()), (data, columns));
    }

    #[test]
    fn panes_come_back_as_they_were() {
        let tops =
            AggregateData::Tops { items: Strings::default(), counts: vec![3], errors: vec![2], pane_ends: vec![1] };
        let sums = AggregateColumn { missing: vec![0], clipped: vec![1], data: AggregateData::Integers(vec![0, 1]) };
        let values = vec![AggregateColumn::new(tops), sums];
        let mut panes = Panes { starts: vec![1], timings: vec![Timing::Late], values, ..Panes::default() };
        let before = panes.clone();
        let mut lent = LentPanes::new();
        lent.lend(&mut panes);
        assert_eq!(lent.panes.timings, [wit::Timing::Late]);
        lent.take_back(&mut panes);
        assert_eq!(panes, before);
    }
}
