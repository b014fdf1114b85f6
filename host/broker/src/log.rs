//! One partition of one pipeline: carries out the closed list of requests.
//!
//! Cheap to clone; a fetch, a publish and a lease request may be in flight at the same time. Two requests of the same
//! kind wait for each other.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pelton_engine::log::{Request, Response};
use pelton_engine::plan::Plan;
use tokio::sync::Mutex;

use crate::ack::Acks;
use crate::api::within;
use crate::bucket::Bucket;
use crate::connect::{API_TIMEOUT, Broker};
use crate::fetch::{Fetcher, Source};
use crate::lease::Lease;
use crate::part::{self, Place};
use crate::publish::Publisher;
use crate::{ack_pending, changes, names, snapshot, survey};

/// Which partition of which pipeline, and where its events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub pipeline: String,
    pub partition: u32,
    /// Input stream.
    pub stream: String,
    /// Literal input subject of this partition (a wildcard only without partitions).
    pub subject: String,
    /// Bytes of the largest state that a snapshot may have.
    pub snapshot_bytes_max: u64,
}

/// How much larger than `limits.state` a stored state may be: the limit counts memory roughly, and may have been lowered
/// since. Beyond it an object of the bucket is no state of this pipeline, whoever put it there.
const SNAPSHOT_TIMES_MAX: u64 = 4;
/// For what has no size of its own in the limit.
const SNAPSHOT_EXTRA_BYTES: u64 = 64 << 20;

impl Target {
    /// One partition of a plan.
    #[must_use]
    pub fn new(plan: &Plan, partition: u32) -> Target {
        Target {
            pipeline: plan.name.clone(),
            partition,
            stream: plan.source.stream.clone(),
            subject: names::source_subject(plan, partition),
            snapshot_bytes_max: plan
                .limits
                .state
                .saturating_mul(SNAPSHOT_TIMES_MAX)
                .saturating_add(SNAPSHOT_EXTRA_BYTES),
        }
    }

    pub(crate) fn consumer(&self) -> String {
        names::consumer(&self.pipeline, self.partition)
    }

    pub(crate) fn prefix(&self) -> String {
        names::prefix(&self.pipeline, self.partition)
    }

    pub(crate) fn log_stream(&self) -> String {
        names::log_stream(&self.pipeline)
    }
}

/// Time and size limits of a [`Log`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// How long a batch may stay without an answer.
    pub publish_timeout: Duration,
    /// How long a fetch waits for the first event.
    pub fetch_wait: Duration,
    /// Messages of one pull request.
    pub pull_messages: u32,
    /// Bytes of one pull request.
    pub pull_bytes: u32,
    /// Pull requests in flight.
    pub pull_requests: u32,
    /// Deliveries that may be without an ack; more than two epochs of any size, so that nothing waits for acks.
    pub ack_pending: u64,
    /// Who holds the lease, for people: usually the host name.
    pub holder: String,
    /// Id of the store that this process has locked: a lease that an earlier process on it left is taken over at once.
    pub store: Option<String>,
    /// Bytes of one part of an answer to `Changes`, about.
    pub changes_bytes: usize,
    /// What is there of a snapshot without a manifest is deleted when the youngest of it is so old.
    pub abandoned_after: Duration,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            publish_timeout: Duration::from_secs(5),
            fetch_wait: Duration::from_millis(50),
            pull_messages: 8192,
            pull_bytes: 8 << 20,
            pull_requests: 3,
            ack_pending: ack_pending::WANTED,
            holder: "unnamed".to_string(),
            store: None,
            changes_bytes: 16 << 20,
            abandoned_after: Duration::from_secs(3600),
        }
    }
}

/// Carries out the requests of one partition.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Broker,
    target: Target,
    options: LogOptions,
    publisher: Mutex<Publisher>,
    fetcher: Mutex<Fetcher>,
    /// Deliveries without an ack: added by fetches, taken by acks.
    acks: StdMutex<Acks>,
    lease: Mutex<Lease>,
    /// Where the last answer about a part of a snapshot ended.
    place: StdMutex<Option<Place>>,
}

