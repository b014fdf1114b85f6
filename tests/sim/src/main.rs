//! `sim run`, `sim replay SEED`, `sim cases`, `sim mutants`, `sim determinism`; a bare number replays that seed.

use std::process::ExitCode;

use pelton_sim::world::Weakness;
use pelton_sim::{mutants, runner, scripted, simulate};

const USAGE: &str = "usage: sim [SEED] | run [--seeds N] [--from S] | replay SEED | cases [NAME] | mutants [NAME [TIMES]] | determinism [--seeds N]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ok = match args.as_slice() {
        [] => run(20_000, fresh()),
        ["run", rest @ ..] => run(option(rest, "--seeds", 20_000), option(rest, "--from", fresh())),
        ["replay", seed] | [seed] if seed.parse::<u64>().is_ok() => replay(seed.parse().unwrap_or(0)),
        ["mutants"] => run_mutants("", 1),
        ["mutants", name] => run_mutants(name, 1),
        ["mutants", name, times] => run_mutants(name, times.parse().unwrap_or(1)),
        ["cases"] => run_cases(""),
        ["cases", name] => run_cases(name),
        ["determinism", rest @ ..] => determinism(option(rest, "--seeds", 500)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn option(args: &[&str], name: &str, default: u64) -> u64 {
    let value = args.iter().position(|arg| *arg == name).and_then(|at| args.get(at + 1));
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A start that no run had before.
fn fresh() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs() * 1_000_000)
}

fn run(seeds: u64, from: u64) -> bool {
    println!("seeds {from}..{}", from + seeds);
    let summary = runner::run(from, seeds, &Weakness::default(), 10);
    print!("{}", summary.tally);
    let rate = summary.seeds as f64 / summary.seconds;
    println!(
        "{} seeds in {:.1} s ({rate:.0} seeds/s), {} failures",
        summary.seeds,
        summary.seconds,
        summary.failures.len()
    );
    for (seed, failure) in &summary.failures {
        println!("seed {seed}: {failure}\n  repeat it with: just sim {seed}");
    }
    summary.failures.is_empty()
}

fn replay(seed: u64) -> bool {
    let outcome = simulate(seed, &Weakness::default(), true);
    print!("{}", outcome.trace);
    println!("hash {:016x}: {}", outcome.hash, outcome.failure.as_deref().unwrap_or("ok"));
    outcome.failure.is_none()
}

/// Those whose name contains `name`, with `times` as many seeds as they should need.
fn run_mutants(name: &str, times: u64) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let wanted: Vec<_> = mutants::all().into_iter().filter(|mutant| mutant.name.contains(name)).collect();
    let mut caught = 0;
    for mutant in &wanted {
        let (verdict, seeds) = mutant.caught(times);
        caught += usize::from(verdict.is_some());
        let verdict = verdict.unwrap_or_else(|| "NOT CAUGHT".to_string());
        println!("{:<48} {seeds:>6} of {:>6} seeds  {verdict}", mutant.name, mutant.within);
    }
    println!("{caught} of {} mutants caught", wanted.len());
    caught == wanted.len()
}

/// Scripted cases whose name contains `name`.
fn run_cases(name: &str) -> bool {
    let mut is_ok = true;
    for (name, case) in scripted::CASES.iter().filter(|(case, _)| case.contains(name)) {
        let result = runner::scripted(case, &Weakness::default());
        is_ok &= result.is_ok();
        println!("{:<90} {}", name, result.err().unwrap_or_else(|| "ok".into()));
    }
    is_ok
}

fn determinism(seeds: u64) -> bool {
    let from = fresh();
    let differs = |seed: &u64| {
        let run = || simulate(*seed, &Weakness::default(), false).hash;
        run() != run()
    };
    let bad: Vec<u64> = (from..from + seeds).filter(differs).collect();
    println!("{seeds} seeds twice: {} differ {bad:?}", bad.len());
    bad.is_empty()
}
