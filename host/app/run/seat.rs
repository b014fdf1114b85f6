//! What the thread of a partition and the tasks beside it know of each other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Written by the thread in every round, read by tasks. Numbers only; none of them decides about correctness.
pub(super) struct Seat {
    start: Instant,
    /// Milliseconds since the start at which the thread last came round.
    beat: AtomicU64,
    /// Revision of the lease, 0 without one.
    lease: AtomicU64,
    /// Sequence of the last committed event.
    position: AtomicU64,
}

impl Seat {
    pub(super) fn new() -> Seat {
        Seat { start: Instant::now(), beat: 0.into(), lease: 0.into(), position: 0.into() }
    }

    /// The thread comes round, with this lease.
    pub(super) fn beat(&self, lease: Option<u64>) {
        self.lease.store(lease.unwrap_or(0), Relaxed);
        self.beat.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    pub(super) fn set_position(&self, position: u64) {
        self.position.store(position, Relaxed);
    }

    pub(super) fn position(&self) -> u64 {
        self.position.load(Relaxed)
    }

    /// The lease that the thread held when it last came round.
    pub(super) fn lease(&self) -> Option<u64> {
        Some(self.lease.load(Relaxed)).filter(|revision| *revision != 0)
    }

    /// How long the thread has not come round.
    pub(super) fn busy(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Relaxed)))
    }
}

/// A task that ends with this value.
pub(super) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(super) fn spawn(runtime: &tokio::runtime::Handle, work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(runtime.spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
