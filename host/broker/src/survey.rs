//! What both streams hold: facts, the newest marker, and two messages of interest.

use std::sync::{Mutex, PoisonError};

use async_nats::jetstream::message::StreamMessage;
use pelton_engine::epoch::{MARKER_SLOTS, Marker, fingerprint};
use pelton_engine::log::{AllDelivered, StoredMarker, StreamFacts, Survey};

use crate::ack::Acks;
use crate::api::{Fault, facts, stored_ms};
use crate::connect::Broker;
use crate::fetch::consumer_state;
use crate::log::Target;
use crate::names;

/// Asks for the input first, then for the rest at once. All messages come from the leaders, never from a replica that
/// may lag.
pub(crate) async fn survey(
    broker: &Broker,
    target: &Target,
    acks: &Mutex<Acks>,
    input_sequence: Option<u64>,
    epoch: Option<u64>,
) -> Result<Survey, Fault> {
    let prefix = target.prefix();
    let log_stream = target.log_stream();
    let input = input(broker, target, acks).await?;
    let (log, marker, input_message, marker_of_epoch) = tokio::try_join!(
        broker.stream_facts(&log_stream),
        last_marker(broker, &log_stream, names::marker_filter(&prefix)),
        input_message(broker, target, input_sequence),
        async {
            match epoch {
                None => Ok(None),
                Some(epoch) => {
                    let slot = format!("{prefix}.mark.*.{}", epoch % MARKER_SLOTS);
                    let found = last_marker(broker, &log_stream, slot).await?;
                    Ok(found.filter(|stored| stored.marker.epoch == epoch))
                }
            }
        },
    )?;
    let input_fingerprint = input_message.map(|message| fingerprint(stored_ms(&message), &message.payload));
    let Input { facts, is_alone, all_delivered } = input;
    Ok(Survey { input: facts, is_alone, log, marker, input_fingerprint, marker_of_epoch, all_delivered })
}

struct Input {
    facts: StreamFacts,
    is_alone: bool,
    all_delivered: Option<AllDelivered>,
}

/// Facts of the input, and whether this process has received all that it holds for the partition.
///
/// The consumer is asked after the stream: when it has nothing left then, nothing is left up to the end that the stream
/// had before.
async fn input(broker: &Broker, target: &Target, acks: &Mutex<Acks>) -> Result<Input, Fault> {
    let info = broker.stream_info(&target.stream).await?;
    let is_alone = matches!(info.config.subjects.as_slice(), [only] if *only == target.subject);
    let facts = facts(&target.stream, &info);
    let consumer = consumer_state(broker, target).await?;
    let reached = acks.lock().unwrap_or_else(PoisonError::into_inner).reached();
    let all_delivered = consumer.zip(reached).and_then(|(consumer, reached)| {
        let is_ours = consumer.created == *reached.placed;
        let is_all = is_ours && consumer.num_pending == 0 && consumer.delivered.consumer_seq == reached.consumer_seq;
        is_all.then_some(AllDelivered { delivered: reached.stream_seq, last: facts.last_sequence })
    });
    Ok(Input { facts, is_alone, all_delivered })
}

async fn input_message(
    broker: &Broker,
    target: &Target,
    sequence: Option<u64>,
) -> Result<Option<StreamMessage>, Fault> {
    match sequence {
        None | Some(0) => Ok(None),
        Some(sequence) => broker.message_at(&target.stream, sequence).await,
    }
}

async fn last_marker(broker: &Broker, stream: &str, subject: String) -> Result<Option<StoredMarker>, Fault> {
    let Some(message) = broker.last_message(stream, &subject).await? else { return Ok(None) };
    let sequence = message.sequence;
    match Marker::decode(&message.payload) {
        Ok(marker) => Ok(Some(StoredMarker { sequence, marker })),
        Err(text) => Err(Fault::Damaged(format!("sequence {sequence} of {stream}: {text}"))),
    }
}
