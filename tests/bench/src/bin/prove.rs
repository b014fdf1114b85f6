//! Runs the long form of everything that shows exactly once, and ends with one table: `just prove`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use pelton_bench::table::{Table, machine};

/// Runs the long form of everything that shows exactly once, and ends with one table
#[derive(Parser)]
struct Options {
    /// Seeds of the simulator
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// Kills of the host in one run
    #[arg(long, default_value_t = 300)]
    kills: u64,
    /// Kills of the broker in the same run
    #[arg(long, default_value_t = 50)]
    broker_kills: u64,
    /// Damaged copies of a store
    #[arg(long, default_value_t = 600)]
    stores: u64,
    /// Generated and mutilated modules
    #[arg(long, default_value_t = 10_000)]
    modules: u64,
    /// Only the parts whose name holds this
    #[arg(long, default_value = "")]
    only: String,
}

/// What the simulator counts of the faults that it caused, and its result.
const FAULTS: &[&str] = &[
    "host crashes",
    "broker outages",
    "made again or expired",
    "read events expired",
    "deleted one by one",
    "holes told",
    "by idle time",
    "disks",
    "failures",
];

/// One part: a command that fails when it finds a violation.
struct Part {
    name: &'static str,
    /// As it is typed into a shell; the table shows it.
    command: String,
    /// Lines that hold one of these go into the table.
    says: &'static [&'static str],
}

fn parts(options: &Options) -> Vec<Part> {
    let Options { seeds, kills, broker_kills, stores, modules, .. } = options;
    let part = |name, command: String, says| Part { name, command, says };
    let sim = |rest: &str| format!("cargo run --profile simfast -p pelton-sim -- {rest}");
    let test = |rest: &str| format!("cargo test --workspace --exclude pelton-sim {rest} -- --nocapture");
    vec![
        part("simulated hosts and faults", sim(&format!("run --seeds {seeds}")), FAULTS),
        part("weakened protocols, each caught", sim("mutants"), &["mutants caught"]),
        part("one seed, one trace", sim("determinism"), &["seeds twice"]),
        part("the simulator's log against a real server", test("--test jetstream conform"), &["test result"]),
        part(
            "damaged stores",
            format!("PELTON_DAMAGE_CASES={stores} {}", test("--test store damage")),
            &["damaged stores"],
        ),
        part("modules", format!("PELTON_MODULES={modules} {}", test("--test sandbox generated")), &["modules in"]),
        part(
            "modules that are hard to compile",
            format!("PELTON_HOSTILE=full {}", test("--test sandbox hard_to_compile")),
            &["modules", "most of those"],
        ),
        part("foreign bytes", test("--test corpus"), &["test result"]),
        part(
            "the real program: kills, a bad network, a cluster",
            format!(
                "PELTON_CHAOS_KILLS={kills} PELTON_CHAOS_BROKER_KILLS={broker_kills} PELTON_CHAOS_FAULTS=40 \
                 PELTON_CHAOS_NODE_KILLS=9 {}",
                test("--test e2e chaos")
            ),
            &["chaos:"],
        ),
    ]
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut table = Table::new(&["what", "did", "violations", "minutes", "repeat"]);
    let mut is_proven = true;
    for part in parts(&options).iter().filter(|part| part.name.contains(&options.only)) {
        println!("=== {}: {}", part.name, part.command);
        let began = Instant::now();
        let (said, passed) = run(part);
        is_proven &= passed;
        let minutes = format!("{:.1}", began.elapsed().as_secs_f64() / 60.0);
        let violations = if passed { "0" } else { "found, see above" };
        table.row([part.name.into(), said, violations.into(), minutes, format!("`{}`", part.command)]);
    }
    println!("\nMachine: {}.\n\n{}", machine(), table.markdown());
    if is_proven { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the command with its words passed on; what it said for the table, and whether it passed.
fn run(part: &Part) -> (String, bool) {
    let child = Command::new("sh").args(["-c", &part.command]).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return (format!("did not start: {error}"), false),
    };
    let mut said: Vec<String> = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        println!("{line}");
        if part.says.iter().any(|says| line.contains(says)) {
            let words: Vec<&str> = line.trim_start_matches("chaos: ").split_whitespace().collect();
            said.push(words.join(" "));
        }
    }
    // A command that says nothing of what was expected has not done it.
    let passed = child.wait().is_ok_and(|status| status.success()) && !said.is_empty();
    (said.join("; "), passed)
}
