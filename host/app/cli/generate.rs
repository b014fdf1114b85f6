//! `pelton generate plays`: events from a seed, to a file or to the broker, with their ground truth.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pelton_broker::source_subject;
use pelton_engine::plan::{Plan, WindowKind};
use serde_json::json;

use super::connection::ConnectionArgs;
use super::failure::{Exit, Failure};
use super::publish::Sender;
use super::when::{format_time, parse_duration, parse_time};
use crate::generate::oracle::{self, Law, Timing, Verdict};
use crate::generate::{EVENTS_MAX, Plays, Spec, record, user_id};
use crate::pipeline;
use crate::terminal;

const AFTER: &str = "\
People cannot play two tracks at once, so even the most active account stays near 36 plays an hour; farms play a clip \
of 31 seconds every 31 seconds, 116 an hour. 90 % of the events arrive within 5 s, 9 % within 2 min, 1 % within 10 min, \
and the fraction --late after every window has closed.

--truth writes who the farms are and every alert that the default rule must raise, computed apart from the engine. It \
depends on delay, allowed lateness, window and partitions: from --pipeline, or from the flags of the truth.

Examples:
  pelton generate plays > plays.jsonl
  pelton generate plays --events 100000 --farms 5 --bad 0.001 -o plays.jsonl --truth truth.json
  pelton generate plays --pipeline pipelines/fraud.toml --publish --rate 20000 --truth truth.json
  pelton generate plays --publish plays --server nats://127.0.0.1:4222";

/// Accounts and tracks are numbers of 32 bits, and each takes memory.
const NAMES_MAX: i64 = 100_000_000;
/// As in pipeline files.
const PARTITIONS_MAX: i64 = 1024;
/// Starts of windows that an event may belong to, as in pipeline files.
const SLICES_MAX: i64 = 1024;

/// Make events to try a pipeline with
#[derive(Debug, Subcommand)]
pub(super) enum GenerateCommand {
    Plays(Box<PlaysArgs>),
}

/// Listening events with stream farms among them
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct PlaysArgs {
    /// All records: people's, farms' and bad ones; each takes 32 bytes of memory
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1_000_000, value_parser = parse_events)]
    events: u64,
    /// The same seed gives the same bytes on every machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// First event time
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z", value_parser = parse_time)]
    start: i64,
    /// Length of event time
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = parse_duration)]
    duration: i64,
    /// Accounts of people
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=NAMES_MAX))]
    users: u32,
    /// Tracks that people play
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=NAMES_MAX))]
    tracks: u32,
    /// Exponent of Zipf's law for people and tracks
    #[arg(long, value_name = "S", default_value_t = 1.05, value_parser = parse_exponent)]
    zipf: f64,
    /// Accounts that play a 31-second clip without a pause
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=100_000))]
    farms: u32,
    /// How long each farm plays, from a random time on
    #[arg(long, value_name = "HOURS", default_value_t = 2.5, value_parser = parse_hours)]
    farm_hours: f64,
    /// Fraction of people's plays that come after every window has closed
    #[arg(long, value_name = "FRACTION", default_value_t = 0.001, value_parser = parse_fraction)]
    late: f64,
    /// Fraction of people's plays that are replaced by malformed records
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = parse_fraction)]
    bad: f64,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE", conflicts_with = "publish")]
    output: Option<PathBuf>,
    /// Publish, to this subject or to the ingest subject of --pipeline
    #[arg(long, value_name = "SUBJECT", num_args = 0..=1, default_missing_value = "")]
    publish: Option<String>,
    /// Publish at most so many events per second
    #[arg(long, value_name = "N", requires = "publish", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Take subject, window and watermark from this pipeline file
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Write the ground truth to this file
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    #[command(flatten)]
    law: LawArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// How the pipeline is set up that the truth is for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Truth, without --pipeline")]
struct LawArgs {
    /// Partitions of the stream, each with a watermark of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=PARTITIONS_MAX))]
    partitions: u32,
    /// How far the watermark stays behind
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    delay: i64,
    /// How long a window takes corrections
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    allowed_lateness: i64,
    /// Length of the window
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    window: i64,
    /// How often a window starts
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    slide: i64,
}

pub(super) async fn run(command: GenerateCommand) -> Result<(), Failure> {
    let GenerateCommand::Plays(args) = command;
    let whole = |path: &Option<PathBuf>| path.as_ref().and_then(|path| std::path::absolute(path).ok());
    if args.truth.is_some() && whole(&args.truth) == whole(&args.output) {
        return Err(Failure::usage("--truth and --output are the same file"));
    }
    let plan = match &args.pipeline {
        Some(path) => Some(pipeline::outline(path)?),
        None => None,
    };
    let law = match &plan {
        Some(plan) => law_of(plan)?,
        None => args.law.law()?,
    };
    let spec = args.spec(&law);
    if spec.duration < 60_000 {
        return Err(Failure::usage(format!("--duration is {} ms, at least 1m is needed", spec.duration)));
    }
    let plays = Plays::new(&spec).map_err(|error| Failure::new(Exit::Usage, error))?;
    if let Some(path) = &args.truth {
        write_truth(path, &spec, &law, &plays)?;
    }
    match &args.publish {
        Some(subject) => {
            let ingest = Ingest::new(subject, plan.as_ref())?;
            publish(&args, &plays, &ingest).await
        }
        None => write_lines(args.output.as_deref(), &plays),
    }
}

