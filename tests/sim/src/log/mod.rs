//! The double of the broker: input stream, pipeline stream, consumers, leases and snapshots of one pipeline.
//!
//! [`SimLog`] is the server. An [`Adapter`] is what one process keeps of its connection to one partition; it dies with
//! the process. Together they answer the closed list of requests as `broker` does with a real server behind it, and
//! the conformance suite holds both to the same rules.

mod consumer;
mod input;
mod lease;
mod pipeline;

use pelton_engine::log::{Request, Response};

pub use consumer::Adapter;
pub use input::{Input, Message};
pub use pipeline::{Entry, Pipeline};

use crate::rng::Rng;
use consumer::Consumer;
use lease::Lease;

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
}

/// Settings of the double.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub lease_ttl: u64,
    /// Everybody gets the lease.
    pub broken_lease: bool,
    pub ack_wait: u64,
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
            input: Input::new(1),
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
        match request {
            Request::AcquireLease => self.acquire(adapter, now),
            Request::RenewLease { revision } => self.renew(adapter, *revision, now),
            Request::ReleaseLease { revision } => self.release(adapter, *revision, now),
            Request::Survey { input_sequence, epoch } => self.survey(adapter, *input_sequence, *epoch),
            Request::Changes { after, up_to } => {
                let part = self.rng.range(1, 8) as usize;
                self.pipeline.changes(partition, *after, *up_to, part)
            }
            Request::LoadSnapshot { epoch_max } => self.pipeline.load_snapshot(partition, *epoch_max),
            Request::SaveSnapshot { snapshot } => {
                self.pipeline.save_snapshot(partition, snapshot, self.settings.mutants.stale_snapshots)
            }
            Request::Reset { next } => self.reset(adapter, *next),
            Request::Fetch { events, bytes } => self.fetch(adapter, *events, *bytes, now),
            Request::Publish { epoch, fence } => {
                let torn = self.settings.mutants.torn_batch && self.rng.chance(30);
                Response::Published(self.pipeline.publish(partition, epoch, fence, self.settings.mutants, torn))
            }
            Request::Ack { sequence } => self.ack(partition, *sequence),
        }
    }
}
