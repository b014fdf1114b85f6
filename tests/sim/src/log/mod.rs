//! The double of the broker: input stream, pipeline stream, consumers, leases and snapshots of one pipeline.
//!
//! [`SimLog`] is the server. An [`Adapter`] is what one process keeps of its connection to one partition; it dies with
//! the process. Together they answer the closed list of requests as `broker` does with a real server behind it, and
//! the conformance suite holds both to the same rules.

mod bucket;
mod consumer;
mod input;
mod lease;
mod pipeline;

use pelton_engine::epoch::{Epoch, Record};
use pelton_engine::log::{Published, Request, Response};

pub use consumer::Adapter;
pub use input::{Input, Message, OTHERS, Retention};
pub use pipeline::{Entry, Pipeline};

use crate::rng::Rng;
use crate::scenario::EPOCH_MS;
use consumer::Consumer;
use lease::Lease;

/// When the first streams are created: no two of them at the same time.
const INPUT_CREATED: i64 = 1_000;
const PIPELINE_CREATED: i64 = 2_000;

/// Weakenings of the broker: what the protocol needs of it, taken away one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMutants {
    /// Batches land whatever their fence says.
    pub no_fence: bool,
    /// Only "nothing came after sequence S" is checked, not whose marker lies at S.
    pub sequence_fence: bool,
    /// The slot says lease and epoch, but not which run of the process.
    pub slot_without_run: bool,
    /// Only the slot is checked, not whether something came after it.
    pub slot_fence: bool,
    /// A batch may be cut off by a crash of the broker: some records, no marker.
    pub torn_batch: bool,
    /// Acknowledgements are sent as soon as events are delivered, and an acknowledged event may be deleted.
    pub ack_on_delivery: bool,
    /// A process takes deliveries for its own whose numbers go on, whoever placed the consumer.
    pub numbering_only: bool,
    /// Snapshots of epochs that the stream has lost count among the newest two.
    pub stale_snapshots: bool,
    /// Nobody asks for what is gone where the stream holds messages of others.
    pub shared_holes_unasked: bool,
    /// A hole is told one sequence too short.
    pub short_holes: bool,
    /// A hole is told one sequence too long, where there is one: a message that is there is called gone.
    pub long_holes: bool,
    /// That everything was delivered once is forgotten: messages of others count as holes.
    pub proof_is_forgotten: bool,
    /// Nothing left to deliver counts as everything read, also where unread messages have expired.
    pub proof_hides_loss: bool,
    /// Changes that the older of the two snapshots needs are purged.
    pub purge_above_snapshot: bool,
    /// A part that an old snapshot and a newer one name goes with the old one.
    pub drop_shared_parts: bool,
    /// A lease that nobody renewed in time is not given to its holder again.
    pub lease_is_final: bool,
}

impl LogMutants {
    fn weaken(self, holes: &mut Vec<pelton_engine::log::Hole>, is_shared: bool) {
        if self.shared_holes_unasked && is_shared {
            holes.clear();
        }
        for hole in holes.iter_mut() {
            hole.last += u64::from(self.long_holes);
            hole.last -= u64::from(self.short_holes && hole.first < hole.last);
        }
    }
}

/// Settings of the double.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub lease_ttl: u64,
    /// Everybody gets the lease.
    pub broken_lease: bool,
    pub ack_wait: u64,
    /// Deliveries may repeat what they hold themselves.
    pub repeats: bool,
    /// Largest message, headers and payload, less what a batch adds to it.
    pub message_bytes: usize,
    /// Largest state delta of a batch.
    pub delta_bytes: usize,
    pub mutants: LogMutants,
}

/// The broker.
pub struct SimLog {
    pub settings: Settings,
    pub input: Input,
    pub pipeline: Pipeline,
    consumers: Vec<Consumer>,
    leases: Vec<Lease>,
    /// Revision of the last write to the lease bucket.
    revision: u64,
    rng: Rng,
}

impl SimLog {
    /// Fresh streams for so many partitions.
    #[must_use]
    pub fn new(partitions: u32, settings: Settings, rng: Rng) -> SimLog {
        SimLog {
            settings,
            input: Input::new(INPUT_CREATED),
            pipeline: Pipeline::new(partitions as usize),
            consumers: (0..partitions).map(|_| Consumer::default()).collect(),
            leases: (0..partitions).map(|_| Lease::default()).collect(),
            revision: 0,
            rng,
        }
    }

    /// Carries out one request of the partition of `adapter`. `now` is the broker's clock.
    pub fn perform(&mut self, adapter: &mut Adapter, request: &Request, now: u64) -> Response {
        let partition = adapter.partition;
        self.input.age(EPOCH_MS + now as i64);
        match request {
            Request::AcquireLease => self.acquire(adapter, now),
            Request::RenewLease { revision } => self.renew(adapter, *revision, now),
            Request::ReleaseLease { revision } => self.release(adapter, *revision, now),
            Request::Survey { input_sequence, epoch, history } => {
                self.survey(adapter, *input_sequence, *epoch, *history, now)
            }
            Request::Changes { after, up_to } => {
                let part = self.rng.range(1, 8) as usize;
                self.pipeline.changes(partition, *after, *up_to, part)
            }
            Request::FindSnapshot { epoch_max } => self.pipeline.find_snapshot(partition, *epoch_max),
            Request::ReadPart { part, offset } => {
                let most = self.rng.range(1, 200) as usize;
                self.pipeline.read_part(partition, part, *offset, most)
            }
            Request::SaveSnapshot { snapshot, layouts } => {
                self.pipeline.save_snapshot(partition, (snapshot, layouts), usize::MAX, now, self.settings.mutants)
            }
            Request::Reset { next, read_through } => self.reset(adapter, *next, *read_through),
            Request::Fetch { events, bytes } => self.fetch(adapter, *events, *bytes, now),
            Request::Publish { epoch, fence } => {
                let torn = self.settings.mutants.torn_batch && self.rng.chance(30);
                if let Some(refusal) = self.oversized(epoch) {
                    return Response::Published(Published::Permanent(refusal));
                }
                Response::Published(self.pipeline.publish(partition, epoch, fence, self.settings.mutants, torn))
            }
            Request::Ack { sequence } => self.ack(partition, *sequence),
        }
    }

    /// Why no server would take the batch, if its delta or one of its records is too large.
    fn oversized(&self, epoch: &Epoch) -> Option<String> {
        if epoch.delta.len() > self.settings.delta_bytes {
            return Some(format!("a delta of {} bytes, limit {}", epoch.delta.len(), self.settings.delta_bytes));
        }
        let bytes = |row: &Record| row.headers.len() + row.payload.len();
        let idx = epoch.records.rows.iter().position(|row| bytes(row) > self.settings.message_bytes)?;
        let bytes = bytes(&epoch.records.rows[idx]);
        Some(format!("record {idx} has {bytes} bytes, the broker takes {}", self.settings.message_bytes))
    }
}