impl PlaysArgs {
    fn spec(&self, law: &Law) -> Spec {
        Spec {
            seed: self.seed,
            events: self.events,
            start: self.start,
            duration: self.duration,
            users: self.users,
            tracks: self.tracks,
            zipf: self.zipf,
            farms: self.farms,
            farm_time: (self.farm_hours * 3_600_000.0) as i64,
            late: self.late,
            // The events around it are up to ten minutes late themselves.
            too_late: law.size.saturating_add(law.allowed_lateness).saturating_add(law.delay).saturating_add(600_000),
            bad: self.bad,
        }
    }
}

impl LawArgs {
    fn law(&self) -> Result<Law, Failure> {
        let law = Law {
            partitions: self.partitions,
            delay: self.delay,
            allowed_lateness: self.allowed_lateness,
            size: self.window,
            slide: self.slide,
        };
        if law.slide < 1 || law.size % law.slide != 0 || law.size < 1 {
            return Err(Failure::usage("--slide does not divide --window"));
        }
        if law.size / law.slide > SLICES_MAX {
            return Err(Failure::usage(format!("--slide is less than one part in {SLICES_MAX} of --window")));
        }
        Ok(law)
    }
}

/// The law of the windowed stage of a pipeline.
fn law_of(plan: &Plan) -> Result<Law, Failure> {
    let window = plan.stages.iter().find_map(|stage| stage.window);
    let Some(window) = window else {
        return Err(Failure::usage(format!("pipeline `{}` has no window: there is no truth about it", plan.name)));
    };
    let (size, slide) = match window.kind {
        WindowKind::Tumbling { size } => (size, size),
        WindowKind::Sliding { size, slide } => (size, slide),
        WindowKind::Global => return Err(Failure::usage("there is no truth about a global window")),
    };
    Ok(Law {
        partitions: plan.source.partitions,
        delay: plan.source.watermark.delay.0,
        allowed_lateness: window.allowed_lateness.0,
        size: size.0,
        slide: slide.0,
    })
}

fn parse_events(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a number from 1 to {EVENTS_MAX}");
    text.parse().ok().filter(|count| (1..=EVENTS_MAX).contains(count)).ok_or_else(wrong)
}

/// Up to a century, as durations are.
fn parse_hours(text: &str) -> Result<f64, String> {
    let wrong = || "expected hours from 0 to 876000".to_owned();
    text.parse().ok().filter(|hours| (0.0..=876_000.0).contains(hours)).ok_or_else(wrong)
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    let fraction: f64 = text.parse().map_err(|_| "expected a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&fraction) { Ok(fraction) } else { Err("expected a number from 0 to 1".to_owned()) }
}

fn parse_exponent(text: &str) -> Result<f64, String> {
    let exponent: f64 = text.parse().map_err(|_| "expected a number from 0 to 3".to_owned())?;
    if (0.0..=3.0).contains(&exponent) { Ok(exponent) } else { Err("expected a number from 0 to 3".to_owned()) }
}

/// Which subject an event goes to.
#[derive(Debug, PartialEq, Eq)]
enum Ingest {
    Literal(String),
    /// The wildcards of this subject become the key.
    ByKey(String),
    /// Chosen by the hash that the broker would use.
    ByPartition(Vec<String>),
}

impl Ingest {
    fn new(subject: &str, plan: Option<&Plan>) -> Result<Ingest, Failure> {
        if !subject.is_empty() {
            return Ok(if subject.contains('*') {
                Ingest::ByKey(subject.to_owned())
            } else {
                Ingest::Literal(subject.to_owned())
            });
        }
        let plan =
            plan.ok_or_else(|| Failure::usage("--publish has no subject").hint("name one, or add --pipeline"))?;
        let ingest = plan.source.create.as_ref().and_then(|create| create.ingest.as_deref());
        Ok(match ingest {
            Some(ingest) if ingest.contains('*') => Ingest::ByKey(ingest.to_owned()),
            Some(ingest) => Ingest::Literal(ingest.to_owned()),
            None => Ingest::ByPartition((0..plan.source.partitions).map(|idx| source_subject(plan, idx)).collect()),
        })
    }

    fn subject(&self, key: &str) -> String {
        match self {
            Ingest::Literal(subject) => subject.clone(),
            Ingest::ByKey(subject) => subject.replace('*', key),
            Ingest::ByPartition(subjects) => subjects[oracle::partition(key, subjects.len() as u32) as usize].clone(),
        }
    }
}

async fn publish(args: &PlaysArgs, plays: &Plays, ingest: &Ingest) -> Result<(), Failure> {
    let broker = args.connection.connect().await?;
    let mut sender = Sender::new(&broker, &ingest.subject("key"), args.rate).await?;
    let bar = progress(plays.plays.len() as u64);
    let mut line = Vec::new();
    let start = Instant::now();
    for (idx, play) in plays.plays.iter().enumerate() {
        if let Some(rate) = args.rate
            && idx % 64 == 0
        {
            let due = start + Duration::from_secs_f64(idx as f64 / f64::from(rate));
            tokio::time::sleep_until(due.into()).await;
        }
        record(play, &mut line);
        sender.send(ingest.subject(&user_id(play)), Bytes::copy_from_slice(&line)).await?;
        if idx % 1024 == 0 {
            bar.set_position(idx as u64);
        }
    }
    let stored = sender.flush().await?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let rate = stored as f64 / seconds;
    terminal::tell([format!("{stored} events published in {seconds:.1} s, {rate:.0} per second").as_str()]);
    Ok(())
}

fn write_lines(path: Option<&Path>, plays: &Plays) -> Result<(), Failure> {
    let out: Box<dyn Write> = match path {
        Some(path) => Box::new(create(path)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut out = BufWriter::with_capacity(1 << 20, out);
    // Lines that scroll by are progress enough.
    let bar = if path.is_none() && io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        progress(plays.plays.len() as u64)
    };
    let mut line = Vec::new();
    for (idx, play) in plays.plays.iter().enumerate() {
        record(play, &mut line);
        line.push(b'\n');
        out.write_all(&line)?;
        if idx % 4096 == 0 {
            bar.set_position(idx as u64);
        }
    }
    out.flush()?;
    bar.finish_and_clear();
    Ok(())
}

/// A new file: what is there already may be somebody's events.
fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| {
        let is_there = error.kind() == io::ErrorKind::AlreadyExists;
        let failure = Failure::new(Exit::Usage, error).context(format!("cannot write {}", path.display()));
        if is_there { failure.hint("remove it, or name another file") } else { failure }
    })
}

