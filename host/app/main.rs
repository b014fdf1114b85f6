//! The `pelton` binary: everything starts in [`cli::main`].
#![forbid(unsafe_code)]

mod cli;
mod generate;
mod pipeline;
mod run;

/// Messages are made on one thread and dropped on another, a million times a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
