//! Pull requests by hand over a core subscription: no context is cloned per message, and nothing restarts on its own.

use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::api::{Fault, within};
use crate::connect::Broker;
use crate::error::API_TIMEOUT;
use crate::link::Action;

const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which a pull is given up: two heartbeats and a margin.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);
const EXPIRES: Duration = Duration::from_secs(30);
/// A pull that was forbidden is tried again after this long: somebody may have changed that.
const FORBIDDEN: Duration = Duration::from_secs(10);

/// How much is asked for ahead of need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullSize {
    /// Messages of one request.
    pub(crate) messages: u32,
    /// Bytes of one request.
    pub(crate) bytes: u32,
    /// Requests in flight at most; their product with the sizes bounds what waits in the client.
    pub(crate) requests: u32,
}

/// Requests in flight and the inbox that they are answered on.
pub(crate) struct Pull {
    subject: String,
    inbox: String,
    subscriber: Subscriber,
    size: PullSize,
    opened: Instant,
    /// Messages asked for and not yet seen.
    outstanding: i64,
    last_heard: Instant,
    /// A message larger than a whole request waits: ask for one message without a byte limit.
    is_oversize: bool,
    has_message: bool,
    /// Requests went out since the consumer was last seen to be the one that this inbox was opened for.
    pub(crate) is_unchecked: bool,
}

/// What came out of the inbox.
pub(crate) enum Item {
    Message(Message),
    /// A heartbeat, or the end of one request.
    Status,
    /// The consumer cannot be pulled from any more.
    Gone(String),
}

impl Pull {
    /// Subscribes to a fresh inbox. Deliveries to an older one cannot reach it.
    pub(crate) async fn open(broker: &Broker, stream: &str, consumer: &str, size: PullSize) -> Result<Pull, Fault> {
        let client = broker.client();
        let inbox = client.new_inbox();
        let subscriber = within(API_TIMEOUT, "subscribe for events", client.subscribe(inbox.clone())).await?;
        Ok(Pull {
            subject: format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", broker.api_prefix()),
            inbox,
            subscriber,
            size,
            opened: Instant::now(),
            outstanding: 0,
            last_heard: Instant::now(),
            is_oversize: false,
            has_message: false,
            is_unchecked: true,
        })
    }

    /// Unsubscribes, so that the server drops the requests that still wait.
    pub(crate) async fn close(mut self) {
        let _ = within(API_TIMEOUT, "unsubscribe", self.subscriber.unsubscribe()).await;
    }

    /// Asks for more until the wanted number of requests is in flight.
    pub(crate) async fn top_up(&mut self, broker: &Broker) -> Result<(), Fault> {
        let messages = i64::from(self.size.messages);
        if self.outstanding <= 0 {
            self.outstanding = 0;
            self.last_heard = Instant::now();
            if self.is_oversize {
                self.is_oversize = false;
                return self.ask(broker, 1, None).await;
            }
        }
        while self.outstanding <= messages * i64::from(self.size.requests - 1) {
            self.ask(broker, self.size.messages, Some(self.size.bytes)).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, broker: &Broker, messages: u32, bytes: Option<u32>) -> Result<(), Fault> {
        let mut body = json!({
            "batch": messages,
            "expires": EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        if let Some(bytes) = bytes {
            body["max_bytes"] = json!(bytes);
        }
        let request = Bytes::from(body.to_string());
        let client = broker.client();
        let publish = client.publish_with_reply(self.subject.clone(), self.inbox.clone(), request);
        within(API_TIMEOUT, "ask for events", publish).await?;
        self.outstanding += i64::from(messages);
        self.has_message = false;
        self.is_unchecked = true;
        Ok(())
    }

    /// What has already arrived. Call it in [`tokio::task::unconstrained`]: a task out of budget looks empty.
    pub(crate) fn try_next(&mut self) -> Option<Item> {
        let message = self.subscriber.next().now_or_never()?;
        Some(self.sort(message))
    }

    /// Waits for the next arrival. Cancel safe.
    pub(crate) async fn next(&mut self) -> Item {
        let message = self.subscriber.next().await;
        self.sort(message)
    }

    /// Nothing came for so long that the requests must be lost.
    pub(crate) fn is_silent(&self) -> bool {
        self.last_heard.elapsed() > SILENCE_MAX
    }

    /// Why nothing can come: the server forbids the requests, or the inbox.
    pub(crate) fn forbidden(&self, broker: &Broker) -> Option<String> {
        let since = Instant::now().checked_sub(FORBIDDEN).map_or(self.opened, |recently| recently.max(self.opened));
        broker.denials().find(since, |action, subject| match action {
            Action::Publish => subject == self.subject,
            Action::Subscribe => subject == self.inbox,
        })
    }

    fn sort(&mut self, message: Option<Message>) -> Item {
        let Some(message) = message else { return Item::Gone("the subscription ended".to_string()) };
        // A status of the server has nowhere to reply to; one with a reply is the status line of a stored message.
        let Some(status) = message.status.filter(|_| message.reply.is_none()) else {
            self.outstanding -= 1;
            self.has_message = true;
            return Item::Message(message);
        };
        self.last_heard = Instant::now();
        let description = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            100 => Item::Status,
            404 | 408 => self.end_request(&message),
            409 if description.contains("Consumer Deleted") || description.contains("push based") => {
                Item::Gone(description.to_string())
            }
            409 => {
                if description.contains("Message Size Exceeds") && !self.has_message {
                    self.is_oversize = true;
                }
                self.end_request(&message)
            }
            code => Item::Gone(format!("status {code} {description}")),
        }
    }

    /// One request ended with some of its messages not delivered.
    fn end_request(&mut self, message: &Message) -> Item {
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|value| value.as_str().parse::<i64>().ok());
        match left {
            Some(left) => self.outstanding -= left,
            None => self.outstanding = 0,
        }
        Item::Status
    }

    /// Marks the moment of the last message; once per drain, not per message.
    pub(crate) fn heard(&mut self) {
        self.last_heard = Instant::now();
    }
}
