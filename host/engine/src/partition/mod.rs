//! The epoch protocol of one partition, as a state machine without IO: collect, compute, commit, apply, acknowledge,
//! and recover whenever there is a doubt.
//!
//! The caller carries out [`Action`]s and reports [`Event`]s; it may lose, delay or repeat answers. Time enters as a
//! monotonic number of milliseconds, randomness as a session number. At most one batch is in flight, and at most one
//! sealed epoch waits behind it while the engine computes no further: memory is bounded.
//!
//! Safety rests on three things only: the fence of the pipeline stream, the chain of nonces, and that state, records
//! and position of an epoch are one batch. The lease, acknowledgements and clocks only decide who works and when.

mod commit;
mod compatible;
mod config;
mod notice;
mod recover;
mod recovery;
mod run;
mod running;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use compatible::{holds_all, is_compatible};
pub use config::{Config, Mutants};
pub use notice::{Committed, Notice, RecoveryCause};
pub use recover::{Decision, Halted, check_position, decide};
use recovery::Recovery;
use running::Running;

use crate::codes::HaltCode;
use crate::epoch::RUN_SHIFT;
use crate::judge::StepError;
use crate::log::{Request, Response};
use crate::plan::Plan;
use crate::step::Engine;
use crate::store::Store;

/// Identifies a question, so that its answer is recognised.
pub type Ticket = u64;

/// What the machine wants done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Ask the broker; report [`Event::Answer`] with the same ticket.
    Ask { ticket: Ticket, request: Request },
    /// Something an operator or a metric wants to know.
    Tell(Notice),
    /// The machine has ended; it asks for nothing more.
    Stopped,
}

/// What can wake the machine.
#[derive(Debug)]
pub enum Event {
    /// An answer to a question, perhaps late, perhaps twice.
    Answer { ticket: Ticket, response: Response },
    /// Time has passed; at least every 100 ms.
    Tick,
    /// Finish or abandon the epoch, give the lease back, end.
    Stop,
}

/// Attempts without a commit after which a partition counts as stuck.
const FRUITLESS_MAX: u32 = 3;
/// After the lease was given back, others get so long to take it.
const YIELD_PAUSE_MS: u64 = 3_000;

/// Makes an engine with empty state and fresh guests.
pub type MakeEngine = Box<dyn FnMut() -> Result<Engine, StepError> + Send>;

/// The protocol of one partition.
pub struct Partition {
    plan: Arc<Plan>,
    config: Config,
    make_engine: MakeEngine,
    phase: Phase,
    next_ticket: Ticket,
    /// Epochs sealed in this session; part of their nonces.
    sealed: u64,
    /// How often recovery has led to running; part of the nonces, and with the session of the markers' slots.
    runs: u32,
    lease: Option<Lease>,
    stopping: Option<u64>,
    /// Nonce of the marker to which the changes did not lead in the last recoveries, and in how many.
    unreached: Option<(u128, u32)>,
    /// Input sequence of the last committed position, as far as this machine knows it.
    position: u64,
    /// Recoveries since the last commit, or since there was nothing left to read.
    fruitless: u32,
    /// Since when the local store has refused every attempt.
    refused_since: Option<u64>,
    actions: Vec<Action>,
}

/// What is open with the broker: one question and when it was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: Ticket,
    at: u64,
}

#[derive(Debug)]
struct Lease {
    revision: u64,
    renewed_at: u64,
    renewal: Option<Asked>,
}

enum Phase {
    /// Wants the lease.
    Standby {
        asked: Option<Asked>,
        retry_at: u64,
    },
    Recovering(Box<Recovery>),
    Running(Box<Running>),
    /// Environment fault: recover at this time.
    Paused {
        until: u64,
    },
    Halted,
    /// Gives the lease back.
    Releasing {
        asked: Asked,
    },
    Stopped,
}

impl Partition {
    /// A machine that has not asked for anything yet; the first `Tick` starts it.
    #[must_use]
    pub fn new(plan: Arc<Plan>, config: Config, make_engine: MakeEngine) -> Partition {
        Partition {
            plan,
            config,
            make_engine,
            phase: Phase::Standby { asked: None, retry_at: 0 },
            next_ticket: 1,
            sealed: 0,
            runs: 0,
            lease: None,
            stopping: None,
            unreached: None,
            position: 0,
            fruitless: 0,
            refused_since: None,
            actions: Vec::new(),
        }
    }

    /// Takes one event; `actions` receives what is to be done.
    pub fn handle(&mut self, event: Event, now: u64, store: &mut dyn Store, actions: &mut Vec<Action>) {
        match event {
            Event::Answer { ticket, response } => self.answer(ticket, response, now, store),
            Event::Tick => self.tick(now, store),
            Event::Stop => self.stop(now),
        }
        actions.append(&mut self.actions);
    }

