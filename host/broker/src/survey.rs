//! What both streams hold: facts, the newest marker, and two messages of interest.

use std::sync::{Mutex, PoisonError};

use pelton_engine::epoch::{MARKER_SLOTS, Marker, fingerprint};
use pelton_engine::log::{AllDelivered, StoredMarker, StreamFacts, Survey};
use pelton_engine::time::WallTime;

use crate::ack::Acks;
use crate::api::{Fault, facts};
use crate::connect::Broker;
use crate::consumer::consumer_state;
use crate::stored::Stored;
use crate::target::Target;
use crate::{names, snapshot};

/// Asks for the input first, then for the rest at once. All messages come from the leaders, never from a replica that
/// may lag.
pub(crate) async fn survey(
    broker: &Broker,
    target: &Target,
    acks: &Mutex<Acks>,
    input_sequence: Option<u64>,
    epoch: Option<u64>,
    history: bool,
) -> Result<Survey, Fault> {
    let prefix = target.prefix();
    let log_stream = target.log_stream();
    let input = input(broker, target, acks).await?;
    let (log, marker, input_message, marker_of_epoch, snapshot_epoch) = tokio::try_join!(
        broker.stream_facts(&log_stream),
        last_marker(broker, &log_stream, names::marker_filter(&prefix)),
        input_message(broker, target, input_sequence),
        async {
            match epoch {
                None => Ok(None),
                Some(epoch) => {
                    let slot = names::marker_subject(&prefix, &format!("*.{}", epoch % MARKER_SLOTS));
                    let found = last_marker(broker, &log_stream, slot).await?;
                    Ok(found.filter(|stored| stored.marker.epoch == epoch))
                }
            }
        },
        async { if history { snapshot::newest_epoch(broker, target).await } else { Ok(None) } },
    )?;
    let input_fingerprint = input_message.map(|message| fingerprint(message.stored_ms, &message.payload));
    let Input { facts, is_alone, all_delivered, ack_floor, broker_time } = input;
    Ok(Survey {
        input: facts,
        is_alone,
        log,
        marker,
        input_fingerprint,
        marker_of_epoch,
        all_delivered,
        ack_floor,
        broker_time,
        snapshot_epoch,
    })
}

struct Input {
    facts: StreamFacts,
    is_alone: bool,
    all_delivered: Option<AllDelivered>,
    ack_floor: u64,
    broker_time: WallTime,
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
    let ack_floor = consumer.as_ref().map_or(0, |consumer| consumer.ack_floor.stream_seq);
    let mut acks = acks.lock().unwrap_or_else(PoisonError::into_inner);
    let reached = acks.reached();
    let all_delivered = consumer.zip(reached).and_then(|(consumer, reached)| {
        let is_ours = consumer.created == *reached.placed;
        // What is gone and was not known to be read is no proof but a hole, and the next fetch tells it.
        let is_whole = facts.first_sequence <= acks.known().saturating_add(1);
        let is_received = consumer.num_pending == 0 && consumer.delivered.consumer_seq == reached.consumer_seq;
        let is_all = is_ours && is_whole && is_received;
        if !is_all {
            return None;
        }
        // Where messages are deleted inside the stream, only the fetch tells whether they were of others.
        let is_intact = info.state.deleted_count.unwrap_or(0) == 0;
        if is_intact {
            acks.prove(&consumer.created, facts.last_sequence);
        }
        let last = if is_intact { facts.last_sequence } else { acks.known() };
        Some(AllDelivered { delivered: acks.told(), last })
    });
    drop(acks);
    Ok(Input { facts, is_alone, all_delivered, ack_floor, broker_time: info.broker_time() })
}

async fn input_message(broker: &Broker, target: &Target, sequence: Option<u64>) -> Result<Option<Stored>, Fault> {
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
        Err(error) => Err(Fault::of_marker(&error, stream, sequence)),
    }
}
