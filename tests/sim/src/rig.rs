//! Scripted runs: the production machine on one or more seats (a host with one partition each), the doubles of log and
//! store, one clock, and a hook that decides what becomes of each request. No chance but the double's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use pelton_engine::effects::Room;
use pelton_engine::epoch::Marker;
use pelton_engine::guest::World;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::{Action, Config, Event, Notice, Partition, Ticket};
use pelton_engine::plan::{Limits, Window, WindowKind};
use pelton_engine::time::Span;

use crate::guests::Temper;
use crate::host;
use crate::log::{Adapter, Message, OTHERS, Settings, SimLog};
use crate::rng::Rng;
use crate::scenario::{self, EPOCH_MS, Scenario};
use crate::store::SimStore;
use crate::world::Weakness;

/// The clock moves in such steps, and every machine gets a tick in each.
const STEP_MS: u64 = 5;
/// Pieces of computation per step at most.
const WORK_MAX: usize = 50;
/// A fetch that has nothing to deliver waits this long.
const FETCH_MS: u64 = 20;

/// What a script is about.
#[derive(Clone)]
pub struct Setup {
    pub worlds: Vec<World>,
    pub partitions: u32,
    /// Length of tumbling windows.
    pub window_ms: i64,
    pub epoch_max_events: u32,
    pub idle_timeout: Option<Span>,
    pub room: Room,
    pub config: Config,
    pub weakness: Weakness,
}

impl Setup {
    /// One reducer, one partition, production settings.
    #[must_use]
    pub fn new(weakness: &Weakness) -> Setup {
        Setup {
            worlds: vec![World::Reducer],
            partitions: 1,
            window_ms: 1_000,
            epoch_max_events: 16,
            idle_timeout: None,
            room: Room::default(),
            config: Config { mutants: weakness.protocol, ..Config::new(0, 0) },
            weakness: *weakness,
        }
    }

    /// What its engine is made of.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        let size = Span(self.window_ms);
        let window = Some(Window { kind: WindowKind::Tumbling { size }, allowed_lateness: Span(0) });
        let limits = Limits { epoch_max_events: self.epoch_max_events, ..Limits::default() };
        let mut plan = scenario::plan(&self.worlds, window, self.partitions, limits);
        plan.source.watermark.idle_timeout = self.idle_timeout;
        Scenario {
            plan: Arc::new(plan),
            worlds: self.worlds.clone(),
            room: self.room,
            nondeterministic: false,
            ..Scenario::new(1)
        }
    }
}

/// What becomes of a request.
pub enum Fate {
    /// It is carried out, and the answer comes after so many milliseconds.
    After(u64),
    /// It is not carried out, and this is the answer.
    Instead(Response),
    /// It is carried out, and no answer comes.
    Unanswered,
    /// It is lost on its way.
    Lost,
}

/// Decides about a request of a seat; it may disturb the log, too.
pub type Hook<'a> = dyn FnMut(&mut SimLog, usize, &Request, u64) -> Fate + 'a;

/// The quiet hook: everything is answered at once.
pub fn calm(_: &mut SimLog, _: usize, request: &Request, _: u64) -> Fate {
    Fate::After(if matches!(request, Request::Fetch { .. }) { FETCH_MS } else { 1 })
}

/// One process on one disk.
pub struct Seat {
    pub setup: Setup,
    pub partition: u32,
    pub store: SimStore,
    pub machine: Option<Partition>,
    /// What it said, in its own life or an earlier one.
    pub notices: Vec<String>,
    /// Requests by kind.
    pub asked: BTreeMap<&'static str, u64>,
    pub stopped: bool,
    adapter: Adapter,
    /// Requests that leave when the call that made them is over.
    leaving: Vec<(u64, Ticket, Request)>,
    waiting: Vec<(u64, Ticket, Response)>,
    /// Nothing runs on it before this time; the process is stopped, or in a long call of its store.
    busy_until: u64,
    renewed_at: u64,
    is_frozen: bool,
    /// The driver renews the lease while a call of the store takes long.
    pub driver_renews: bool,
}

impl Seat {
    /// How many of its notices contain this.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.notices.iter().filter(|notice| notice.contains(what)).count()
    }

    /// How many requests of a kind it made.
    #[must_use]
    pub fn asked(&self, kind: &str) -> u64 {
        self.asked.get(kind).copied().unwrap_or(0)
    }

    /// Forgets what it said and asked.
    pub fn clear(&mut self) {
        self.notices.clear();
        self.asked.clear();
    }

    /// Whether its machine works.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.committed().is_some())
    }

    /// What it said when it halted, if it stands still now.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        let is_halted = self.machine.as_ref().is_some_and(Partition::is_halted);
        self.notices.iter().rev().find(|notice| notice.starts_with("Halted")).filter(|_| is_halted).map(String::as_str)
    }
}

