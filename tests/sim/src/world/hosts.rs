//! Hosts: starting, ticking, computing, dying.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pelton_engine::log::{Request, Response};
use pelton_engine::partition::{Action, Config, Event, Notice, Partition, Ticket};

use crate::guests::Temper;
use crate::host::Input;
use crate::log::Adapter;
use crate::rng::Rng;

use super::{TICK_MS, What, World};

/// No machine works forever without an event.
const WORK_DELAY_MS: u64 = 1;

impl World {
    pub(super) fn start(&mut self, host: usize) {
        if self.hosts[host].alive {
            return;
        }
        self.hosts[host].alive = true;
        self.hosts[host].life += 1;
        let life = self.hosts[host].life;
        for part in 0..self.hosts[host].parts.len() {
            self.lives += 1;
            let session = self.lives;
            let config = Config {
                partition: part as u32,
                session,
                exit_when_caught_up: self.exit_when_caught_up,
                mutants: self.weakness.protocol,
                ..self.scenario.config.clone()
            };
            let machine = self.machine(part as u32, config);
            let part = &mut self.hosts[host].parts[part];
            part.adapter = Adapter::new(part.adapter.partition, session);
            (part.machine, part.working, part.halted, part.stopped) = (Some(machine), false, None, false);
            part.busy_until = 0;
            part.store.cost = self.scenario.cost;
        }
        self.trace.note(self.now, &[2, host as u64], || format!("host {host} starts, life {life}"));
        self.schedule(self.now, What::Tick { host, life });
    }

