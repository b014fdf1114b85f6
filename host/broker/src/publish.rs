//! One epoch as one atomic batch, with its two fences.
//!
//! The batch goes out without waiting for single answers: the first message and the commit carry a reply subject below
//! one inbox of the partition, everything between them none. An error to the first message ends the wait at once.
//!
//! Header lines go out in the order in which the epoch has them, so that the same epoch is the same bytes each time, but
//! for the id of the batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response as ApiResponse;
use async_nats::{Client, Message, PublishError, PublishErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use pelton_engine::epoch::{CHANGE_BYTES_MAX, Epoch, Ledger};
use pelton_engine::log::{Fence, Published};

use crate::api::within;
use crate::connect::Broker;
use crate::error::{API_TIMEOUT, chain};
use crate::link::Action;
use crate::{code, headers, names};

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// Publishes the epochs of one partition, one at a time.
#[derive(Default)]
pub(crate) struct Publisher {
    replies: Option<Replies>,
    /// Attempts so far: part of the reply subject, so that late answers to an older attempt are recognised.
    attempt: u64,
}

struct Replies {
    inbox: String,
    subscriber: Subscriber,
    /// Which client it was made with; with another one it is gone.
    session: u64,
}

/// One message of the batch before its batch headers.
struct Outgoing {
    subject: String,
    /// `name: value\r\n` per header.
    headers: String,
    payload: Bytes,
}

/// A way to share the bytes of an epoch with the connection without copying them.
struct Shared {
    epoch: Arc<Epoch>,
    part: fn(&Epoch) -> &[u8],
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        (self.part)(&self.epoch)
    }
}