fn progress(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} events, {per_sec}, {eta} left")
        .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr()).with_style(style)
}

fn write_truth(path: &Path, spec: &Spec, law: &Law, plays: &Plays) -> Result<(), Failure> {
    let verdict = oracle::judge(plays, law);
    let bad = plays.bad_counts();
    let truth = json!({
        "version": 1,
        "seed": spec.seed,
        "events": plays.plays.len(),
        "start": format_time(spec.start),
        "law": law,
        "farms": plays.farms,
        "alerts": verdict.alerts,
        "late_events": verdict.late_events,
        "bad": bad,
    });
    let mut out = BufWriter::new(create(path)?);
    serde_json::to_writer_pretty(&mut out, &truth)?;
    out.write_all(b"\n")?;
    out.flush()?;
    terminal::tell([summary(&verdict, plays).as_str()]);
    Ok(())
}

fn summary(verdict: &Verdict, plays: &Plays) -> String {
    let count = |timing: Timing| verdict.alerts.iter().filter(|alert| alert.pane_timing == timing).count();
    format!(
        "truth: {} {}, {} alerts ({} on time, {} corrections, {} at the end), {} late events, {} bad records",
        plays.farms.len(),
        if plays.farms.len() == 1 { "farm" } else { "farms" },
        verdict.alerts.len(),
        count(Timing::OnTime),
        count(Timing::Late),
        count(Timing::EndOfInput),
        verdict.late_events,
        plays.bad_counts().values().sum::<u64>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_follow_the_key() {
        let subject = |text: &str| Ingest::new(text, None).unwrap().subject("u7");
        assert_eq!(subject("plays"), "plays");
        assert_eq!(subject("plays.in.*"), "plays.in.u7");
        assert!(Ingest::new("", None).is_err());
        let four = Ingest::ByPartition((0..4).map(|idx| format!("plays.{idx}")).collect());
        // 32-bit FNV-1a of "a" is 0xe40c292c.
        assert_eq!(four.subject("a"), "plays.0");
    }

    #[test]
    fn counts_and_hours_are_bounded() {
        assert_eq!(parse_events("4294967295"), Ok(EVENTS_MAX));
        for text in ["0", "-1", "4294967296", "18446744073709551615", "1e6", ""] {
            assert!(parse_events(text).is_err(), "{text}");
        }
        assert_eq!(parse_hours("2.5"), Ok(2.5));
        for text in ["-1", "1e308", "inf", "NaN", "876001"] {
            assert!(parse_hours(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_are_between_nothing_and_everything() {
        assert_eq!(parse_fraction("0.25"), Ok(0.25));
        for text in ["-0.1", "1.1", "NaN", "half"] {
            assert!(parse_fraction(text).is_err(), "{text}");
        }
    }
}