    /// Whether [`Partition::work`] has something to do now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.has_work())
            && self.stopping.is_none()
            && !self.must_halt_at_hole()
    }

    /// Revision of the lease, while this machine believes that it holds one. A driver whose thread is busy for long
    /// renews it meanwhile.
    #[must_use]
    pub fn lease_revision(&self) -> Option<u64> {
        self.lease.as_ref().map(|lease| lease.revision)
    }

    /// Whether the machine stands still for an operator.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        matches!(self.phase, Phase::Halted)
    }

    /// Position and epoch of the committed state, while running.
    #[must_use]
    pub fn committed(&self) -> Option<(u64, u64)> {
        match &self.phase {
            Phase::Running(running) => Some(running.committed()),
            _ => None,
        }
    }

    /// The whole state as bytes, while running and between epochs. For assertions of tests.
    #[must_use]
    pub fn snapshot(&mut self) -> Option<Vec<u8>> {
        match &mut self.phase {
            Phase::Running(running) => Some(running.engine.snapshot()),
            _ => None,
        }
    }

    /// Does one bounded piece of computation.
    pub fn work(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.run(now);
        actions.append(&mut self.actions);
    }

    fn ask(&mut self, request: Request, now: u64) -> Asked {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.actions.push(Action::Ask { ticket, request });
        Asked { ticket, at: now }
    }

    fn tell(&mut self, notice: Notice) {
        self.actions.push(Action::Tell(notice));
    }

    fn halt(&mut self, halted: Halted) {
        self.tell(Notice::Halted(halted));
        self.phase = Phase::Halted;
    }

    /// Leaves everything in memory behind and recovers after a pause.
    fn pause(&mut self, reason: String, now: u64) {
        self.tell(Notice::Paused { reason });
        self.phase = Phase::Paused { until: now + self.config.retry_ms };
    }

    /// The local store does not do what is asked of it: no space, no folder, no rights.
    fn store_refuses(&mut self, reason: String, now: u64) {
        self.refused_since.get_or_insert(now);
        self.tell(Notice::Paused { reason });
    }

    /// Gives the lease back when the local store has refused for long: a host that can do nothing must not keep another
    /// one from it. Without another one this host tries again after a moment.
    fn yield_if_useless(&mut self, now: u64) {
        let Some(since) = self.refused_since.filter(|_| !self.config.mutants().keep_useless_lease) else { return };
        if now < since + self.config.yield_ms || matches!(self.phase, Phase::Halted | Phase::Standby { .. }) {
            return;
        }
        let Some(lease) = self.lease.take() else { return };
        self.refused_since = None;
        let seconds = now.saturating_sub(since) / 1_000;
        self.tell(Notice::Yielded { reason: format!("the local store has refused to work for {seconds} s") });
        self.ask(Request::ReleaseLease { revision: lease.revision }, now);
        self.phase = Phase::Standby { asked: None, retry_at: now + YIELD_PAUSE_MS.max(self.config.retry_ms) };
    }

    fn step_failed(&mut self, error: StepError, now: u64) {
        match error {
            StepError::Retry { .. } => self.pause(error.to_string(), now),
            StepError::Halt { .. } => self.halt(Halted::new(HaltCode::ModuleHalt, error.to_string())),
        }
    }

    fn tick(&mut self, now: u64, store: &mut dyn Store) {
        if let Some(since) = self.stopping {
            return self.tick_stopping(since, now, store);
        }
        self.tick_lease(now);
        self.yield_if_useless(now);
        match &mut self.phase {
            Phase::Standby { asked, retry_at } => {
                let lost = asked.is_some_and(|asked| now >= asked.at + self.config.answer_ms);
                if (asked.is_none() && now >= *retry_at) || lost {
                    let asked = self.ask(Request::AcquireLease, now);
                    self.phase = Phase::Standby { asked: Some(asked), retry_at: now };
                }
            }
            Phase::Paused { until } if now >= *until => self.start_over(now, store),
            Phase::Recovering(_) => self.tick_recovery(now, store),
            Phase::Running(_) => self.tick_running(now, store),
            Phase::Paused { .. } | Phase::Halted | Phase::Releasing { .. } | Phase::Stopped => {}
        }
    }

    /// Renews the lease while there is one. A halted partition keeps it: no other host should try the same.
    fn tick_lease(&mut self, now: u64) {
        let Some(lease) = &self.lease else { return };
        let lost = lease.renewal.is_some_and(|asked| now >= asked.at + self.config.answer_ms);
        if (lease.renewal.is_none() && now >= lease.renewed_at + self.config.renew_ms) || lost {
            let revision = lease.revision;
            let asked = self.ask(Request::RenewLease { revision }, now);
            if let Some(lease) = &mut self.lease {
                lease.renewal = Some(asked);
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, response: Response, now: u64, store: &mut dyn Store) {
        if let Some(lease) = &mut self.lease
            && lease.renewal.is_some_and(|asked| asked.ticket == ticket)
        {
            lease.renewal = None;
            return self.renewal_answer(&response, now);
        }
        match &mut self.phase {
            Phase::Standby { asked: Some(asked), .. } if asked.ticket == ticket => {
                self.lease_answer(response, now, store)
            }
            Phase::Releasing { asked } if asked.ticket == ticket => self.finish(),
            Phase::Recovering(recovery) if recovery.waits_for(ticket) => self.recovery_answer(response, now, store),
            Phase::Running(_) => self.running_answer(ticket, response, now, store),
            // A late answer to a question of an earlier life.
            _ => {}
        }
    }

    fn lease_answer(&mut self, response: Response, now: u64, store: &mut dyn Store) {
        match response {
            Response::LeaseHeld { revision } => {
                self.lease = Some(Lease { revision, renewed_at: now, renewal: None });
                self.tell(Notice::Recovering { cause: RecoveryCause::Start, reason: "the lease was taken".into() });
                self.start_over(now, store);
            }
            Response::LeaseTaken { holder } => {
                self.tell(Notice::Standby { holder });
                self.phase = Phase::Standby { asked: None, retry_at: now + 1_000.max(self.config.retry_ms) };
            }
            other => {
                self.tell(Notice::Paused { reason: format!("no lease: {}", describe(&other)) });
                self.phase = Phase::Standby { asked: None, retry_at: now + self.config.retry_ms };
            }
        }
    }

    fn renewal_answer(&mut self, response: &Response, now: u64) {
        match response {
            Response::LeaseHeld { .. } => {
                if let Some(lease) = &mut self.lease {
                    lease.renewed_at = now;
                }
            }
            Response::LeaseTaken { .. } if self.config.mutants().no_lease => {}
            Response::LeaseTaken { holder } => {
                let reason = format!("lease taken over by {holder}");
                self.lose_lease(reason, now);
            }
            // The fence decides; an unreachable broker is no reason to stop.
            _ => {
                if let Some(lease) = &mut self.lease {
                    lease.renewed_at = now.saturating_sub(self.config.renew_ms).saturating_add(self.config.retry_ms);
                }
            }
        }
    }

    /// Another host works on this partition: drop everything, acknowledge nothing.
    fn lose_lease(&mut self, reason: String, now: u64) {
        self.lease = None;
        self.tell(Notice::Paused { reason });
        if !matches!(self.phase, Phase::Halted) {
            self.phase = Phase::Standby { asked: None, retry_at: now + self.config.retry_ms };
        }
    }

    fn stop(&mut self, now: u64) {
        if self.stopping.is_none() {
            self.stopping = Some(now);
        }
    }

    /// An epoch in flight gets a moment to be answered; an open one is abandoned.
    fn tick_stopping(&mut self, since: u64, now: u64, store: &mut dyn Store) {
        const PATIENCE_MS: u64 = 1_000;
        match &self.phase {
            Phase::Stopped => {}
            Phase::Running(running) if running.is_committing() && now < since + PATIENCE_MS => {
                self.tick_running(now, store)
            }
            Phase::Releasing { asked } if now < asked.at + PATIENCE_MS / 2 => {}
            Phase::Releasing { .. } => self.finish(),
            _ => {
                // A cache may lose its last second; an error here is one that recovery will meet again.
                drop(store.sync());
                match self.lease.take() {
                    Some(lease) => {
                        let asked = self.ask(Request::ReleaseLease { revision: lease.revision }, now);
                        self.phase = Phase::Releasing { asked };
                    }
                    None => self.finish(),
                }
            }
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Stopped;
        self.actions.push(Action::Stopped);
    }

    fn nonce(&mut self) -> u128 {
        self.sealed += 1;
        if self.config.mutants().no_nonce { 7 } else { self.life() | u128::from(self.sealed) }
    }

    /// The part that all nonces since the last recovery have in common.
    fn life(&self) -> u128 {
        u128::from(self.config.session) << 64 | u128::from(self.runs) << RUN_SHIFT
    }
}

/// A response in a few words.
fn describe(response: &Response) -> String {
    match response {
        Response::Unavailable(reason) | Response::Damaged(reason) | Response::OtherFormat(reason) => reason.clone(),
        Response::Missing { stream } => format!("stream `{stream}` does not exist"),
        Response::LeaseTaken { holder } => format!("lease is held by {holder}"),
        other => format!("unexpected answer {other:?}").chars().take(200).collect(),
    }
}
