//! How far a partition is behind its input, as the broker sees it: whoever works on it, and also when nobody does.

use pelton_engine::time::WallTime;
use serde::Deserialize;
use serde_json::json;

use crate::api::{Fault, SequencePair};
use crate::code::Class;
use crate::connect::Broker;
use crate::target::Target;

/// Events of a partition that are not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Everything up to this sequence of the input is committed.
    pub position: u64,
    /// How many wait; `None` when the broker cannot say (no consumer, and part of the subject is committed).
    pub events: Option<u64>,
    /// When the broker stored the oldest of them; `None` when nothing waits.
    pub oldest: Option<WallTime>,
}

impl Lag {
    /// How long the oldest event has been waiting, in seconds by the given clock.
    #[must_use]
    pub fn seconds(&self, now: WallTime) -> f64 {
        self.oldest.map_or(0.0, |oldest| (now.0 - oldest.0).max(0) as f64 / 1000.0)
    }
}

#[derive(Deserialize)]
struct Consumer {
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    ack_floor: SequencePair,
}

/// Counts what waits behind `position` or, when the consumer is further on, behind what it has acknowledged.
///
/// With a consumer that is what it has not delivered and what it has delivered without an acknowledgement; without one
/// it is what the subject holds.
///
/// # Errors
/// When the broker does not answer, or the input is not there; with the reason.
pub async fn lag(broker: &Broker, target: &Target, position: u64) -> Result<Lag, String> {
    measure(broker, target, position).await.map_err(|fault| fault.to_string())
}

async fn measure(broker: &Broker, target: &Target, position: u64) -> Result<Lag, Fault> {
    let verb = format!("CONSUMER.INFO.{}.{}", target.stream, target.consumer());
    let consumer: Option<Consumer> = match broker.api(&target.stream, &verb, &json!({})).await {
        Ok(consumer) => Some(consumer),
        Err(fault) if fault.is(Class::NoConsumer) => None,
        Err(fault) => return Err(fault),
    };
    let position = consumer.as_ref().map_or(position, |consumer| position.max(consumer.ack_floor.stream_seq));
    let Some(oldest) = first_from(broker, target, position.saturating_add(1)).await? else {
        return Ok(Lag { position, events: Some(0), oldest: None });
    };
    let events = match consumer {
        // Both numbers are of another moment than the message that was just found.
        Some(consumer) => Some(consumer.num_pending.saturating_add(consumer.num_ack_pending).max(1)),
        None => stored_from(broker, target, oldest.0).await?,
    };
    Ok(Lag { position, events, oldest: Some(oldest.1) })
}

/// Sequence and time of the first event at or behind `sequence`.
async fn first_from(broker: &Broker, target: &Target, sequence: u64) -> Result<Option<(u64, WallTime)>, Fault> {
    let found = broker.next_message(&target.stream, &target.subject, sequence).await?;
    Ok(found.map(|message| (message.sequence, WallTime(message.stored_ms))))
}

/// How many events the subject holds, if the one at `first` is the first of them.
async fn stored_from(broker: &Broker, target: &Target, first: u64) -> Result<Option<u64>, Fault> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        subjects: std::collections::HashMap<String, u64>,
    }
    if first_from(broker, target, 1).await?.is_some_and(|(sequence, _)| sequence < first) {
        return Ok(None);
    }
    let body = json!({ "subjects_filter": target.subject });
    let info: Info = broker.api(&target.stream, &format!("STREAM.INFO.{}", target.stream), &body).await?;
    Ok(Some(info.state.subjects.values().fold(0, |sum: u64, count| sum.saturating_add(*count))))
}
