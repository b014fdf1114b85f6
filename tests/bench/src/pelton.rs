//! The `pelton` program as these drivers call it: the one place that knows its flags.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{measure, place};

/// The program, and the broker it should use.
#[derive(Clone, Debug)]
pub struct Pelton {
    program: PathBuf,
    url: Option<String>,
}

impl Pelton {
    /// The program of this build, without a broker.
    ///
    /// # Errors
    /// When it is not built.
    pub fn without_broker() -> Result<Pelton> {
        Ok(Pelton { program: place::program("pelton")?, url: None })
    }

    /// The program of this build, for the broker at `url`.
    ///
    /// # Errors
    /// When it is not built.
    pub fn with_broker(url: &str) -> Result<Pelton> {
        Ok(Pelton { program: place::program("pelton")?, url: Some(url.to_owned()) })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).stdin(Stdio::null());
        match &self.url {
            Some(url) => command.env("NATS_URL", url),
            None => command.env_remove("NATS_URL"),
        };
        command
    }

    /// `run` over a file, with a durable commit in `state`.
    #[must_use]
    pub fn run_file(&self, pipeline: &Path, input: &Path, output: &Path, state: &Path) -> Command {
        let mut command = self.command("run");
        command.arg(pipeline).arg("--input").arg(input).arg("--output-dir").arg(output).arg("--state-dir").arg(state);
        command
    }

    /// `run` from the broker until a signal ends it.
    #[must_use]
    pub fn run(&self, pipeline: &Path, state: &Path) -> Command {
        let mut command = self.command("run");
        command.arg(pipeline).arg("--state-dir").arg(state).arg("--listen").arg("off");
        command
    }

    /// `run` from the broker until everything that the input held is processed.
    #[must_use]
    pub fn catch_up(&self, pipeline: &Path, state: &Path) -> Command {
        let mut command = self.run(pipeline, state);
        command.arg("--exit-when-caught-up");
        command
    }

    /// `up`: makes the streams of a pipeline. A lease of a killed host lasts `lease_s`; hosts renew it every 3 s.
    ///
    /// # Errors
    /// When it fails.
    pub fn up(&self, pipeline: &Path, lease_s: u32) -> Result<()> {
        let mut command = self.command("up");
        command.arg(pipeline).arg("--lease").arg(format!("{lease_s}s"));
        finish(&mut command)
    }

    /// `down`: removes what `up` made, except the input.
    ///
    /// # Errors
    /// When it fails.
    pub fn down(&self, pipeline: &Path) -> Result<()> {
        let mut command = self.command("down");
        command.arg(pipeline).arg("--yes");
        finish(&mut command)
    }

    /// `generate plays` into files.
    ///
    /// # Errors
    /// When it fails.
    pub fn generate(&self, plays: &Plays) -> Result<()> {
        let mut command = self.command("generate");
        command.arg("plays").arg("--pipeline").arg(&plays.pipeline);
        command.arg("--events").arg(plays.events.to_string()).arg("--farms").arg(plays.farms.to_string());
        command.arg("--bad").arg(plays.bad.to_string()).arg("--late").arg(plays.late.to_string());
        command.arg("--seed").arg(plays.seed.to_string());
        command.arg("--output").arg(&plays.output).arg("--truth").arg(&plays.truth);
        finish(&mut command)
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Plays {
    /// Whose windows and watermark the ground truth is for.
    pub pipeline: PathBuf,
    pub events: u64,
    pub farms: u32,
    /// Share of bad records.
    pub bad: f64,
    /// Share of plays that come too late for every window.
    pub late: f64,
    pub seed: u64,
    pub output: PathBuf,
    /// Side file with the ground truth.
    pub truth: PathBuf,
}

/// Runs a command to its end; shows what it said when it fails.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn finish(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}",
            output.status,
            measure::tail(&String::from_utf8_lossy(&output.stderr), 30)
        );
    }
    Ok(())
}
