//! Leases: who should work on a partition. They decide liveness only; the fence of the batch decides safety.
//!
//! A lease is one key of a key-value bucket whose entries expire. Its identity is the revision of its acquisition;
//! renewals write the same value again and keep that identity. The value names the holder, so that an answer that got
//! lost is recognised by reading it back.
//!
//! The value also names the holder's store: a folder that one process at a time has locked. Whoever holds the lock and
//! finds a lease of an earlier process on the same store knows that this process is dead, and need not wait.

use async_nats::HeaderMap;
use bytes::Bytes;
use pelton_engine::log::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::api::Fault;
use crate::code::Class;
use crate::connect::Broker;
use crate::error::BrokerError;
use crate::names::{self, LEASE_BUCKET, kv_stream, lease_subject};
use crate::target::Target;

/// The lease of one partition, as this process knows it.
pub(crate) struct Lease {
    stream: String,
    subject: String,
    value: Holder,
    held: Option<Held>,
}

struct Held {
    /// Revision of the acquisition: the identity.
    revision: u64,
    /// Revision of the last renewal.
    newest: u64,
}

/// What a lease says about its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    /// Milliseconds since the Unix epoch.
    started: u64,
    /// Unique per log: tells two logs of one process apart.
    instance: String,
    /// Id of the locked store, when the holder has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
}

impl Holder {
    /// Whether `other` is an earlier process on the store that this one has locked. Earlier, so that of two machines
    /// with copies of one store only one follows the other, once.
    fn succeeds(&self, other: &Holder) -> bool {
        self.store.is_some() && self.store == other.store && other.started < self.started
    }
}

/// Who holds a lease, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    pub host: String,
    pub pid: u64,
}

impl std::fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.host, self.pid)
    }
}

/// Who works on a partition of the pipeline now; `None` while nobody does.
///
/// # Errors
/// When the server does not answer, or the bucket is not there.
pub async fn lease_holder(broker: &Broker, pipeline: &str, partition: u32) -> Result<Option<LeaseHolder>, BrokerError> {
    let entry = read(broker, &kv_stream(LEASE_BUCKET), &lease_subject(pipeline, partition)).await;
    match entry {
        Ok(Entry::Free { .. }) => Ok(None),
        Ok(Entry::Taken { shown, .. }) => Ok(Some(shown)),
        Err(fault) => Err(BrokerError::Request { what: "read a lease".to_string(), cause: fault.to_string() }),
    }
}

/// What the key holds now.
enum Entry {
    /// Nothing, or a deletion: the revision that a new value must follow.
    Free {
        revision: u64,
    },
    Taken {
        holder: Option<Holder>,
        revision: u64,
        shown: LeaseHolder,
    },
}

impl Lease {
    pub(crate) fn new(broker: &Broker, target: &Target, host: &str, store: Option<String>) -> Lease {
        let inbox = broker.client().new_inbox();
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Lease {
            stream: kv_stream(LEASE_BUCKET),
            subject: lease_subject(&target.pipeline, target.partition),
            value: Holder {
                host: host.to_string(),
                pid: std::process::id(),
                started,
                instance: inbox.rsplit('.').next().unwrap_or(&inbox).to_string(),
                store,
            },
            held: None,
        }
    }

    /// Takes the lease when nobody has it, or an earlier process on our store. `LeaseHeld` with the revision of this
    /// acquisition, or `LeaseTaken`. Acquiring what this log holds already gives the same revision again.
    pub(crate) async fn acquire(&mut self, broker: &Broker) -> Response {
        let entry = match self.read(broker).await {
            Ok(entry) => entry,
            Err(fault) => return fault.into(),
        };
        match entry {
            Entry::Free { revision } => self.take(broker, revision).await,
            Entry::Taken { holder: Some(holder), revision, .. } if holder == self.value => match &mut self.held {
                Some(held) => {
                    held.newest = revision;
                    Response::LeaseHeld { revision: held.revision }
                }
                // The answer to an acquisition got lost.
                None => self.hold(revision),
            },
            Entry::Taken { holder: Some(holder), revision, shown } if self.value.succeeds(&holder) => {
                info!(subject = self.subject, predecessor = %shown, "taking the lease of a process that is gone");
                self.take(broker, revision).await
            }
            Entry::Taken { shown, .. } => self.lose(shown.to_string()),
        }
    }

    /// Writes over what was read; whoever wrote after that keeps it.
    async fn take(&mut self, broker: &Broker, expected: u64) -> Response {
        self.held = None;
        match self.write(broker, expected).await {
            Ok(revision) => self.hold(revision),
            Err(fault) if fault.is(Class::Fenced) => self.explain(broker).await,
            Err(fault) => fault.into(),
        }
    }

