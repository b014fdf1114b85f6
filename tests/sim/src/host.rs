//! A simulated host: its clock, and per partition the machine, its store and its connection.

use std::collections::BTreeMap;

use pelton_engine::partition::{Action, Event, Partition};

use crate::log::Adapter;
use crate::store::SimStore;

/// A monotonic clock that runs at its own pace and may jump ahead.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub offset: u64,
    /// Pace in per mille of true time.
    pub pace: u64,
}

impl Clock {
    /// What it shows at a true time.
    #[must_use]
    pub fn read(&self, now: u64) -> u64 {
        self.offset + now * self.pace / 1000
    }
}

/// One partition on one host.
pub struct Part {
    pub machine: Option<Partition>,
    pub store: SimStore,
    pub adapter: Adapter,
    /// When the last fetch or reset reaches the connection: these two keep their order.
    pub ordered_until: u64,
    /// A piece of computation is due.
    pub working: bool,
    /// A call of its store lasts until this true time.
    pub busy_until: u64,
    /// Code of the halt, once it has halted.
    pub halted: Option<&'static str>,
    pub stopped: bool,
    /// Halts by code over all lives.
    pub halts: BTreeMap<&'static str, u64>,
}

/// One host.
pub struct Host {
    pub parts: Vec<Part>,
    pub clock: Clock,
    /// Counts processes: answers to an earlier one are nobody's.
    pub life: u64,
    pub alive: bool,
    /// Nothing runs before this true time.
    pub frozen_until: u64,
    /// The process dies after this many more actions.
    pub dies_in: Option<u64>,
}

impl Host {
    /// A host that is switched off.
    #[must_use]
    pub fn new(partitions: u32, clock: Clock) -> Host {
        let part = |partition| Part {
            machine: None,
            store: SimStore::default(),
            adapter: Adapter::new(partition, 0),
            ordered_until: 0,
            working: false,
            busy_until: 0,
            halted: None,
            stopped: false,
            halts: BTreeMap::new(),
        };
        Host {
            parts: (0..partitions).map(part).collect(),
            clock,
            life: 0,
            alive: false,
            frozen_until: 0,
            dies_in: None,
        }
    }
}

/// What a machine is given.
pub enum Input {
    Event(Event),
    Work,
}

impl Part {
    /// Lets the machine take one input.
    pub fn take(&mut self, input: Input, now: u64, actions: &mut Vec<Action>) {
        let Some(machine) = &mut self.machine else { return };
        match input {
            Input::Event(event) => machine.handle(event, now, &mut self.store, actions),
            Input::Work => machine.work(now, actions),
        }
    }
}
