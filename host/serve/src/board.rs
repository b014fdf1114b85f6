//! What each partition does right now, in words: the source of `/healthz`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    partitions: Mutex<Vec<PartitionStatus>>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    pub pipeline: String,
    pub partition: u32,
    #[serde(flatten)]
    pub status: Status,
}

/// What a partition says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    #[serde(rename = "status")]
    pub health: Health,
    /// Lower case, such as `running`, `recovering: reading changes`, `waiting for the lease`.
    pub phase: String,
    /// Why it is degraded or halted, with the facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
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
        let status = Status { phase: "starting".to_owned(), ..Status::default() };
        partitions.push(PartitionStatus { pipeline: shape.pipeline.to_owned(), partition: shape.partition, status });
        Partition::new(&self.inner.families, shape, self.clone(), partitions.len() - 1)
    }

    /// A copy of every partition's status.
    #[must_use]
    pub fn statuses(&self) -> Vec<PartitionStatus> {
        self.lock().clone()
    }

    /// The worst health of all partitions; ok when there are none.
    #[must_use]
    pub fn health(&self) -> Health {
        self.lock().iter().map(|entry| entry.status.health).max().unwrap_or_default()
    }

    pub(crate) fn set(&self, idx: usize, status: Status) {
        self.lock()[idx].status = status;
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The list is replaced entry by entry and never left half-written, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Vec<PartitionStatus>> {
        self.inner.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
