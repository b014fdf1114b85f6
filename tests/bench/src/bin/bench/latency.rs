//! From publishing an event to reading it in the pipeline stream, at 10,000 events a second; and from starting the
//! host to its first output.
//!
//! Producer, host, server and reader share this machine. Every write is synced to disk: producers of this rate publish
//! atomic batches of 50 events every 5 ms, and an event's time runs from the moment before its batch is sent.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pelton_bench::measure::{median, percentile};
use pelton_bench::pelton::Pelton;
use pelton_bench::publish::Publisher;
use pelton_bench::table::{Table, grouped};
use pelton_bench::{place, stream};
use pelton_broker::testing::Server;
use serde::Deserialize;

use crate::{LEASE_S, Setting, pipeline};

const PIPELINE: &str = "latency";
const STREAM: &str = "LATENCY";
const BATCH: usize = 50;
const EVERY: Duration = Duration::from_millis(5);
/// Events of this time are not counted: connections and caches settle.
const WARM_UP: Duration = Duration::from_secs(2);
/// No output for this long: something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the reader needs of an event.
#[derive(Deserialize)]
struct Seen {
    /// Microseconds since the bench started.
    sent_us: u64,
}

/// Measures both and adds them to `figures`.
pub(crate) fn run(setting: &Setting, figures: &mut Table) -> Result<()> {
    eprintln!("latency …");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::start();
    let pelton = Pelton::with_broker(&server.url())?;
    let pipeline = pipeline("latency.toml")?;
    let state = setting.scratch.join("latency-state");
    place::fresh(&state)?;
    pelton.up(&pipeline, LEASE_S)?;
    runtime.block_on(async {
        let start = Instant::now();
        let mut publisher = Publisher::new(&server.url(), STREAM, PIPELINE).await?;
        let mut outputs = Outputs::open(&server.url()).await?;
        let mut starts = Vec::new();
        // The first start compiles the module; it is not counted.
        for round in 0..=setting.runs {
            publisher.send(&[event(start, 0)]).await?;
            publisher.settle().await?;
            let begun = Instant::now();
            let host = Host::start(&pelton, &pipeline, &state)?;
            outputs.next().await?;
            starts.extend((round != 0).then(|| begun.elapsed().as_secs_f64() * 1e3));
            host.stop()?;
        }
        let begun = format!("{:.0} ms", median(&starts));
        figures.row(["start to first output, compiled module cached".to_owned(), begun]);

        let host = Host::start(&pelton, &pipeline, &state)?;
        publisher.send(&[event(start, 0)]).await?;
        outputs.next().await?;
        let (sent, mut times) = flow(start, setting.latency_time, publisher, &mut outputs).await?;
        host.stop()?;
        times.sort_unstable();
        let ms = |share: f64| format!("{:.1} ms", percentile(&times, share) as f64 / 1e3);
        let rate = grouped((sent.0 as f64 / sent.1.as_secs_f64()).round() as u64);
        figures.row([format!("end-to-end latency at {rate} events/s, p50"), ms(0.5)]);
        figures.row([format!("end-to-end latency at {rate} events/s, p99"), ms(0.99)]);
        Ok(())
    })
}

/// Publishes at the fixed rate while reading; returns (events, time it took) and the times of the counted ones.
async fn flow(
    start: Instant,
    time: Duration,
    mut publisher: Publisher,
    outputs: &mut Outputs,
) -> Result<((u64, Duration), Vec<u64>)> {
    let from_us = micros(start) + WARM_UP.as_micros() as u64;
    let batches = (WARM_UP + time).as_millis() / EVERY.as_millis();
    let producer = tokio::spawn(async move {
        let begun = Instant::now();
        // A late tick is made up for, so that a slow moment of the server does not lower the rate.
        let mut ticks = tokio::time::interval(EVERY);
        for batch in 0..batches {
            ticks.tick().await;
            let events: Vec<Bytes> = (0..BATCH).map(|idx| event(start, batch as usize * BATCH + idx)).collect();
            publisher.send(&events).await?;
        }
        publisher.settle().await?;
        anyhow::Ok(begun.elapsed())
    });
    let count = batches as u64 * BATCH as u64;
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let sent_us = outputs.next().await?;
        let now_us = micros(start);
        if from_us <= sent_us {
            times.push(now_us - sent_us);
        }
    }
    let elapsed = producer.await.context("the producer panicked")??;
    ensure!(!times.is_empty(), "no event was counted");
    Ok(((count, elapsed), times))
}

fn event(start: Instant, idx: usize) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let sent_us = micros(start);
    Bytes::from(format!(
        "{{\"user_id\":\"u{:07}\",\"track_id\":\"t{:06}\",\"country\":\"SE\",\"device\":\"ios\",\"ts\":{now},\"ms_played\":31000,\"sent_us\":{sent_us}}}",
        idx % 20_000,
        idx % 5_000
    ))
}

fn micros(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64
}

/// The pipeline's outputs as they come.
struct Outputs {
    messages: pull::Ordered,
}

impl Outputs {
    async fn open(url: &str) -> Result<Outputs> {
        let client = async_nats::connect(url).await.with_context(|| format!("connecting to {url}"))?;
        let context = async_nats::jetstream::new(client);
        let name = stream::name_of(PIPELINE);
        let log = context.get_stream(&name).await.with_context(|| format!("opening stream `{name}`"))?;
        let config = pull::OrderedConfig {
            filter_subject: format!("pelton.{PIPELINE}.*.out.>"),
            deliver_policy: DeliverPolicy::New,
            ..pull::OrderedConfig::default()
        };
        let consumer = log.create_consumer(config).await.context("creating a consumer")?;
        Ok(Outputs { messages: consumer.messages().await.context("asking for messages")? })
    }

    /// When the next output's event was sent.
    async fn next(&mut self) -> Result<u64> {
        let next = tokio::time::timeout(PATIENCE, self.messages.next()).await.context("no output comes")?;
        let message = next.context("the server ended the stream")?.context("reading an output")?;
        let seen: Seen = serde_json::from_slice(&message.payload).context("an output is not the event")?;
        Ok(seen.sent_us)
    }
}

/// A running host.
struct Host {
    child: Child,
}

impl Host {
    fn start(pelton: &Pelton, pipeline: &Path, state: &Path) -> Result<Host> {
        let mut command = pelton.run(pipeline, state);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Host { child: child.with_context(|| format!("starting {command:?}"))? })
    }

    /// Stops it as Ctrl-C does, so that it gives its lease back.
    fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("the process id is out of range")?;
        kill(Pid::from_raw(pid), Signal::SIGINT).context("interrupting the host")?;
        let status = self.child.wait().context("waiting for the host")?;
        if !status.success() {
            bail!("the host ended with {status} after an interrupt");
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only when something failed: nothing may outlive the bench.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
