//! `pelton doctor`: is everything there that Pelton needs, and is it set as it should be?

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use pelton_broker::{Broker, Checked, ConnectOptions, ProvisionOptions, VERSION_MIN};
use serde::Serialize;
use serde_json::Value;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::{print, run};
use crate::pipeline::{self, Pipeline};

const AFTER: &str = "\
Each line is ok, note or FAIL, and says what to do. The exit code is 4 when something fails. How often the broker syncs
to disk is seen only through its monitoring port.

Examples:
  pelton doctor
  pelton doctor pipelines/fraud.toml --monitor http://127.0.0.1:8222 --json";

/// Free disk below which a run may stop soon.
const DISK_MIN_KIB: u64 = 1 << 20;
const MONITOR_TIMEOUT: Duration = Duration::from_millis(500);

/// Check broker, streams, tools and disk
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct DoctorArgs {
    /// Pipeline file: also check its modules and streams
    pipeline: Option<PathBuf>,
    /// Monitoring address of the broker
    #[arg(long, value_name = "URL", env = "NATS_MONITOR", default_value = "http://127.0.0.1:8222")]
    monitor: String,
    /// Folder of the working state [default: pelton in the user's state folder]
    #[arg(long, value_name = "DIR", env = "PELTON_STATE")]
    state: Option<PathBuf>,
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
    let mut findings = vec![rustc(), wasm_target(), nats_server()];
    let state = match &args.state {
        Some(state) => state.clone(),
        None => run::state_home()?,
    };
    findings.push(state_folder(&state));
    findings.push(disk(&state));
    let options = args.connection.options()?;
    let broker = connect(&options, &mut findings).await;
    findings.push(sync_interval(&args.monitor));
    findings.extend(broker_storage(&args.monitor));
    if let Some(path) = &args.pipeline {
        check_pipeline(path, broker.as_ref(), &mut findings).await;
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

/// First line that a program prints, if it runs.
fn first_line(program: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn rustc() -> Finding {
    match first_line(Path::new("rustc"), &["--version"]) {
        Some(version) => Finding::ok("rustc", version),
        None => Finding::note("rustc", "not found", "only needed to build modules: install it with rustup"),
    }
}

fn wasm_target() -> Finding {
    const TARGET: &str = "wasm32-unknown-unknown";
    let root = first_line(Path::new("rustc"), &["--print", "sysroot"]);
    match root.map(|root| Path::new(&root).join("lib/rustlib").join(TARGET).join("lib")) {
        Some(folder) if folder.is_dir() => Finding::ok("wasm target", TARGET),
        _ => Finding::note("wasm target", "not installed", "only needed to build modules: `just setup`"),
    }
}

/// The server that our recipes would start.
fn nats_server() -> Finding {
    const REMEDY: &str = "only needed to run a broker here: `just setup` puts one into .tools";
    let local = Path::new(".tools/bin/nats-server");
    let program = if local.is_file() { local } else { Path::new("nats-server") };
    let Some(text) = first_line(program, &["--version"]) else {
        return Finding::note("nats-server", "not found", REMEDY);
    };
    let (major, minor) = VERSION_MIN;
    if version(&text) < Some(VERSION_MIN) {
        return Finding::note("nats-server", format!("{text}: older than {major}.{minor}"), REMEDY);
    }
    Finding::ok("nats-server", format!("{text} ({})", program.display()))
}

/// Major and minor number out of `nats-server: v2.15.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.rsplit([' ', 'v']).find(|part| !part.is_empty())?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Tries what the store does first: make the folder, write a file, remove it.
fn state_folder(state: &Path) -> Finding {
    let probe = state.join(format!(".doctor-{}", std::process::id()));
    let tried = std::fs::create_dir_all(state)
        .and_then(|()| std::fs::write(&probe, b"pelton"))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => Finding::ok("state folder", state.display().to_string()),
        Err(error) => {
            let found = format!("{} is not writable: {error}", state.display());
            Finding::fail("state folder", found, "name another one with --state")
        }
    }
}

fn disk(state: &Path) -> Finding {
    let output = Command::new("df").arg("-Pk").arg(state).output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let available = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    match available {
        None => Finding::note("free disk", "unknown", "`df` did not say"),
        Some(kib) if kib < DISK_MIN_KIB => {
            let found = format!("{} MiB", kib >> 10);
            Finding::fail("free disk", found, "state and cache need room: at least 1 GiB")
        }
        Some(kib) => Finding::ok("free disk", format!("{} GiB", kib >> 20)),
    }
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

/// Without `sync_interval: always`, a power failure takes back what was acknowledged.
fn sync_interval(monitor: &str) -> Finding {
    const CHECK: &str = "sync interval";
    const REMEDY: &str = "set `jetstream { sync_interval: always }`: else a power failure takes back stored epochs";
    let Some(vars) = get_json(monitor, "/varz") else {
        let found = format!("unknown: {monitor} does not answer");
        return Finding::note(CHECK, found, "start nats-server with `-m 8222`, or name the port with --monitor");
    };
    let config = &vars["jetstream"]["config"];
    match (config["sync_always"].as_bool(), config["sync_interval"].as_i64()) {
        (Some(true), _) => Finding::ok(CHECK, "always"),
        (_, Some(nanos)) => Finding::note(CHECK, format!("{} s", nanos / 1_000_000_000), REMEDY),
        _ => Finding::note(CHECK, "not in the answer of the monitoring port", REMEDY),
    }
}

/// Room that the server has for all accounts together; an account without a limit of its own does not tell.
fn broker_storage(monitor: &str) -> Option<Finding> {
    const CHECK: &str = "broker disk";
    let jsz = get_json(monitor, "/jsz")?;
    storage_finding(CHECK, jsz["storage"].as_u64()?, jsz["config"]["max_storage"].as_u64()?)
}

/// `None` without a limit.
fn storage_finding(check: &'static str, used: u64, limit: u64) -> Option<Finding> {
    const REMEDY: &str = "when it is full, pipelines pause: raise `max_file_store`, or delete what nobody needs";
    if limit == 0 {
        return None;
    }
    let found = format!("{} of {} MiB used", used >> 20, limit >> 20);
    Some(match used.saturating_mul(100) / limit {
        0..90 => Finding::ok(check, found),
        90..99 => Finding::note(check, found, REMEDY),
        _ => Finding::fail(check, found, REMEDY),
    })
}

/// One plain HTTP request. A client library would be a large dependency for a single question.
fn get_json(base: &str, path: &str) -> Option<Value> {
    let host = base.strip_prefix("http://")?.trim_end_matches('/');
    let address = host.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, MONITOR_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(MONITOR_TIMEOUT)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = memchr::memmem::find(&answer, b"\r\n\r\n")? + 4;
    serde_json::from_slice(&answer[body..]).ok()
}

async fn check_pipeline(path: &Path, broker: Option<&Broker>, findings: &mut Vec<Finding>) {
    let loaded = pipeline::sandbox(None).and_then(|sandbox| Pipeline::load(path, &sandbox));
    let pipeline = match loaded {
        Ok(pipeline) => pipeline,
        Err(_) => {
            let found = format!("{} has problems", path.display());
            findings.push(Finding::fail("pipeline", found, "`pelton validate` prints them"));
            return;
        }
    };
    findings.push(Finding::ok("pipeline", path.display().to_string()));
    let Some(broker) = broker else { return };
    match pelton_broker::rights(broker, &pipeline.plan).await {
        Ok(missing) if missing.is_empty() => findings.push(Finding::ok("permissions", "all that a host needs")),
        Ok(missing) => {
            findings.extend(missing.iter().map(|right| Finding::fail("permissions", right.to_string(), &right.remedy)));
        }
        Err(error) => findings.push(Finding::fail("permissions", error.to_string(), "is the broker overloaded?")),
    }
    match pelton_broker::check(broker, &pipeline.plan, &ProvisionOptions::default()).await {
        Ok(Checked { drift, notes }) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_broker_is_told() {
        let grade = |used, limit| storage_finding("x", used, limit).map(|finding| finding.grade);
        assert_eq!(grade(5, 0), None);
        assert_eq!(grade(89, 100), Some(Grade::Ok));
        assert_eq!(grade(95, 100), Some(Grade::Note));
        assert_eq!(grade(100, 100), Some(Grade::Fail));
    }

    #[test]
    fn versions_are_read_from_what_servers_print() {
        assert_eq!(version("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(version("nats-server: v2.9.25"), Some((2, 9)));
        assert_eq!(version("nonsense"), None);
        assert!(version("nonsense") < Some(VERSION_MIN));
    }
}
