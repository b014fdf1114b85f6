//! The command line: one file per command, data on stdout, talk on stderr.

pub(crate) mod connection;
mod doctor;
mod down;
pub(crate) mod failure;
mod generate;
mod logging;
mod print;
mod publish;
pub(crate) mod run;
mod status;
mod tail;
mod up;
mod validate;
pub(crate) mod when;

use std::any::TypeId;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::pipeline;
use failure::Failure;

use crate::terminal;

/// Exit codes, repeated in the help.
const AFTER: &str = "\
Exit codes:
  0  done, or stopped on request
  1  failed for another reason
  2  wrong arguments, pipeline file or module
  3  halted: going on could corrupt results, see the evidence
  4  environment: broker, network, disk; try again later
  5  every event of a file was refused: see the likely reason and dlq.jsonl

Examples:
  pelton generate plays --events 100000 --farms 5 > plays.jsonl
  pelton run pipelines/fraud.toml --input plays.jsonl --output-dir out/
  pelton up pipelines/fraud.toml && pelton run pipelines/fraud.toml

Environment: NATS_URL, NATS_CONTEXT, NATS_CREDS and the other variables of the NATS tools; PELTON_LOG; NO_COLOR.";

/// Exactly-once stream processing on NATS JetStream with wasm modules.
#[derive(Debug, Parser)]
#[command(name = "pelton", version, after_help = AFTER, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    log: logging::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Up(up::UpArgs),
    Down(down::DownArgs),
    Validate(validate::ValidateArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Tail(tail::TailArgs),
    #[command(subcommand)]
    Generate(generate::GenerateCommand),
    /// Compile the module on stdin within limits; started by the other commands
    #[command(name = pipeline::COMPILE, hide = true)]
    CompileModule,
}

/// Parses the arguments, runs the command, prints what went wrong.
pub(crate) fn main() -> ExitCode {
    let command = without_empty(Cli::command());
    if let Some(variable) = no_text(&command) {
        return Failure::usage(format!("the variable {variable} is not UTF-8")).print();
    }
    let parsed = command.try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let cli = match parsed {
        Ok((mut cli, matches)) => {
            if let Some(Err(failure)) = matches.subcommand_matches("run").map(run::refuse_misplaced) {
                return failure.print();
            }
            if let (Command::Validate(args), Some(given)) = (&mut cli.command, matches.subcommand_matches("validate")) {
                args.names_broker = validate::names_broker(given);
            }
            cli
        }
        Err(error) => {
            // Help and version go to stdout and are a success.
            let code = if error.use_stderr() { failure::Exit::Usage.into() } else { ExitCode::SUCCESS };
            terminal::tell_usage(error);
            return code;
        }
    };
    if matches!(cli.command, Command::CompileModule) {
        return pelton_sandbox::serve();
    }
    let quiet = !matches!(cli.command, Command::Run(_));
    let done = cli.log.start(quiet).and_then(|()| dispatch(cli.command));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}

/// A variable set to nothing counts as not set, as in the NATS tools: what starts a program cannot always unset one.
fn without_empty(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &Arg| value_of(arg).is_some_and(|value| value.is_empty());
    command.mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg }).mut_subcommands(without_empty)
}

/// A variable that has to be text and is not; clap does not say which.
fn no_text(command: &clap::Command) -> Option<&str> {
    let is_path = |arg: &Arg| arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let is_wrong = |arg: &&Arg| !is_path(arg) && value_of(arg).is_some_and(|value| value.to_str().is_none());
    let wrong = command.get_arguments().find(is_wrong).and_then(|arg| arg.get_env()?.to_str());
    wrong.or_else(|| command.get_subcommands().find_map(no_text))
}

/// What the variable of an argument is set to.
fn value_of(arg: &Arg) -> Option<std::ffi::OsString> {
    arg.get_env().and_then(std::env::var_os)
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(*args),
        Command::Up(args) => block_on(up::run(args)),
        Command::Down(args) => block_on(down::run(args)),
        Command::Validate(args) => block_on(validate::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Tail(args) => block_on(tail::run(args)),
        Command::Generate(command) => block_on(generate::run(command)),
        Command::CompileModule => unreachable!("it has neither a log nor failures"),
    }
}

/// Runs a short command on this thread.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_variable_with_a_secret_is_shown_in_the_help() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let variable = arg.get_env().map(|name| name.to_string_lossy()).unwrap_or_default();
                assert!(!variable.starts_with("NATS_") || arg.is_hide_env_values_set(), "{variable}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn arguments_of_a_command_are_not_debugged_with_secrets() {
        let url = "nats://u:S3CRET@h";
        let words = [
            "pelton",
            "up",
            "p.toml",
            "--server",
            url,
            "--password",
            "S3CRET",
            "--token",
            "S3CRET",
            "--nkey",
            "S3CRET",
        ];
        let shown = format!("{:?}", Cli::try_parse_from(words).expect("arguments"));
        assert!(shown.contains("p.toml") && !shown.contains("S3CRET"), "{shown}");
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands() {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let group = sub.get_subcommands().next().is_some() || sub.is_hide_set();
                assert!(group || help.contains(&format!("  pelton {}", sub.get_name())) || help.contains("  pelton"));
                check(sub);
            }
        }
        check(&Cli::command());
    }
}