    /// Keeps the lease; `LeaseHeld` with the revision of the acquisition, also when it had expired and nobody took it.
    /// `LeaseTaken` when another holds it, or it was never held under this revision.
    pub(crate) async fn renew(&mut self, broker: &Broker, revision: u64) -> Response {
        let newest = match &self.held {
            Some(held) if held.revision == revision => held.newest,
            _ => return Response::LeaseTaken { holder: format!("somebody unknown, for revision {revision} is gone") },
        };
        let written = match self.write(broker, newest).await {
            Err(fault) if fault.is(Class::Fenced) => match self.read(broker).await {
                // The answer to an earlier renewal got lost.
                Ok(Entry::Taken { holder: Some(holder), revision: newest, .. }) if holder == self.value => Ok(newest),
                Ok(Entry::Taken { shown, .. }) => return self.lose(shown.to_string()),
                // It expired, and nobody wanted it.
                Ok(Entry::Free { revision: last }) => self.write(broker, last).await,
                Err(fault) => Err(fault),
            },
            written => written,
        };
        match written {
            Ok(newest) => {
                self.held = Some(Held { revision, newest });
                Response::LeaseHeld { revision }
            }
            Err(fault) if fault.is(Class::Fenced) => self.explain(broker).await,
            Err(fault) => fault.into(),
        }
    }

    /// Gives the lease up. `LeaseReleased` also when it was no longer held.
    pub(crate) async fn release(&mut self, broker: &Broker, revision: u64) -> Response {
        let newest = match &self.held {
            Some(held) if held.revision == revision => held.newest,
            _ => return Response::LeaseReleased,
        };
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        match broker.put(&self.stream, self.entry(broker), headers, Bytes::new(), newest).await {
            Err(fault) if !fault.is(Class::Fenced) => fault.into(),
            Ok(_) | Err(_) => {
                self.held = None;
                Response::LeaseReleased
            }
        }
    }

    fn hold(&mut self, revision: u64) -> Response {
        self.held = Some(Held { revision, newest: revision });
        Response::LeaseHeld { revision }
    }

    fn lose(&mut self, holder: String) -> Response {
        self.held = None;
        Response::LeaseTaken { holder }
    }

    /// Somebody was faster: say who.
    async fn explain(&mut self, broker: &Broker) -> Response {
        match self.read(broker).await {
            Ok(Entry::Taken { shown, .. }) => self.lose(shown.to_string()),
            Ok(Entry::Free { .. }) => self.lose("another host, which has released it since".to_string()),
            Err(fault) => fault.into(),
        }
    }

    async fn read(&self, broker: &Broker) -> Result<Entry, Fault> {
        read(broker, &self.stream, &self.subject).await
    }

    async fn write(&self, broker: &Broker, expected: u64) -> Result<u64, Fault> {
        let value = serde_json::to_vec(&self.value).map_err(|error| Fault::Damaged(error.to_string()))?;
        broker.put(&self.stream, self.entry(broker), HeaderMap::new(), Bytes::from(value), expected).await
    }

    /// The subject that a value is published to.
    fn entry(&self, broker: &Broker) -> String {
        names::in_domain(broker.api_prefix(), &self.subject)
    }
}

async fn read(broker: &Broker, stream: &str, subject: &str) -> Result<Entry, Fault> {
    let Some(message) = broker.last_message(stream, subject).await? else {
        return Ok(Entry::Free { revision: 0 });
    };
    if message.headers.get("KV-Operation").is_some() {
        return Ok(Entry::Free { revision: message.sequence });
    }
    let (holder, shown) = decode(&message.payload);
    Ok(Entry::Taken { holder, revision: message.sequence, shown })
}

/// Who holds a lease, as its value says: as a host wrote it, if one did, and for people.
fn decode(value: &[u8]) -> (Option<Holder>, LeaseHolder) {
    let value: Value = serde_json::from_slice(value).unwrap_or_default();
    let host = value["host"].as_str().unwrap_or("a holder that does not decode").to_string();
    let shown = LeaseHolder { host, pid: value["pid"].as_u64().unwrap_or(0) };
    (serde_json::from_value(value).ok(), shown)
}

/// The holder for people, and the value as its host wrote it; for `tests/fuzz`.
pub(crate) fn parse(value: &[u8]) -> (LeaseHolder, Option<Vec<u8>>) {
    let (holder, shown) = decode(value);
    (shown, holder.and_then(|holder| serde_json::to_vec(&holder).ok()))
}
