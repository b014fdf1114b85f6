//! Publishes generated events: in atomic batches where the stream takes them, else one by one.
//!
//! A broker that syncs every write syncs once per batch: a thousand events cost it little more than one.

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use pelton_broker::{Broker, Producer, ProducerError};

use super::failure::{Exit, Failure};

/// Messages of one batch, the broker's default limit.
const BATCH_MAX: usize = 1000;
/// Below this many events per batch, a batch costs more than its events alone.
const BATCH_MIN: usize = 50;
/// Batches without an answer.
const IN_FLIGHT_MAX: usize = 4;
/// Batches per second when a rate is asked for, so that events still come evenly.
const BATCHES_PER_SECOND: usize = 20;

/// Sends events in order; [`Sender::flush`] says how many are stored.
pub(super) enum Sender {
    Single(Box<Producer>),
    Batches(Box<Batches>),
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
            return Ok(Sender::Batches(Box::new(Batches::new(broker.client().clone(), size).await?)));
        }
        tracing::info!(stream = %name, "publishing one by one");
        let producer = Producer::new(broker).await.map_err(not_stored)?;
        Ok(Sender::Single(Box::new(producer)))
    }

    pub(super) async fn send(&mut self, subject: String, payload: Bytes) -> Result<(), Failure> {
        match self {
            Sender::Single(producer) => producer.publish(subject, payload).await.map_err(not_stored),
            Sender::Batches(batches) => batches.send(subject, payload).await,
        }
    }

    /// Waits until everything is stored; how many events that are.
    pub(super) async fn flush(&mut self) -> Result<u64, Failure> {
        match self {
            Sender::Single(producer) => producer.flush().await.map_err(not_stored),
            Sender::Batches(batches) => batches.flush().await,
        }
    }
}

fn not_stored(error: ProducerError) -> Failure {
    Failure::new(Exit::Environment, error).hint("`pelton doctor` checks the broker and its streams")
}

/// Atomic batches, a few at a time.
pub(super) struct Batches {
    client: Client,
    inbox: String,
    answers: Subscriber,
    size: usize,
    waiting: Vec<(String, Bytes)>,
    in_flight: usize,
    stored: u64,
}

impl Batches {
    async fn new(client: Client, size: usize) -> Result<Batches, Failure> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await.map_err(lost)?;
        Ok(Batches { client, inbox, answers, size, waiting: Vec::with_capacity(size), in_flight: 0, stored: 0 })
    }

    async fn send(&mut self, subject: String, payload: Bytes) -> Result<(), Failure> {
        self.waiting.push((subject, payload));
        if self.waiting.len() == self.size { self.publish().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<u64, Failure> {
        if !self.waiting.is_empty() {
            self.publish().await?;
        }
        self.wait_below(1).await?;
        Ok(self.stored)
    }

    /// Publishes what is waiting as one batch. Its first message is answered too: "received so far".
    async fn publish(&mut self) -> Result<(), Failure> {
        let inbox = self.client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or(&inbox);
        let last = self.waiting.len() - 1;
        for (idx, (subject, payload)) in self.waiting.drain(..).enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", (idx + 1).to_string().as_str());
            if idx == last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            let sent = if idx == 0 || idx == last {
                self.client.publish_with_reply_and_headers(subject, self.inbox.clone(), headers, payload).await
            } else {
                self.client.publish_with_headers(subject, headers, payload).await
            };
            sent.map_err(lost)?;
        }
        self.in_flight += 1;
        self.wait_below(IN_FLIGHT_MAX).await
    }

    async fn wait_below(&mut self, limit: usize) -> Result<(), Failure> {
        while self.in_flight >= limit {
            let answer = self.answers.next().await.ok_or_else(|| Failure::environment("the connection was closed"))?;
            if answer.payload.is_empty() && answer.status.is_none() {
                continue;
            }
            match serde_json::from_slice(&answer.payload)? {
                Response::Ok(PublishAck { batch_size, .. }) => {
                    self.in_flight -= 1;
                    self.stored += batch_size.unwrap_or(0);
                }
                Response::Err { error } => return Err(Failure::environment(format!("a batch was refused: {error}"))),
            }
        }
        Ok(())
    }
}

fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Exit::Environment, error).context("cannot send")
}
