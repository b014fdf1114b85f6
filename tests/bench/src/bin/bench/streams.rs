//! The fraud pipeline from JetStream, exactly once, against nothing but reading the same stream.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pelton_bench::measure::{Usage, medians};
use pelton_bench::pelton::{Pelton, Plays};
use pelton_bench::stream::{self, Kind};
use pelton_bench::table::grouped;
use pelton_bench::truth::{self, Truth};
use pelton_bench::{measure, place, publish};
use pelton_broker::testing::Server;

use crate::{LEASE_S, Outcome, Setting, Side};

const WAYS: [&str; 2] = ["stream", "core-pull"];

/// Fills a stream once and takes pipeline and yardstick in turns.
pub(crate) fn run(setting: &Setting) -> Result<Outcome> {
    eprintln!("fraud from JetStream …");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::start();
    let pelton = Pelton::with_broker(&server.url())?;
    let pipeline = place::file("pipelines/fraud.toml")?;
    let folder = setting.scratch.join("fraud");
    place::fresh(&folder)?;
    let truth = fill(setting, &runtime, &server, &pelton, &pipeline)?;

    let mut checked = String::new();
    let mut peltons: Vec<Usage> = Vec::new();
    let mut ways: [Vec<Usage>; 2] = [Vec::new(), Vec::new()];
    // The first round warms caches and is not counted.
    for round in 0..=setting.runs {
        for (way, usages) in WAYS.iter().zip(&mut ways) {
            let usage = measure::run(&consume(&server, way)?)?;
            usages.extend((round != 0).then_some(usage));
        }
        pelton.down(&pipeline)?;
        pelton.up(&pipeline, LEASE_S)?;
        let state = folder.join("state");
        place::fresh(&state)?;
        let usage = measure::run(&pelton.catch_up(&pipeline, &state))?;
        peltons.extend((round != 0).then_some(usage));
        checked = check(&runtime, &server, &truth)?;
    }
    place::fresh(&folder)?;
    let events = setting.stream_events;
    let fastest = ways.iter().map(|usages| medians(usages)).min_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
    let fastest = fastest.context("there are two ways")?;
    Ok(Outcome {
        what: "fraud from JetStream, exactly once".to_owned(),
        yardstick: Side::new(&fastest, events),
        pelton: Side::new(&medians(&peltons), events),
        expected: "0.7, aim 0.9".to_owned(),
        checked,
    })
}

fn consume(server: &Server, way: &str) -> Result<Command> {
    let mut command = Command::new(place::program("yardstick")?);
    command.arg("consume").arg("--url").arg(server.url()).arg("--stream").arg("PLAYS").arg("--way").arg(way);
    Ok(command)
}

fn fill(
    setting: &Setting,
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    pelton: &Pelton,
    pipeline: &Path,
) -> Result<Truth> {
    pelton.up(pipeline, LEASE_S)?;
    let plays = Plays {
        pipeline: pipeline.to_path_buf(),
        events: setting.stream_events,
        farms: if setting.is_quick { 5 } else { 20 },
        bad: 0.001,
        late: 0.001,
        seed: 3,
        output: setting.scratch.join("plays.jsonl"),
        truth: setting.scratch.join("truth.json"),
    };
    pelton.generate(&plays)?;
    let count = runtime.block_on(publish::lines(&server.url(), "PLAYS", "plays", &plays.output))?;
    ensure!(count == plays.events, "{count} plays were published, {} wanted", plays.events);
    let truth = Truth::read(&plays.truth)?;
    for path in [&plays.output, &plays.truth] {
        std::fs::remove_file(path).with_context(|| format!("removing `{}`", path.display()))?;
    }
    Ok(truth)
}

fn check(runtime: &tokio::runtime::Runtime, server: &Server, truth: &Truth) -> Result<String> {
    let dump = runtime.block_on(stream::dump(&server.url(), "fraud"))?;
    let comparison = truth::compare(&truth.open_stream_alerts(), &truth::alerts(&dump)?);
    ensure!(
        comparison.is_equal(),
        "{} alerts are missing, {} are not expected; first: {:?} {:?}",
        comparison.missing.len(),
        comparison.unexpected.len(),
        comparison.missing.first(),
        comparison.unexpected.first()
    );
    let (late, dead) = (dump.count(Kind::Late), dump.count(Kind::DeadLetter));
    ensure!(late == truth.late_events, "{late} late events, {} expected", truth.late_events);
    ensure!(dead == truth.bad_records(), "{dead} dead letters, {} expected", truth.bad_records());
    let (alerts, late, dead) = (grouped(comparison.equal), grouped(late), grouped(dead));
    Ok(format!(
        "fraud from JetStream: {alerts} alerts, {late} late events, {dead} dead letters equal to the ground truth"
    ))
}
