//! Runs one file through one target: `cargo run -p pelton-fuzz --bin replay -- TARGET FILE`.

use std::process::ExitCode;

use pelton_fuzz::{TARGETS, target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, path] = &arguments[..] else {
        eprintln!("usage: replay TARGET FILE");
        return ExitCode::from(2);
    };
    let Some(run) = target(name) else {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        eprintln!("error: no target is called `{name}`\nhint: targets are {names}");
        return ExitCode::from(2);
    };
    match std::fs::read(path) {
        Ok(bytes) => run(&bytes),
        Err(error) => {
            eprintln!("error: cannot read `{path}`: {error}");
            return ExitCode::from(2);
        }
    }
    println!("{name} has nothing against {path}");
    ExitCode::SUCCESS
}
