//! `pelton up`: makes what a pipeline needs on the broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pelton_broker::{Asked, ProvisionOptions};
use pelton_engine::plan;
use serde_json::json;

use super::connection::ConnectionArgs;
use super::failure::Failure;
use super::{print, when};
use crate::pipeline::{self, Pipeline};
use crate::terminal;

const AFTER: &str = "\
Doing it twice changes nothing. What exists and differs from what the pipeline file needs is reported and left as it is; \
the exit code is then 4. --replicas, --lease and --stream-max-bytes count for streams that are made: where one that exists \
differs, that is reported too. The leases of all pipelines are one bucket. Lines that begin with `note` need no action.

Examples:
  pelton up pipelines/fraud.toml
  pelton up pipelines/fraud.toml --replicas 3 --stream-max-bytes 20GB";

/// Make the streams and buckets of a pipeline
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct UpArgs {
    /// Pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    provision: ProvisionArgs,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What the pipeline file does not say about its streams.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Streams")]
pub(super) struct ProvisionArgs {
    /// Copies of every stream [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// How long a partition stays leased by a host that is gone [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_lease)]
    lease: Option<i64>,
    /// Bound of the pipeline stream, such as 20GB or 512MiB; when it is full, the pipeline pauses [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    stream_max_bytes: Option<u64>,
}

/// A host renews every 3 s.
const LEASE_MIN_MS: i64 = 4_000;

fn parse_lease(text: &str) -> Result<i64, String> {
    let lease = when::parse_duration(text)?;
    if lease < LEASE_MIN_MS {
        return Err("hosts renew their leases every 3 s: at least 4s".to_owned());
    }
    Ok(lease)
}

/// With a unit, or as a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_| plan::size_parse(text)).map_err(|reason| format!("not a size such as 20GB: {reason}"))
}

impl ProvisionArgs {
    pub(super) fn options(&self) -> ProvisionOptions {
        let defaults = ProvisionOptions::default();
        ProvisionOptions {
            replicas: self.replicas.map_or(defaults.replicas, usize::from),
            lease_ttl: self.lease.map_or(defaults.lease_ttl, |lease| Duration::from_millis(lease.unsigned_abs())),
            stream_max_bytes: self.stream_max_bytes,
            asked: Asked { replicas: self.replicas.is_some(), lease_ttl: self.lease.is_some() },
        }
    }
}

pub(super) async fn run(args: UpArgs) -> Result<(), Failure> {
    let pipeline = Pipeline::load(&args.pipeline, &pipeline::sandbox(None, Arc::default())?)?;
    let broker = args.connection.connect().await?;
    let provisioned = pelton_broker::up(&broker, &pipeline.plan, &args.provision.options()).await?;
    let drift: Vec<String> = provisioned.drift.iter().map(ToString::to_string).collect();
    let mut notes: Vec<String> = provisioned.notes.iter().map(|note| format!("{note}; {}", note.remedy)).collect();
    // Whoever makes streams need not be the user that hosts connect as.
    match pelton_broker::rights(&broker, &pipeline.plan).await {
        Ok(missing) => notes.extend(missing.iter().map(|right| format!("hosts cannot run as this user: {right}"))),
        Err(error) => notes.push(format!("the rights of this user are not known: {error}")),
    }
    if args.json {
        print::json(&json!({ "created": provisioned.created, "drift": drift, "notes": notes }))?;
    } else {
        for stream in &provisioned.created {
            print::line(&format!("created {stream}"))?;
        }
        if provisioned.created.is_empty() && drift.is_empty() {
            print::line("nothing to do")?;
        }
        for note in &notes {
            terminal::tell([format!("note: {note}").as_str()]);
        }
    }
    match Failure::drift(&provisioned.drift) {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}
