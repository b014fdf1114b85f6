//! `pelton status`: what the broker knows about each partition; no running host is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_nats::jetstream::stream::Stream;
use clap::Args;
use pelton_broker::{Broker, LeaseHolder, Log, LogOptions, Target, lease_holder, log_stream};
use pelton_engine::hex;
use pelton_engine::log::{Request, Response};
use pelton_engine::plan::Plan;
use pelton_engine::time::WallTime;
use pelton_engine::totals::Totals;
use serde::Serialize;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::{print, when};
use crate::pipeline;

const AFTER: &str = "\
Everything is read from the streams, so it also works while no host runs. LAG counts events of the partition that are \
not committed; AGE is how long the oldest of them has been waiting; HOLDER is the host that works on it. An epoch's totals \
add up: received = processed + filtered + late + dead + lost + held. The last line is the size of the pipeline stream.

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
    pipeline_stream: StreamSize,
    partitions: Vec<PartitionReport>,
}

/// What a stream holds.
#[derive(Serialize)]
struct StreamSize {
    name: String,
    messages: u64,
    bytes: u64,
    /// `null` without a bound.
    max_bytes: Option<u64>,
}

#[derive(Serialize)]
struct PartitionReport {
    partition: u32,
    /// Who has the lease; `null` while nobody works on the partition.
    holder: Option<LeaseHolder>,
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
    /// Of the pipeline that computed the last epoch; `null` before the first.
    revision: Option<String>,
    /// Whether that is what the pipeline file and its modules are now.
    revision_current: bool,
    totals: Totals,
    /// Counters of modules, as `STAGE/COUNTER`: their sums.
    counters: BTreeMap<String, i128>,
    balanced: bool,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), Failure> {
    let (plan, revision) = pipeline::outline_with_revision(&args.pipeline)?;
    let broker = args.connection.connect().await?;
    let report = collect(&broker, &plan, revision).await?;
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

async fn collect(broker: &Broker, plan: &Plan, revision: Option<[u8; 32]>) -> Result<Report, Failure> {
    let name = log_stream(&plan.name);
    let log = broker.context().get_stream_no_info(&name).await;
    let log = log.map_err(|error| Failure::environment(format!("stream {name}: {error}")))?;
    let found = log.get_info().await.map_err(|error| {
        Failure::environment(format!("stream {name}: {error}")).hint("`pelton up` makes what is missing")
    })?;
    let mut partitions = Vec::new();
    for partition in 0..plan.source.partitions {
        partitions.push(inspect(broker, plan, revision, partition, &log).await?);
    }
    Ok(Report {
        pipeline: plan.name.clone(),
        stream: plan.source.stream.clone(),
        balanced: partitions.iter().all(|partition| partition.balanced),
        pipeline_stream: StreamSize {
            name,
            messages: found.state.messages,
            bytes: found.state.bytes,
            max_bytes: u64::try_from(found.config.max_bytes).ok().filter(|bytes| *bytes > 0),
        },
        partitions,
    })
}

async fn inspect(
    broker: &Broker,
    plan: &Plan,
    revision: Option<[u8; 32]>,
    partition: u32,
    log: &Stream<()>,
) -> Result<PartitionReport, Failure> {
    let target = Target::new(plan, partition);
    let survey = Log::new(broker, target, LogOptions::default());
    let stored = match survey.perform(Request::Survey { input_sequence: None, epoch: None, history: false }).await {
        Response::Survey(survey) => survey.marker,
        Response::Missing { stream } => {
            return Err(Failure::environment(format!("stream {stream} is not there")).hint("`pelton up` makes it"));
        }
        Response::Damaged(evidence) | Response::OtherFormat(evidence) => {
            let message = format!("partition {partition}: {evidence}");
            return Err(Failure::new(Exit::Halted, anyhow::Error::msg(message)));
        }
        other => return Err(Failure::environment(format!("partition {partition}: the broker said {other:?}"))),
    };
    let position = stored.as_ref().map_or(0, |stored| stored.marker.position.sequence);
    let lag = pelton_broker::lag(broker, &Target::new(plan, partition), position).await.ok();
    let epoch_age_seconds = match &stored {
        Some(stored) => {
            log.get_raw_message(stored.sequence).await.ok().map(|message| age(message.time.unix_timestamp_nanos()))
        }
        None => None,
    };
    let marker = stored.as_ref().map(|stored| &stored.marker);
    let totals = marker.map_or_else(Totals::default, |marker| marker.totals_sum);
    let holder = lease_holder(broker, &plan.name, partition).await?;
    Ok(PartitionReport {
        partition,
        holder,
        position,
        lag_events: lag.and_then(|lag| lag.events),
        lag_seconds: lag.map(|lag| lag.seconds(WallTime(when::now()))),
        watermark: marker.map(|marker| marker.watermark).filter(|watermark| *watermark != i64::MIN),
        epoch: marker.map_or(0, |marker| marker.epoch),
        epoch_age_seconds,
        revision: marker.map(|marker| hex::encode(&marker.revision)),
        revision_current: marker.is_none_or(|marker| Some(marker.revision) == revision),
        totals,
        counters: marker.map_or_else(BTreeMap::new, |marker| marker.counter_sums().into_iter().collect()),
        balanced: totals.balanced(0),
    })
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
        "REVISION",
        "RECEIVED",
        "PROCESSED",
        "FILTERED",
        "LATE",
        "DEAD",
        "LOST",
        "HELD",
        "HOLDER",
    ];
    let right =
        ["PART", "POSITION", "LAG", "EPOCH", "RECEIVED", "PROCESSED", "FILTERED", "LATE", "DEAD", "LOST", "HELD"];
    let duration =
        |seconds: Option<f64>| seconds.map_or("-".to_owned(), |value| when::format_duration((value * 1000.0) as i64));
    let rows = report.partitions.iter().map(|partition| {
        let totals = &partition.totals;
        let mut revision = partition.revision.as_ref().map_or("-".to_owned(), |revision| revision[..8].to_owned());
        if !partition.revision_current {
            revision.push_str(" (differs from the file)");
        }
        let mut row = vec![
            partition.partition.to_string(),
            print::count(partition.position),
            partition.lag_events.map_or("-".to_owned(), print::count),
            duration(partition.lag_seconds),
            partition.watermark.map_or("-".to_owned(), watermark),
            print::count(partition.epoch),
            duration(partition.epoch_age_seconds),
            revision,
        ];
        let Totals { received, processed, filtered, late, dead, lost, held } = *totals;
        row.extend([received, processed, filtered, late, dead, lost, held].map(print::count));
        row.push(partition.holder.as_ref().map_or("-".to_owned(), ToString::to_string));
        row
    });
    print::table(&header, &right, rows.collect())?;
    let counted = report.partitions.iter().flat_map(|partition| {
        let row = |(name, sum): (&String, &i128)| vec![partition.partition.to_string(), name.clone(), sum.to_string()];
        partition.counters.iter().map(row)
    });
    let counted: Vec<Vec<String>> = counted.collect();
    if !counted.is_empty() {
        print::table(&["PART", "COUNTER", "SUM"], &["PART", "SUM"], counted)?;
    }
    let StreamSize { name, messages, bytes, max_bytes } = &report.pipeline_stream;
    let bound = max_bytes.map_or("no bound".to_owned(), |bytes| format!("bound {}", print::mebibytes(bytes)));
    print::line(&format!(
        "stream {name}: {} messages, {}, {bound}",
        print::count(*messages),
        print::mebibytes(*bytes)
    ))?;
    Ok(())
}

fn watermark(millis: i64) -> String {
    if millis == i64::MAX { "end".to_owned() } else { when::format_time(millis) }
}
