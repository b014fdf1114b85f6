//! Reading a whole JetStream stream as fast as async-nats can, with one acknowledgement per 10,000 messages:
//! the yardstick for a pipeline that reads the same stream.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::StreamExt;

/// Messages per pull and per acknowledgement. Three halves of it stay below the client's buffer of 65,536,
/// beyond which the client drops messages.
const BATCH: usize = 10_000;
/// A server that sends nothing for this long has nothing more, or is dead.
const SILENCE: Duration = Duration::from_secs(10);

/// The two fastest documented ways of async-nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// `consumer.stream().messages()`: the usual way.
    Stream,
    /// A core subscription with hand-written pull requests: less work per message.
    CorePull,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    pub messages: u64,
    pub bytes: u64,
}

/// Reads all messages that the stream holds now.
///
/// # Errors
/// When the server fails or goes silent before the end.
pub async fn consume(url: &str, stream: &str, way: Way) -> Result<Read> {
    let client = async_nats::connect(url).await.with_context(|| format!("connecting to {url}"))?;
    let context = async_nats::jetstream::new(client.clone());
    let mut stream = context.get_stream(stream).await.with_context(|| format!("opening stream `{stream}`"))?;
    let expected = stream.info().await.context("reading the stream's state")?.state.messages;
    let name = format!("yardstick-{}", client.new_inbox().rsplit('.').next().unwrap_or("0"));
    let consumer = create(&stream, &name).await?;
    let read = match way {
        Way::Stream => read_stream(&consumer, expected).await,
        Way::CorePull => read_core(&client, &stream.cached_info().config.name, &name, expected).await,
    };
    stream.delete_consumer(&name).await.context("deleting the consumer")?;
    read
}

async fn create(stream: &Stream, name: &str) -> Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::All,
        ack_wait: Duration::from_secs(60),
        max_ack_pending: 1_000_000,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.context("creating the consumer")
}

async fn read_stream(consumer: &PullConsumer, expected: u64) -> Result<Read> {
    let mut read = Read::default();
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .heartbeat(Duration::from_secs(5))
        .messages()
        .await
        .context("asking for messages")?;
    while read.messages < expected {
        let next = tokio::time::timeout(SILENCE, messages.next()).await.context("the server went silent")?;
        let message = next.context("the server ended the stream")?.context("reading a message")?;
        read.messages += 1;
        read.bytes += message.payload.len() as u64;
        if read.messages.is_multiple_of(BATCH as u64) || read.messages == expected {
            message.ack_with(AckKind::Ack).await.map_err(|error| anyhow::anyhow!("acknowledging: {error}"))?;
        }
    }
    Ok(read)
}

async fn read_core(client: &async_nats::Client, stream: &str, consumer: &str, expected: u64) -> Result<Read> {
    let mut read = Read::default();
    let inbox = client.new_inbox();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let request = Bytes::from(format!("{{\"batch\":{BATCH},\"expires\":20000000000}}"));
    let mut messages = client.subscribe(inbox.clone()).await.context("subscribing")?;
    // Messages that the server may still send for our requests.
    let mut open = 0;
    while read.messages < expected {
        if open <= BATCH / 2 {
            client.publish_with_reply(subject.clone(), inbox.clone(), request.clone()).await.context("pulling")?;
            open += BATCH;
        }
        let next = tokio::time::timeout(SILENCE, messages.next()).await.context("the server went silent")?;
        let message = next.context("the subscription ended")?;
        if message.status.is_some() {
            // A request ended early: nothing is owed any more.
            open = 0;
            continue;
        }
        open -= 1;
        read.messages += 1;
        read.bytes += message.payload.len() as u64;
        if read.messages.is_multiple_of(BATCH as u64) || read.messages == expected {
            let Some(reply) = message.reply else { bail!("a message has no reply subject") };
            client.publish(reply, Bytes::new()).await.context("acknowledging")?;
        }
    }
    client.flush().await.context("flushing")?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{publish, stream};
    use pelton_broker::testing::Server;
    use std::io::Write;

    #[tokio::test]
    async fn both_ways_read_all_that_was_published_and_in_order() {
        let server = Server::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let config = async_nats::jetstream::stream::Config {
            name: "IN".to_owned(),
            subjects: vec!["in".to_owned()],
            ..Default::default()
        };
        async_nats::jetstream::new(client).create_stream(config).await.unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // More than a pull's batch, and no multiple of a batch.
        let lines: Vec<String> = (0..10_523).map(|idx| format!("line {idx}")).collect();
        writeln!(file, "{}", lines.join("\n")).unwrap();
        assert_eq!(publish::lines(&server.url(), "IN", "in", file.path()).await.unwrap(), 10_523);
        for way in [Way::Stream, Way::CorePull] {
            let read = consume(&server.url(), "IN", way).await.unwrap();
            assert_eq!(read.messages, 10_523, "{way:?}");
            assert_eq!(read.bytes, lines.iter().map(|line| line.len() as u64).sum::<u64>(), "{way:?}");
        }
        let mut found = Vec::new();
        stream::each(&server.url(), "IN", |message| {
            found.push(String::from_utf8(message.payload.to_vec())?);
            Ok(())
        })
        .await
        .unwrap();
        assert!(found == lines, "the stream has the lines in order");
    }
}
