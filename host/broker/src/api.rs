//! Requests to the JetStream API, with every failure sorted into one [`Fault`].

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response as ApiResponse;
use async_nats::jetstream::stream::{Info, RawMessage};
use bytes::Bytes;
use pelton_engine::epoch::StreamIdentity;
use pelton_engine::log::{Response, StreamFacts};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::code::{Class, classify};
use crate::connect::Broker;

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
}

impl From<Fault> for Response {
    fn from(fault: Fault) -> Response {
        match fault {
            Fault::Missing(stream) => Response::Missing { stream },
            Fault::Damaged(text) => Response::Damaged(text),
            fault @ (Fault::Unavailable(_) | Fault::Refused { .. }) => Response::Unavailable(fault.to_string()),
        }
    }
}

impl Fault {
    pub(crate) fn is(&self, wanted: Class) -> bool {
        matches!(self, Fault::Refused { class, .. } if *class == wanted)
    }

    /// `Ok(None)` for "no such message".
    fn or_none<T>(result: Result<T, Fault>) -> Result<Option<T>, Fault> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(fault) if fault.is(Class::NoMessage) => Ok(None),
            Err(fault) => Err(fault),
        }
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
    #[serde(default)]
    pub(crate) delivered: SequencePair,
    #[serde(default)]
    pub(crate) ack_floor: SequencePair,
}

/// A position of a consumer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct SequencePair {
    #[serde(default)]
    pub(crate) consumer_seq: u64,
    #[serde(default)]
    pub(crate) stream_seq: u64,
}

#[derive(Deserialize)]
struct RawAnswer {
    message: RawMessage,
}

impl Broker {
    /// One request to the API. `stream` is named in the fault when it is missing.
    pub(crate) async fn api<T: DeserializeOwned>(&self, stream: &str, verb: &str, body: &Value) -> Result<T, Fault> {
        let answer: Result<ApiResponse<T>, _> = self.context().request(verb.to_string(), body).await;
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

    /// Configuration and state of a stream.
    pub(crate) async fn stream_info(&self, stream: &str) -> Result<Info, Fault> {
        self.api(stream, &format!("STREAM.INFO.{stream}"), &json!({})).await
    }

    /// What the protocol needs to know of a stream.
    pub(crate) async fn stream_facts(&self, stream: &str) -> Result<StreamFacts, Fault> {
        Ok(facts(stream, &self.stream_info(stream).await?))
    }

    /// The message at a sequence, from the leader.
    pub(crate) async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<StreamMessage>, Fault> {
        self.message(stream, &json!({ "seq": sequence })).await
    }

    /// The last message of a subject (wildcards work), from the leader.
    pub(crate) async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<StreamMessage>, Fault> {
        self.message(stream, &json!({ "last_by_subj": subject })).await
    }

    async fn message(&self, stream: &str, body: &Value) -> Result<Option<StreamMessage>, Fault> {
        let answer: Result<RawAnswer, Fault> = self.api(stream, &format!("STREAM.MSG.GET.{stream}"), body).await;
        let Some(answer) = Fault::or_none(answer)? else { return Ok(None) };
        let sequence = answer.message.sequence;
        StreamMessage::try_from(answer.message)
            .map(Some)
            .map_err(|error| Fault::Damaged(format!("message {sequence} of {stream} does not decode: {error}")))
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
        let message = self.client().send_request(subject, request).await.map_err(|error| {
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
        class @ (Class::Fenced | Class::NoConsumer | Class::NoMessage | Class::Refused) => {
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

/// When a message was stored, milliseconds since the Unix epoch, rounded as the pull does.
pub(crate) fn stored_ms(message: &StreamMessage) -> i64 {
    i64::try_from(message.time.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
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
