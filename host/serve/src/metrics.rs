//! The metrics of one partition, made once and counted by atomics.
//!
//! Names follow `pelton_<what>_<unit>`; counters end in `_total`. Label values come from the pipeline file and from
//! closed lists, except codes of dead letters, which modules choose: beyond [`CODES_MAX`] of them the rest is `other`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pelton_engine::totals::{Faults, Totals};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::board::{Board, Health, STUCK, Status};

/// Codes of dead letters that get a label of their own, per partition. Later ones are counted as `other`.
const CODES_MAX: usize = 64;

/// What a partition is made of; decides its label values.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub pipeline: &'a str,
    pub partition: u32,
    /// Of the pipeline that runs, as hex digits.
    pub revision: &'a str,
    /// Names of the stages, in order.
    pub stages: &'a [&'a str],
    /// Names of the outputs, in order.
    pub outputs: &'a [&'a str],
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    pipeline: String,
    partition: u32,
}

/// A partition's labels and one more, whose name depends on the family.
macro_rules! labels_with {
    ($name:ident, $extra:ident) => {
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        struct $name {
            pipeline: String,
            partition: u32,
            $extra: String,
        }

        impl $name {
            fn new(labels: &Labels, $extra: &str) -> $name {
                $name { pipeline: labels.pipeline.clone(), partition: labels.partition, $extra: $extra.to_owned() }
            }
        }
    };
}

