//! Publishes many events in atomic batches: a broker that syncs every write syncs once per batch, so a thousand events
//! cost it little more than one.

use crate::connect::Broker;
use crate::error::chain;
use crate::producer::{ACK_TIMEOUT, ProducerError};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

/// Batches without an answer.
const IN_FLIGHT_MAX: usize = 4;

/// Sends events in order, so many at a time; all of a batch are stored, or none.
pub struct BatchProducer {
    broker: Broker,
    client: Client,
    /// Connections lost when it was made: with another one the answers to what was sent do not come.
    losses: u64,
    inbox: String,
    answers: Subscriber,
    size: usize,
    waiting: Vec<(String, Bytes)>,
    in_flight: usize,
    sent: u64,
    stored: u64,
}

impl BatchProducer {
    /// Subscribes for answers; batches have `size` events.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(broker: &Broker, size: usize) -> Result<BatchProducer, ProducerError> {
        let (client, losses) = (broker.client(), broker.losses());
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await.map_err(|error| ProducerError::Send(chain(&error)))?;
        let waiting = Vec::with_capacity(size);
        Ok(BatchProducer {
            broker: broker.clone(),
            client,
            losses,
            inbox,
            answers,
            size,
            waiting,
            in_flight: 0,
            sent: 0,
            stored: 0,
        })
    }

    /// Sends an event with the batch that it completes.
    ///
    /// # Errors
    /// A refusal of an earlier batch, an answer that is overdue, or a connection that was lost meanwhile.
    pub async fn publish(&mut self, subject: String, payload: Bytes) -> Result<(), ProducerError> {
        self.waiting.push((subject, payload));
        if self.waiting.len() == self.size { self.send().await } else { Ok(()) }
    }

    /// Sends what is left and waits for every answer; how many events were stored since the start.
    ///
    /// # Errors
    /// As [`BatchProducer::publish`].
    pub async fn flush(&mut self) -> Result<u64, ProducerError> {
        if !self.waiting.is_empty() {
            self.send().await?;
        }
        self.wait_below(1).await?;
        Ok(self.stored)
    }

    async fn send(&mut self) -> Result<(), ProducerError> {
        if self.in_flight == 0 {
            // Nothing was under way when a connection was lost.
            self.losses = self.broker.losses();
        }
        let batch = std::mem::take(&mut self.waiting);
        self.sent += batch.len() as u64;
        let missing = self.sent - self.stored;
        // A client that is not connected takes only so much, and then waits.
        let (broker, losses) = (self.broker.clone(), self.losses);
        let mut link = broker.link();
        tokio::select! {
            biased;
            _ = link.wait_for(|link| link.losses != losses) => return Err(ProducerError::Lost { missing }),
            sent = send(&self.client, &self.inbox, batch) => sent?,
            () = tokio::time::sleep(ACK_TIMEOUT) => return Err(overdue(missing)),
        }
        self.in_flight += 1;
        self.wait_below(IN_FLIGHT_MAX).await
    }

    async fn wait_below(&mut self, limit: usize) -> Result<(), ProducerError> {
        let (broker, losses) = (self.broker.clone(), self.losses);
        while self.in_flight >= limit {
            let missing = self.sent - self.stored;
            let mut link = broker.link();
            let answer = tokio::select! {
                answer = self.answers.next() => answer.ok_or(ProducerError::Lost { missing })?,
                _ = link.wait_for(|link| link.losses != losses) => return Err(ProducerError::Lost { missing }),
                () = tokio::time::sleep(ACK_TIMEOUT) => return Err(overdue(missing)),
            };
            if let Some(stored) = stored(&answer)? {
                self.in_flight -= 1;
                self.stored += stored;
            }
        }
        Ok(())
    }
}

fn overdue(missing: u64) -> ProducerError {
    ProducerError::Unknown { missing: usize::try_from(missing).unwrap_or(usize::MAX) }
}

/// One batch. Its first message is answered too: "received so far".
async fn send(client: &Client, inbox: &str, batch: Vec<(String, Bytes)>) -> Result<(), ProducerError> {
    let unique = client.new_inbox();
    let id = unique.rsplit('.').next().unwrap_or(&unique);
    let last = batch.len().saturating_sub(1);
    for (idx, (subject, payload)) in batch.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id);
        headers.insert("Nats-Batch-Sequence", (idx + 1).to_string().as_str());
        if idx == last {
            headers.insert("Nats-Batch-Commit", "1");
        }
        let sent = if idx == 0 || idx == last {
            client.publish_with_reply_and_headers(subject, inbox.to_string(), headers, payload).await
        } else {
            client.publish_with_headers(subject, headers, payload).await
        };
        sent.map_err(|error| ProducerError::Send(chain(&error)))?;
    }
    Ok(())
}

/// How many events an answer confirms; `None` when it says "received so far".
fn stored(answer: &Message) -> Result<Option<u64>, ProducerError> {
    if let Some(status) = answer.status {
        return Err(ProducerError::Refused(format!("no stream takes a batch (status {status})")));
    }
    if answer.payload.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(PublishAck { batch_size, .. })) => Ok(Some(batch_size.unwrap_or(0))),
        Ok(Response::Err { error }) => Err(ProducerError::Refused(format!("a batch: {error}"))),
        Err(error) => Err(ProducerError::Refused(format!("an answer does not decode: {error}"))),
    }
}
