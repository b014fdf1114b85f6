//! The demo: a million plays with stream farms in them, from JetStream to exactly-once alerts, checked against the
//! generator's ground truth; then the same again with a host that is killed while it works.
//!
//! Exits with 1 when anything is not what it should be.

#![forbid(unsafe_code)]

mod kills;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use pelton_bench::pelton::{self, Pelton, Plays};
use pelton_bench::stream::{self, Dump};
use pelton_bench::table::grouped;
use pelton_bench::truth::Truth;
use pelton_bench::{place, publish};
use pelton_broker::testing::Server;

const PIPELINE: &str = "fraud";
/// Short, since the second run waits for it after every kill.
const LEASE_S: u32 = 4;

/// Finds stream farms among a million plays, then does it again while the host is being killed.
#[derive(Parser)]
struct Arguments {
    /// Plays to generate.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Accounts that play one short clip after the other.
    #[arg(long, default_value_t = 20)]
    farms: u32,
    /// Share of bad records.
    #[arg(long, default_value_t = 0.001)]
    bad: f64,
    /// Share of plays that come too late for every window.
    #[arg(long, default_value_t = 0.001)]
    late: f64,
    #[arg(long, default_value_t = 2026)]
    seed: u64,
    /// How often the host is killed in the second run.
    #[arg(long, default_value_t = 3)]
    kills: usize,
}

/// What both runs share.
struct Stage {
    server: Server,
    pelton: Pelton,
    pipeline: PathBuf,
    /// Ground truth and state folders.
    scratch: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn set() -> Result<Stage> {
        let pipeline = place::file("pipelines/fraud.toml")?;
        let server = Server::start();
        let pelton = Pelton::with_broker(&server.url())?;
        let scratch = tempfile::Builder::new().prefix("pelton-demo-").tempdir().context("making a folder")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Stage { server, pelton, pipeline, scratch, runtime })
    }

    fn dump(&self) -> Result<Dump> {
        self.runtime.block_on(stream::dump(&self.server.url(), PIPELINE))
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let stage = Stage::set()?;
    story::line("broker", &format!("nats-server at {}, every write synced to disk", stage.server.url()));
    let truth = prepare(&stage, arguments)?;

    let start = Instant::now();
    pelton::finish(&mut stage.pelton.catch_up(&stage.pipeline, &stage.scratch.path().join("first")))?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = grouped((arguments.events as f64 / seconds) as u64);
    story::line("processed", &format!("in {seconds:.1} s, start included: {rate} events/s, exactly once"));
    let dump = stage.dump()?;
    let right = story::tell(&dump, &truth)?;

    let same = kills::again(&stage, arguments, &dump)?;
    println!();
    match (right, same) {
        (true, true) => println!("Everything is as it should be."),
        (false, _) => println!("NOT GOOD: the results differ from the ground truth."),
        (_, false) => println!("NOT GOOD: the killed run differs from the undisturbed one."),
    }
    Ok(right && same)
}

fn prepare(stage: &Stage, arguments: &Arguments) -> Result<Truth> {
    stage.pelton.up(&stage.pipeline, LEASE_S)?;
    let plays = Plays {
        pipeline: stage.pipeline.clone(),
        events: arguments.events,
        farms: arguments.farms,
        bad: arguments.bad,
        late: arguments.late,
        seed: arguments.seed,
        output: stage.scratch.path().join("plays.jsonl"),
        truth: stage.scratch.path().join("truth.json"),
    };
    stage.pelton.generate(&plays)?;
    let truth = Truth::read(&plays.truth)?;
    let start = Instant::now();
    let count = stage.runtime.block_on(publish::lines(&stage.server.url(), "PLAYS", "plays", &plays.output))?;
    std::fs::remove_file(&plays.output).context("removing the generated plays")?;
    let (count, farms, seed) = (grouped(count), truth.farms.len(), arguments.seed);
    let seconds = start.elapsed().as_secs_f64();
    story::line(
        "published",
        &format!("{count} plays, {farms} stream farms among them, seed {seed}, in {seconds:.1} s"),
    );
    Ok(truth)
}