labels_with!(ByRevision, revision);
labels_with!(ByFate, fate);
labels_with!(ByOutput, output);
labels_with!(ByStage, stage);
labels_with!(ByCode, code);
labels_with!(ByResult, result);
labels_with!(ByCause, cause);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCounter {
    pipeline: String,
    partition: u32,
    stage: String,
    counter: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByFault {
    pipeline: String,
    partition: u32,
    stage: String,
    kind: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Every family of the registry; shared by all partitions.
#[derive(Clone)]
pub(crate) struct Families {
    received: Family<Labels, Counter>,
    fates: Family<ByFate, Counter>,
    records: Family<ByOutput, Counter>,
    dead_letters: Family<ByCode, Counter>,
    commit_attempts: Family<ByResult, Counter>,
    recoveries: Family<ByCause, Counter>,
    faults: Family<ByFault, Counter>,
    lag_events: Family<Labels, Gauge>,
    lag_seconds: Family<Labels, Seconds>,
    watermark: Family<Labels, Seconds>,
    epoch: Family<Labels, Gauge>,
    state_bytes: Family<Labels, Gauge>,
    held: Family<Labels, Gauge>,
    health: Family<Labels, Gauge>,
    working: Family<Labels, Gauge>,
    revision: Family<ByRevision, Gauge>,
    counters: Family<ByCounter, Gauge>,
    epoch_seconds: Histograms<Labels>,
    commit_seconds: Histograms<Labels>,
    module_seconds: Histograms<ByStage>,
}

/// 100 µs to 52 s, doubling.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

impl Families {
    pub(crate) fn register(registry: &mut Registry) -> Families {
        let timed = buckets as fn() -> Histogram;
        let families = Families {
            received: Family::default(),
            fates: Family::default(),
            records: Family::default(),
            dead_letters: Family::default(),
            commit_attempts: Family::default(),
            recoveries: Family::default(),
            faults: Family::default(),
            lag_events: Family::default(),
            lag_seconds: Family::default(),
            watermark: Family::default(),
            epoch: Family::default(),
            state_bytes: Family::default(),
            held: Family::default(),
            health: Family::default(),
            working: Family::default(),
            revision: Family::default(),
            counters: Family::default(),
            epoch_seconds: Family::new_with_constructor(timed),
            commit_seconds: Family::new_with_constructor(timed),
            module_seconds: Family::new_with_constructor(timed),
        };
        let all = families.clone();
        registry.register("events_received", "Events taken from the source, reported losses included", all.received);
        registry.register("events", "Events by fate; the fates add up to the received", all.fates);
        registry.register("output_records", "Records committed, by output", all.records);
        registry.register("dead_letters", "Dead letters committed, by code", all.dead_letters);
        registry.register("commit_attempts", "Attempts to commit an epoch, by result", all.commit_attempts);
        registry.register("recoveries", "Recoveries of the state, by cause", all.recoveries);
        registry.register("module_faults", "Module calls that failed, by kind", all.faults);
        let help = "Events of the partition behind the last committed one, whoever works on it; measured every 5 s. -1: \
                    the broker does not say";
        registry.register("lag_events", help, all.lag_events);
        let help =
            "How long the oldest of them has been in the source, by the clock of this machine; 0 when none waits";
        registry.register_with_unit("lag", help, Unit::Seconds, all.lag_seconds);
        let help = "Event time before which nothing more is expected, since 1970; NaN before the first event";
        registry.register_with_unit("watermark_timestamp", help, Unit::Seconds, all.watermark);
        registry.register("last_committed_epoch", "Number of the last committed epoch", all.epoch);
        registry.register_with_unit("state", "Typed state in memory", Unit::Bytes, all.state_bytes);
        registry.register("events_held", "Events that are kept until it is their turn", all.held);
        registry.register("partition_health", "0 ok, 1 degraded, 2 halted", all.health);
        registry.register("partition_working", "1 while this host takes events of the partition", all.working);
        let help =
            "1 for the revision of the pipeline that this host runs: sha256 of what its file says, and of its modules";
        registry.register("partition_revision", help, all.revision);
        let help = "Counters of the modules' own: their sums at the last committed epoch";
        registry.register("module_counter", help, all.counters);
        let help = "From the first event of an epoch to its seal";
        registry.register_with_unit("epoch_duration", help, Unit::Seconds, all.epoch_seconds);
        let help = "From publishing an epoch to the broker's answer";
        registry.register_with_unit("commit_duration", help, Unit::Seconds, all.commit_seconds);
        registry.register_with_unit("module_duration", "In module calls, per epoch", Unit::Seconds, all.module_seconds);
        families
    }
}

/// How an attempt to commit an epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitResult {
    Stored,
    /// Refused by a fence, or as a duplicate.
    Conflict,
    /// No answer, or a lost connection.
    Unknown,
    /// The broker cannot store it now, or refuses it for good.
    Unavailable,
}

/// Counters for what became of events, in the order of [`Totals`].
#[derive(Clone, Debug)]
pub struct Fates {
    received: Counter,
    processed: Counter,
    filtered: Counter,
    late: Counter,
    dead: Counter,
    lost: Counter,
}

impl Fates {
    /// Adds the conservation counts of one epoch.
    pub fn add(&self, totals: &Totals) {
        self.received.inc_by(totals.received);
        self.processed.inc_by(totals.processed);
        self.filtered.inc_by(totals.filtered);
        self.late.inc_by(totals.late);
        self.dead.inc_by(totals.dead);
        self.lost.inc_by(totals.lost);
    }
}

/// The handle of one partition: cheap to clone, safe to share, no lock on the hot path.
#[derive(Clone)]
pub struct Partition {
    pub events: Fates,
    records: Arc<[Counter]>,
    stages: Arc<[(Histogram, [Counter; Faults::KINDS.len()])]>,
    commit_attempts: [Counter; 4],
    lag_events: Gauge,
    lag_seconds: Seconds,
    watermark: Seconds,
    epoch: Gauge,
    state_bytes: Gauge,
    held: Gauge,
    health: Gauge,
    working: Gauge,
    epoch_seconds: Histogram,
    commit_seconds: Histogram,
    rare: Arc<Rare>,
}

/// What is found by name: used per epoch or less often.
struct Rare {
    labels: Labels,
    families: Families,
    codes: Mutex<BTreeMap<String, Counter>>,
    counters: Mutex<BTreeMap<String, Gauge>>,
    board: Board,
    idx: usize,
}

impl Partition {
    pub(crate) fn new(families: &Families, shape: &Shape<'_>, board: Board, idx: usize) -> Partition {
        let labels = Labels { pipeline: shape.pipeline.to_owned(), partition: shape.partition };
        families.revision.get_or_create_owned(&ByRevision::new(&labels, shape.revision)).set(1);
        let fate = |name| families.fates.get_or_create_owned(&ByFate::new(&labels, name));
        let result = |name| families.commit_attempts.get_or_create_owned(&ByResult::new(&labels, name));
        let record = |name: &&str| families.records.get_or_create_owned(&ByOutput::new(&labels, name));
        let stage = |name: &&str| {
            let fault = |kind| {
                let Labels { pipeline, partition } = labels.clone();
                let labels = ByFault { pipeline, partition, stage: (*name).to_owned(), kind };
                families.faults.get_or_create_owned(&labels)
            };
            let seconds = families.module_seconds.get_or_create_owned(&ByStage::new(&labels, name));
            (seconds, Faults::KINDS.map(fault))
        };
        let watermark = families.watermark.get_or_create_owned(&labels);
        watermark.set(f64::NAN);
        Partition {
            events: Fates {
                received: families.received.get_or_create_owned(&labels),
                processed: fate("processed"),
                filtered: fate("filtered"),
                late: fate("late"),
                dead: fate("dead"),
                lost: fate("lost"),
            },
            records: shape.outputs.iter().map(record).collect(),
            stages: shape.stages.iter().map(stage).collect(),
            commit_attempts: [result("stored"), result("conflict"), result("unknown"), result("unavailable")],
            lag_events: families.lag_events.get_or_create_owned(&labels),
            lag_seconds: families.lag_seconds.get_or_create_owned(&labels),
            watermark,
            epoch: families.epoch.get_or_create_owned(&labels),
            state_bytes: families.state_bytes.get_or_create_owned(&labels),
            held: families.held.get_or_create_owned(&labels),
            health: families.health.get_or_create_owned(&labels),
            working: families.working.get_or_create_owned(&labels),
            epoch_seconds: families.epoch_seconds.get_or_create_owned(&labels),
            commit_seconds: families.commit_seconds.get_or_create_owned(&labels),
            rare: Arc::new(Rare {
                labels,
                families: families.clone(),
                codes: Mutex::default(),
                counters: Mutex::default(),
                board,
                idx,
            }),
        }
    }

    /// Counts committed records of the output with this index; an unknown index counts nothing.
    pub fn add_records(&self, output: usize, count: u64) {
        if let Some(counter) = self.records.get(output) {
            counter.inc_by(count);
        }
    }

    /// Counts committed dead letters of one code.
    pub fn add_dead_letters(&self, code: &str, count: u64) {
        let rare = &*self.rare;
        let mut codes = rare.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let code = if codes.len() >= CODES_MAX && !codes.contains_key(code) { "other" } else { code };
        let make = || rare.families.dead_letters.get_or_create_owned(&ByCode::new(&rare.labels, code));
        codes.entry(code.to_owned()).or_insert_with(make).inc_by(count);
    }

    /// The sums of the modules' counters, by `STAGE/COUNTER`; one beyond 64 bits is shown as their end.
    pub fn set_counters(&self, sums: &[(String, i128)]) {
        let rare = &*self.rare;
        let mut counters = rare.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, sum) in sums {
            let make = || {
                let (stage, counter) = name.split_once('/').unwrap_or(("", name));
                let (stage, counter) = (stage.to_owned(), counter.to_owned());
                let Labels { pipeline, partition } = rare.labels.clone();
                rare.families.counters.get_or_create_owned(&ByCounter { pipeline, partition, stage, counter })
            };
            let clipped = (*sum).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            counters.entry(name.clone()).or_insert_with(make).set(clipped);
        }
    }

    /// Adds the time that one epoch spent in the module of this stage.
    pub fn observe_module(&self, stage: usize, time: Duration) {
        if let Some((seconds, _)) = self.stages.get(stage) {
            seconds.observe(time.as_secs_f64());
        }
    }

    /// Counts module calls of this stage that failed.
    pub fn add_faults(&self, stage: usize, faults: &Faults) {
        if let Some((_, counters)) = self.stages.get(stage) {
            for (counter, count) in counters.iter().zip(faults.counts()) {
                counter.inc_by(count);
            }
        }
    }

    /// Counts one attempt to commit an epoch.
    pub fn add_commit_attempt(&self, result: CommitResult) {
        self.commit_attempts[result as usize].inc();
    }

    /// Counts one recovery of the state. `cause` is a word from the code, never text from outside.
    pub fn add_recovery(&self, cause: &'static str) {
        let rare = &*self.rare;
        rare.families.recoveries.get_or_create_owned(&ByCause::new(&rare.labels, cause)).inc();
    }

    /// Events behind the committed position, `None` when the broker did not say, and the age of the oldest in seconds.
    pub fn set_lag(&self, events: Option<u64>, seconds: f64) {
        self.lag_events.set(events.map_or(-1, |events| i64::try_from(events).unwrap_or(i64::MAX)));
        self.lag_seconds.set(seconds);
        self.rare.board.lag(self.rare.idx, events, seconds);
    }

    /// Everything up to this sequence of the input is committed, by whoever works on it; the epoch, if it is known.
    pub fn reached(&self, position: u64, epoch: Option<u64>) {
        self.rare.board.reached(self.rare.idx, position, epoch);
    }

    /// Whether this host takes events of the partition.
    pub fn set_working(&self, working: bool) {
        self.working.set(i64::from(working));
    }

    /// The partition's watermark, milliseconds since 1970; `i64::MIN` before the first event.
    pub fn set_watermark(&self, millis: i64) {
        self.watermark.set(if millis == i64::MIN { f64::NAN } else { millis as f64 / 1000.0 });
    }

    /// The number of the last committed epoch.
    pub fn set_epoch(&self, number: u64) {
        self.epoch.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// A committed epoch: the time since its first event, and the time of its commit.
    pub fn observe_epoch(&self, epoch: Duration, commit: Duration) {
        self.epoch_seconds.observe(epoch.as_secs_f64());
        self.commit_seconds.observe(commit.as_secs_f64());
    }

    /// Bytes of typed state in memory.
    pub fn set_state_bytes(&self, bytes: u64) {
        self.state_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Events that are kept for later.
    pub fn set_held(&self, events: u64) {
        self.held.set(i64::try_from(events).unwrap_or(i64::MAX));
    }

    /// It works: what it does, in a few words.
    pub fn ok(&self, phase: &str) {
        self.status(Health::Ok, phase, None);
    }

    /// It cannot go on and tries again by itself.
    pub fn degraded(&self, phase: &str, evidence: impl Into<String>) {
        self.status(Health::Degraded, phase, Some(evidence.into()));
    }

    /// It tries again, but nothing comes of it: somebody has to look.
    pub fn stuck(&self, evidence: impl Into<String>) {
        self.status(Health::Degraded, STUCK, Some(evidence.into()));
    }

    /// It stopped for good.
    pub fn halted(&self, evidence: impl Into<String>) {
        self.status(Health::Halted, "halted", Some(evidence.into()));
    }

    fn status(&self, health: Health, phase: &str, evidence: Option<String>) {
        self.health.set(health as i64);
        self.rare.board.set(self.rare.idx, Status { health, phase: phase.to_owned(), evidence });
    }
}
