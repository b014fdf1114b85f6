//! Follows subjects of a stream, for people.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::connect::{Broker, BrokerError};

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Tailed {
    pub sequence: u64,
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// Messages behind this one.
    pub pending: u64,
}

/// Messages in order, for ever; the reader is made again after a lost connection.
pub struct Tail {
    messages: Ordered,
    /// Messages that were there when it was opened.
    pub backlog: u64,
}

/// Follows the subjects that match `filter`, from sequence `from` on, or only new ones.
///
/// # Errors
/// When the stream is not there or the filter is not a subject.
pub async fn tail(broker: &Broker, stream: &str, filter: &str, from: Option<u64>) -> Result<Tail, BrokerError> {
    let fail = |cause: String| BrokerError::Request { what: format!("follow {filter} in {stream}"), cause };
    let deliver_policy = match from {
        Some(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence: start_sequence.max(1) },
        None => DeliverPolicy::New,
    };
    let config = OrderedConfig { filter_subject: filter.to_string(), deliver_policy, ..OrderedConfig::default() };
    let consumer =
        broker.context().create_consumer_on_stream(config, stream).await.map_err(|error| fail(error.to_string()))?;
    let backlog = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.map_err(|error| fail(error.to_string()))?;
    Ok(Tail { messages, backlog })
}

impl Tail {
    /// The next message. `None` when the connection is closed.
    ///
    /// # Errors
    /// When the stream is gone; a lost connection is no error.
    pub async fn next(&mut self) -> Option<Result<Tailed, BrokerError>> {
        let fail = |cause: String| BrokerError::Request { what: "follow".to_string(), cause };
        let message = match self.messages.next().await? {
            Ok(message) => message,
            Err(error) => return Some(Err(fail(error.to_string()))),
        };
        let info = match message.info() {
            Ok(info) => (info.stream_sequence, info.pending),
            Err(error) => return Some(Err(fail(error.to_string()))),
        };
        let (message, _) = message.split();
        Some(Ok(Tailed {
            sequence: info.0,
            subject: message.subject.to_string(),
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
            pending: info.1,
        }))
    }
}