impl Log {
    /// Does no IO: streams are made by [`up`](crate::up), the consumer by the first reset.
    #[must_use]
    pub fn new(broker: &Broker, target: Target, options: LogOptions) -> Log {
        let lease = Lease::new(broker, &target, &options.holder, options.store.clone());
        Log {
            inner: Arc::new(Inner {
                broker: broker.clone(),
                target,
                options,
                publisher: Mutex::default(),
                fetcher: Mutex::default(),
                acks: StdMutex::default(),
                lease: Mutex::new(lease),
                place: StdMutex::default(),
            }),
        }
    }

    /// Which partition this is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// Carries out one request. What each one promises stands at the function that it calls.
    ///
    /// Never fails in another way than by its response: a stream that is gone is `Missing`, no answer or an answer
    /// that says "not now" is `Unavailable`, content that makes no sense is `Damaged`. A publish answers with
    /// [`Published`](pelton_engine::log::Published) only.
    ///
    /// # Cancel safety
    /// Dropping the future of a fetch loses no event: the next fetch says `restarted` and continues. Dropping a
    /// publish leaves its outcome unknown.
    pub async fn perform(&self, request: Request) -> Response {
        let Inner { broker, target, options, acks, place, .. } = &*self.inner;
        match request {
            Request::AcquireLease => self.inner.lease.lock().await.acquire(broker).await,
            Request::RenewLease { revision } => self.inner.lease.lock().await.renew(broker, revision).await,
            Request::ReleaseLease { revision } => self.inner.lease.lock().await.release(broker, revision).await,
            Request::Survey { input_sequence, epoch, history } => {
                Box::pin(survey::survey(broker, target, acks, input_sequence, epoch, history))
                    .await
                    .map_or_else(Response::from, |survey| Response::Survey(Box::new(survey)))
            }
            Request::Changes { after, up_to } => changes::read(broker, target, after, up_to, options.changes_bytes)
                .await
                .map_or_else(Response::from, Response::Changes),
            Request::FindSnapshot { epoch_max } => snapshot::find(broker, target, epoch_max)
                .await
                .map_or_else(Response::from, |found| Response::SnapshotFound(found.map(Box::new))),
            Request::ReadPart { part, offset } => part::read(&Bucket::new(broker, target), &part, offset, place)
                .await
                .map_or_else(Response::from, Response::PartRead),
            Request::SaveSnapshot { snapshot, layouts } => {
                Box::pin(snapshot::save(broker, target, &snapshot, &layouts, options.abandoned_after))
                    .await
                    .map_or_else(Response::from, |()| Response::SnapshotSaved)
            }
            Request::Reset { next, read_through } => {
                let mut fetcher = self.inner.fetcher.lock().await;
                fetcher
                    .reset(&self.source(), next, read_through)
                    .await
                    .map_or_else(Response::from, |()| Response::Reset)
            }
            Request::Fetch { events, bytes } => {
                let mut fetcher = self.inner.fetcher.lock().await;
                fetcher.fetch(&self.source(), events, bytes).await.map_or_else(Response::from, Response::Fetched)
            }
            Request::Publish { epoch, fence } => {
                let mut publisher = self.inner.publisher.lock().await;
                let limit = options.publish_timeout;
                Response::Published(publisher.publish(broker, &target.prefix(), &epoch, &fence, limit).await)
            }
            Request::Ack { sequence } => self.ack(sequence).await,
        }
    }

    fn source(&self) -> Source<'_> {
        let Inner { broker, target, options, acks, .. } = &*self.inner;
        Source { broker, target, options, acks }
    }

    /// Acknowledges the last delivery at or below `sequence`, and with it all before. Waits for no answer; an ack that
    /// is lost costs nothing but lag in a display.
    async fn ack(&self, sequence: u64) -> Response {
        let subject = self.inner.acks.lock().unwrap_or_else(PoisonError::into_inner).take(sequence);
        if let Some(subject) = subject
            && self.inner.broker.connected()
        {
            let client = self.inner.broker.client();
            let publish = client.publish(subject, Bytes::from_static(b"+ACK"));
            let _ = within(API_TIMEOUT, "ack", publish).await;
        }
        Response::Acked
    }
}
