//! `pelton up`: makes what a pipeline needs on the broker.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pelton_broker::ProvisionOptions;
use serde_json::json;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::{print, when};
use crate::pipeline::{self, Pipeline};

const AFTER: &str = "\
Doing it twice changes nothing. What exists and differs from what the pipeline file wants is reported and left as it is;
the exit code is then 4. --replicas, --lease and --log-max-bytes count for streams that are made, not for those that
exist; the leases of all pipelines are one bucket.

Examples:
  pelton up pipelines/fraud.toml
  pelton up pipelines/fraud.toml --replicas 3 --log-max-bytes 20000000000";

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
    /// Copies of every stream
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// How long a partition stays leased by a host that is gone
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = parse_lease)]
    lease: i64,
    /// Bound of the pipeline stream in bytes; when it is full, the pipeline pauses [default: none]
    #[arg(long, value_name = "BYTES")]
    log_max_bytes: Option<u64>,
}

/// A host renews every 3 s.
const LEASE_MIN_MS: i64 = 4_000;

fn parse_lease(text: &str) -> Result<i64, String> {
    let lease = when::parse_span(text)?;
    if lease < LEASE_MIN_MS {
        return Err("hosts renew their leases every 3 s: at least 4s".to_owned());
    }
    Ok(lease)
}

impl ProvisionArgs {
    pub(super) fn options(&self) -> ProvisionOptions {
        ProvisionOptions {
            replicas: usize::from(self.replicas),
            lease_ttl: Duration::from_millis(self.lease.unsigned_abs()),
            log_max_bytes: self.log_max_bytes,
        }
    }
}

pub(super) async fn run(args: UpArgs) -> Result<(), Failure> {
    let pipeline = Pipeline::load(&args.pipeline, &pipeline::sandbox(None)?)?;
    let broker = args.connection.connect().await?;
    let provisioned = pelton_broker::up(&broker, &pipeline.plan, &args.provision.options()).await?;
    let drift: Vec<String> = provisioned.drift.iter().map(ToString::to_string).collect();
    if args.json {
        print::json(&json!({ "created": provisioned.created, "drift": drift }))?;
    } else {
        for stream in &provisioned.created {
            print::line(&format!("created {stream}"))?;
        }
        if provisioned.created.is_empty() && drift.is_empty() {
            print::line("nothing to do")?;
        }
    }
    if drift.is_empty() {
        return Ok(());
    }
    for line in &drift {
        eprintln!("{line}");
    }
    let message = format!("{} settings differ from what the pipeline needs", drift.len());
    Err(Failure::new(Exit::Environment, anyhow::Error::msg(message))
        .hint("change the streams with the `nats` tool, or delete them and run `pelton up` again"))
}
