//! What the protocol tells: into the log, the metrics and the status board.

use std::collections::BTreeMap;
use std::time::Duration;

use pelton_engine::log::Published;
use pelton_engine::partition::{Committed, Notice};
use pelton_serve::{CommitResult, Partition as Metrics};
use tracing::{debug, error, info, warn};

use super::seat::Seat;
use super::timed::Spent;

/// Says one pause of many: the same reason again within this time is not logged.
const REPEAT: Duration = Duration::from_secs(10);

/// The reporter of one partition.
pub(super) struct Notices {
    pipeline: String,
    partition: u32,
    /// Of the pipeline, as hex digits.
    revision: String,
    metrics: Metrics,
    said: BTreeMap<String, std::time::Instant>,
    spent: Spent,
    /// Why this host cannot work, until it does.
    trouble: Option<String>,
    /// The lease was given back for that: it stays true while others work.
    yielded: bool,
    /// No progress from one position after several attempts, until there is some.
    stuck: bool,
    /// Position and epoch last shown.
    shown: Option<(u64, u64)>,
    /// Sum of all epochs of this run.
    pub(super) epochs: u64,
    pub(super) halted: Option<String>,
}

impl Notices {
    pub(super) fn new(pipeline: &str, partition: u32, revision: String, metrics: Metrics, spent: Spent) -> Notices {
        Notices {
            pipeline: pipeline.to_owned(),
            partition,
            revision,
            metrics,
            said: BTreeMap::new(),
            spent,
            trouble: None,
            yielded: false,
            stuck: false,
            shown: None,
            epochs: 0,
            halted: None,
        }
    }

    /// Shows what is committed, `None` while this host does not work on the partition.
    pub(super) fn show(&mut self, committed: Option<(u64, u64)>, seat: &Seat) {
        if committed == self.shown {
            return;
        }
        self.metrics.set_working(committed.is_some());
        if let Some((position, epoch)) = committed {
            seat.set_position(position);
            self.metrics.reached(position, Some(epoch));
        }
        self.shown = committed;
    }

    pub(super) fn take(&mut self, notice: Notice) {
        let (pipeline, partition) = (self.pipeline.clone(), self.partition);
        match notice {
            Notice::Committed(facts) => self.committed(&facts),
            Notice::Running { epoch, decision, watermark, state_bytes, held, counters } => {
                info!(pipeline, partition, revision = self.revision, epoch, decision, "running");
                // What was committed before this process: a quiet partition may commit nothing for long.
                self.metrics.set_epoch(epoch);
                self.metrics.set_watermark(watermark);
                self.metrics.set_state_bytes(state_bytes as u64);
                self.metrics.set_held(held);
                self.metrics.set_counters(&counters);
                self.yielded = false;
                if !self.stuck {
                    self.trouble = None;
                }
                self.phase("running");
            }
            Notice::Recovering { cause, reason } => {
                if self.is_news(&reason) {
                    info!(pipeline, partition, cause = cause.name(), reason, "recovering");
                }
                self.metrics.add_recovery(cause.name());
                self.phase("recovering");
            }
            Notice::Standby { holder } => {
                if self.is_news(&holder) {
                    info!(pipeline, partition, holder, "another host works on this partition, standing by");
                }
                self.stuck = false;
                if !self.yielded {
                    self.trouble = None;
                }
                self.phase("standby");
            }
            Notice::Doubt { epoch, reason } => {
                warn!(pipeline, partition, epoch, reason, "outcome of a commit unknown, reading the marker")
            }
            Notice::Paused { reason } => {
                if self.is_news(&reason) {
                    warn!(pipeline, partition, reason, "waiting");
                }
                self.trouble = Some(reason);
                self.phase("waiting");
            }
            Notice::Loading { bytes, of } => {
                if self.is_news("loading") {
                    info!(pipeline, partition, bytes, of, "loading a snapshot");
                }
                self.phase("loading a snapshot");
            }
            Notice::SnapshotPassedOver { epoch, reason } => {
                warn!(pipeline, partition, epoch, reason, "a snapshot cannot be used, trying an older one")
            }
            Notice::SnapshotNotSaved { reason } => {
                if self.is_news(&reason) {
                    warn!(pipeline, partition, reason, "a snapshot was not saved; it is tried again");
                }
            }
            Notice::Stuck { position, attempts, reason } => {
                let evidence = format!("no commit after input sequence {position} in {attempts} attempts: {reason}");
                if self.is_news("stuck") {
                    error!(pipeline, partition, position, attempts, reason, "stuck: every attempt ends at this input");
                }
                self.stuck = true;
                self.trouble = Some(evidence);
                self.phase("stuck");
            }
            Notice::Hole(hole) => {
                let (first, last) = (hole.first, hole.last);
                warn!(pipeline, partition, first, last, cause = ?hole.cause, "events were gone before they were read");
            }
            Notice::Yielded { reason } => {
                warn!(pipeline, partition, reason, "this host cannot work, giving the lease back");
                let cause = self.trouble.take().map_or_else(String::new, |cause| format!(": {cause}"));
                self.trouble = Some(format!("{reason}{cause}"));
                self.yielded = true;
                self.phase("lease given back");
            }
            Notice::Quarantined { reason } => {
                if self.is_news(&reason) {
                    error!(pipeline, partition, reason, "the local store was set aside; rebuilding it from the stream");
                }
                self.metrics.add_recovery("quarantine");
            }
            Notice::Halted(halted) => {
                error!(
                    pipeline,
                    partition,
                    code = halted.code.name(),
                    evidence = halted.evidence,
                    "halted: going on could corrupt results"
                );
                self.metrics.halted(format!("{}: {}", halted.code, halted.evidence));
                self.halted = Some(format!("{}: {}", halted.code, halted.evidence));
            }
        }
    }

