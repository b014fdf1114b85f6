//! The `pelton` binary: everything starts in [`cli::main`].
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "text of others is cleaned in `terminal`")]

mod cli;
mod committed;
mod generate;
mod headers;
mod payload;
mod pipeline;
mod run;
mod terminal;

fn main() -> std::process::ExitCode {
    // Before anything is created: state, results, caches and generated events hold what events hold, so they are for
    // their owner alone. Only here are all of them covered, those that sled and wasmtime create by themselves as well.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    cli::main()
}
