//! Publishing to an input stream in atomic batches: one sync to disk per thousand events instead of one per event.

use std::path::Path;

use anyhow::{Context, Result, bail};
use async_nats::header::HeaderMap;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

/// The server's limit for one batch.
pub const BATCH_MAX: usize = 1000;
/// Batches sent before the first one is confirmed.
const IN_FLIGHT_MAX: usize = 4;

/// Sends batches to one stream, in order.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    subject: String,
    inbox: String,
    answers: Subscriber,
    in_flight: usize,
}

impl Publisher {
    /// Lets `stream` take batches and prepares to publish on `subject`.
    ///
    /// # Errors
    /// When the broker fails or the stream is not there.
    pub async fn new(url: &str, stream: &str, subject: &str) -> Result<Publisher> {
        let client = async_nats::connect(url).await.with_context(|| format!("connecting to {url}"))?;
        let context = async_nats::jetstream::new(client.clone());
        let mut found = context.get_stream(stream).await.with_context(|| format!("opening stream `{stream}`"))?;
        let mut config = found.info().await.context("reading the stream's settings")?.config.clone();
        config.allow_atomic_publish = true;
        context.update_stream(config).await.context("allowing batches")?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await.context("subscribing for answers")?;
        Ok(Publisher { client, subject: subject.to_owned(), inbox, answers, in_flight: 0 })
    }

    /// Sends one batch of at most [`BATCH_MAX`] events. It is stored only when [`Publisher::settle`] says so.
    ///
    /// # Errors
    /// When this or an earlier batch was refused.
    pub async fn send(&mut self, payloads: &[Bytes]) -> Result<()> {
        assert!((1..=BATCH_MAX).contains(&payloads.len()), "a batch has 1 to {BATCH_MAX} events");
        let unique = self.client.new_inbox();
        let id = unique.rsplit('.').next().unwrap_or(&unique);
        for (idx, payload) in payloads.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", (idx + 1).to_string().as_str());
            let is_last = idx + 1 == payloads.len();
            if is_last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            let (subject, payload) = (self.subject.clone(), payload.clone());
            if idx == 0 || is_last {
                let reply = self.inbox.clone();
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await?;
            } else {
                self.client.publish_with_headers(subject, headers, payload).await?;
            }
        }
        self.in_flight += 1;
        self.wait_below(IN_FLIGHT_MAX).await
    }

    /// Waits until everything sent is stored.
    ///
    /// # Errors
    /// When a batch was refused.
    pub async fn settle(&mut self) -> Result<()> {
        self.wait_below(1).await
    }

    async fn wait_below(&mut self, limit: usize) -> Result<()> {
        while limit <= self.in_flight {
            let answer = self.answers.next().await.context("the subscription for answers ended")?;
            if answer.payload.is_empty() && answer.status.is_none() {
                // "Received so far": the answer to the first message of a batch.
                continue;
            }
            match serde_json::from_slice(&answer.payload) {
                Ok(Response::Ok(PublishAck { .. })) => self.in_flight -= 1,
                Ok(Response::<PublishAck>::Err { error }) => bail!("a batch was refused: {error}"),
                Err(error) => bail!("an answer to a batch does not decode: {error}"),
            }
        }
        Ok(())
    }
}

/// Publishes every line of a file, in order; returns how many.
///
/// # Errors
/// When the file cannot be read or the broker refuses a batch.
pub async fn lines(url: &str, stream: &str, subject: &str, file: &Path) -> Result<u64> {
    let mut publisher = Publisher::new(url, stream, subject).await?;
    let bytes = Bytes::from(std::fs::read(file).with_context(|| format!("reading `{}`", file.display()))?);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut count = 0;
    let mut start = 0;
    while start < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |length| start + length);
        batch.push(bytes.slice(start..end));
        start = end + 1;
        count += 1;
        if batch.len() == BATCH_MAX || bytes.len() <= start {
            publisher.send(&batch).await?;
            batch.clear();
        }
    }
    publisher.settle().await?;
    Ok(count)
}