    fn machine(&self, partition: u32, config: Config) -> Partition {
        let (scenario, stormy, attempts) = (self.scenario.clone(), self.stormy_guests.clone(), self.attempts.clone());
        let make = move || {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed) + 1;
            let stamp = if scenario.nondeterministic { attempt } else { 0 };
            let rng = Rng::new(scenario.seed ^ attempt, 5);
            scenario.engine(partition, &Temper { stamp, stormy: stormy.clone(), rng })
        };
        Partition::new(Arc::clone(&self.scenario.plan), config, Box::new(make))
    }

    pub(super) fn crash(&mut self, host: usize, power_cut: bool) {
        if !self.hosts[host].alive {
            return;
        }
        self.tally.crashes += 1;
        let dying = &mut self.hosts[host];
        (dying.alive, dying.dies_in, dying.frozen_until) = (false, None, 0);
        let mut lost = 0;
        for part in &mut dying.parts {
            part.machine = None;
            lost += part.store.crash(power_cut, &mut self.rng);
            if self.scenario.is_diskless {
                part.store.lose_all();
            }
        }
        self.tally.power_cuts += u64::from(lost > 0);
        self.trace.note(self.now, &[3, host as u64, lost], || format!("host {host} dies, {lost} unsynced epochs lost"));
        let back = self.now + if self.rng.chance(300) { self.rng.range(1_000, 6_000) } else { self.rng.range(5, 600) };
        self.schedule(back, What::Start { host });
    }

    pub(super) fn tick(&mut self, host: usize, life: u64) {
        if !self.is_current(host, life) {
            return;
        }
        if let Some(until) = self.frozen(host) {
            return self.schedule(until, What::Tick { host, life });
        }
        for part in 0..self.hosts[host].parts.len() {
            if self.now >= self.hosts[host].parts[part].busy_until {
                self.drive(host, part, Input::Event(Event::Tick));
            }
        }
        let pause = self.rng.range(TICK_MS / 8, TICK_MS);
        self.schedule(self.now + pause, What::Tick { host, life });
    }

    pub(super) fn work(&mut self, host: usize, part: usize, life: u64) {
        if !self.is_current(host, life) {
            return;
        }
        if let Some(until) = self.frozen(host).max(self.busy(host, part)) {
            return self.schedule(until, What::Work { host, part, life });
        }
        self.hosts[host].parts[part].working = false;
        self.drive(host, part, Input::Work);
    }

    pub(super) fn answer(&mut self, host: usize, part: usize, life: u64, ticket: Ticket, response: Response) {
        if !self.is_current(host, life) {
            return;
        }
        if let Some(until) = self.frozen(host).max(self.busy(host, part)) {
            return self.schedule(until, What::Answer { host, part, life, ticket, response });
        }
        self.trace.note(self.now, &[4, host as u64, ticket], || {
            format!("  host {host}/{part} <- #{ticket} {}", super::broker::short_response(&response))
        });
        self.drive(host, part, Input::Event(Event::Answer { ticket, response }));
    }

    fn is_current(&self, host: usize, life: u64) -> bool {
        self.hosts[host].alive && self.hosts[host].life == life
    }

    fn frozen(&self, host: usize) -> Option<u64> {
        let until = self.hosts[host].frozen_until;
        (until > self.now).then_some(until)
    }

    fn busy(&self, host: usize, part: usize) -> Option<u64> {
        let until = self.hosts[host].parts[part].busy_until;
        (until > self.now).then_some(until)
    }

    /// A call of the store takes its time: what the machine wants leaves when it is over, and the driver renews the lease.
    fn spend(&mut self, host: usize, part: usize, life: u64) {
        let spent = self.hosts[host].parts[part].store.take_spent();
        if spent == 0 {
            return;
        }
        // Of the host's clock, which has a pace of its own.
        self.hosts[host].parts[part].busy_until = self.now + spent * 1000 / self.hosts[host].clock.pace.max(1);
        self.schedule(self.now, What::Renew { host, part, life });
    }

    pub(super) fn renew(&mut self, host: usize, part: usize, life: u64) {
        if !self.is_current(host, life) || self.busy(host, part).is_none() || self.weakness.driver_forgets_lease {
            return;
        }
        if let Some(until) = self.frozen(host) {
            return self.schedule(until, What::Renew { host, part, life });
        }
        let adapter = &mut self.hosts[host].parts[part].adapter;
        if let Some(revision) = adapter.held_lease().filter(|_| self.now >= self.outage_until) {
            self.log.perform(adapter, &Request::RenewLease { revision }, self.now);
        }
        self.schedule(self.now + self.scenario.config.renew_ms, What::Renew { host, part, life });
    }

    /// Lets a machine take one input and carries out what it wants, unless the process dies on the way.
    fn drive(&mut self, host: usize, part: usize, input: Input) {
        let mut actions = std::mem::take(&mut self.actions);
        let clock = self.hosts[host].clock.read(self.now);
        let life = self.hosts[host].life;
        let here = &mut self.hosts[host].parts[part];
        here.take(input, clock, &mut actions);
        self.spend(host, part, life);
        let here = &mut self.hosts[host].parts[part];
        if here.store.dead {
            // It died inside a call of the store: of what it wanted before, some went out.
            let kept = self.rng.below(actions.len() as u64 + 1) as usize;
            actions.truncate(kept);
        }
        let is_dead = here.store.dead;
        let mut dies = is_dead;
        for action in actions.drain(..) {
            if let Some(left) = &mut self.hosts[host].dies_in {
                if *left == 0 {
                    dies = true;
                    break;
                }
                *left -= 1;
            }
            self.act(host, part, life, action, is_dead);
        }
        self.actions = actions;
        self.actions.clear();
        if dies {
            let power_cut = self.rng.chance(500);
            return self.crash(host, power_cut);
        }
        let here = &mut self.hosts[host].parts[part];
        if !here.working && here.machine.as_ref().is_some_and(Partition::has_work) {
            here.working = true;
            let pause = self.rng.below(2 * WORK_DELAY_MS + 1);
            self.schedule(self.now + pause, What::Work { host, part, life });
        }
    }

    fn act(&mut self, host: usize, part: usize, life: u64, action: Action, is_dead: bool) {
        match action {
            Action::Ask { ticket, request } => self.send(host, part, life, ticket, request),
            Action::Tell(_) if is_dead => {}
            Action::Tell(notice) => self.told(host, part, notice),
            Action::Stopped => self.hosts[host].parts[part].stopped = true,
        }
    }

    fn told(&mut self, host: usize, part: usize, notice: Notice) {
        self.trace.note(self.now, &[5, host as u64], || match &notice {
            Notice::Committed(facts) => {
                format!("  host {host}/{part} committed epoch {} at {}", facts.epoch, facts.position)
            }
            notice => format!("  host {host}/{part} says {notice:?}"),
        });
        match notice {
            Notice::Running { decision, .. } => match self.count_run(part, decision) {
                "start" => self.tally.starts += 1,
                "continue" => self.tally.continues += 1,
                "republish" => self.tally.republished += 1,
                "replay" => self.tally.replayed += 1,
                _ => self.tally.rebuilt += 1,
            },
            Notice::Recovering { .. } => self.recoveries += 1,
            Notice::Hole(_) => self.tally.holes += 1,
            Notice::Doubt { .. } => self.tally.doubts += 1,
            Notice::Quarantined { .. } => self.tally.quarantines += 1,
            Notice::Halted(halted) => {
                let here = &mut self.hosts[host].parts[part];
                here.halted = Some(halted.code.name());
                *here.halts.entry(halted.code.name()).or_default() += 1;
                self.halted(host, part, &halted);
            }
            _ => {}
        }
    }

    fn count_run(&mut self, part: usize, decision: &'static str) -> &'static str {
        self.runs[part] += 1;
        decision
    }
}
