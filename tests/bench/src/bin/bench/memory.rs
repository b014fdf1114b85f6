//! Peak memory of a long file run: the fraud pipeline over more plays than any window holds.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pelton_bench::pelton::Plays;
use pelton_bench::table::{Table, grouped, mebibytes};
use pelton_bench::{measure, place};
use serde_json::Value;

use crate::Setting;

const SEED: u64 = 2026;
const FARMS: u32 = 20;

/// Runs it once: a peak hardly varies. The number of alerts is compared with the generator's truth.
pub(crate) fn run(setting: &Setting, figures: &mut Table) -> Result<()> {
    let events: u64 = if setting.is_quick { 100_000 } else { 5_000_000 };
    eprintln!("peak memory over {} plays …", grouped(events));
    let folder = setting.scratch.join("memory");
    place::fresh(&folder)?;
    let (input, truth, output) = (folder.join("plays.jsonl"), folder.join("truth.json"), folder.join("out"));
    let pipeline = place::file("pipelines/fraud.toml")?;
    setting.pelton.generate(&Plays {
        pipeline: pipeline.clone(),
        events,
        farms: FARMS,
        bad: 0.001,
        late: 0.001,
        seed: SEED,
        output: input.clone(),
        truth: truth.clone(),
    })?;
    let usage = measure::run(&setting.pelton.run_file(&pipeline, &input, &output, &folder.join("state")))?;
    let truth: Value = serde_json::from_reader(BufReader::new(File::open(&truth)?)).context("reading the truth")?;
    let expected = truth["alerts"].as_array().context("the truth lists alerts")?.len();
    let found = lines(&output.join("alerts.jsonl"))?;
    ensure!(found == expected, "{found} alerts, expected {expected}");
    figures.row([
        format!("fraud over a file of {} plays: peak memory", grouped(events)),
        format!(
            "{} at {} k/s, {expected} alerts as expected",
            mebibytes(usage.peak_bytes),
            grouped((events as f64 / usage.wall_s / 1e3).round() as u64)
        ),
    ]);
    place::fresh(&folder)
}

fn lines(path: &Path) -> Result<usize> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    Ok(BufReader::new(file).lines().count())
}
