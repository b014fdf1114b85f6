//! Follows subjects of a stream, for people: message by message, so that one which no client can read does no harm.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::api::Fault;
use crate::connect::Broker;
use crate::error::BrokerError;
use crate::stored::{Stored, Walk};

/// How often the end of the stream is looked at.
const POLL: Duration = Duration::from_millis(100);

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Tailed {
    pub sequence: u64,
    pub subject: String,
    /// Nothing when a client cannot read them.
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// Messages behind this one that were seen; 0 when it was the last one.
    pub pending: u64,
}

/// Messages in order, for ever; a lost connection only takes time.
pub struct Tail {
    broker: Broker,
    stream: String,
    filter: String,
    walk: Walk,
    /// Read and not handed out.
    waiting: VecDeque<Stored>,
    /// The next sequence to ask for.
    next: u64,
    /// Messages that were there when it was opened, as far as it looked: 0 means none.
    pub backlog: u64,
}

/// Follows the subjects that match `filter`, from sequence `from` on, or only new ones.
///
/// # Errors
/// When the stream is not there or the filter is not a subject.
pub async fn tail(broker: &Broker, stream: &str, filter: &str, from: Option<u64>) -> Result<Tail, BrokerError> {
    let fail = |fault: Fault| request_error(stream, filter, &fault);
    let next = match from {
        Some(sequence) => sequence.max(1),
        None => broker.stream_info(stream).await.map_err(fail)?.state.last_sequence.saturating_add(1),
    };
    let mut tail = Tail {
        broker: broker.clone(),
        stream: stream.to_string(),
        filter: filter.to_string(),
        walk: Walk::default(),
        waiting: VecDeque::new(),
        next,
        backlog: 0,
    };
    tail.look().await.map_err(fail)?;
    tail.backlog = tail.waiting.len() as u64;
    Ok(tail)
}

impl Tail {
    /// The next message.
    ///
    /// # Errors
    /// When the stream is gone; a lost connection is no error.
    pub async fn next(&mut self) -> Option<Result<Tailed, BrokerError>> {
        loop {
            // One more than is handed out: the caller learns whether it was the last one.
            if self.waiting.len() < 2 {
                match self.look().await {
                    Ok(()) => {}
                    Err(Fault::Unavailable(_)) => {
                        self.pause().await;
                        continue;
                    }
                    Err(fault) => return Some(Err(request_error(&self.stream, &self.filter, &fault))),
                }
            }
            if let Some(message) = self.waiting.pop_front() {
                return Some(Ok(Tailed {
                    sequence: message.sequence,
                    subject: message.subject,
                    headers: message.headers,
                    payload: message.payload,
                    pending: self.waiting.len() as u64,
                }));
            }
            self.pause().await;
        }
    }

    async fn look(&mut self) -> Result<(), Fault> {
        let found = self.walk.next(&self.broker, &self.stream, &self.filter, self.next).await?;
        if let Some(last) = found.last() {
            self.next = last.sequence.saturating_add(1);
        }
        self.waiting.extend(found);
        Ok(())
    }

    async fn pause(&self) {
        tokio::time::sleep(POLL).await;
    }
}

fn request_error(stream: &str, filter: &str, fault: &Fault) -> BrokerError {
    BrokerError::Request { what: format!("follow {filter} in {stream}"), cause: fault.to_string() }
}
