//! Epochs read back from the pipeline stream: chunks of deltas, put together up to their marker.

use std::time::{Duration, Instant};

use async_nats::Message;
use pelton_engine::epoch::Marker;
use pelton_engine::log::{Change, StoredMarker};
use serde_json::{Value, json};

use crate::ack;
use crate::api::{ConsumerState, Fault};
use crate::connect::Broker;
use crate::names;
use crate::pull::{Item, Pull, PullSize, SILENCE_MAX};
use crate::target::Target;

/// One request is enough: chunks are large, and the reader waits for them anyway. What was asked for is sent even when
/// the answer goes out before, so it is no more than a slow link carries in a few seconds.
const SIZE: PullSize = PullSize { messages: 256, bytes: 1 << 20, requests: 1 };
/// After so long the answer is given with the whole epochs that are there: well within what its caller waits.
const PART_TIME: Duration = Duration::from_secs(4);
/// The server forgets the reader after this long when its deletion got lost.
const FORGET: Duration = Duration::from_secs(30);

/// Whole epochs with markers in `(after, up_to]`, in order, about `bytes_max` of them or what comes in a few seconds;
/// none only when none is left.
///
/// A chunk that is missing or left over is `Damaged`. Hashes are the caller's to check.
pub(crate) async fn read(
    broker: &Broker,
    target: &Target,
    after: u64,
    up_to: u64,
    bytes_max: usize,
) -> Result<Vec<Change>, Fault> {
    if up_to <= after {
        return Ok(Vec::new());
    }
    let stream = target.log_stream();
    let prefix = target.prefix();
    let reader = broker.client().new_inbox();
    let reader = format!("pelton-changes-{}", reader.rsplit('.').next().unwrap_or(&reader));
    let config = json!({
        "name": reader,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after.saturating_add(1),
        "ack_policy": "none",
        "filter_subjects": [names::delta_subject(&prefix), names::marker_filter(&prefix)],
        "replay_policy": "instant",
        "inactive_threshold": FORGET.as_nanos() as u64,
        "mem_storage": true,
        "num_replicas": 1,
    });
    let body = json!({ "stream_name": stream, "config": config });
    let state: ConsumerState = broker.api(&stream, &format!("CONSUMER.CREATE.{stream}.{reader}"), &body).await?;
    let result = if state.num_pending == 0 {
        Ok(Vec::new())
    } else {
        let mut pull = Pull::open(broker, &stream, &reader, SIZE).await?;
        let result = assemble(broker, &mut pull, up_to, bytes_max).await;
        pull.close().await;
        result
    };
    let delete = format!("CONSUMER.DELETE.{stream}.{reader}");
    // The server forgets the reader anyway.
    let _ = broker.api::<Value>(&stream, &delete, &json!({})).await;
    result
}

async fn assemble(broker: &Broker, pull: &mut Pull, up_to: u64, bytes_max: usize) -> Result<Vec<Change>, Fault> {
    let mut assembly = Assembly::default();
    let mut consumer_seq = 0;
    let losses = broker.losses();
    let start = Instant::now();
    loop {
        pull.top_up(broker).await?;
        if broker.losses() != losses {
            return Err(Fault::Unavailable("connection lost while reading changes".to_string()));
        }
        let item = tokio::time::timeout(SILENCE_MAX, pull.next())
            .await
            .map_err(|_| Fault::Unavailable("no changes came in time".to_string()))?;
        let message = match item {
            Item::Status => continue,
            Item::Gone(reason) => return Err(Fault::Unavailable(format!("reading changes: {reason}"))),
            Item::Message(message) => message,
        };
        let delivery = message
            .reply
            .as_ref()
            .and_then(|reply| ack::parse(reply))
            .ok_or_else(|| Fault::Unavailable(format!("delivery on {} without an ack subject", message.subject)))?;
        consumer_seq += 1;
        if delivery.consumer_seq != consumer_seq {
            return Err(Fault::Unavailable("a delivery was lost while reading changes".to_string()));
        }
        if delivery.stream_seq > up_to {
            return assembly.finish(up_to);
        }
        assembly.add(delivery.stream_seq, &message)?;
        let is_enough = assembly.bytes >= bytes_max || start.elapsed() >= PART_TIME;
        let is_boundary = assembly.chunks == 0 && !assembly.whole.is_empty();
        if delivery.pending == 0 || delivery.stream_seq == up_to || (is_boundary && is_enough) {
            return assembly.finish(up_to);
        }
    }
}

/// Chunks of the epoch in the making, and whole epochs.
#[derive(Default)]
pub(crate) struct Assembly {
    whole: Vec<Change>,
    bytes: usize,
    delta: Vec<u8>,
    chunks: u32,
}

impl Assembly {
    pub(crate) fn add(&mut self, sequence: u64, message: &Message) -> Result<(), Fault> {
        self.bytes += message.payload.len();
        if message.subject.as_str().ends_with(".delta") {
            self.delta.extend_from_slice(&message.payload);
            self.chunks += 1;
            return Ok(());
        }
        let marker =
            Marker::decode(&message.payload).map_err(|error| Fault::of_marker(&error, &message.subject, sequence))?;
        if marker.delta_chunks != self.chunks {
            return Err(Fault::Damaged(format!(
                "epoch {} (sequence {sequence}) has {} of its {} chunks of the delta",
                marker.epoch, self.chunks, marker.delta_chunks
            )));
        }
        self.chunks = 0;
        let delta = std::mem::take(&mut self.delta);
        self.whole.push(Change { stored: StoredMarker { sequence, marker }, delta });
        Ok(())
    }

    pub(crate) fn finish(self, up_to: u64) -> Result<Vec<Change>, Fault> {
        if self.chunks > 0 {
            return Err(Fault::Damaged(format!(
                "{} chunks of a delta before sequence {up_to} have no marker",
                self.chunks
            )));
        }
        Ok(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, payload: &'static [u8]) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn chunks_without_a_marker_are_damage() {
        let mut assembly = Assembly::default();
        assembly.add(1, &message("pelton.p.0.delta", b"a")).expect("a chunk");
        assert!(matches!(assembly.finish(9), Err(Fault::Damaged(_))));
    }

    #[test]
    fn a_marker_that_does_not_decode_is_damage() {
        let mut assembly = Assembly::default();
        let result = assembly.add(1, &message("pelton.p.0.marker.1.1", b"{}"));
        assert!(matches!(result, Err(Fault::Damaged(_))));
    }
}
