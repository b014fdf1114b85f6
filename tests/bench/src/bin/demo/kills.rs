//! The second run: from the beginning over the same input, with a host that is killed with SIGKILL at random moments.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use pelton_bench::stream::{self, Dump, Kind};
use pelton_bench::table::grouped;
use pelton_bench::{measure, pelton};

use crate::{Arguments, LEASE_S, PIPELINE, Stage, story};

/// A host that commits nothing for this long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the pipeline again and kills the host on the way; returns whether the result is that of the first run.
pub(crate) fn again(stage: &Stage, arguments: &Arguments, first: &Dump) -> Result<bool> {
    println!();
    story::line("again", "the same input, the pipeline from the beginning, the host killed with SIGKILL on the way");
    stage.pelton.down(&stage.pipeline)?;
    stage.pelton.up(&stage.pipeline, LEASE_S)?;
    let state = stage.scratch.path().join("second");
    let client = stage.runtime.block_on(async_nats::connect(stage.server.url())).context("connecting")?;
    // Making a context starts a task on the runtime.
    let entered = stage.runtime.enter();
    let context = jetstream::new(client);
    drop(entered);
    for target in targets(arguments.events, arguments.kills) {
        let mut host = start(stage, &state)?;
        let reached = watch(stage, &context, &mut host, target);
        host.kill().context("killing the host")?;
        host.wait().context("waiting for the host")?;
        let committed = stage.runtime.block_on(stream::committed(&context, PIPELINE))?;
        if !reached? {
            story::line("", &format!("the host was done before event {}", grouped(target)));
            break;
        }
        story::line("", &format!("killed at event {}", grouped(committed)));
    }
    pelton::finish(&mut stage.pelton.catch_up(&stage.pipeline, &state))?;
    compare(first, &stage.dump()?)
}

fn start(stage: &Stage, state: &Path) -> Result<Child> {
    let log = File::create(stage.scratch.path().join("host.log")).context("making host.log")?;
    let mut command = stage.pelton.catch_up(&stage.pipeline, state);
    command.stdout(Stdio::null()).stderr(log).spawn().with_context(|| format!("starting {command:?}"))
}

/// Waits until the host has committed `target` events; `false` when it ended well before that.
fn watch(stage: &Stage, context: &jetstream::Context, host: &mut Child, target: u64) -> Result<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = host.try_wait()? {
            if status.success() {
                return Ok(false);
            }
            let log = std::fs::read_to_string(stage.scratch.path().join("host.log")).unwrap_or_default();
            bail!("the host ended with {status}:\n{}", measure::tail(&log, 30));
        }
        if target <= stage.runtime.block_on(stream::committed(context, PIPELINE))? {
            return Ok(true);
        }
        if PATIENCE < start.elapsed() {
            bail!("the host did not reach event {target} within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Random moments, one in each of as many equal parts of the run.
fn targets(events: u64, kills: usize) -> Vec<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let mut random = now | 1;
    (0..kills as u64)
        .map(|idx| {
            // Xorshift; good enough to pick a moment.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let part = events * 9 / 10 / kills as u64;
            1 + idx * part + random % part.max(1)
        })
        .collect()
}

fn compare(first: &Dump, second: &Dump) -> Result<bool> {
    let differences = first.differences(second);
    if differences.is_empty() {
        for (what, kind) in [("alerts", Kind::Output), ("dead letters", Kind::DeadLetter), ("late events", Kind::Late)]
        {
            let count = grouped(second.count(kind));
            story::line("", &format!("{what}: {count}, equal byte for byte, headers and order included"));
        }
    } else {
        story::line("", "DIFFERENT from the undisturbed run:");
        for difference in differences.iter().take(10) {
            story::line("", &format!("  {difference}"));
        }
    }
    Ok(differences.is_empty())
}
