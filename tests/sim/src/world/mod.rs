//! The discrete-event world: hosts, network, broker and time of one seed.

mod broker;
mod hosts;
mod storm;
mod verdict;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pelton_engine::epoch::ID_BYTES_AT_ONCE_MAX;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::{Action, Mutants, Ticket};

use crate::faults::{self, Fault};
use crate::host::{Clock, Host};
use crate::log::{LogMutants, Message, Settings, SimLog};
use crate::rng::Rng;
use crate::scenario::{EPOCH_MS, Scenario};
use crate::tally::Tally;
use crate::trace::Trace;

/// Number of hosts.
pub const HOSTS: usize = 2;
const LEASE_TTL_MS: u64 = 2_500;
const ACK_WAIT_MS: u64 = 1_000;
const TICK_MS: u64 = 40;

/// A run that ends here is beyond what the protocol promises: every trace of earlier work is gone.
const NOTHING_TELLS: &str = "nothing tells of what was committed";

/// What is taken away from the protocol and its surroundings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weakness {
    pub protocol: Mutants,
    pub log: LogMutants,
    pub torn_store: bool,
    /// The driver does not renew the lease while a call of the store takes long.
    pub driver_forgets_lease: bool,
    /// An epoch goes on whatever it has changed of the state.
    pub deltas_without_bound: bool,
}

/// How one seed ended.
pub struct Outcome {
    pub seed: u64,
    /// The broken promise, if any.
    pub failure: Option<String>,
    pub tally: Tally,
    /// Of the whole run.
    pub hash: u64,
    /// Lines, when asked for.
    pub trace: String,
}

/// Runs one seed.
#[must_use]
pub fn simulate(seed: u64, weakness: &Weakness, keep_trace: bool) -> Outcome {
    let mut world = World::new(Scenario::new(seed), *weakness, keep_trace);
    let failure = world.run().err().filter(|failure| failure != NOTHING_TELLS);
    if let Some(failure) = &failure {
        world.trace.note(world.now, &[99], || format!("FAILED {failure}"));
    }
    world.tally.simulated_ms = world.now;
    Outcome { seed, failure, tally: world.tally, hash: world.trace.hash(), trace: world.trace.into_text() }
}

/// What is going to happen.
enum What {
    Tick {
        host: usize,
        life: u64,
    },
    Work {
        host: usize,
        part: usize,
        life: u64,
    },
    /// A request reaches the broker.
    Request {
        host: usize,
        part: usize,
        life: u64,
        ticket: Ticket,
        request: Request,
    },
    /// An answer reaches a host.
    Answer {
        host: usize,
        part: usize,
        life: u64,
        ticket: Ticket,
        response: Response,
    },
    /// The driver keeps the lease while a call of the store takes long.
    Renew {
        host: usize,
        part: usize,
        life: u64,
    },
    Produce {
        idx: usize,
    },
    Start {
        host: usize,
    },
    Fault(Fault),
    Calm,
}

