//! Snapshots in an object bucket, and the purge of the changes that no snapshot needs any more.
//!
//! Object `<partition>/<epoch>`: version byte, sequence of the marker, length and JSON of the marker, state.

use std::time::Duration;

use async_nats::jetstream::object_store::{ObjectMetadata, ObjectStore};
use futures_util::StreamExt;
use pelton_engine::epoch::Marker;
use pelton_engine::log::{Snapshot, StoredMarker};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tracing::{debug, warn};

use crate::api::{Fault, within};
use crate::connect::Broker;
use crate::log::Target;
use crate::names::{object_stream, snapshot_bucket};

const VERSION: u8 = 1;
const CHUNK_BYTES: usize = 512 << 10;
/// How many snapshots of a partition are kept.
const KEPT: usize = 2;
/// Silence in the middle of an object after which it is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
const SEQUENCE: &str = "marker-sequence";
const NONCE: &str = "marker-nonce";

/// One object of the bucket that belongs to this partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    epoch: u64,
    name: String,
    /// Sequence and nonce of the marker in the pipeline stream; 0 and empty when the object does not say.
    sequence: u64,
    nonce: String,
    bytes: usize,
}

/// Stores the snapshot, deletes all but the newest two, and purges the changes up to the older of them. Snapshots of
/// epochs that the stream has lost do not count, however new: they would push out the ones that are needed.
pub(crate) async fn save(broker: &Broker, target: &Target, snapshot: &Snapshot) -> Result<(), Fault> {
    let store = open(broker, target).await?;
    let stored = &snapshot.stored;
    let header = encode_header(stored);
    let metadata = ObjectMetadata {
        name: object_name(target, stored.marker.epoch),
        chunk_size: Some(CHUNK_BYTES),
        metadata: [
            (SEQUENCE.to_string(), stored.sequence.to_string()),
            (NONCE.to_string(), nonce_text(stored.marker.nonce)),
        ]
        .into(),
        ..ObjectMetadata::default()
    };
    let mut reader = header.as_slice().chain(snapshot.state.as_slice());
    store
        .put(metadata, &mut reader)
        .await
        .map_err(|error| Fault::Unavailable(format!("store snapshot of epoch {}: {error}", stored.marker.epoch)))?;
    let mut kept = Vec::new();
    for object in list(&store, target).await? {
        if is_held(broker, target, &object).await? {
            kept.push(object);
        } else {
            delete(&store, &object).await?;
        }
    }
    kept.sort();
    let old = kept.len().saturating_sub(KEPT);
    for object in kept.drain(..old) {
        delete(&store, &object).await?;
    }
    match kept.as_slice() {
        [Listed { sequence, .. }, _] => purge_changes(broker, target, *sequence).await,
        _ => Ok(()),
    }
}

/// Whether the stream still holds the marker that the snapshot belongs to.
async fn is_held(broker: &Broker, target: &Target, object: &Listed) -> Result<bool, Fault> {
    let found = broker.message_at(&target.log_stream(), object.sequence).await?;
    let marker = found.and_then(|message| Marker::decode(&message.payload).ok());
    Ok(marker.is_some_and(|marker| marker.epoch == object.epoch && nonce_text(marker.nonce) == object.nonce))
}

async fn delete(store: &ObjectStore, object: &Listed) -> Result<(), Fault> {
    let deleted = store.delete(&object.name).await;
    deleted.map_err(|error| Fault::Unavailable(format!("delete snapshot {}: {error}", object.name)))
}

/// The newest snapshot that decodes and is of epoch `epoch_max` or before; a damaged one is passed over with a warning.
pub(crate) async fn load(broker: &Broker, target: &Target, epoch_max: u64) -> Result<Option<Snapshot>, Fault> {
    let store = open(broker, target).await?;
    let mut listed = list(&store, target).await?;
    listed.retain(|object| object.epoch <= epoch_max);
    listed.sort();
    for object in listed.iter().rev() {
        match read(&store, object).await? {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(reason) => warn!(object = %object.name, reason, "snapshot is damaged, taking an older one"),
        }
    }
    Ok(None)
}

