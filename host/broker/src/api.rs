//! Requests to the JetStream API, with every failure sorted into one [`Fault`].

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response as ApiResponse;
use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use pelton_engine::epoch::{StreamIdentity, Unreadable};
use pelton_engine::log::{Response, StreamFacts};
use pelton_engine::time::WallTime;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::code::{Class, classify};
use crate::connect::Broker;
use crate::error::{API_TIMEOUT, chain};
use crate::link::Action;

/// Why a request did not give what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The stream is not there.
    #[error("stream {0} is not there")]
    Missing(String),
    /// No answer, or an answer that says "not now".
    #[error("{0}")]
    Unavailable(String),
    /// The server said no.
    #[error("{description} (error {code})")]
    Refused { code: u64, class: Class, description: String },
    /// What was read makes no sense.
    #[error("{0}")]
    Damaged(String),
    /// What was read is of another version of Pelton.
    #[error("{0}")]
    OtherFormat(String),
}

impl From<Fault> for Response {
    fn from(fault: Fault) -> Response {
        match fault {
            Fault::Missing(stream) => Response::Missing { stream },
            Fault::Damaged(text) => Response::Damaged(text),
            Fault::OtherFormat(text) => Response::OtherFormat(text),
            fault @ (Fault::Unavailable(_) | Fault::Refused { .. }) => Response::Unavailable(fault.to_string()),
        }
    }
}

impl Fault {
    /// About a marker at this sequence of a stream.
    pub(crate) fn of_marker(error: &Unreadable, stream: &str, sequence: u64) -> Fault {
        let text = format!("sequence {sequence} of {stream}: {error}");
        match error {
            Unreadable::Format(_) => Fault::OtherFormat(text),
            Unreadable::Damaged(_) => Fault::Damaged(text),
        }
    }

    pub(crate) fn is(&self, wanted: Class) -> bool {
        matches!(self, Fault::Refused { class, .. } if *class == wanted)
    }
}

/// State of a consumer, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ConsumerState {
    /// As the server writes it; another consumer of the same name was made at another time.
    #[serde(default)]
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) num_pending: u64,
    /// Delivered and without an ack.
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) config: ConsumerSettings,
    #[serde(default)]
    pub(crate) delivered: SequencePair,
    #[serde(default)]
    pub(crate) ack_floor: SequencePair,
}

/// What matters of a consumer's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ConsumerSettings {
    /// Deliveries stop at so many without an ack.
    #[serde(default)]
    pub(crate) max_ack_pending: i64,
}

/// A position of a consumer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct SequencePair {
    #[serde(default)]
    pub(crate) consumer_seq: u64,
    #[serde(default)]
    pub(crate) stream_seq: u64,
}

/// A stream, and when the server looked at it.
#[derive(Deserialize)]
pub(crate) struct StreamInfo {
    #[serde(flatten)]
    info: Info,
    #[serde(default)]
    ts: String,
}

impl std::ops::Deref for StreamInfo {
    type Target = Info;

    fn deref(&self) -> &Info {
        &self.info
    }
}

impl StreamInfo {
    /// The server's clock; 0 when it did not say.
    pub(crate) fn broker_time(&self) -> WallTime {
        WallTime(self.ts.parse::<jiff::Timestamp>().map_or(0, |time| time.as_millisecond()))
    }
}

impl Broker {
    /// One request to the API. `stream` is named in the fault when it is missing.
    pub(crate) async fn api<T: DeserializeOwned>(&self, stream: &str, verb: &str, body: &Value) -> Result<T, Fault> {
        self.api_within(API_TIMEOUT, stream, verb, body).await
    }

