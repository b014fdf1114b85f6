//! The `pelton` binary: everything starts in [`cli::main`].
#![forbid(unsafe_code)]

mod cli;
mod generate;
mod payload;
mod pipeline;
mod run;

fn main() -> std::process::ExitCode {
    cli::main()
}
