//! `pelton validate`: everything that can be known before a run; without a broker, unless one is named.

use std::path::PathBuf;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use pelton_engine::guest::Descriptor;
use pelton_engine::hex;
use pelton_engine::problem::Problem;
use serde::Serialize;

use super::connection::ConnectionArgs;
use super::failure::Failure;
use super::print;
use crate::committed;
use crate::pipeline::{self, Pipeline};
use crate::terminal;

const AFTER: &str = "\
Examples:
  pelton validate pipelines/fraud.toml
  pelton validate pipelines/fraud.toml --server nats://127.0.0.1:4222
  pelton validate pipelines/fraud.toml --json | jq '.problems // .stages'";

/// Check a pipeline file and its modules, without a broker
///
/// Reads the file, loads and configures the modules, binds them to each other, and lets a window rule judge an empty
/// window. All problems of the file are printed at once as `path:line:column: code: message`, and once it has none, those
/// of its modules; the exit code is then 2.
///
/// With --server or --context it also asks the broker whether the pipeline can go on from what is committed there: a run
/// would halt where stages, windows, aggregates, the key or the number of partitions are others than before (exit code 3).
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct ValidateArgs {
    /// Pipeline file
    pipeline: PathBuf,
    /// Print what was found as JSON, problems too
    #[arg(long)]
    json: bool,
    /// Folder of compiled modules [default: the user's cache folder]
    #[arg(long, value_name = "DIR", env = "PELTON_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Whether arguments name a broker; variables may be meant for other commands.
    #[arg(skip)]
    pub(super) names_broker: bool,
}

/// Whether arguments, not variables, name a broker.
pub(super) fn names_broker(given: &ArgMatches) -> bool {
    ["server", "context"].iter().any(|name| given.value_source(name) == Some(ValueSource::CommandLine))
}

#[derive(Serialize)]
struct Report {
    name: String,
    partitions: u32,
    stages: Vec<StageReport>,
    outputs: Vec<String>,
    /// What may be wrong, and need not be.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct StageReport {
    stage: String,
    /// The stage that it reads, or `source`.
    from: String,
    module: String,
    version: String,
    /// Such as `window-rule`.
    kind: &'static str,
    digest: String,
    /// Fields that the host decodes for it.
    reads: Vec<String>,
    /// Whether it also gets the payload.
    payload: bool,
    /// Counters of the module's own.
    counters: Vec<String>,
    /// Whether it reads what earlier state versions of it have kept.
    migrates: bool,
    /// Whether it takes a person out of what it keeps under other keys.
    erases: bool,
}

#[derive(Serialize)]
struct ProblemReport<'a> {
    /// From 1.
    line: u32,
    column: u32,
    code: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
}

impl ProblemReport<'_> {
    fn of(problem: &Problem) -> ProblemReport<'_> {
        let Problem { code, message, line, column, hint } = problem;
        ProblemReport { line: *line, column: *column, code, message, hint: hint.as_deref() }
    }
}

pub(super) async fn run(args: ValidateArgs) -> Result<(), Failure> {
    let sandbox = pipeline::sandbox(args.cache_dir.clone(), Arc::default())?;
    let pipeline = match Pipeline::load(&args.pipeline, &sandbox) {
        Ok(pipeline) => pipeline,
        Err(failure) => {
            if args.json {
                let problems: Vec<_> = failure.as_problems().iter().map(ProblemReport::of).collect();
                print::json(&serde_json::json!({ "problems": problems }))?;
            }
            return Err(failure);
        }
    };
    if args.names_broker {
        let broker = args.connection.connect().await?;
        let partitions: Vec<u32> = (0..pipeline.plan.source.partitions).collect();
        committed::check(&broker, &pipeline, &partitions).await?;
    }
    let report = report(&pipeline);
    if args.json {
        print::json(&report)?;
        return Ok(());
    }
    for warning in &report.warnings {
        terminal::tell([format!("warning: {warning}").as_str()]);
    }
    print::line(&format!("{}: {} is ok", args.pipeline.display(), report.name))?;
    let rows = report.stages.into_iter().map(|stage| {
        let module = format!("{}@{}", stage.module, stage.version);
        let reads = if stage.payload { "payload".to_owned() } else { stage.reads.join(" ") };
        vec![stage.stage, stage.from, module, stage.kind.to_owned(), stage.digest[..12].to_owned(), reads]
    });
    print::table(&["STAGE", "FROM", "MODULE", "KIND", "DIGEST", "READS"], &[], rows.collect())?;
    Ok(())
}

fn report(pipeline: &Pipeline) -> Report {
    let plan = &pipeline.plan;
    let stages = plan.stages.iter().zip(&pipeline.modules).zip(&pipeline.descriptors);
    let stages = stages.map(|((stage, module), Descriptor { identity, shape })| StageReport {
        stage: stage.name.clone(),
        from: stage.from.map_or("source".to_owned(), |from| plan.stages[from].name.clone()),
        module: identity.name.clone(),
        version: identity.version.clone(),
        kind: identity.world.name(),
        digest: hex::encode(&module.digest()),
        reads: shape.fields.iter().map(|field| field.name.clone()).collect(),
        payload: shape.payload,
        counters: shape.counters.clone(),
        migrates: identity.migrates,
        erases: identity.erases,
    });
    Report {
        name: plan.name.clone(),
        partitions: plan.source.partitions,
        stages: stages.collect(),
        outputs: plan.outputs.iter().map(|output| output.name.clone()).collect(),
        warnings: pipeline.warnings.clone(),
    }
}
