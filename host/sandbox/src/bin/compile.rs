//! The compiler as a program of its own, for the tests of this crate; `pelton` has it as a hidden command.

fn main() -> std::process::ExitCode {
    pelton_sandbox::serve()
}
