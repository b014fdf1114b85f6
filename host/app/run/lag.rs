//! Measures how far a partition is behind, whatever its thread does and whoever works on it.

use std::sync::Arc;
use std::time::Duration;

use pelton_broker::{Broker, Lag, Target};
use pelton_engine::time::WallTime;
use pelton_serve::Partition as Metrics;
use tracing::debug;

use super::seat::Seat;
use crate::cli::when;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// Measures until the task is dropped. While the broker does not answer, what was waiting gets older.
pub(super) async fn watch(broker: Broker, target: Target, seat: Arc<Seat>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        match pelton_broker::lag(&broker, &target, seat.position()).await {
            Ok(lag) => {
                metrics.reached(lag.position, None);
                last = Some(lag);
            }
            Err(reason) => {
                debug!(partition = target.partition, reason, "lag is not known");
                // Not how many wait, but still since when.
                last = last.map(|lag: Lag| Lag { events: None, ..lag });
            }
        }
        if let Some(lag) = &last {
            metrics.set_lag(lag.events, lag.seconds(WallTime(when::now())));
        }
    }
}
