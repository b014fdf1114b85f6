//! Publishes many events quickly: acks are only counted, on one inbox, with a bounded number in flight.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::connect::Broker;
use crate::error::chain;
use async_nats::jetstream::response::Response as ApiResponse;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Events in flight without an ack.
const WINDOW: usize = 4096;
/// A server that syncs every write may take seconds for a whole window, and answers at its end.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an event was not stored, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// The server refused an event; which one is not known.
    #[error("the broker refused an event: {0}")]
    Refused(String),
    /// Acks are overdue.
    #[error("{missing} events have no ack after {} s", ACK_TIMEOUT.as_secs())]
    Unknown { missing: usize },
    /// The connection was lost, and with it the acks of what was under way.
    #[error("the connection was lost: {missing} events have no ack and may be stored or not")]
    Lost { missing: u64 },
    /// The client refused it: subject, size or a closed connection.
    #[error("cannot send: {0}")]
    Send(String),
}

/// Publishes events at least once each; create one per task.
pub struct Producer {
    broker: Broker,
    client: Client,
    /// Connections lost when it was made: with another one the acks of what was sent do not come.
    losses: u64,
    inbox: String,
    window: Arc<Semaphore>,
    /// First refusal, set by the task that counts acks.
    refused: Arc<Mutex<Option<String>>>,
    sent: u64,
    counting: JoinHandle<()>,
}

impl Producer {
    /// Subscribes for acks.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(broker: &Broker) -> Result<Producer, ProducerError> {
        let (client, losses) = (broker.client(), broker.losses());
        let inbox = client.new_inbox();
        let subscriber =
            client.subscribe(format!("{inbox}.*")).await.map_err(|error| ProducerError::Send(chain(&error)))?;
        let window = Arc::new(Semaphore::new(WINDOW));
        let refused = Arc::new(Mutex::new(None));
        let counting = tokio::spawn(count_acks(subscriber, Arc::clone(&window), Arc::clone(&refused)));
        Ok(Producer { broker: broker.clone(), client, losses, inbox, window, refused, sent: 0, counting })
    }

    /// Sends one event; waits only when too many are in flight.
    ///
    /// # Errors
    /// A refusal of this or an earlier event, or acks that are overdue.
    pub async fn publish(&mut self, subject: String, payload: Bytes) -> Result<(), ProducerError> {
        self.send(subject, None, payload).await
    }

    /// Sends one event with headers.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub async fn publish_with_headers(
        &mut self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), ProducerError> {
        self.send(subject, Some(headers), payload).await
    }

    async fn send(&mut self, subject: String, headers: Option<HeaderMap>, payload: Bytes) -> Result<(), ProducerError> {
        if self.window.available_permits() == WINDOW {
            // Nothing was under way when a connection was lost.
            self.losses = self.broker.losses();
        }
        self.permits(1).await?;
        self.sent += 1;
        let reply = format!("{}.{}", self.inbox, self.sent);
        let client = &self.client;
        let send = async {
            match headers {
                Some(headers) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => client.publish_with_reply(subject, reply, payload).await,
            }
        };
        // A client that is not connected takes only so much, and then waits.
        tokio::select! {
            biased;
            sent = send => sent.map_err(|error| ProducerError::Send(chain(&error))),
            () = self.loss() => Err(self.lost()),
            () = tokio::time::sleep(ACK_TIMEOUT) => {
                Err(ProducerError::Unknown { missing: WINDOW - self.window.available_permits() })
            }
        }
    }

    /// Waits until every event has its ack; how many were stored since the start.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub async fn flush(&mut self) -> Result<u64, ProducerError> {
        self.permits(WINDOW).await?;
        self.window.add_permits(WINDOW);
        self.check()?;
        Ok(self.sent)
    }

    /// Takes so many places of the window.
    async fn permits(&self, count: usize) -> Result<(), ProducerError> {
        self.check()?;
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(permits) = self.window.try_acquire_many(wanted) {
            permits.forget();
            return Ok(());
        }
        let mut free = self.window.available_permits();
        loop {
            // Any ack within the limit is progress.
            let acks = tokio::time::timeout(ACK_TIMEOUT, self.window.acquire_many(wanted));
            let acks = tokio::select! {
                biased;
                acks = acks => acks,
                () = self.loss() => return Err(self.lost()),
            };
            match acks {
                Ok(Ok(permits)) => {
                    permits.forget();
                    return self.check();
                }
                Ok(Err(_)) => return Err(ProducerError::Send("the producer is closed".to_string())),
                Err(_) => {
                    self.check()?;
                    let free_now = self.window.available_permits();
                    if free_now == free {
                        return Err(ProducerError::Unknown { missing: WINDOW - free_now });
                    }
                    free = free_now;
                }
            }
        }
    }

    /// Ends when the connection is another one.
    async fn loss(&self) {
        let _ = self.broker.link().wait_for(|link| link.losses != self.losses).await;
    }

    fn lost(&self) -> ProducerError {
        let missing = (WINDOW - self.window.available_permits()) as u64;
        self.check().err().unwrap_or(ProducerError::Lost { missing })
    }

    fn check(&self) -> Result<(), ProducerError> {
        match &*self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(text) => Err(ProducerError::Refused(text.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.counting.abort();
    }
}

async fn count_acks(mut acks: Subscriber, window: Arc<Semaphore>, refused: Arc<Mutex<Option<String>>>) {
    while let Some(message) = acks.next().await {
        if let Some(text) = refusal(&message) {
            refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        }
        window.add_permits(1);
    }
}

fn refusal(message: &Message) -> Option<String> {
    if let Some(status) = message.status {
        return Some(format!("no stream takes its subject (status {status})"));
    }
    const ERROR: &[u8] = b"\"error\"";
    if !message.payload.windows(ERROR.len()).any(|part| part == ERROR) {
        return None;
    }
    match serde_json::from_slice::<ApiResponse<Value>>(&message.payload) {
        Ok(ApiResponse::Err { error }) => Some(error.to_string()),
        Ok(ApiResponse::Ok(_)) => None,
        Err(error) => Some(format!("ack does not decode: {error}")),
    }
}
