//! Where log lines go: stderr, for people or for machines.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::failure::Failure;
use crate::terminal::{CleanFields, CleanJson};

/// What is logged, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArgs {
    /// What is logged: a level, or `target=level` pairs [default: info for `run`, else warn]
    #[arg(long = "log", value_name = "FILTER", env = "PELTON_LOG", global = true)]
    filter: Option<String>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t, env = "PELTON_LOG_FORMAT", global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Human,
    /// One JSON object per line
    Json,
}

impl LogArgs {
    /// Starts logging; `quiet` decides the default level.
    pub(super) fn start(&self, quiet: bool) -> Result<(), Failure> {
        let filter = match &self.filter {
            Some(text) => EnvFilter::try_new(text).map_err(|error| {
                Failure::usage(format!("log filter `{text}`: {error}"))
                    .hint("for example --log info,pelton_broker=debug")
            })?,
            // That a module is being compiled is worth a line in any command: it explains the wait.
            None => EnvFilter::new(if quiet { "warn,pelton_sandbox::sandbox=info" } else { "info,async_nats=warn" }),
        };
        let color =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // A log that cannot be written is no reason to stop: its writer would say so on stderr, and panic.
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).log_internal_errors(false);
        match self.log_format {
            LogFormat::Human => {
                builder.fmt_fields(CleanFields).with_writer(std::io::stderr).with_target(false).init();
            }
            LogFormat::Json => builder.json().flatten_event(true).with_writer(CleanJson).init(),
        }
        Ok(())
    }
}