/// Everything of one script.
pub struct Rig {
    pub log: SimLog,
    pub seats: Vec<Seat>,
    pub now: u64,
    sessions: u64,
    produced: u64,
}

impl Rig {
    /// A log and one seat for partition 0, switched on.
    #[must_use]
    pub fn new(setup: &Setup) -> Rig {
        let mutants = setup.weakness.log;
        let message_bytes = usize::MAX;
        let settings = Settings {
            lease_ttl: 10_000,
            broken_lease: false,
            ack_wait: 60_000,
            repeats: true,
            message_bytes,
            delta_bytes: usize::MAX,
            mutants,
        };
        let log = SimLog::new(setup.partitions, settings, Rng::new(7, 4));
        let mut rig = Rig { log, seats: Vec::new(), now: 0, sessions: 0, produced: 0 };
        let seat = rig.sit(setup, 0);
        rig.start(seat);
        rig
    }

    /// Another seat, switched off.
    pub fn sit(&mut self, setup: &Setup, partition: u32) -> usize {
        self.seats.push(Seat {
            setup: setup.clone(),
            partition,
            store: SimStore::default(),
            machine: None,
            notices: Vec::new(),
            asked: BTreeMap::new(),
            stopped: false,
            adapter: Adapter::new(partition, 0),
            leaving: Vec::new(),
            waiting: Vec::new(),
            busy_until: 0,
            renewed_at: 0,
            is_frozen: false,
            driver_renews: !setup.weakness.driver_forgets_lease,
        });
        self.seats.len() - 1
    }

    /// A process starts on the seat.
    pub fn start(&mut self, seat: usize) {
        self.sessions += 1;
        let session = self.sessions;
        let seat = &mut self.seats[seat];
        let (partition, scenario) = (seat.partition, Arc::new(seat.setup.scenario()));
        let config = Config { partition, session, ..seat.setup.config.clone() };
        let plan = scenario.plan.clone();
        let make = move || scenario.engine(partition, &Temper::calm());
        seat.machine = Some(Partition::new(plan, config, Box::new(make)));
        seat.adapter = Adapter::new(partition, session);
        (seat.stopped, seat.busy_until, seat.is_frozen) = (false, 0, false);
    }

    /// kill -9.
    pub fn kill(&mut self, seat: usize) {
        let seat = &mut self.seats[seat];
        seat.machine = None;
        seat.leaving.clear();
        seat.waiting.clear();
    }

    /// kill -9, and a new process on the same disk when the lease has run out. Forgets what was said.
    pub fn restart(&mut self, seat: usize) {
        self.kill(seat);
        self.log.expire_leases();
        self.seats[seat].clear();
        self.start(seat);
    }

    /// The same on a new disk.
    pub fn replace(&mut self, seat: usize) {
        self.kill(seat);
        self.seats[seat].store.lose_all();
        self.restart(seat);
    }

    /// Nothing runs on the seat for this long; then it goes on as if nothing had been.
    pub fn freeze(&mut self, seat: usize, ms: u64) {
        (self.seats[seat].busy_until, self.seats[seat].is_frozen) = (self.now + ms, true);
    }

    /// Events of a partition, with five keys, one millisecond apart.
    pub fn produce(&mut self, partition: u32, count: u64) {
        for _ in 0..count {
            let n = self.produced;
            self.produce_at(partition, n as i64, &format!("k{}", n % 5));
        }
    }

    /// An event of a key with an event time.
    pub fn produce_at(&mut self, partition: u32, at: i64, key: &str) -> u64 {
        self.produced += 1;
        let time = EPOCH_MS + at;
        let payload = format!("{{\"k\":\"{key}\",\"t\":{time},\"v\":{},\"u\":\"u\"}}", 1 + self.produced % 5);
        self.log.input.publish(Message::new(partition, EPOCH_MS + self.now as i64, payload.as_bytes()))
    }

    /// Messages of nobody.
    pub fn produce_other(&mut self, count: u64) {
        self.log.input.share();
        for _ in 0..count {
            self.log.input.publish(Message::new(OTHERS, EPOCH_MS + self.now as i64, b"other"));
        }
    }

    /// The newest marker of a partition.
    #[must_use]
    pub fn head(&self, partition: u32) -> Option<&Marker> {
        self.log.pipeline.head(partition).map(|(_, marker)| marker)
    }

    /// Runs for so long with nothing in the way.
    pub fn run(&mut self, ms: u64) {
        self.run_with(ms, &mut calm);
    }

    /// Runs for so long.
    pub fn run_with(&mut self, ms: u64, hook: &mut Hook<'_>) {
        let until = self.now + ms;
        while self.now < until {
            self.step(hook);
        }
    }

