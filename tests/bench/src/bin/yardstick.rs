//! The yardsticks as a program of its own, so that their time and memory can be measured from outside.
//!
//! Data on stdout; what was counted as one JSON object.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use pelton_bench::events::{self, Quality};
use pelton_bench::native::{self, Counts};
use pelton_bench::{measure, raw};

/// Generates the events of the benchmark jobs and runs their hand-written versions.
#[derive(Parser)]
enum Command {
    /// Write COUNT events as JSON lines.
    Generate {
        count: usize,
        output: PathBuf,
        /// Damage one event in a hundred.
        #[arg(long)]
        corrupt: bool,
    },
    /// Plays per user, 1 h every 5 min, rows with more than 100.
    JobA { input: PathBuf, output: PathBuf },
    /// Plays of at least 30 s per track and minute.
    JobB { input: PathBuf, output: PathBuf },
    /// Valid lines to one file, the others to another.
    JobC { input: PathBuf, valid: PathBuf, dead: PathBuf },
    /// Different users and the ten most frequent countries per device and hour.
    JobD { input: PathBuf, output: PathBuf },
    /// Read a whole JetStream stream, one acknowledgement per 10,000 messages.
    Consume {
        #[arg(long)]
        url: String,
        #[arg(long)]
        stream: String,
        #[arg(long, value_enum, default_value = "stream")]
        way: raw::Way,
    },
    /// Run PROGRAM and write what it took to REPORT.
    Measure {
        #[arg(long)]
        report: PathBuf,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Generate { count, output, corrupt } => {
            let quality = if corrupt { Quality::Corrupt } else { Quality::Good };
            let file = File::create(&output).with_context(|| format!("making `{}`", output.display()))?;
            events::write(count, quality, &mut BufWriter::with_capacity(1 << 20, file))?;
        }
        Command::JobA { input, output } => print_counts(&native::job_a(&input, &output)?),
        Command::JobB { input, output } => print_counts(&native::job_b(&input, &output)?),
        Command::JobC { input, valid, dead } => print_counts(&native::job_c(&input, &valid, &dead)?),
        Command::JobD { input, output } => print_counts(&native::job_d(&input, &output)?),
        Command::Consume { url, stream, way } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let read = runtime.block_on(raw::consume(&url, &stream, way))?;
            println!("{{\"messages\":{},\"bytes\":{}}}", read.messages, read.bytes);
        }
        Command::Measure { report, program } => std::process::exit(measure::child(&program, &report)?),
    }
    Ok(())
}

fn print_counts(counts: &Counts) {
    let Counts { events, rows, refused, late_pairs } = counts;
    println!("{{\"events\":{events},\"rows\":{rows},\"refused\":{refused},\"late_pairs\":{late_pairs}}}");
}
