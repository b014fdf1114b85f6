//! What both streams hold: facts, the newest marker, and two messages of interest.

use async_nats::jetstream::message::StreamMessage;
use pelton_engine::epoch::{MARKER_SLOTS, Marker, fingerprint};
use pelton_engine::log::{StoredMarker, Survey};

use crate::api::{Fault, stored_ms};
use crate::connect::Broker;
use crate::log::Target;
use crate::names;

/// Asks for everything at once. All messages come from the leaders, never from a replica that may lag.
///
/// The facts are read before or after the messages, in no order: a caller that publishes meanwhile sees a mix.
pub(crate) async fn survey(
    broker: &Broker,
    target: &Target,
    input_sequence: Option<u64>,
    epoch: Option<u64>,
) -> Result<Survey, Fault> {
    let prefix = target.prefix();
    let log_stream = target.log_stream();
    let (input, log, marker, input_message, marker_of_epoch) = tokio::try_join!(
        broker.stream_facts(&target.stream),
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
    Ok(Survey { input, log, marker, input_fingerprint, marker_of_epoch })
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