    /// Runs until something holds, or for so long; whether it holds.
    pub fn until(&mut self, ms: u64, hook: &mut Hook<'_>, holds: impl Fn(&Rig) -> bool) -> bool {
        let until = self.now + ms;
        while self.now < until && !holds(self) {
            self.step(hook);
        }
        holds(self)
    }

    fn step(&mut self, hook: &mut Hook<'_>) {
        for seat in 0..self.seats.len() {
            self.keep_lease(seat);
            self.step_seat(seat, hook);
        }
        self.now += STEP_MS;
    }

    /// The driver renews while the machine computes; a stopped process does nothing.
    fn keep_lease(&mut self, seat: usize) {
        let here = &mut self.seats[seat];
        let is_due = self.now < here.busy_until && self.now >= here.renewed_at + here.setup.config.renew_ms;
        if !is_due || here.is_frozen || !here.driver_renews || here.machine.is_none() {
            return;
        }
        if let Some(revision) = here.adapter.held_lease() {
            self.log.perform(&mut here.adapter, &Request::RenewLease { revision }, self.now);
            here.renewed_at = self.now;
        }
    }

    fn step_seat(&mut self, seat: usize, hook: &mut Hook<'_>) {
        self.leave(seat, hook);
        if self.is_busy(seat) {
            return;
        }
        self.seats[seat].is_frozen = false;
        self.give(seat, host::Input::Event(Event::Tick));
        while !self.is_busy(seat) {
            let now = self.now;
            let Some(at) = self.seats[seat].waiting.iter().position(|(due, _, _)| *due <= now) else { break };
            let (_, ticket, response) = self.seats[seat].waiting.remove(at);
            self.give(seat, host::Input::Event(Event::Answer { ticket, response }));
            self.leave(seat, hook);
        }
        for _ in 0..WORK_MAX {
            let has_work = self.seats[seat].machine.as_ref().is_some_and(Partition::has_work);
            if !has_work || self.is_busy(seat) {
                break;
            }
            self.give(seat, host::Input::Work);
        }
        self.leave(seat, hook);
    }

    fn is_busy(&self, seat: usize) -> bool {
        self.seats[seat].machine.is_none() || self.now < self.seats[seat].busy_until
    }

    fn give(&mut self, seat: usize, input: host::Input) {
        let here = &mut self.seats[seat];
        let Some(machine) = &mut here.machine else { return };
        let mut actions = Vec::new();
        match input {
            host::Input::Event(event) => machine.handle(event, self.now, &mut here.store, &mut actions),
            host::Input::Work => machine.work(self.now, &mut actions),
        }
        let over = self.now + here.store.take_spent();
        here.busy_until = here.busy_until.max(over);
        for action in actions {
            match action {
                Action::Ask { ticket, request } => here.leaving.push((over, ticket, request)),
                Action::Tell(Notice::Committed(facts)) => {
                    here.notices.push(format!("committed {} at {}", facts.epoch, facts.position));
                }
                Action::Tell(notice) => here.notices.push(format!("{notice:?}")),
                Action::Stopped => here.stopped = true,
            }
        }
    }

    /// Requests whose time has come reach the broker.
    fn leave(&mut self, seat: usize, hook: &mut Hook<'_>) {
        let leaving = std::mem::take(&mut self.seats[seat].leaving);
        for (at, ticket, request) in leaving {
            if at > self.now {
                self.seats[seat].leaving.push((at, ticket, request));
                continue;
            }
            *self.seats[seat].asked.entry(kind(&request)).or_default() += 1;
            let fate = hook(&mut self.log, seat, &request, self.now);
            let here = &mut self.seats[seat];
            let mut perform = |adapter: &mut Adapter| self.log.perform(adapter, &request, self.now);
            match fate {
                Fate::After(ms) => {
                    let response = perform(&mut here.adapter);
                    here.waiting.push((self.now + ms, ticket, response));
                }
                Fate::Instead(response) => here.waiting.push((self.now + 1, ticket, response)),
                Fate::Unanswered => drop(perform(&mut here.adapter)),
                Fate::Lost => {}
            }
        }
    }
}

/// The kind of a request.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::AcquireLease => "acquire",
        Request::RenewLease { .. } => "renew",
        Request::ReleaseLease { .. } => "release",
        Request::Survey { .. } => "survey",
        Request::Changes { .. } => "changes",
        Request::FindSnapshot { .. } => "find snapshot",
        Request::ReadPart { .. } => "read part",
        Request::SaveSnapshot { .. } => "save snapshot",
        Request::Reset { .. } => "reset",
        Request::Fetch { .. } => "fetch",
        Request::Publish { .. } => "publish",
        Request::Ack { .. } => "ack",
    }
}
