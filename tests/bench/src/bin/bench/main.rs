//! The benchmark: ratios against hand-written yardsticks, measured side by side in one run, as a Markdown table.
//!
//! Every result is compared with the yardstick's before its time counts.

#![forbid(unsafe_code)]

mod files;
mod inputs;
mod latency;
mod memory;
mod streams;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use pelton_bench::pelton::Pelton;
use pelton_bench::place;
use pelton_bench::table::{Table, grouped, machine, mebibytes};

/// Measures pelton against hand-written programs and prints a Markdown table.
#[derive(Parser)]
struct Arguments {
    /// Small counts: does it work at all? The figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Runs of each measurement; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Files, Part::Streams, Part::Latency, Part::Memory])]
    only: Vec<Part>,
    /// Where generated events and results go [default: target/bench].
    #[arg(long)]
    scratch: Option<PathBuf>,
}

/// The product's default.
const LEASE_S: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The three jobs over files, and what their form costs.
    Files,
    /// The fraud pipeline from JetStream.
    Streams,
    /// End-to-end latency and start.
    Latency,
    /// Peak memory of a long file run.
    Memory,
}

/// Sizes and places of this run.
struct Setting {
    pelton: Pelton,
    scratch: PathBuf,
    runs: usize,
    file_events: usize,
    stream_events: u64,
    latency_time: Duration,
    is_quick: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let quick = arguments.quick;
    let setting = Setting {
        pelton: Pelton::without_broker()?,
        scratch: arguments.scratch.unwrap_or_else(|| place::root().join("target/bench")),
        runs: arguments.runs.max(1),
        file_events: if quick { 100_000 } else { 2_000_000 },
        stream_events: if quick { 50_000 } else { 1_000_000 },
        latency_time: Duration::from_secs(if quick { 3 } else { 20 }),
        is_quick: quick,
    };
    std::fs::create_dir_all(&setting.scratch)?;
    let mut checks = Vec::new();
    let mut table =
        Table::new(&["what", "yardstick", "Pelton", "ratio", "expected", "CPU-s/M", "yardstick CPU-s/M", "peak"]);
    let mut figures = Table::new(&["what", "result"]);
    if arguments.only.contains(&Part::Files) {
        for outcome in files::run(&setting)? {
            outcome.print(&mut table);
            checks.push(outcome.checked);
        }
        inputs::run(&setting, &files::input(&setting, false)?, &mut figures)?;
    }
    if arguments.only.contains(&Part::Streams) {
        let outcome = streams::run(&setting)?;
        outcome.print(&mut table);
        checks.push(outcome.checked);
    }
    if arguments.only.contains(&Part::Latency) {
        latency::run(&setting, &mut figures)?;
    }
    if arguments.only.contains(&Part::Memory) {
        memory::run(&setting, &mut figures)?;
    }
    print(&setting, &table, &figures, &checks);
    Ok(())
}

fn print(setting: &Setting, table: &Table, figures: &Table, checks: &[String]) {
    if setting.is_quick {
        println!("Quick run: it works; the figures below mean nothing.\n");
    }
    println!("Machine: {}. Median of {} runs, whole processes, start included.\n", machine(), setting.runs);
    for table in [table, figures] {
        if !table.is_empty() {
            println!("{}", table.markdown());
        }
    }
    for check in checks {
        println!("- {check}");
    }
}

/// One line of the main table.
struct Outcome {
    what: String,
    yardstick: Side,
    pelton: Side,
    expected: String,
    checked: String,
}

/// What one program did.
struct Side {
    events_per_s: f64,
    cpu_s_per_million: f64,
    peak_bytes: u64,
}

impl Side {
    fn new(usage: &pelton_bench::measure::Usage, events: u64) -> Side {
        Side {
            events_per_s: events as f64 / usage.wall_s,
            cpu_s_per_million: usage.cpu_s / events as f64 * 1e6,
            peak_bytes: usage.peak_bytes,
        }
    }
}

impl Outcome {
    fn print(&self, table: &mut Table) {
        let rate = |side: &Side| format!("{} k/s", grouped((side.events_per_s / 1e3).round() as u64));
        table.row([
            self.what.clone(),
            rate(&self.yardstick),
            rate(&self.pelton),
            format!("{:.2}", self.pelton.events_per_s / self.yardstick.events_per_s),
            self.expected.clone(),
            format!("{:.2}", self.pelton.cpu_s_per_million),
            format!("{:.2}", self.yardstick.cpu_s_per_million),
            mebibytes(self.pelton.peak_bytes),
        ]);
    }
}

/// A pipeline of this benchmark.
fn pipeline(name: &str) -> Result<PathBuf> {
    place::file(&Path::new("tests/bench/pipelines").join(name).display().to_string())
}