    /// What it does now; degraded as long as something keeps it from working.
    fn phase(&self, phase: &str) {
        match &self.trouble {
            Some(evidence) if self.stuck => self.metrics.stuck(evidence.clone()),
            Some(evidence) => self.metrics.degraded(phase, evidence.clone()),
            None => self.metrics.ok(phase),
        }
    }

    /// Counts an attempt to commit.
    pub(super) fn published(&self, published: &Published) {
        self.metrics.add_commit_attempt(match published {
            Published::Stored { .. } => CommitResult::Stored,
            Published::Rejected(_) => CommitResult::Conflict,
            Published::Unknown(_) => CommitResult::Unknown,
            Published::Refused(_) | Published::Permanent(_) => CommitResult::Unavailable,
        });
    }

    fn committed(&mut self, facts: &Committed) {
        self.epochs += 1;
        (self.trouble, self.stuck) = (None, false);
        let metrics = &self.metrics;
        metrics.events.add(&facts.totals);
        facts.records_by_output.iter().enumerate().for_each(|(output, count)| metrics.add_records(output, *count));
        facts.dead_by_code.iter().for_each(|(code, count)| metrics.add_dead_letters(code, *count));
        facts.faults_by_stage.iter().for_each(|(stage, faults)| metrics.add_faults(*stage, faults));
        self.spent.take().enumerate().for_each(|(stage, time)| metrics.observe_module(stage, time));
        metrics.set_watermark(facts.watermark);
        metrics.set_state_bytes(facts.state_bytes as u64);
        metrics.set_held(facts.totals.held);
        metrics.set_counters(&facts.counters);
        metrics.set_epoch(facts.epoch);
        metrics.observe_epoch(Duration::from_millis(facts.epoch_ms), Duration::from_millis(facts.commit_ms));
        metrics.ok("running");
        debug!(
            pipeline = self.pipeline,
            partition = self.partition,
            epoch = facts.epoch,
            position = facts.position,
            events = facts.totals.received,
            epoch_ms = facts.epoch_ms,
            commit_ms = facts.commit_ms,
            "committed"
        );
    }

    fn is_news(&mut self, text: &str) -> bool {
        let now = std::time::Instant::now();
        self.said.retain(|_, at| now.duration_since(*at) < REPEAT);
        self.said.insert(text.to_owned(), now).is_none()
    }
}
