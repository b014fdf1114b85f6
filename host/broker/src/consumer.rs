//! The durable consumer of one partition: placed by deleting it and making it again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{ConsumerState, Fault};
use crate::code::Class;
use crate::connect::Broker;
use crate::target::Target;

const ACK_WAIT: Duration = Duration::from_secs(60);
/// The server's word for a limit of unacknowledged messages that is beyond what stream or account allow.
const ACK_PENDING_EXCESS: u64 = 10121;

/// State of the durable consumer, if there is one.
pub(crate) async fn consumer_state(broker: &Broker, target: &Target) -> Result<Option<ConsumerState>, Fault> {
    let verb = format!("CONSUMER.INFO.{}.{}", target.stream, target.consumer());
    match broker.api(&target.stream, &verb, &json!({})).await {
        Ok(state) => Ok(Some(state)),
        Err(fault) if fault.is(Class::NoConsumer) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Makes the durable consumer anew, so that it delivers from `next` on.
///
/// Of unacknowledged messages it may have `ack_pending`, or as many as the server allows when that is less.
pub(crate) async fn place_consumer(
    broker: &Broker,
    target: &Target,
    next: u64,
    ack_pending: u64,
) -> Result<ConsumerState, Fault> {
    delete_consumer(broker, target).await?;
    match create(broker, target, next, ack_pending).await {
        Err(Fault::Refused { code: ACK_PENDING_EXCESS, description, .. })
            if last_number(&description).is_some_and(|allowed| 0 < allowed && allowed < ack_pending) =>
        {
            create(broker, target, next, last_number(&description).unwrap_or(ack_pending)).await
        }
        result => result,
    }
}

async fn create(broker: &Broker, target: &Target, next: u64, ack_pending: u64) -> Result<ConsumerState, Fault> {
    let name = target.consumer();
    let inbox = broker.client().new_inbox();
    let config = json!({
        "name": name,
        "durable_name": name,
        "description": format!("pelton: pipeline {}, partition {}", target.pipeline, target.partition),
        // Two processes that create it at the same position at the same time must not both be told that they did.
        "metadata": { "pelton-created-by": inbox.rsplit('.').next().unwrap_or(&inbox) },
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": next,
        "ack_policy": "all",
        "ack_wait": ACK_WAIT.as_nanos() as u64,
        "max_deliver": -1,
        "max_ack_pending": ack_pending,
        "filter_subject": target.subject,
        "replay_policy": "instant",
        "num_replicas": 0,
    });
    let verb = format!("CONSUMER.CREATE.{}.{name}.{}", target.stream, target.subject);
    let body = json!({ "stream_name": target.stream, "config": config, "action": "create" });
    broker.api(&target.stream, &verb, &body).await
}

/// Deletes the consumer; it is fine when there is none.
pub(crate) async fn delete_consumer(broker: &Broker, target: &Target) -> Result<(), Fault> {
    let verb = format!("CONSUMER.DELETE.{}.{}", target.stream, target.consumer());
    match broker.api::<Value>(&target.stream, &verb, &json!({})).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.is(Class::NoConsumer) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// The last number in `consumer max ack pending exceeds system limit of 1000 (error 10121)` that is no code.
fn last_number(description: &str) -> Option<u64> {
    let (_, rest) = description.split_once("limit of ")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowed_number_is_read() {
        let text = "consumer max ack pending exceeds system limit of 1000 (error 10121)";
        assert_eq!(last_number(text), Some(1000));
        assert_eq!(last_number("consumer max ack pending exceeds system limit of 7"), Some(7));
        assert_eq!(last_number("no number"), None);
    }
}
