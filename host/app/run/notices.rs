//! What the protocol tells: into the log, the metrics and the status board.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pelton_engine::log::Published;
use pelton_engine::partition::{Committed, Notice};
use pelton_engine::time::WallTime;
use pelton_serve::{Answer, Partition as Metrics};
use tracing::{debug, error, info, warn};

use super::timed::Spent;

/// Says one pause of many: the same reason again within this time is not logged.
const REPEAT: Duration = Duration::from_secs(10);

/// The reporter of one partition.
pub(super) struct Notices {
    pipeline: String,
    partition: u32,
    metrics: Metrics,
    said: BTreeMap<String, std::time::Instant>,
    spent: Spent,
    /// Sum of all epochs of this run.
    pub(super) epochs: u64,
    pub(super) halted: Option<String>,
}

impl Notices {
    pub(super) fn new(pipeline: &str, partition: u32, metrics: Metrics, spent: Spent) -> Notices {
        let said = BTreeMap::new();
        Notices { pipeline: pipeline.to_owned(), partition, metrics, said, spent, epochs: 0, halted: None }
    }

    pub(super) fn take(&mut self, notice: Notice) {
        let (pipeline, partition) = (self.pipeline.clone(), self.partition);
        match notice {
            Notice::Committed(facts) => self.committed(&facts),
            Notice::Running { epoch, decision } => {
                info!(pipeline, partition, epoch, decision, "running");
                self.metrics.ok("running");
            }
            Notice::Recovering { cause } => {
                info!(pipeline, partition, cause, "recovering");
                self.metrics.add_recovery(if cause == "start" { "start" } else { "doubt" });
            }
            Notice::Standby { holder } => {
                if self.is_news(&holder) {
                    info!(pipeline, partition, holder, "another host works on this partition, standing by");
                }
                self.metrics.ok("standby");
            }
            Notice::Doubt { epoch, reason } => {
                warn!(pipeline, partition, epoch, reason, "outcome of a commit unknown, reading the marker")
            }
            Notice::Paused { reason } => {
                if self.is_news(&reason) {
                    warn!(pipeline, partition, reason, "waiting");
                }
                self.metrics.degraded("waiting", reason);
            }
            Notice::Quarantined { reason } => {
                error!(pipeline, partition, reason, "the local store was set aside; rebuilding it from the stream");
                self.metrics.add_recovery("quarantine");
            }
            Notice::Halted(halted) => {
                error!(
                    pipeline,
                    partition,
                    code = halted.code,
                    evidence = halted.evidence,
                    "halted: going on could corrupt results"
                );
                self.metrics.halted(format!("{}: {}", halted.code, halted.evidence));
                self.halted = Some(format!("{}: {}", halted.code, halted.evidence));
            }
        }
    }

    /// Counts an answer to a publish.
    pub(super) fn published(&self, published: &Published) {
        self.metrics.add_publish(match published {
            Published::Stored { .. } => Answer::Stored,
            Published::Rejected(_) => Answer::Rejected,
            Published::Unknown(_) => Answer::Unknown,
            Published::Refused(_) => Answer::Refused,
        });
    }

    fn committed(&mut self, facts: &Committed) {
        self.epochs += 1;
        let metrics = &self.metrics;
        metrics.events.add(&facts.totals);
        metrics.late_rows.inc_by(facts.totals.late);
        facts.records_by_output.iter().enumerate().for_each(|(output, count)| metrics.add_records(output, *count));
        facts.dead_by_code.iter().for_each(|(code, count)| metrics.add_dead_letters(code, *count));
        facts.faults_by_stage.iter().for_each(|(stage, count)| metrics.add_traps(*stage, *count));
        self.spent.take().enumerate().for_each(|(stage, time)| metrics.observe_guest(stage, time));
        metrics.set_watermark(facts.watermark);
        metrics.set_state_bytes(facts.state_bytes as u64);
        metrics.observe_epoch(
            facts.epoch,
            Duration::from_millis(facts.epoch_ms),
            Duration::from_millis(facts.commit_ms),
        );
        metrics.set_lag(facts.pending, age(facts.published));
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

/// How long ago the broker stored an event; zero before the first one.
fn age(published: WallTime) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    if published.0 == 0 { Duration::ZERO } else { Duration::from_millis((now - published.0).max(0).unsigned_abs()) }
}
