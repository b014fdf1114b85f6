//! `pelton doctor`: is everything there that Pelton needs, and is it set as it should be?

mod folders;
mod monitor;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use pelton_broker::{Broker, Checked, ConnectOptions, ProvisionOptions};
use serde::Serialize;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::{print, run};
use crate::pipeline::{self, Pipeline};

const AFTER: &str = "\
Each line is ok, note or FAIL, and says what to do. The exit code is 4 when something fails. How often the broker syncs \
to disk is seen only through its monitoring port.

Examples:
  pelton doctor
  pelton doctor pipelines/fraud.toml --monitor http://127.0.0.1:8222 --json";

/// Check broker, streams, tools and disk
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct DoctorArgs {
    /// Pipeline file: also check its modules and streams
    pipeline: Option<PathBuf>,
    /// Monitoring address of the broker
    #[arg(
        long,
        value_name = "URL",
        env = "NATS_MONITOR",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8222"
    )]
    monitor: String,
    /// Folder of the working state [default: pelton in the user's state folder]
    #[arg(long, value_name = "DIR", env = "PELTON_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Folder of compiled modules [default: the user's cache folder]
    #[arg(long, value_name = "DIR", env = "PELTON_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// Works, but should be known.
    Note,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Ok, found: found.into(), remedy: None }
    }

    fn note(check: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
        Finding { check, grade: Grade::Note, found: found.into(), remedy: Some(remedy.to_owned()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
        Finding { check, grade: Grade::Fail, found: found.into(), remedy: Some(remedy.to_owned()) }
    }
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), Failure> {
    let mut findings = vec![tools::rustc(), tools::wasm_target(), tools::nats_server()];
    let state = match &args.state_dir {
        Some(state) => state.clone(),
        None => run::state_home()?,
    };
    findings.push(folders::state(&state));
    findings.push(folders::disk(&state));
    findings.extend(folders::private("state folder", &state));
    let cache = args.cache_dir.or_else(pipeline::default_cache);
    findings.extend(cache.as_deref().and_then(|cache| folders::private("cache folder", cache)));
    let options = args.connection.options()?;
    let broker = connect(&options, &mut findings).await;
    findings.push(monitor::sync_interval(&args.monitor));
    findings.extend(monitor::broker_storage(&args.monitor));
    if let Some(path) = &args.pipeline {
        check_pipeline(path, cache, broker.as_ref(), &mut findings).await;
    }
    show(&findings, args.json)?;
    let failed = findings.iter().filter(|finding| finding.grade == Grade::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Environment, anyhow::Error::msg(format!("{failed} of {} checks failed", findings.len()))))
}

fn show(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if json {
        print::json(&findings)?;
        return Ok(());
    }
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "ok  ",
            Grade::Note => "note",
            Grade::Fail => "FAIL",
        };
        print::line(&format!("{grade}  {:<13} {}", finding.check, finding.found))?;
        if let Some(remedy) = &finding.remedy {
            print::line(&format!("      {:<13} {remedy}", ""))?;
        }
    }
    Ok(())
}

async fn connect(options: &ConnectOptions, findings: &mut Vec<Finding>) -> Option<Broker> {
    match Broker::connect(options).await {
        Ok(broker) => {
            let info = broker.client().server_info();
            let found =
                format!("nats-server {} `{}` at {}:{}", broker.version(), info.server_name, info.host, info.port);
            findings.push(Finding::ok("broker", found));
            findings.push(account(&broker).await);
            Some(broker)
        }
        Err(error) => {
            findings.push(Finding::fail(
                "broker",
                error.to_string(),
                "start one with `nats-server -js` (`just broker` in Pelton's repository), or name it with --server",
            ));
            None
        }
    }
}

async fn account(broker: &Broker) -> Finding {
    match broker.context().query_account().await {
        Ok(account) => {
            let limit = match account.limits.max_storage {
                Some(bytes) if bytes >= 0 => format!("limit {} MiB", bytes >> 20),
                _ => "no limit".to_owned(),
            };
            let found = format!("{} streams, {} MiB stored, {limit}", account.streams, account.storage >> 20);
            Finding::ok("jetstream", found)
        }
        Err(error) => Finding::fail("jetstream", error.to_string(), "start nats-server with `-js`"),
    }
}

async fn check_pipeline(path: &Path, cache: Option<PathBuf>, broker: Option<&Broker>, findings: &mut Vec<Finding>) {
    let loaded = pipeline::sandbox(cache, Arc::default()).and_then(|sandbox| Pipeline::load(path, &sandbox));
    let pipeline = match loaded {
        Ok(pipeline) => pipeline,
        Err(_) => {
            let found = format!("{} has problems", path.display());
            findings.push(Finding::fail("pipeline", found, "`pelton validate` prints them"));
            return;
        }
    };
    findings.push(Finding::ok("pipeline", path.display().to_string()));
    findings.extend(folders::open_to_all(&pipeline::files(path)));
    let Some(broker) = broker else { return };
    match pelton_broker::rights(broker, &pipeline.plan).await {
        Ok(missing) if missing.is_empty() => findings.push(Finding::ok("permissions", "all that a host needs")),
        Ok(missing) => {
            findings.extend(missing.iter().map(|right| Finding::fail("permissions", right.to_string(), &right.remedy)));
        }
        Err(error) => findings.push(Finding::fail("permissions", error.to_string(), "is the broker overloaded?")),
    }
    match pelton_broker::check(broker, &pipeline.plan, &ProvisionOptions::default()).await {
        Ok(Checked { drift, notes, hash_key: _ }) => {
            if drift.is_empty() {
                findings.push(Finding::ok("streams", "all there, as needed"));
            }
            findings.extend(drift.iter().map(|drift| Finding::fail("streams", drift.to_string(), &drift.remedy)));
            findings.extend(notes.iter().map(|note| Finding::note("streams", note.to_string(), &note.remedy)));
        }
        Err(error) => {
            findings.push(Finding::fail("streams", error.to_string(), "is this user allowed to ask for streams?"))
        }
    }
}
