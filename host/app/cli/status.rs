//! `pelton status`: what the broker knows about each partition; no running host is asked.

use std::path::PathBuf;

use async_nats::jetstream::stream::Stream;
use clap::Args;
use futures_util::StreamExt as _;
use pelton_broker::{Broker, Log, LogOptions, Target, consumer, log_stream, source_subject};
use pelton_engine::epoch::Marker;
use pelton_engine::hex;
use pelton_engine::log::{Request, Response};
use pelton_engine::totals::Totals;
use serde::Serialize;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::{print, when};
use crate::pipeline::{self, Pipeline};

const AFTER: &str = "\
Everything is read from the streams, so it also works while no host runs. LAG counts events of the partition that are
not committed; AGE is how long the oldest of them has been waiting. An epoch's totals add up:
received = processed + filtered + late + dead + gaps.

Examples:
  pelton status pipelines/fraud.toml
  pelton status pipelines/fraud.toml --json | jq '[.partitions[].lag_events] | add'";

/// Show position, lag, watermark and totals of each partition
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct StatusArgs {
    /// Pipeline file
    pipeline: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Report {
    pipeline: String,
    stream: String,
    /// Whether every partition accounts for every event.
    balanced: bool,
    partitions: Vec<PartitionReport>,
}

#[derive(Serialize)]
struct PartitionReport {
    partition: u32,
    /// Stream sequence of the last committed event; 0 before the first.
    position: u64,
    /// `null` when the broker did not say.
    lag_events: Option<u64>,
    /// How long the oldest event without a commit has been waiting.
    lag_seconds: Option<f64>,
    /// Milliseconds since 1970; `null` before the first event.
    watermark: Option<i64>,
    epoch: u64,
    epoch_age_seconds: Option<f64>,
    /// sha256 of the module of each stage, as the last epoch was made.
    modules: Vec<String>,
    /// Whether those are the modules of the pipeline file.
    modules_current: bool,
    totals: Totals,
    balanced: bool,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), Failure> {
    let pipeline = Pipeline::load(&args.pipeline, &pipeline::sandbox(None)?)?;
    let broker = args.connection.connect().await?;
    let report = collect(&broker, &pipeline).await?;
    if args.json {
        print::json(&report)?;
    } else {
        show(&report)?;
    }
    if report.balanced {
        return Ok(());
    }
    Err(Failure::new(Exit::Halted, anyhow::Error::msg("totals do not add up: events are not accounted for"))
        .hint("this is a defect of the host: keep the pipeline stream and report it"))
}

async fn collect(broker: &Broker, pipeline: &Pipeline) -> Result<Report, Failure> {
    let plan = &pipeline.plan;
    let input = broker.context().get_stream_no_info(&plan.source.stream).await;
    let input = input.map_err(|error| Failure::environment(format!("stream {}: {error}", plan.source.stream)))?;
    let name = log_stream(&plan.name);
    let log = broker.context().get_stream_no_info(&name).await;
    let log = log.map_err(|error| Failure::environment(format!("stream {name}: {error}")))?;
    let mut partitions = Vec::new();
    for partition in 0..plan.source.partitions {
        partitions.push(inspect(broker, pipeline, partition, &input, &log).await?);
    }
    Ok(Report {
        pipeline: plan.name.clone(),
        stream: plan.source.stream.clone(),
        balanced: partitions.iter().all(|partition| partition.balanced),
        partitions,
    })
}

async fn inspect(
    broker: &Broker,
    pipeline: &Pipeline,
    partition: u32,
    input: &Stream<()>,
    log: &Stream<()>,
) -> Result<PartitionReport, Failure> {
    let target = Target::new(&pipeline.plan, partition);
    let survey = Log::new(broker, target, LogOptions::default());
    let stored = match survey.perform(Request::Survey { input_sequence: None, epoch: None }).await {
        Response::Survey(survey) => survey.marker,
        Response::Missing { stream } => {
            return Err(Failure::environment(format!("stream {stream} is not there")).hint("`pelton up` makes it"));
        }
        Response::Damaged(evidence) => {
            let message = format!("partition {partition}: {evidence}");
            return Err(Failure::new(Exit::Halted, anyhow::Error::msg(message)));
        }
        other => return Err(Failure::environment(format!("partition {partition}: the broker said {other:?}"))),
    };
    let position = stored.as_ref().map_or(0, |stored| stored.marker.position.sequence);
    let subject = source_subject(&pipeline.plan, partition);
    let (lag_events, lag_seconds) = lag(input, &pipeline.plan.name, partition, &subject, position).await;
    let epoch_age_seconds = match &stored {
        Some(stored) => {
            log.get_raw_message(stored.sequence).await.ok().map(|message| age(message.time.unix_timestamp_nanos()))
        }
        None => None,
    };
    let marker = stored.as_ref().map(|stored| &stored.marker);
    let totals = marker.map_or_else(Totals::default, |marker| marker.totals_sum);
    let digests: Vec<[u8; 32]> = pipeline.modules.iter().map(pelton_sandbox::Module::digest).collect();
    Ok(PartitionReport {
        partition,
        position,
        lag_events,
        lag_seconds,
        watermark: marker.map(|marker| marker.watermark).filter(|watermark| *watermark != i64::MIN),
        epoch: marker.map_or(0, |marker| marker.epoch),
        epoch_age_seconds,
        modules: marker.map_or_else(Vec::new, digest_texts),
        modules_current: marker.is_none_or(|marker| marker.modules == digests),
        totals,
        balanced: totals.balanced(),
    })
}

fn digest_texts(marker: &Marker) -> Vec<String> {
    marker.modules.iter().map(|digest| hex::encode(digest)).collect()
}

/// Events without a commit, and how long the oldest of them has been waiting.
async fn lag(
    input: &Stream<()>,
    pipeline: &str,
    partition: u32,
    subject: &str,
    position: u64,
) -> (Option<u64>, Option<f64>) {
    let events = match input.consumer_info(consumer(pipeline, partition)).await {
        Ok(info) => Some(info.num_pending + info.num_ack_pending as u64),
        // Before the first run there is no consumer: everything is ahead.
        Err(_) if position == 0 => stored(input, subject).await,
        Err(_) => None,
    };
    match input.get_first_raw_message_by_subject(subject, position + 1).await {
        Ok(message) => (events, Some(age(message.time.unix_timestamp_nanos()))),
        Err(_) => (events.or(Some(0)), Some(0.0)),
    }
}

/// Events of the partition that the stream holds.
async fn stored(input: &Stream<()>, subject: &str) -> Option<u64> {
    let mut subjects = input.info_with_subjects(subject).await.ok()?;
    let mut count = 0;
    while let Some(entry) = subjects.next().await {
        count += entry.ok()?.1 as u64;
    }
    Some(count)
}

/// Seconds since then by this machine's clock.
fn age(nanos: i128) -> f64 {
    let millis = when::now() - (nanos / 1_000_000) as i64;
    millis.max(0) as f64 / 1000.0
}

fn show(report: &Report) -> Result<(), Failure> {
    let header = [
        "PART",
        "POSITION",
        "LAG",
        "AGE",
        "WATERMARK",
        "EPOCH",
        "EPOCH AGE",
        "MODULES",
        "RECEIVED",
        "PROCESSED",
        "FILTERED",
        "LATE",
        "DEAD",
        "GAPS",
    ];
    let right = ["PART", "POSITION", "LAG", "EPOCH", "RECEIVED", "PROCESSED", "FILTERED", "LATE", "DEAD", "GAPS"];
    let span =
        |seconds: Option<f64>| seconds.map_or("-".to_owned(), |value| when::format_span((value * 1000.0) as i64));
    let rows = report.partitions.iter().map(|partition| {
        let totals = &partition.totals;
        let mut modules: Vec<&str> = partition.modules.iter().map(|digest| &digest[..8]).collect();
        if !partition.modules_current {
            modules.push("(differs from the file)");
        }
        let mut row = vec![
            partition.partition.to_string(),
            print::count(partition.position),
            partition.lag_events.map_or("-".to_owned(), print::count),
            span(partition.lag_seconds),
            partition.watermark.map_or("-".to_owned(), watermark),
            print::count(partition.epoch),
            span(partition.epoch_age_seconds),
            modules.join(" "),
        ];
        let counts = [totals.received, totals.processed, totals.filtered, totals.late, totals.dead, totals.gaps];
        row.extend(counts.map(print::count));
        row
    });
    print::table(&header, &right, rows.collect())?;
    Ok(())
}

fn watermark(millis: i64) -> String {
    if millis == i64::MAX { "end".to_owned() } else { when::format_time(millis) }
}
