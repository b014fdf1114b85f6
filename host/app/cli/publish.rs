//! Publishes generated events: in atomic batches where the stream takes them, else one by one.

use bytes::Bytes;
use pelton_broker::{BatchProducer, Broker, Producer, ProducerError};

use super::failure::{Exit, Failure};

/// Messages of one batch, the broker's default limit.
const BATCH_MAX: usize = 1000;
/// Below this many events per batch, a batch costs more than its events alone.
const BATCH_MIN: usize = 50;
/// Batches per second when a rate is asked for, so that events still come evenly.
const BATCHES_PER_SECOND: usize = 20;

/// Sends events in order; [`Sender::flush`] says how many are stored.
pub(super) enum Sender {
    Single(Box<Producer>),
    Batches(Box<BatchProducer>),
}

impl Sender {
    /// Prepares to publish to the stream that takes `subject`, at most `rate` events per second.
    pub(super) async fn new(broker: &Broker, subject: &str, rate: Option<u32>) -> Result<Sender, Failure> {
        let size = rate.map_or(BATCH_MAX, |rate| (rate as usize / BATCHES_PER_SECOND).min(BATCH_MAX));
        let context = broker.context();
        let name = context.stream_by_subject(subject).await.map_err(|error| {
            Failure::environment(format!("no stream takes `{subject}`: {error}")).hint("`pelton up` makes the stream")
        })?;
        let stream = context.get_stream(&name).await;
        let stream = stream.map_err(|error| Failure::environment(format!("stream {name}: {error}")))?;
        if size >= BATCH_MIN && stream.cached_info().config.allow_atomic_publish {
            let producer = BatchProducer::new(broker, size).await.map_err(not_stored)?;
            return Ok(Sender::Batches(Box::new(producer)));
        }
        tracing::info!(stream = %name, "publishing one by one");
        let producer = Producer::new(broker).await.map_err(not_stored)?;
        Ok(Sender::Single(Box::new(producer)))
    }

    pub(super) async fn send(&mut self, subject: String, payload: Bytes) -> Result<(), Failure> {
        match self {
            Sender::Single(producer) => producer.publish(subject, payload).await.map_err(not_stored),
            Sender::Batches(batches) => batches.publish(subject, payload).await.map_err(not_stored),
        }
    }

    /// Waits until everything is stored; how many events that are.
    pub(super) async fn flush(&mut self) -> Result<u64, Failure> {
        match self {
            Sender::Single(producer) => producer.flush().await.map_err(not_stored),
            Sender::Batches(batches) => batches.flush().await.map_err(not_stored),
        }
    }
}

fn not_stored(error: ProducerError) -> Failure {
    Failure::new(Exit::Environment, error).hint("`pelton doctor` checks the broker and its streams")
}
