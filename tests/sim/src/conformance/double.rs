//! The simulated log under the suite.

use pelton_engine::log::{Request, Response};

use crate::log::{Adapter, LogMutants, Message, OTHERS, Retention, Settings, SimLog};
use crate::rng::Rng;
use crate::scenario::EPOCH_MS;

use super::{Disturbance, LogUnderTest};

const LEASE_TTL_MS: u64 = 1_000;
const ACK_WAIT_MS: u64 = 500;

/// The double with two clients and a clock of its own.
pub struct Double {
    log: SimLog,
    clients: [Adapter; 2],
    now: u64,
    remembered: Remembered,
}

/// Where the streams ended.
#[derive(Default)]
struct Remembered {
    input_last: u64,
    epochs: u64,
}

impl Default for Double {
    fn default() -> Double {
        Double::weakened(LogMutants::default())
    }
}

impl Double {
    /// A double that lacks something, so that the suite can show that it notices.
    #[must_use]
    pub fn weakened(mutants: LogMutants) -> Double {
        let (lease_ttl, ack_wait, message_bytes) = (LEASE_TTL_MS, ACK_WAIT_MS, usize::MAX);
        let delta_bytes = usize::MAX;
        let settings =
            Settings { lease_ttl, broken_lease: false, ack_wait, repeats: false, message_bytes, delta_bytes, mutants };
        let clients = [Adapter::new(0, 1), Adapter::new(0, 2)];
        let log = SimLog::new(1, settings, Rng::new(1, 1));
        Double { log, clients, now: 0, remembered: Remembered::default() }
    }

    fn published(&self) -> i64 {
        EPOCH_MS + self.now as i64
    }

    /// The broker was down: every connection is lost.
    fn restart(&mut self) {
        self.clients.iter_mut().for_each(|client| client.broken = true);
    }
}

impl LogUnderTest for Double {
    fn perform(&mut self, client: usize, request: Request) -> Response {
        self.now += 1;
        self.log.perform(&mut self.clients[client], &request, self.now)
    }

    fn produce(&mut self, payload: &[u8]) -> u64 {
        self.log.input.publish(Message::new(0, self.published(), payload))
    }

    fn produce_other(&mut self, payload: &[u8]) -> u64 {
        self.log.input.share();
        self.log.input.publish(Message::new(OTHERS, self.published(), payload))
    }

    fn disturb(&mut self, what: Disturbance) {
        let epochs = self.log.pipeline.entries(0).len() as u64;
        match what {
            Disturbance::ExpireInput { first } => self.log.input.expire(first),
            Disturbance::DeleteInput { sequence } => self.log.input.remove(sequence),
            Disturbance::LimitSubject { messages } => {
                self.log.input.limit(Retention { per_subject: Some(messages), ..Retention::default() });
            }
            Disturbance::RecreateInput => {
                self.log.input.recreate();
                self.log.delete_consumer(0);
            }
            Disturbance::Remember => self.remembered = Remembered { input_last: self.log.input.last(), epochs },
            Disturbance::RollBackInput => {
                self.log.input.lose_tail(self.remembered.input_last);
                self.restart();
            }
            Disturbance::RollBackLog => {
                self.log.pipeline.lose_tail(epochs - self.remembered.epochs);
                self.restart();
            }
            Disturbance::PurgeLog => self.log.pipeline.purge(),
            Disturbance::RecreateLog => self.log.pipeline.recreate(),
            Disturbance::DeleteConsumer => self.log.delete_consumer(0),
            Disturbance::Settle => {}
            Disturbance::AckWait => self.now += ACK_WAIT_MS + 1,
            Disturbance::LeaseTime => self.now += LEASE_TTL_MS + 1,
        }
    }
}
