//! The `pelton` binary: everything starts in [`cli::main`].
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "text of others is cleaned in `terminal`")]

mod cli;
mod generate;
mod payload;
mod pipeline;
mod run;
mod terminal;

fn main() -> std::process::ExitCode {
    cli::main()
}
