//! Leases: who should work on a partition. They decide liveness only; the fence of the batch decides safety.
//!
//! A lease is one key of a key-value bucket whose entries expire. Its identity is the revision of its acquisition;
//! renewals write the same value again and keep that identity. The value names the holder, so that an answer that got
//! lost is recognised by reading it back.

use async_nats::HeaderMap;
use bytes::Bytes;
use pelton_engine::log::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Fault;
use crate::code::Class;
use crate::connect::Broker;
use crate::log::Target;
use crate::names::{LEASE_BUCKET, kv_stream, lease_subject};

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
        text: String,
    },
}

impl Lease {
    pub(crate) fn new(broker: &Broker, target: &Target, host: &str) -> Lease {
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
            },
            held: None,
        }
    }

    /// Takes the lease when nobody has it. `LeaseHeld` with the revision of this acquisition, or `LeaseTaken`.
    /// Acquiring what this log holds already gives the same revision again.
    pub(crate) async fn acquire(&mut self, broker: &Broker) -> Response {
        let entry = match self.read(broker).await {
            Ok(entry) => entry,
            Err(fault) => return fault.into(),
        };
        match entry {
            Entry::Free { revision } => {
                self.held = None;
                match self.write(broker, revision).await {
                    Ok(revision) => self.hold(revision),
                    Err(fault) if fault.is(Class::Fenced) => self.explain(broker).await,
                    Err(fault) => fault.into(),
                }
            }
            Entry::Taken { holder: Some(holder), revision, .. } if holder == self.value => match &mut self.held {
                Some(held) => {
                    held.newest = revision;
                    Response::LeaseHeld { revision: held.revision }
                }
                // The answer to an acquisition got lost.
                None => self.hold(revision),
            },
            Entry::Taken { text, .. } => {
                self.held = None;
                Response::LeaseTaken { holder: text }
            }
        }
    }

    /// Keeps the lease; `LeaseHeld` with the revision of the acquisition. `LeaseTaken` when it expired, was taken, or
    /// was never held under this revision.
    pub(crate) async fn renew(&mut self, broker: &Broker, revision: u64) -> Response {
        let newest = match &self.held {
            Some(held) if held.revision == revision => held.newest,
            _ => return Response::LeaseTaken { holder: format!("not held under revision {revision}") },
        };
        match self.write(broker, newest).await {
            Ok(newest) => {
                self.held = Some(Held { revision, newest });
                Response::LeaseHeld { revision }
            }
            Err(fault) if fault.is(Class::Fenced) => match self.read(broker).await {
                // The answer to an earlier renewal got lost.
                Ok(Entry::Taken { holder: Some(holder), revision: newest, .. }) if holder == self.value => {
                    self.held = Some(Held { revision, newest });
                    Response::LeaseHeld { revision }
                }
                Ok(Entry::Taken { text, .. }) => self.lose(text),
                Ok(Entry::Free { .. }) => self.lose("nobody, it expired".to_string()),
                Err(fault) => fault.into(),
            },
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
        match broker.put(&self.stream, self.subject.clone(), headers, Bytes::new(), newest).await {
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
            Ok(Entry::Taken { text, .. }) => self.lose(text),
            Ok(Entry::Free { .. }) => self.lose("somebody, for a moment".to_string()),
            Err(fault) => fault.into(),
        }
    }

    async fn read(&self, broker: &Broker) -> Result<Entry, Fault> {
        let Some(message) = broker.last_message(&self.stream, &self.subject).await? else {
            return Ok(Entry::Free { revision: 0 });
        };
        if message.headers.get("KV-Operation").is_some() {
            return Ok(Entry::Free { revision: message.sequence });
        }
        let text = match serde_json::from_slice::<Value>(&message.payload) {
            Ok(value) => format!("{} (pid {})", value["host"].as_str().unwrap_or("?"), value["pid"]),
            Err(_) => "a holder that does not decode".to_string(),
        };
        Ok(Entry::Taken { holder: serde_json::from_slice(&message.payload).ok(), revision: message.sequence, text })
    }

    async fn write(&self, broker: &Broker, expected: u64) -> Result<u64, Fault> {
        let value = serde_json::to_vec(&self.value).map_err(|error| Fault::Damaged(error.to_string()))?;
        broker.put(&self.stream, self.subject.clone(), HeaderMap::new(), Bytes::from(value), expected).await
    }
}
