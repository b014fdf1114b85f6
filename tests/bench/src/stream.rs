//! The records of a pipeline stream, read back and compared message by message.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

/// What a subject of a pipeline stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Output,
    DeadLetter,
    Late,
}

/// One message as the pipeline wrote it. What the broker adds (sequence, time) is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// In the order of the names.
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

impl Record {
    /// The value of a header; `None` when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// All records of a pipeline, per subject (which names the partition) in the order of the stream.
///
/// The order is compared within a subject: how records of different subjects interleave depends on where epochs
/// were cut, and nobody may rely on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    pub subjects: BTreeMap<String, Vec<Record>>,
}

impl Dump {
    /// Subjects of one kind with their records.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &[Record])> {
        self.subjects
            .iter()
            .filter(move |(subject, _)| kind_of(subject) == Some(kind))
            .map(|(subject, records)| (subject.as_str(), records.as_slice()))
    }

    /// Number of records of one kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.of(kind).map(|(_, records)| records.len() as u64).sum()
    }

    /// Where two dumps differ, at most one line per subject; empty when they are byte-equal.
    #[must_use]
    pub fn differences(&self, other: &Dump) -> Vec<String> {
        let none = Vec::new();
        let subjects = self.subjects.keys().chain(other.subjects.keys().filter(|s| !self.subjects.contains_key(*s)));
        subjects
            .filter_map(|subject| {
                let left = self.subjects.get(subject).unwrap_or(&none);
                let right = other.subjects.get(subject).unwrap_or(&none);
                difference(left, right).map(|what| format!("{subject}: {what}"))
            })
            .collect()
    }
}

fn difference(left: &[Record], right: &[Record]) -> Option<String> {
    let first = left.iter().zip(right).position(|(a, b)| a != b);
    match first {
        Some(idx) => Some(format!("record {} differs: {} against {}", idx + 1, brief(&left[idx]), brief(&right[idx]))),
        None if left.len() != right.len() => Some(format!("{} records against {}", left.len(), right.len())),
        None => None,
    }
}

fn brief(record: &Record) -> String {
    format!("{:?} {}", record.headers, String::from_utf8_lossy(&record.payload).chars().take(200).collect::<String>())
}

/// `pelton.<pipeline>.<partition>.<kind>.…`.
fn kind_of(subject: &str) -> Option<Kind> {
    match subject.split('.').nth(3)? {
        "out" => Some(Kind::Output),
        "dlq" => Some(Kind::DeadLetter),
        "late" => Some(Kind::Late),
        _ => None,
    }
}

/// The pipeline stream's name.
#[must_use]
pub fn name_of(pipeline: &str) -> String {
    format!("PELTON_{pipeline}")
}

/// Input events that a pipeline has committed so far, over all partitions; 0 before its first epoch.
///
/// # Errors
/// When the stream is not there or a marker does not decode.
pub async fn committed(context: &async_nats::jetstream::Context, pipeline: &str) -> Result<u64> {
    let name = name_of(pipeline);
    let stream = context.get_stream_no_info(&name).await.with_context(|| format!("opening stream `{name}`"))?;
    let mut sum = 0;
    for partition in 0.. {
        let filter = format!("pelton.{pipeline}.{partition}.marker.>");
        let Ok(message) = stream.get_last_raw_message_by_subject(&filter).await else { break };
        let marker: Marker = serde_json::from_slice(&message.payload).context("a marker does not decode")?;
        sum += marker.totals_sum.received;
    }
    Ok(sum)
}

/// The part of a marker that counts events.
#[derive(Deserialize)]
struct Marker {
    totals_sum: Totals,
}

#[derive(Deserialize)]
struct Totals {
    received: u64,
}

/// Reads all records of a pipeline.
///
/// # Errors
/// When the broker fails or goes silent.
pub async fn dump(url: &str, pipeline: &str) -> Result<Dump> {
    let mut dump = Dump::default();
    each(url, &name_of(pipeline), |message| {
        if kind_of(&message.subject).is_some() {
            let record = Record { headers: headers(message), payload: message.payload.clone() };
            dump.subjects.entry(message.subject.to_string()).or_default().push(record);
        }
        Ok(())
    })
    .await?;
    Ok(dump)
}

/// Calls `visit` for each message that a stream holds now, in order.
///
/// # Errors
/// When the broker fails or goes silent, or `visit` fails.
pub async fn each(
    url: &str,
    stream: &str,
    mut visit: impl FnMut(&async_nats::jetstream::Message) -> Result<()>,
) -> Result<()> {
    let client = async_nats::connect(url).await.with_context(|| format!("connecting to {url}"))?;
    let context = async_nats::jetstream::new(client);
    let mut stream = context.get_stream(stream).await.with_context(|| format!("opening stream `{stream}`"))?;
    if stream.info().await.context("reading the stream's state")?.state.messages == 0 {
        return Ok(());
    }
    let consumer = stream.create_consumer(OrderedConfig::default()).await.context("creating a consumer")?;
    let mut messages = consumer.messages().await.context("asking for messages")?;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
        let message = next.context("the server went silent")?.context("the server ended the stream")?;
        let message = message.context("reading a message")?;
        visit(&message)?;
        let pending = message.info().map_err(|error| anyhow::anyhow!("no position in a message: {error}"))?.pending;
        if pending == 0 {
            return Ok(());
        }
    }
}

fn headers(message: &async_nats::jetstream::Message) -> Vec<(String, String)> {
    let Some(map) = &message.headers else { return Vec::new() };
    let mut headers: Vec<(String, String)> = map
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
        // The broker's own protocol headers name batches and fences, which differ from run to run.
        .filter(|(name, _)| !name.starts_with("Nats-"))
        .collect();
    headers.sort();
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(records: &[(&str, &str)]) -> Dump {
        let mut dump = Dump::default();
        for (subject, payload) in records {
            let record = Record { headers: Vec::new(), payload: Bytes::from((*payload).to_owned()) };
            dump.subjects.entry((*subject).to_owned()).or_default().push(record);
        }
        dump
    }

    #[test]
    fn equal_dumps_have_no_differences_whatever_the_interleaving() {
        let left = dump(&[("pelton.p.0.out.a", "1"), ("pelton.p.0.late.s", "x"), ("pelton.p.0.out.a", "2")]);
        let right = dump(&[("pelton.p.0.late.s", "x"), ("pelton.p.0.out.a", "1"), ("pelton.p.0.out.a", "2")]);
        assert_eq!(left.differences(&right), Vec::<String>::new());
    }

    #[test]
    fn a_lost_a_doubled_and_a_changed_record_are_differences() {
        let left = dump(&[("pelton.p.0.out.a", "1"), ("pelton.p.0.out.a", "2")]);
        for right in [
            dump(&[("pelton.p.0.out.a", "1")]),
            dump(&[("pelton.p.0.out.a", "1"), ("pelton.p.0.out.a", "2"), ("pelton.p.0.out.a", "2")]),
            dump(&[("pelton.p.0.out.a", "2"), ("pelton.p.0.out.a", "1")]),
            dump(&[("pelton.p.0.out.b", "1"), ("pelton.p.0.out.b", "2")]),
        ] {
            assert!(!left.differences(&right).is_empty());
        }
    }
}
