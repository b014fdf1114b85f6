//! Many seeds on all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::tally::Tally;
use crate::world::{Outcome, Weakness, simulate};

/// The sum of many runs.
pub struct Summary {
    pub seeds: u64,
    pub seconds: f64,
    pub tally: Tally,
    /// Seeds that failed, lowest first.
    pub failures: Vec<(u64, String)>,
}

/// Runs seeds `from..from + count`; stops early after `failures_max` failures.
#[must_use]
pub fn run(from: u64, count: u64, weakness: &Weakness, failures_max: usize) -> Summary {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done, enough) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new((Tally::default(), Vec::new()));
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            if idx >= count {
                break;
            }
            let outcome = guarded(from + idx, weakness);
            done.fetch_add(1, Ordering::Relaxed);
            let mut total = total.lock().expect("no thread panics while it counts");
            total.0.add(&outcome.tally);
            if let Some(failure) = outcome.failure {
                total.1.push((outcome.seed, failure));
                enough.store(total.1.len() >= failures_max, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (tally, mut failures) = total.into_inner().expect("no thread panics while it counts");
    failures.sort();
    Summary { seeds: done.into_inner(), seconds: started.elapsed().as_secs_f64(), tally, failures }
}

/// Runs a scripted case; a panic of the production code breaks it.
///
/// # Errors
/// What was not as it must be.
pub fn scripted(case: &fn(&Weakness) -> Result<(), String>, weakness: &Weakness) -> Result<(), String> {
    std::panic::catch_unwind(|| case(weakness)).unwrap_or_else(|panic| Err(told(&*panic)))
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
    format!("panic: {}", text.unwrap_or_default())
}

/// A panic of the production code is a failure of its seed.
#[must_use]
pub fn guarded(seed: u64, weakness: &Weakness) -> Outcome {
    std::panic::catch_unwind(|| simulate(seed, weakness, false)).unwrap_or_else(|panic| Outcome {
        seed,
        failure: Some(told(&*panic)),
        tally: Tally::default(),
        hash: 0,
        trace: String::new(),
    })
}
