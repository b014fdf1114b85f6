//! Jobs A to D over files: `pelton run` with a durable state against the hand-written program.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pelton_bench::measure::{Usage, medians};
use pelton_bench::table::grouped;
use pelton_bench::{events, measure, place, rows};
use sha2::{Digest, Sha256};

use crate::{Outcome, Setting, Side, pipeline};

/// Events of the files whose sums and row counts are known.
const KNOWN_EVENTS: usize = 2_000_000;

struct Job {
    what: &'static str,
    pipeline: &'static str,
    yardstick: &'static str,
    is_corrupt: bool,
    /// Rows of the known file; for job C the valid and the dead lines.
    known_rows: (u64, u64),
    expected: &'static str,
}

const JOBS: [Job; 5] = [
    Job {
        what: "A: plays per user, 1 h every 5 min",
        pipeline: "job-a.toml",
        yardstick: "job-a",
        is_corrupt: false,
        known_rows: (21_635, 0),
        expected: "0.6, aim 1.0",
    },
    Job {
        what: "B: long plays per track and minute",
        pipeline: "job-b.toml",
        yardstick: "job-b",
        is_corrupt: false,
        known_rows: (616_116, 0),
        expected: "0.5, aim 0.8",
    },
    Job {
        what: "C: six fields checked, declared",
        pipeline: "job-c-fields.toml",
        yardstick: "job-c",
        is_corrupt: true,
        known_rows: (1_979_997, 20_003),
        expected: "0.5, aim 0.9",
    },
    Job {
        what: "C: six fields checked, JSON Schema",
        pipeline: "job-c-schema.toml",
        yardstick: "job-c",
        is_corrupt: true,
        known_rows: (1_979_997, 20_003),
        expected: "reported",
    },
    Job {
        what: "D: users and top countries per device",
        pipeline: "job-d.toml",
        yardstick: "job-d",
        is_corrupt: false,
        known_rows: (315, 0),
        expected: "reported",
    },
];

/// Runs all jobs.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let good = input(setting, false)?;
    let corrupt = input(setting, true)?;
    JOBS.iter()
        .map(|job| {
            eprintln!("{} …", job.what);
            one(setting, job, if job.is_corrupt { &corrupt } else { &good }).context(job.what)
        })
        .collect()
}

fn one(setting: &Setting, job: &Job, input: &Path) -> Result<Outcome> {
    let folder = setting.scratch.join(job.pipeline.trim_end_matches(".toml"));
    let (expected, dead) = (folder.join("yardstick.out"), folder.join("yardstick.dlq"));
    let (output, state) = (folder.join("out"), folder.join("state"));
    place::fresh(&folder)?;
    let mut yardstick = Command::new(place::program("yardstick")?);
    yardstick.arg(job.yardstick).arg(input).arg(&expected);
    if job.is_corrupt {
        yardstick.arg(&dead);
    }
    let pelton = setting.pelton.run_file(&pipeline(job.pipeline)?, input, &output, &state);
    // Once unmeasured: pages of the input and the compiled module are warm for both.
    warm(&pelton, &yardstick, &output, &state)?;
    let checked = check(setting, job, &expected, &dead, &output)?;
    let (mut yardsticks, mut peltons): (Vec<Usage>, Vec<Usage>) = (Vec::new(), Vec::new());
    // Taken in turns, so that a slow minute of the machine hits both.
    for _ in 0..setting.runs {
        yardsticks.push(measure::run(&yardstick)?);
        place::fresh(&output)?;
        place::fresh(&state)?;
        peltons.push(measure::run(&pelton)?);
    }
    check(setting, job, &expected, &dead, &output)?;
    place::fresh(&folder)?;
    let events = setting.file_events as u64;
    Ok(Outcome {
        what: job.what.to_owned(),
        yardstick: Side::new(&medians(&yardsticks), events),
        pelton: Side::new(&medians(&peltons), events),
        expected: job.expected.to_owned(),
        checked: format!("{}: {checked}", job.what),
    })
}

fn warm(pelton: &Command, yardstick: &Command, output: &Path, state: &Path) -> Result<()> {
    measure::run(yardstick)?;
    place::fresh(output)?;
    place::fresh(state)?;
    measure::run(pelton)?;
    Ok(())
}

/// Compares the pipeline's results with the yardstick's; says what was equal.
fn check(setting: &Setting, job: &Job, expected: &Path, dead: &Path, output: &Path) -> Result<String> {
    let (found, text) = if job.is_corrupt {
        let valid = rows::same_lines(expected, &output.join("valid.jsonl"))?;
        let refused = rows::same_originals(dead, &output.join("dlq.jsonl"))?;
        let text = format!("{} lines and {} dead letters", grouped(valid), grouped(refused));
        ((valid, refused), format!("{text} equal byte for byte to the yardstick's"))
    } else {
        let count = rows::same_rows(&rows::from_csv(expected)?, &rows::from_output(&output.join("rows.jsonl"))?)?;
        ((count, 0), format!("{} rows equal to the yardstick's", grouped(count)))
    };
    if setting.file_events == KNOWN_EVENTS {
        ensure!(found == job.known_rows, "{found:?} rows, known to be {:?}", job.known_rows);
    }
    Ok(text)
}

/// The events as a file; made once, its sum checked every time.
pub(crate) fn input(setting: &Setting, corrupt: bool) -> Result<PathBuf> {
    let kind = if corrupt { "corrupt" } else { "good" };
    let path = setting.scratch.join(format!("events-{kind}-{}.jsonl", setting.file_events));
    if !path.is_file() {
        eprintln!("generating {} …", path.display());
        let part = path.with_extension("part");
        let mut command = Command::new(place::program("yardstick")?);
        command.arg("generate").arg(setting.file_events.to_string()).arg(&part);
        command.args(corrupt.then_some(OsStr::new("--corrupt")));
        measure::run(&command)?;
        std::fs::rename(&part, &path).context("renaming the generated file")?;
    }
    if setting.file_events == KNOWN_EVENTS {
        let found = sum(&path)?;
        let known = events::SUMS.iter().find(|(is_corrupt, _)| *is_corrupt == corrupt).map(|(_, sum)| *sum);
        if known != Some(found.as_str()) {
            bail!("`{}` has the sum {found}, not {known:?}; delete it to generate it again", path.display());
        }
    }
    Ok(path)
}

fn sum(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).context("reading the events")?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}
