//! Single messages as the stream holds them, by `STREAM.MSG.GET`: JSON and base64, so that no header of others meets the
//! parser of a connection.

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Fault;
use crate::code::Class;
use crate::connect::Broker;
use crate::headers;

/// A stored message.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    /// What a client can read of the headers: nothing when it cannot read all of them.
    pub(crate) headers: HeaderMap,
    /// The whole header block when a client cannot read it.
    pub(crate) unreadable: Option<Unreadable>,
    pub(crate) payload: Bytes,
    /// When it was stored, milliseconds since the Unix epoch, rounded as the pull does.
    pub(crate) stored_ms: i64,
}

/// A header block that would end a client's connection.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) block: Vec<u8>,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
    time: String,
}

impl Broker {
    /// The message at a sequence, from the leader.
    pub(crate) async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Fault> {
        self.message(stream, &json!({ "seq": sequence })).await
    }

    /// The last message of a subject (wildcards work), from the leader.
    pub(crate) async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Stored>, Fault> {
        self.message(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The first message of a subject (wildcards work) at or behind a sequence, from the leader.
    pub(crate) async fn next_message(&self, stream: &str, subject: &str, from: u64) -> Result<Option<Stored>, Fault> {
        self.message(stream, &json!({ "seq": from, "next_by_subj": subject })).await
    }

    async fn message(&self, stream: &str, body: &Value) -> Result<Option<Stored>, Fault> {
        let answer: Result<Answer, Fault> = self.api(stream, &format!("STREAM.MSG.GET.{stream}"), body).await;
        match answer {
            Ok(answer) => {
                let sequence = answer.message.seq;
                decode(answer.message)
                    .map(Some)
                    .map_err(|text| Fault::Damaged(format!("message {sequence} of {stream} does not decode: {text}")))
            }
            Err(fault) if fault.is(Class::NoMessage) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Reads on message by message, several requests at a time where messages lie close together.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    window: u64,
}

/// Requests in flight at most.
const WINDOW_MAX: u64 = 32;

impl Default for Walk {
    fn default() -> Walk {
        Walk { window: 1 }
    }
}

impl Walk {
    /// The next messages of a subject from a sequence on, in order and without a gap; none only when none is left.
    pub(crate) async fn next(
        &mut self,
        broker: &Broker,
        stream: &str,
        subject: &str,
        from: u64,
    ) -> Result<Vec<Stored>, Fault> {
        let asked = self.window;
        let found =
            try_join_all((0..asked).map(|step| broker.next_message(stream, subject, from.saturating_add(step))))
                .await?;
        // Each answer is the first message at or behind its sequence. Behind an answer that says "none" a message may
        // have been stored that this request did not see yet.
        let mut messages: Vec<Stored> = found.into_iter().map_while(|message| message).collect();
        messages.dedup_by_key(|message| message.sequence);
        let is_dense = messages.len() as u64 == asked;
        self.window = if is_dense { (asked * 2).min(WINDOW_MAX) } else { (messages.len() as u64).max(1) };
        Ok(messages)
    }
}

/// A whole answer; for `tests/fuzz`.
pub(crate) fn parse(answer: &[u8]) -> Result<Stored, String> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    decode(answer.message)
}

fn decode(raw: Raw) -> Result<Stored, String> {
    let bytes = |text: Option<String>| STANDARD.decode(text.unwrap_or_default()).map_err(|error| error.to_string());
    let time: jiff::Timestamp = raw.time.parse().map_err(|error| format!("its time {:?}: {error}", raw.time))?;
    let block = bytes(raw.hdrs)?;
    let (headers, unreadable) = match headers::read(&block) {
        Ok(headers) => (headers, None),
        Err(reason) => (HeaderMap::new(), Some(Unreadable { block, reason })),
    };
    Ok(Stored {
        sequence: raw.seq,
        subject: raw.subject,
        headers,
        unreadable,
        payload: bytes(raw.data)?.into(),
        stored_ms: i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(headers: &[u8]) -> Raw {
        Raw {
            subject: "a.b".to_string(),
            seq: 7,
            hdrs: Some(STANDARD.encode(headers)),
            data: Some(STANDARD.encode("body")),
            time: "2024-05-01T00:00:00.123987654Z".to_string(),
        }
    }

    #[test]
    fn a_message_keeps_what_no_client_can_read() {
        let good = decode(raw(b"NATS/1.0\r\nA: 1\r\n\r\n")).expect("decodes");
        assert_eq!(good.headers.get("A").map(|value| value.as_str()), Some("1"));
        assert_eq!((good.stored_ms, good.payload.as_ref()), (1_714_521_600_123, &b"body"[..]));
        let bad = decode(raw(b"NATS/1.0\r\nA: \xe9\r\n\r\n")).expect("decodes");
        assert!(bad.headers.is_empty());
        assert_eq!(bad.unreadable.expect("not readable").block, b"NATS/1.0\r\nA: \xe9\r\n\r\n");
        let bare = decode(Raw { hdrs: None, data: None, ..raw(b"") }).expect("decodes");
        assert!(bare.unreadable.is_none() && bare.payload.is_empty());
    }

    #[test]
    fn what_is_no_base64_is_told() {
        let error = decode(Raw { data: Some("*".to_string()), ..raw(b"") }).expect_err("no base64");
        assert!(!error.is_empty());
        assert!(decode(Raw { time: "soon".to_string(), ..raw(b"") }).expect_err("no time").contains("soon"));
    }
}
