//! Named moments at which a test may kill the process: `PELTON_FAILPOINT=apply.before:3` dies at the third one.
//! Compiled into debug builds only.

/// Passes a named moment; dies there when the environment says so.
#[cfg(debug_assertions)]
pub(super) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let target = TARGET.get_or_init(|| {
        let text = std::env::var("PELTON_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((target, count)) = target
        && target == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        // As sudden as kill -9: no destructors, no flushing.
        std::process::abort();
    }
}

/// Nothing: release builds have no failpoints.
#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn pass(_name: &str) {}

/// A named moment that takes long when the environment says so: `PELTON_TEST_LINGER=apply:3:9000` makes the third one
/// take nine seconds, as a slow disk or a large state does.
#[cfg(debug_assertions)]
fn linger(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);

    let Ok(text) = std::env::var("PELTON_TEST_LINGER") else { return };
    let mut words = text.split(':');
    let (target, count, millis) = (words.next(), words.next(), words.next());
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
    if target == Some(name)
        && let (Some(count), Some(millis)) = (number(count), number(millis))
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == count
    {
        std::thread::sleep(std::time::Duration::from_millis(millis));
        tracing::info!(name, millis, "lingered");
    }
}

/// Nothing: release builds are never slower than they have to be.
#[cfg(not(debug_assertions))]
#[inline]
fn linger(_name: &str) {}

/// A bound that tests make smaller, so that rare moments come often: `PELTON_TEST_EPOCH_EVENTS=1000`.
/// Release builds know only the default.
pub(super) fn bound(variable: &str, default: u64) -> u64 {
    let given = if cfg!(debug_assertions) { std::env::var(variable).ok() } else { None };
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A store that passes a moment before and after each write.
pub(super) struct Watched<S>(pub(super) S);

use pelton_engine::epoch::Epoch;
use pelton_engine::log::Snapshot;
use pelton_engine::store::{Discard, Local, Store, StoreError};

impl<S: Store> Store for Watched<S> {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        pass("load.before");
        linger("load");
        self.0.load()
    }

    fn apply(&mut self, epoch: &Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
        pass("apply.before");
        linger("apply");
        let result = self.0.apply(epoch, sequence, sink);
        pass("apply.after");
        result
    }

    fn compact(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        pass("compact.before");
        let result = self.0.compact(snapshot);
        pass("compact.after");
        result
    }

    fn rebase(&mut self, snapshot: Option<&Snapshot>, old: Discard<'_>) -> Result<(), StoreError> {
        pass("rebase.before");
        let result = self.0.rebase(snapshot, old);
        pass("rebase.after");
        result
    }

    fn outbox(&mut self, epoch: u64) -> Result<Option<Epoch>, StoreError> {
        self.0.outbox(epoch)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        pass("sync.before");
        self.0.sync()
    }
}
