//! Whole-process figures of a child: wall time, CPU time, peak memory.
//!
//! Each child runs under its own `yardstick measure`, whose only child it is, so that the kernel's account of
//! "children" is the account of that one program; a large parent would also leave its own peak in the child's.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::place;

/// What one run of a program took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    pub wall_s: f64,
    /// User and system time.
    pub cpu_s: f64,
    pub peak_bytes: u64,
}

/// Runs `program`, writes its [`Usage`] to `report` and returns its exit code. Runs inside `yardstick measure`.
///
/// # Errors
/// When the program cannot be started or the report not written.
pub fn child(program: &[OsString], report: &Path) -> Result<i32> {
    let (name, arguments) = program.split_first().context("no program given")?;
    let start = Instant::now();
    let status = Command::new(name).args(arguments).status().with_context(|| format!("starting {name:?}"))?;
    let wall_s = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the resource usage")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let usage = Usage {
        wall_s,
        cpu_s: seconds(usage.user_time()) + seconds(usage.system_time()),
        peak_bytes: usage.max_rss() as u64 * unit,
    };
    std::fs::write(report, serde_json::to_vec(&usage)?).with_context(|| format!("writing `{}`", report.display()))?;
    Ok(status.code().unwrap_or(101))
}

/// Runs `command` to its end and returns what it took. Its stderr is shown only when it fails.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &Command) -> Result<Usage> {
    let report = tempfile::NamedTempFile::new().context("making a file for the report")?;
    let mut wrapper = Command::new(place::program("yardstick")?);
    wrapper.arg("measure").arg("--report").arg(report.path()).arg("--").arg(command.get_program());
    wrapper.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapper.current_dir(folder);
    }
    let output = wrapper.output().context("starting the yardstick")?;
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 30));
    }
    let text = std::fs::read(report.path()).context("reading the report")?;
    serde_json::from_slice(&text).context("the report does not decode")
}

/// The last lines of a program's output.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The middle value; of two middle ones the mean. `values` is not empty.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The value below which `share` of all values lie. `sorted` ascends and is not empty.
#[must_use]
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    assert!(!sorted.is_empty(), "a percentile needs a value");
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// The medians of several runs, each figure for itself.
#[must_use]
pub fn medians(runs: &[Usage]) -> Usage {
    let of = |field: fn(&Usage) -> f64| median(&runs.iter().map(field).collect::<Vec<_>>());
    Usage { wall_s: of(|u| u.wall_s), cpu_s: of(|u| u.cpu_s), peak_bytes: of(|u| u.peak_bytes as f64) as u64 }
}

/// CPU seconds that a running process has used so far; `None` where the system does not say.
#[must_use]
pub fn cpu_of(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks; the fields after it are counted.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let values: Vec<u64> = (0..=100).collect();
        assert_eq!(percentile(&values, 0.99), 99);
        assert_eq!(percentile(&[7], 0.5), 7);
    }
}