struct Scheduled {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct World {
    scenario: Arc<Scenario>,
    weakness: Weakness,
    rng: Rng,
    now: u64,
    order: u64,
    agenda: BinaryHeap<Reverse<Scheduled>>,
    log: SimLog,
    hosts: Vec<Host>,
    /// The broker answers nothing before this time.
    outage_until: u64,
    /// Faults of the network happen.
    is_stormy: bool,
    stormy_guests: Arc<AtomicBool>,
    /// Processes and engines so far: sessions, instances and stamps.
    lives: u64,
    attempts: Arc<std::sync::atomic::AtomicU64>,
    exit_when_caught_up: bool,
    /// The input still holds every message under its sequence.
    is_input_whole: bool,
    /// Per partition: consumed messages were lost, so that it has to halt.
    must_halt: Vec<bool>,
    /// Per partition: the position that its input was rolled back behind; 0 when it was not.
    rolled_at: Vec<u64>,
    /// Per partition: up to where the stream said that all was read when it had just lost its tail; the lowest such place.
    lost_to: Vec<u64>,
    /// Per partition: highest position ever committed.
    committed: Vec<u64>,
    /// Codes with which a machine may halt, because of what has happened.
    causes: BTreeSet<&'static str>,
    /// Per host and partition: when it last looked for traces of earlier work, there was one.
    is_told: Vec<Vec<bool>>,
    /// Per host and partition: up to where all was read when it last looked, unless it has committed since. The other
    /// holder of a lease may have gone on meanwhile.
    looked_at: Vec<Vec<u64>>,
    /// Per partition: how often a machine began to work, and epochs that hold neither an event nor a record.
    runs: Vec<u64>,
    empty: Vec<u64>,
    /// Recoveries that began.
    recoveries: u64,
    /// When the storm ended.
    healed_at: u64,
    failure: Option<String>,
    tally: Tally,
    trace: Trace,
    actions: Vec<Action>,
}

/// What the ids of one run of events may add to a delta.
fn ids_at_once(scenario: &Scenario) -> usize {
    if scenario.plan.source.dedupe.is_some() { ID_BYTES_AT_ONCE_MAX } else { 0 }
}

impl World {
    fn new(mut scenario: Scenario, weakness: Weakness, keep_trace: bool) -> World {
        let partitions = scenario.plan.source.partitions;
        let settings = Settings {
            lease_ttl: LEASE_TTL_MS,
            broken_lease: scenario.broken_lease,
            ack_wait: ACK_WAIT_MS,
            repeats: true,
            message_bytes: scenario.message_bytes,
            delta_bytes: [scenario.room.change_bytes_at_once, ids_at_once(&scenario)]
                .into_iter()
                .fold(scenario.room.change_bytes, usize::saturating_add),
            mutants: weakness.log,
        };
        if weakness.deltas_without_bound {
            scenario.room.change_bytes = usize::MAX;
        }
        let mut rng = Rng::new(scenario.seed, 3);
        let hosts = (0..HOSTS)
            .map(|_| {
                let clock = Clock { offset: rng.below(100_000), pace: rng.range(900, 1_100) };
                let mut host = Host::new(partitions, clock);
                for part in &mut host.parts {
                    part.store.torn = weakness.torn_store;
                }
                host
            })
            .collect();
        let mut log = SimLog::new(partitions, settings, Rng::new(scenario.seed, 4));
        log.input.limit(scenario.retention);
        if scenario.is_shared {
            log.input.share();
        }
        World {
            log,
            scenario: Arc::new(scenario),
            weakness,
            rng,
            now: 0,
            order: 0,
            agenda: BinaryHeap::new(),
            hosts,
            outage_until: 0,
            is_stormy: true,
            stormy_guests: Arc::default(),
            lives: 0,
            attempts: Arc::default(),
            exit_when_caught_up: false,
            is_input_whole: true,
            must_halt: vec![false; partitions as usize],
            rolled_at: vec![0; partitions as usize],
            lost_to: vec![u64::MAX; partitions as usize],
            committed: vec![0; partitions as usize],
            causes: BTreeSet::new(),
            is_told: vec![vec![false; partitions as usize]; HOSTS],
            looked_at: vec![vec![u64::MAX; partitions as usize]; HOSTS],
            runs: vec![0; partitions as usize],
            empty: vec![0; partitions as usize],
            recoveries: 0,
            healed_at: u64::MAX,
            failure: None,
            tally: Tally::default(),
            trace: Trace::new(keep_trace),
            actions: Vec::new(),
        }
    }

    fn partitions(&self) -> u32 {
        self.scenario.plan.source.partitions
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.order += 1;
        self.agenda.push(Reverse(Scheduled { at: at.max(self.now), order: self.order, what }));
    }

    fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }

    /// Storm, calm, comparison, end of the input, comparison.
    fn run(&mut self) -> Result<(), String> {
        for idx in 0..self.scenario.inputs.len() {
            self.schedule(self.scenario.inputs[idx].at, What::Produce { idx });
        }
        for (at, fault) in faults::draw(&self.scenario) {
            self.schedule(at, What::Fault(fault));
        }
        for host in 0..HOSTS {
            let at = self.rng.below(300);
            self.schedule(at, What::Start { host });
        }
        self.run_until(self.scenario.storm_ms)?;
        self.heal();
        self.settle()?;
        self.tally.events = self.log.input.last();
        Ok(())
    }

    /// Runs everything due up to a time.
    fn run_until(&mut self, until: u64) -> Result<(), String> {
        while let Some(Reverse(next)) = self.agenda.peek() {
            if next.at > until {
                break;
            }
            let Some(Reverse(next)) = self.agenda.pop() else { break };
            self.now = next.at;
            self.tally.steps += 1;
            self.happen(next.what);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick { host, life } => self.tick(host, life),
            What::Work { host, part, life } => self.work(host, part, life),
            What::Request { host, part, life, ticket, request } => self.request(host, part, life, ticket, request),
            What::Answer { host, part, life, ticket, response } => self.answer(host, part, life, ticket, response),
            What::Renew { host, part, life } => self.renew(host, part, life),
            What::Produce { idx } => self.produce(idx),
            What::Start { host } => self.start(host),
            What::Fault(fault) => self.strike(fault),
            What::Calm => self.stormy_guests.store(false, std::sync::atomic::Ordering::Relaxed),
        }
    }

    fn produce(&mut self, idx: usize) {
        let planned = &self.scenario.inputs[idx];
        let message = Message::new(planned.partition, EPOCH_MS + self.now as i64, &planned.payload);
        let dies = planned.lives.map(|lives| message.published + lives);
        let message = Message { token: planned.token, dies, ..message };
        let sequence = self.log.input.publish(message);
        self.trace.note(self.now, &[1, sequence], || {
            format!("input {sequence}: {}", String::from_utf8_lossy(&self.scenario.inputs[idx].payload))
        });
    }
}
