//! `pelton down`: deletes what `up` made.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use pelton_broker::Down;

use super::connection::ConnectionArgs;
use super::failure::Failure;
use super::{print, run};
use crate::pipeline;
use crate::terminal;

const AFTER: &str = "\
The pipeline stream holds all results, dead letters and the state: after `down` they are gone. Remove the state folder as \
well, then `up` and `run` start again from the first event. The input stream and the output streams stay unless they are \
named: a new start writes everything to the output streams once more.

Examples:
  pelton down pipelines/fraud.toml
  pelton down pipelines/fraud.toml --yes --input --outputs";

/// Delete the streams and buckets of a pipeline
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct DownArgs {
    /// Pipeline file
    pipeline: PathBuf,
    /// Delete the input stream too, if `up` makes it
    #[arg(long)]
    input: bool,
    /// Delete the output streams too
    #[arg(long)]
    outputs: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: DownArgs) -> Result<(), Failure> {
    let plan = pipeline::outline(&args.pipeline)?;
    let name = &plan.name;
    if !args.yes {
        confirm(name)?;
    }
    let broker = args.connection.connect().await?;
    let mut working = Vec::new();
    for partition in 0..plan.source.partitions {
        // Who may not ask about leases may still delete streams, and waits for one answer only.
        let Ok(holder) = pelton_broker::lease_holder(&broker, name, partition).await else { break };
        working.extend(holder.map(|holder| format!("{holder} on partition {partition}")));
    }
    let what = Down { input: args.input, outputs: args.outputs };
    for stream in pelton_broker::down(&broker, &plan, what).await? {
        print::line(&format!("deleted {stream}"))?;
    }
    if let [first, rest @ ..] = working.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let note = "that host will halt: stop it, and remove its state folder before the next run";
        terminal::tell([format!("note: still at work: {first}{more}; {note}").as_str()]);
    }
    // The next run would find a position of a stream that is gone, refuse, and be right.
    if let Ok(state) = run::state_home().map(|home| home.join(name))
        && state.exists()
    {
        let state = state.display();
        let note = "belongs to the streams that are gone: remove it before the next run";
        terminal::tell([format!("note: the working state in {state} {note}").as_str()]);
    }
    Ok(())
}

fn confirm(name: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("down deletes all results and state, and there is nobody to ask").hint("add --yes"));
    }
    terminal::ask(&format!("delete all results and state of pipeline `{name}`? type its name: "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == name { Ok(()) } else { Err(Failure::usage("nothing was deleted")) }
}
