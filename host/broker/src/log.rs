//! One partition of one pipeline: carries out the closed list of requests.
//!
//! Cheap to clone; a fetch, a publish and a lease request may be in flight at the same time. Two requests of the same
//! kind wait for each other.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use bytes::Bytes;
use pelton_engine::log::{Request, Response};
use tokio::sync::Mutex;

use crate::ack::Acks;
use crate::api::within;
use crate::bucket::Bucket;
use crate::connect::Broker;
use crate::error::API_TIMEOUT;
use crate::fetch::{Fetcher, Source};
use crate::lease::Lease;
use crate::limits::LogOptions;
use crate::part::{self, Place};
use crate::publish::Publisher;
use crate::target::Target;
use crate::{changes, snapshot, survey};

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
