//! What each partition does right now, in words: the source of `/healthz`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::metrics::{Families, Partition, Shape};

/// Everything that the server shows. Cheap to clone; all clones are the same board.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

struct Inner {
    /// Written while partitions are added, read by every scrape.
    registry: Registry,
    families: Families,
    /// One entry per partition, in the order of [`Board::partition`] calls. Held for copies only, never across a wait.
    partitions: Mutex<Vec<Entry>>,
}

/// How long events may wait without a commit before a partition is no longer called well.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of one partition.
struct Entry {
    pipeline: String,
    partition: u32,
    status: Status,
    progress: Progress,
    /// When this host was started, or last saw a commit of whoever works on the partition.
    moved: Instant,
    /// Whether it has seen one.
    seen_commit: bool,
}

/// How a partition is, from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It works, or waits for events.
    #[default]
    Ok,
    /// It cannot go on at the moment (broker away, no space, another host works) and tries again by itself.
    Degraded,
    /// It stopped because going on could corrupt results. A person has to look at the evidence.
    Halted,
}

/// One partition as `/healthz` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionStatus {
    pub pipeline: String,
    pub partition: u32,
    #[serde(flatten)]
    pub status: Status,
    #[serde(flatten)]
    pub progress: Progress,
    /// Since the position last moved; `null` when this host has not seen it move.
    pub seconds_since_commit: Option<f64>,
}

/// What a partition says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    #[serde(rename = "status")]
    pub health: Health,
    /// Lower case, such as `running`, `recovering`, `waiting`, `standby`, `stuck`, `halted`.
    pub phase: String,
    /// Why it is degraded or halted, with the facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

impl Status {
    /// Whether somebody has to look: it halted, or comes back to the same place again and again.
    #[must_use]
    pub fn needs_help(&self) -> bool {
        self.health == Health::Halted || self.phase == STUCK
    }
}

/// Phase of a partition that does not get on by itself.
pub(crate) const STUCK: &str = "stuck";

/// How far a partition has come, whoever works on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Sequence of the last committed event in the input; 0 before the first.
    pub position: u64,
    /// Last epoch that this host committed or found; 0 before the first.
    pub epoch: u64,
    /// Events that wait for a commit; `null` when the broker did not say.
    pub lag_events: Option<u64>,
    /// How long the oldest of them has been waiting.
    pub lag_seconds: Option<f64>,
}

impl Entry {
    fn show(&self, now: Instant) -> PartitionStatus {
        let idle = now.saturating_duration_since(self.moved);
        let waiting = self.progress.lag_events.is_some_and(|events| events > 0);
        let mut status = self.status.clone();
        if status.health == Health::Ok && waiting && idle > PATIENCE {
            let events = self.progress.lag_events.unwrap_or_default();
            status.health = Health::Degraded;
            status.evidence = Some(format!("{events} events wait, and nothing was committed for {} s", idle.as_secs()));
        }
        PartitionStatus {
            pipeline: self.pipeline.clone(),
            partition: self.partition,
            status,
            progress: self.progress,
            seconds_since_commit: self.seen_commit.then_some(idle.as_secs_f64()),
        }
    }
}

impl Default for Board {
    fn default() -> Board {
        Board::new()
    }
}

impl Board {
    /// A board without partitions.
    #[must_use]
    pub fn new() -> Board {
        let mut registry = Registry::with_prefix("pelton");
        let families = Families::register(&mut registry);
        Board { inner: Arc::new(Inner { registry, families, partitions: Mutex::default() }) }
    }

    /// Adds a partition and makes its label sets.
    #[must_use]
    pub fn partition(&self, shape: &Shape<'_>) -> Partition {
        let mut partitions = self.lock();
        partitions.push(Entry {
            pipeline: shape.pipeline.to_owned(),
            partition: shape.partition,
            status: Status { phase: "starting".to_owned(), ..Status::default() },
            progress: Progress::default(),
            moved: Instant::now(),
            seen_commit: false,
        });
        Partition::new(&self.inner.families, shape, self.clone(), partitions.len() - 1)
    }

    /// How every partition is now.
    #[must_use]
    pub fn statuses(&self) -> Vec<PartitionStatus> {
        self.statuses_at(Instant::now())
    }

    pub(crate) fn statuses_at(&self, now: Instant) -> Vec<PartitionStatus> {
        self.lock().iter().map(|entry| entry.show(now)).collect()
    }

    /// The worst health of all partitions; ok when there are none.
    #[must_use]
    pub fn health(&self) -> Health {
        self.statuses().iter().map(|entry| entry.status.health).max().unwrap_or_default()
    }

    pub(crate) fn set(&self, idx: usize, status: Status) {
        self.lock()[idx].status = status;
    }

    /// The position or epoch that was reached; a later one than before is a commit of somebody.
    pub(crate) fn reached(&self, idx: usize, position: u64, epoch: Option<u64>) {
        let entry = &mut self.lock()[idx];
        let known = entry.progress;
        entry.progress.position = known.position.max(position);
        entry.progress.epoch = epoch.map_or(known.epoch, |epoch| known.epoch.max(epoch));
        if (known.position, known.epoch) != (entry.progress.position, entry.progress.epoch) {
            // What is found at the start was committed at a time that nobody knows.
            entry.seen_commit |= (known.position, known.epoch) != (0, 0);
            entry.moved = Instant::now();
        }
    }

    pub(crate) fn lag(&self, idx: usize, events: Option<u64>, seconds: f64) {
        let progress = &mut self.lock()[idx].progress;
        (progress.lag_events, progress.lag_seconds) = (events, Some(seconds));
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The list is replaced entry by entry and never left half-written, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.inner.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
