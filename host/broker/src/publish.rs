//! One epoch as one atomic batch, with its two fences.
//!
//! The batch goes out without waiting for single answers: the first message and the commit carry a reply subject below
//! one inbox of the partition, everything between them none. An error to the first message ends the wait at once.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response as ApiResponse;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use pelton_engine::epoch::{CHANGE_BYTES_MAX, Epoch};
use pelton_engine::log::{Fence, Published};

use crate::api::chain;
use crate::code;
use crate::connect::Broker;

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// Headers with this prefix are commands to the server.
const COMMAND: &str = "Nats-";
/// Put before the name of a kept header that would be a command: a dead letter that carries the `Nats-Msg-Id` or the
/// expectations of its event must not make the server refuse the batch.
const KEPT: &str = "Pelton-Kept-";

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
}

/// One message of the batch before its batch headers.
struct Outgoing {
    subject: String,
    headers: HeaderMap,
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
    /// `Refused` only when nothing can have been stored.
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
            Err(text) => return Published::Refused(text),
        };
        let mut link = broker.link();
        let losses = broker.losses();
        tokio::select! {
            outcome = tokio::time::timeout(limit, self.send_and_wait(broker, batch)) => outcome.unwrap_or_else(|_| {
                Published::Unknown(format!("no answer to the batch within {} ms", limit.as_millis()))
            }),
            _ = link.wait_for(|link| link.losses != losses) => {
                Published::Unknown("connection lost while the batch was in flight".to_string())
            }
        }
    }

    async fn send_and_wait(&mut self, broker: &Broker, batch: Vec<Outgoing>) -> Published {
        let client = broker.client();
        if self.replies.is_none() {
            let inbox = client.new_inbox();
            match client.subscribe(format!("{inbox}.>")).await {
                Ok(subscriber) => self.replies = Some(Replies { inbox, subscriber }),
                Err(error) => return Published::Refused(format!("cannot subscribe for answers: {}", chain(&error))),
            }
        }
        self.attempt += 1;
        let Some(replies) = &mut self.replies else {
            return Published::Refused("no inbox for answers".to_string());
        };
        let id = unique(broker);
        let count = batch.len();
        let attempt = format!("{}.{}.", replies.inbox, self.attempt);
        for (idx, mut message) in batch.into_iter().enumerate() {
            message.headers.insert(BATCH_ID, id.as_str());
            message.headers.insert(BATCH_SEQUENCE, HeaderValue::from(idx + 1));
            let is_last = idx + 1 == count;
            if is_last {
                message.headers.insert(BATCH_COMMIT, "1");
            }
            let sent = if idx == 0 || is_last {
                let reply = format!("{attempt}{}", idx + 1);
                client.publish_with_reply_and_headers(message.subject, reply, message.headers, message.payload).await
            } else {
                client.publish_with_headers(message.subject, message.headers, message.payload).await
            };
            if let Err(error) = sent {
                // The commit was not sent, so the batch cannot land.
                return Published::Refused(format!("message {} of {count}: {}", idx + 1, chain(&error)));
            }
        }
        replies.wait(&attempt, &id, count).await
    }
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
fn answer(message: &Message, is_commit: bool, id: &str, count: usize) -> Option<Published> {
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
fn unique(broker: &Broker) -> String {
    let inbox = broker.client().new_inbox();
    inbox.rsplit('.').next().unwrap_or(&inbox).to_string()
}

/// All messages of the epoch in order: change chunks, records, marker.
fn batch(prefix: &str, epoch: &Arc<Epoch>, fence: &Fence) -> Result<Vec<Outgoing>, String> {
    let mut messages = Vec::with_capacity(epoch.records.rows.len() + 4);
    let delta = Bytes::from_owner(Shared { epoch: Arc::clone(epoch), part: |epoch| &epoch.delta });
    for (idx, chunk) in epoch.changes().enumerate() {
        let start = idx * CHANGE_BYTES_MAX;
        let mut headers = HeaderMap::new();
        if idx == 0
            && let Some(slot) = &fence.slot
        {
            headers.insert(EXPECTED, HeaderValue::from(fence.sequence));
            headers.insert(EXPECTED_SUBJECT, header_value(&format!("{prefix}.mark.{slot}"))?);
        }
        let payload = delta.slice(start..start + chunk.len());
        messages.push(Outgoing { subject: format!("{prefix}.chg"), headers, payload });
    }
    let arena = Bytes::from_owner(Shared { epoch: Arc::clone(epoch), part: |epoch| &epoch.records.data });
    for (idx, row) in epoch.records.rows.iter().enumerate() {
        let suffix = std::str::from_utf8(epoch.records.slice(&row.subject))
            .map_err(|_| format!("record {idx}: its subject is not text"))?;
        let headers =
            parse_headers(epoch.records.slice(&row.headers)).map_err(|text| format!("record {idx}: {text}"))?;
        let payload = arena.slice(to_usize(&row.payload));
        messages.push(Outgoing { subject: format!("{prefix}.{suffix}"), headers, payload });
    }
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, HeaderValue::from(fence.sequence));
    headers.insert(EXPECTED_SUBJECT, header_value(&crate::names::marker_filter(prefix))?);
    let subject = format!("{prefix}.mark.{}", epoch.marker.slot());
    messages.push(Outgoing { subject, headers, payload: Bytes::from(epoch.marker.encode()) });
    Ok(messages)
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|error| format!("header value {text:?}: {error}"))
}

/// Reads a block of `name: value\r\n` lines; commands to the server become plain headers.
fn parse_headers(block: &[u8]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if block.is_empty() {
        return Ok(headers);
    }
    let text = String::from_utf8_lossy(block);
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("header line {line:?} has no colon"))?;
        let is_command = name.get(..COMMAND.len()).is_some_and(|start| start.eq_ignore_ascii_case(COMMAND));
        let name = if is_command { HeaderName::from_str(&format!("{KEPT}{name}")) } else { HeaderName::from_str(name) }
            .map_err(|error| format!("header name {name:?}: {error}"))?;
        headers.append(name, header_value(value.strip_prefix(' ').unwrap_or(value))?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_blocks_are_read() {
        let headers = parse_headers(b"A: 1\r\nB:  two\r\nA: 3\r\n").expect("good");
        let all: Vec<_> = headers.get_all("A").map(HeaderValue::as_str).collect();
        assert_eq!(all, ["1", "3"]);
        assert_eq!(headers.get("B").map(HeaderValue::as_str), Some(" two"));
        assert!(parse_headers(b"").expect("empty").is_empty());
        assert!(parse_headers(b"no colon\r\n").is_err());
    }

    #[test]
    fn commands_to_the_server_are_kept_as_plain_headers() {
        let headers = parse_headers(b"Nats-Msg-Id: 1\r\nnats-rollup: all\r\nNatsish: 2\r\n").expect("good");
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["Natsish", "Pelton-Kept-Nats-Msg-Id", "Pelton-Kept-nats-rollup"]);
    }
}