    /// [`Broker::api`] for what may take longer than a look at a state.
    pub(crate) async fn api_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        stream: &str,
        verb: &str,
        body: &Value,
    ) -> Result<T, Fault> {
        let subject = format!("{}.{verb}", self.api_prefix());
        let mut context = self.context();
        context.set_timeout(timeout);
        let answer: Result<ApiResponse<T>, _> =
            self.or_denied(&subject, context.request(verb.to_string(), body)).await?;
        match answer {
            Ok(ApiResponse::Ok(value)) => Ok(value),
            Ok(ApiResponse::Err { error }) => Err(server_fault(stream, error.error_code().0, &error.to_string())),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::TimedOut => Fault::Unavailable(format!("{verb}: no answer in time")),
                RequestErrorKind::NoResponders => Fault::Unavailable(format!("{verb}: JetStream does not answer")),
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    Fault::Unavailable(format!("{verb}: {}", chain(&error)))
                }
            }),
        }
    }

    /// `request`, unless the server says meanwhile that the connection must not publish to `subject`, or has said that
    /// answers cannot reach it: then nobody will answer.
    async fn or_denied<T>(&self, subject: &str, request: impl Future<Output = T>) -> Result<T, Fault> {
        let since = Instant::now();
        // Answers to requests come on one inbox of the client: none but those below the prefix of all inboxes.
        let inbox = format!("{}.", self.inbox_prefix());
        let concerns = |action, denied: &str| match action {
            Action::Publish => denied == subject,
            Action::Subscribe => denied.starts_with(&inbox) && denied.ends_with(".*"),
        };
        tokio::select! {
            answer = request => Ok(answer),
            text = self.denials().wait(since, concerns) => Err(Fault::Unavailable(text)),
        }
    }

    /// Configuration and state of a stream.
    pub(crate) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, Fault> {
        self.api(stream, &format!("STREAM.INFO.{stream}"), &json!({})).await
    }

    /// What the protocol needs to know of a stream.
    pub(crate) async fn stream_facts(&self, stream: &str) -> Result<StreamFacts, Fault> {
        let info = self.stream_info(stream).await?;
        Ok(facts(stream, &info))
    }

    /// Publishes one message and waits for its sequence; `expected` is the last sequence of its subject.
    pub(crate) async fn put(
        &self,
        stream: &str,
        subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
        expected: u64,
    ) -> Result<u64, Fault> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let request = async_nats::Request::new().payload(payload).headers(headers);
        let client = self.client();
        let sent = self.or_denied(&subject, client.send_request(subject.clone(), request)).await?;
        let message = sent.map_err(|error| {
            if error.kind() == async_nats::RequestErrorKind::NoResponders {
                Fault::Missing(stream.to_string())
            } else {
                Fault::Unavailable(format!("publish to {stream}: {}", chain(&error)))
            }
        })?;
        match serde_json::from_slice(&message.payload) {
            Ok(ApiResponse::Ok(Ack { seq })) => Ok(seq),
            Ok(ApiResponse::Err { error }) => Err(server_fault(stream, error.error_code().0, &error.to_string())),
            Err(error) => Err(Fault::Unavailable(format!("publish to {stream}: answer does not decode: {error}"))),
        }
    }
}

fn server_fault(stream: &str, code: u64, description: &str) -> Fault {
    match classify(code, description) {
        Class::NoStream => Fault::Missing(stream.to_string()),
        Class::Environment | Class::Doubtful => Fault::Unavailable(description.to_string()),
        class @ (Class::Fenced | Class::NoConsumer | Class::NoMessage | Class::Permanent | Class::Refused) => {
            Fault::Refused { code, class, description: description.to_string() }
        }
    }
}

pub(crate) fn facts(stream: &str, info: &Info) -> StreamFacts {
    StreamFacts {
        identity: StreamIdentity { name: stream.to_string(), created: created(info) },
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
    }
}

/// When the stream was made, nanoseconds since the Unix epoch.
pub(crate) fn created(info: &Info) -> i64 {
    i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// `future`, or a fault after `limit`: for calls of the client that wait while it is not connected.
pub(crate) async fn within<T, E: std::fmt::Display>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault::Unavailable(format!("{what}: {error}"))),
        Err(_) => Err(Fault::Unavailable(format!("{what}: not done after {} ms", limit.as_millis()))),
    }
}
