//! Keeps the lease of a partition whose thread is busy: a large state that is read, written or rebuilt, a slow disk, a
//! long step. The thread renews the lease by itself as long as it comes round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_broker::Log;
use pelton_engine::log::{Request, Response};
use tracing::{debug, warn};

use super::seat::Seat;

/// A thread that does not come round for so long may never do: another host should try.
const BUSY_MAX: Duration = Duration::from_secs(600);

/// Renews while the thread is busy, first after a sixth of `renew`, then each time it has passed, until the task is
/// dropped. The thread's own last renewal may be nearly `renew` old when it stops coming round.
pub(super) async fn keep(log: Log, seat: Arc<Seat>, renew: Duration) {
    let partition = log.target().partition;
    let mut ticks = tokio::time::interval(renew / 12);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed: Option<Instant> = None;
    let mut given_up = false;
    loop {
        ticks.tick().await;
        let busy = seat.busy();
        let (Some(revision), true) = (seat.lease(), busy >= renew / 6) else {
            (renewed, given_up) = (None, false);
            continue;
        };
        if busy >= BUSY_MAX {
            if !given_up {
                warn!(partition, minutes = busy.as_secs() / 60, "too long in one call, the lease is no longer renewed");
                given_up = true;
            }
        } else if renewed.is_none_or(|at| at.elapsed() >= renew) {
            renewed = Some(Instant::now());
            match log.perform(Request::RenewLease { revision }).await {
                Response::LeaseHeld { .. } => debug!(partition, busy = busy.as_secs(), "renewed for a busy thread"),
                // The thread finds out by itself when it comes round.
                other => debug!(partition, ?other, "not renewed for a busy thread"),
            }
        }
    }
}