impl Publisher {
    /// Publishes the batch and waits for its fate, at most `limit`.
    ///
    /// `Stored` only when the server confirmed every message; `Unknown` on a lost connection or no answer in time;
    /// `Refused` only when nothing can have been stored; `Permanent` when besides the same bytes will always be refused.
    pub(crate) async fn publish(
        &mut self,
        broker: &Broker,
        prefix: &str,
        epoch: &Arc<Epoch>,
        fence: &Fence,
        limit: Duration,
    ) -> Published {
        if !broker.connected() {
            return Published::Refused("not connected, nothing was sent".to_string());
        }
        let batch = match batch(prefix, epoch, fence) {
            Ok(batch) => batch,
            Err(text) => return Published::Permanent(text),
        };
        if let Err(text) = self.listen(broker).await {
            return Published::Refused(text);
        }
        let inbox = self.replies.as_ref().map(|replies| replies.inbox.clone()).unwrap_or_default();
        let is_inbox = |action, subject: &str| action == Action::Subscribe && subject.starts_with(&inbox);
        let is_batch = |action, subject: &str| {
            let rest = subject.strip_prefix(prefix);
            action == Action::Publish && rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let since = Instant::now();
        if let Some(text) = broker.denials().find(since, is_inbox) {
            return Published::Refused(text);
        }
        let mut link = broker.link();
        let losses = broker.losses();
        tokio::select! {
            outcome = tokio::time::timeout(limit, self.send_and_wait(broker, batch)) => outcome.unwrap_or_else(|_| {
                Published::Unknown(format!("no answer to the batch within {} ms", limit.as_millis()))
            }),
            // A batch that lacks a message is never stored.
            text = broker.denials().wait(since, is_batch) => Published::Refused(text),
            text = broker.denials().wait(since, is_inbox) => Published::Unknown(text),
            _ = link.wait_for(|link| link.losses != losses) => {
                Published::Unknown("connection lost while the batch was in flight".to_string())
            }
        }
    }

    /// Subscribes for answers, with the client that is in use.
    async fn listen(&mut self, broker: &Broker) -> Result<(), String> {
        let session = broker.session();
        if self.replies.as_ref().is_some_and(|replies| replies.session == session) {
            return Ok(());
        }
        let client = broker.client();
        let inbox = client.new_inbox();
        let subscribe = client.subscribe(format!("{inbox}.>"));
        let subscriber =
            within(API_TIMEOUT, "subscribe for answers", subscribe).await.map_err(|fault| fault.to_string())?;
        self.replies = Some(Replies { inbox, subscriber, session });
        Ok(())
    }

    async fn send_and_wait(&mut self, broker: &Broker, batch: Vec<Outgoing>) -> Published {
        let client = broker.client();
        self.attempt += 1;
        let Some(replies) = &mut self.replies else {
            return Published::Refused("no inbox for answers".to_string());
        };
        let id = unique(&client);
        let count = batch.len();
        let attempt = format!("{}.{}.", replies.inbox, self.attempt);
        for (idx, message) in batch.into_iter().enumerate() {
            let is_last = idx + 1 == count;
            let reply = (idx == 0 || is_last).then(|| format!("{attempt}{}", idx + 1));
            if let Err(refusal) = send(&client, message, &id, idx + 1, is_last, reply).await {
                // The commit was not sent, so the batch cannot land.
                let text = format!("message {} of {count}: {}", idx + 1, refusal.text);
                return if refusal.is_permanent { Published::Permanent(text) } else { Published::Refused(text) };
            }
        }
        replies.wait(&attempt, &id, count).await
    }
}

/// Why the client did not take a message.
struct Refusal {
    text: String,
    is_permanent: bool,
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Refusal {
        let is_permanent = match error.kind() {
            PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => true,
            PublishErrorKind::Send => false,
        };
        Refusal { text: chain(&error), is_permanent }
    }
}

/// Sends one message of a batch; `number` counts from 1.
async fn send(
    client: &Client,
    message: Outgoing,
    id: &str,
    number: usize,
    is_last: bool,
    reply: Option<String>,
) -> Result<(), Refusal> {
    let commit = if is_last { format!("{BATCH_COMMIT}: 1\r\n") } else { String::new() };
    let mut lines = format!("{id}\r\n{BATCH_SEQUENCE}: {number}\r\n{commit}{}", message.headers);
    lines.truncate(lines.len() - "\r\n".len());
    let headers = headers::verbatim(BATCH_ID, lines).map_err(|text| Refusal { text, is_permanent: false })?;
    match reply {
        Some(reply) => client.publish_with_reply_and_headers(message.subject, reply, headers, message.payload).await?,
        None => client.publish_with_headers(message.subject, headers, message.payload).await?,
    }
    Ok(())
}

impl Replies {
    async fn wait(&mut self, attempt: &str, id: &str, count: usize) -> Published {
        while let Some(message) = self.subscriber.next().await {
            let Some(number) = message.subject.as_str().strip_prefix(attempt) else { continue };
            if let Some(published) = answer(&message, number == count.to_string(), id, count) {
                return published;
            }
        }
        Published::Unknown("the subscription for answers ended".to_string())
    }
}

/// What one answer says; `None` when it only says "received so far".
pub(crate) fn answer(message: &Message, is_commit: bool, id: &str, count: usize) -> Option<Published> {
    if let Some(status) = message.status {
        return Some(Published::Refused(format!("no stream takes the batch (status {status})")));
    }
    if message.payload.is_empty() {
        return None;
    }
    match serde_json::from_slice::<ApiResponse<PublishAck>>(&message.payload) {
        Ok(ApiResponse::Err { error }) => Some(code::published(error.error_code().0, &error.to_string())),
        Ok(ApiResponse::Ok(ack)) if is_commit => {
            let whole = ack.batch_id.as_deref() == Some(id) && ack.batch_size == Some(count as u64);
            Some(if whole {
                Published::Stored { sequence: ack.sequence }
            } else {
                Published::Unknown(format!("answer {ack:?} does not confirm batch {id} of {count} messages"))
            })
        }
        Ok(ApiResponse::Ok(ack)) => Some(Published::Unknown(format!("the first message was stored alone: {ack:?}"))),
        Err(error) => Some(Published::Unknown(format!("answer does not decode: {error}"))),
    }
}

/// A batch id that no other attempt has: the unique part of a fresh inbox.
fn unique(client: &Client) -> String {
    let inbox = client.new_inbox();
    inbox.rsplit('.').next().unwrap_or(&inbox).to_string()
}

/// All messages of the epoch in order: chunks of the delta, records, ledger, marker.
fn batch(prefix: &str, epoch: &Arc<Epoch>, fence: &Fence) -> Result<Vec<Outgoing>, String> {
    let mut messages = Vec::with_capacity(epoch.records.rows.len() + 4);
    let delta = Bytes::from_owner(Shared { epoch: Arc::clone(epoch), part: |epoch| &epoch.delta });
    for (idx, chunk) in epoch.chunks().enumerate() {
        let start = idx * CHANGE_BYTES_MAX;
        let headers = match &fence.slot {
            Some(slot) if idx == 0 => expectation(fence.sequence, &names::marker_subject(prefix, slot)),
            _ => String::new(),
        };
        let payload = delta.slice(start..start + chunk.len());
        messages.push(Outgoing { subject: names::delta_subject(prefix), headers, payload });
    }
    let arena = Bytes::from_owner(Shared { epoch: Arc::clone(epoch), part: |epoch| &epoch.records.data });
    for (idx, row) in epoch.records.rows.iter().enumerate() {
        let suffix = std::str::from_utf8(epoch.records.slice(&row.subject))
            .map_err(|_| format!("record {idx}: its subject is not text"))?;
        let mut headers = String::new();
        headers::keep(&mut headers, epoch.records.slice(&row.headers));
        let payload = arena.slice(to_usize(&row.payload));
        messages.push(Outgoing { subject: format!("{prefix}.{suffix}"), headers, payload });
    }
    let ledger = Bytes::from(Ledger::of(&epoch.marker).encode());
    messages.push(Outgoing { subject: names::ledger_subject(prefix), headers: String::new(), payload: ledger });
    let headers = expectation(fence.sequence, &names::marker_filter(prefix));
    let subject = names::marker_subject(prefix, &epoch.marker.slot());
    messages.push(Outgoing { subject, headers, payload: Bytes::copy_from_slice(epoch.marker.bytes()) });
    Ok(messages)
}

/// "The last message of `subject` is at `sequence`."
fn expectation(sequence: u64, subject: &str) -> String {
    format!("{EXPECTED}: {sequence}\r\n{EXPECTED_SUBJECT}: {subject}\r\n")
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
