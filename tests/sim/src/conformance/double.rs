//! The simulated log under the suite.

use pelton_engine::log::{Request, Response};

use crate::log::{Adapter, LogMutants, Message, Settings, SimLog};
use crate::rng::Rng;

use super::{Disturbance, LogUnderTest};

const LEASE_TTL_MS: u64 = 1_000;
const ACK_WAIT_MS: u64 = 500;

/// The double with two clients and a clock of its own.
pub struct Double {
    log: SimLog,
    clients: [Adapter; 2],
    now: u64,
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
        let settings = Settings { lease_ttl: LEASE_TTL_MS, broken_lease: false, ack_wait: ACK_WAIT_MS, mutants };
        let clients = [Adapter::new(0, 1), Adapter::new(0, 2)];
        Double { log: SimLog::new(1, settings, Rng::new(1, 1)), clients, now: 0 }
    }
}

impl LogUnderTest for Double {
    fn perform(&mut self, client: usize, request: Request) -> Response {
        self.now += 1;
        self.log.perform(&mut self.clients[client], &request, self.now)
    }

    fn produce(&mut self, payload: &[u8]) -> u64 {
        self.log.input.publish(Message { partition: 0, published: self.now as i64, payload: payload.into() })
    }

    fn disturb(&mut self, what: Disturbance) -> bool {
        let mut cut = false;
        match what {
            Disturbance::ExpireInput { first } => self.log.input.expire(first),
            Disturbance::RecreateInput => {
                self.log.input.recreate();
                self.log.delete_consumer(0);
            }
            Disturbance::RollBackInput { last } => {
                self.log.input.lose_tail(last);
                cut = true;
            }
            Disturbance::RollBackLog => {
                self.log.pipeline.lose_tail(1);
            }
            Disturbance::PurgeLog => self.log.pipeline.purge(),
            Disturbance::DeleteConsumer => self.log.delete_consumer(0),
            Disturbance::AckWait => self.now += ACK_WAIT_MS + 1,
            Disturbance::LeaseTime => self.now += LEASE_TTL_MS + 1,
        }
        self.clients.iter_mut().for_each(|client| client.broken |= cut);
        true
    }
}
