//! Every kept input and some thousand mutations of them, through every target.
//!
//! `PELTON_FUZZ_RUNS` sets how many mutations per seed and target, `PELTON_FUZZ_SEED` the second seed, which is
//! another one in each run else. `just fuzz` is the long form.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pelton_fuzz::mutate::{Random, mutated};
use pelton_fuzz::{TARGETS, Target, target};

/// The first seed is the same in each run.
const SEED: u64 = 1;
const RUNS: u64 = 2000;
/// A thousand times what any input takes; longer is a loop that feeds on its input.
const TIME_MAX: Duration = Duration::from_secs(20);
const FILES_MAX: usize = 25;
const CORPUS_BYTES_MAX: u64 = 300 << 10;

fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The kept inputs of a target, by name.
fn files(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(corpus_folder().join(name)).expect("each target has a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable folder").path()).collect();
    files.sort();
    files
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} is `{text}`: {error}")))
}

/// Runs one input; a failure says how it is run again.
fn run(name: &str, target: Target, input: &[u8], file: &dyn Fn() -> PathBuf) {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let took = start.elapsed();
    if result.is_ok() && took < TIME_MAX {
        return;
    }
    let file = file();
    panic!(
        "{name} {} on {} bytes\n  again: cargo run -p pelton-fuzz --bin replay -- {name} {}",
        if result.is_ok() { format!("took {took:?}") } else { "panics".to_owned() },
        input.len(),
        file.display()
    );
}

#[track_caller]
fn check(name: &str) {
    let target = target(name).expect("a target of this name");
    let files = files(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    let corpus: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("readable corpus")).collect();
    for (path, input) in files.iter().zip(&corpus) {
        run(name, target, input, &|| path.clone());
    }
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let fresh = number("PELTON_FUZZ_SEED").unwrap_or_else(fresh);
    let runs = number("PELTON_FUZZ_RUNS").unwrap_or(RUNS);
    for seed in [SEED, fresh] {
        println!("{name}: {} kept inputs, {runs} mutations with seed {seed}", files.len());
        let mut random = Random::new(seed);
        for _ in 0..runs {
            let input = mutated(&corpus, &mut random);
            run(name, target, &input, &|| keep(name, seed, &input));
        }
    }
}

/// Writes an input that failed to a file.
fn keep(name: &str, seed: u64, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
    fs::write(&path, input).expect("the target folder is writable");
    path
}

#[test]
fn address() {
    check("address");
}

#[test]
fn cache() {
    check("cache");
}

#[test]
fn control() {
    check("control");
}

#[test]
fn decode() {
    check("decode");
}

#[test]
fn guest() {
    check("guest");
}

#[test]
fn headers() {
    check("headers");
}

#[test]
fn module() {
    check("module");
}

#[test]
fn object() {
    check("object");
}

#[test]
fn plan() {
    check("plan");
}

#[test]
fn snapshot() {
    check("snapshot");
}

#[test]
fn stored() {
    check("stored");
}

#[test]
fn windows() {
    check("windows");
}

#[test]
fn every_target_has_a_test_and_a_small_corpus() {
    let text = include_str!("corpus.rs");
    let mut bytes = 0;
    for (name, _) in TARGETS {
        assert!(text.contains(&format!("fn {name}() {{\n    check(\"{name}\");")), "{name} has no test");
        let files = files(name);
        assert!(files.len() <= FILES_MAX, "{name} keeps {} files, limit {FILES_MAX}", files.len());
        bytes += files.iter().map(|file| fs::metadata(file).expect("readable corpus").len()).sum::<u64>();
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes, limit {CORPUS_BYTES_MAX}");
}