async fn open(broker: &Broker, target: &Target) -> Result<ObjectStore, Fault> {
    let bucket = snapshot_bucket(&target.pipeline);
    // Tells a bucket that is not there from a server that does not answer.
    broker.stream_info(&object_stream(&bucket)).await?;
    let store = broker.context().get_object_store(&bucket).await;
    store.map_err(|error| Fault::Unavailable(format!("open bucket {bucket}: {error}")))
}

async fn list(store: &ObjectStore, target: &Target) -> Result<Vec<Listed>, Fault> {
    let prefix = format!("{}/", target.partition);
    let read = async {
        let mut listed = Vec::new();
        let mut objects = store.list().await.map_err(|error| error.to_string())?;
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| error.to_string())?;
            let epoch = object.name.strip_prefix(&prefix).and_then(|epoch| epoch.parse().ok());
            if let Some(epoch) = epoch
                && !object.deleted
            {
                let sequence = object.metadata.get(SEQUENCE).and_then(|text| text.parse().ok()).unwrap_or(0);
                let nonce = object.metadata.get(NONCE).cloned().unwrap_or_default();
                listed.push(Listed { epoch, name: object.name, sequence, nonce, bytes: object.size });
            }
        }
        Ok::<_, String>(listed)
    };
    within(LIST_TIMEOUT, "list snapshots", read).await
}

/// The outer error is about the connection, the inner one about the content.
async fn read(store: &ObjectStore, listed: &Listed) -> Result<Result<Snapshot, String>, Fault> {
    let what = format!("read snapshot {}", listed.name);
    let mut object = within(READ_TIMEOUT, &what, store.get(&listed.name)).await?;
    let mut bytes = Vec::with_capacity(listed.bytes);
    loop {
        match tokio::time::timeout(READ_TIMEOUT, object.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => return Ok(decode(&bytes, listed.epoch)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(Err(error.to_string())),
            Ok(Err(error)) => return Err(Fault::Unavailable(format!("{what}: {error}"))),
            Err(_) => {
                // Either the server is gone or a part of the object is.
                object_is_answered(store, &listed.name, &what).await?;
                return Ok(Err(format!("ends after {} of {} bytes", bytes.len(), listed.bytes)));
            }
        }
    }
}

async fn object_is_answered(store: &ObjectStore, name: &str, what: &str) -> Result<(), Fault> {
    within(READ_TIMEOUT, what, store.info(name)).await.map(|_| ())
}

async fn purge_changes(broker: &Broker, target: &Target, below: u64) -> Result<(), Fault> {
    let stream = target.log_stream();
    let body = json!({ "filter": format!("{}.chg", target.prefix()), "seq": below });
    let answer: Value = broker.api(&stream, &format!("STREAM.PURGE.{stream}"), &body).await?;
    debug!(stream, below, purged = %answer["purged"], "changes purged");
    Ok(())
}

fn object_name(target: &Target, epoch: u64) -> String {
    format!("{}/{epoch:020}", target.partition)
}

fn nonce_text(nonce: u128) -> String {
    format!("{nonce:032x}")
}

fn encode_header(stored: &StoredMarker) -> Vec<u8> {
    let marker = stored.marker.encode();
    let mut header = Vec::with_capacity(marker.len() + 13);
    header.push(VERSION);
    header.extend_from_slice(&stored.sequence.to_be_bytes());
    header.extend_from_slice(&u32::try_from(marker.len()).unwrap_or(u32::MAX).to_be_bytes());
    header.extend_from_slice(&marker);
    header
}

fn decode(bytes: &[u8], epoch: u64) -> Result<Snapshot, String> {
    let short = || format!("{} bytes are too few", bytes.len());
    let (version, rest) = bytes.split_first().ok_or_else(short)?;
    if *version != VERSION {
        return Err(format!("format {version} is not known to this host (it knows {VERSION})"));
    }
    let (sequence, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (marker, state) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
    let marker = Marker::decode(marker)?;
    if marker.epoch != epoch {
        return Err(format!("holds epoch {}", marker.epoch));
    }
    let stored = StoredMarker { sequence: u64::from_be_bytes(*sequence), marker };
    Ok(Snapshot { stored, state: state.to_vec() })
}
