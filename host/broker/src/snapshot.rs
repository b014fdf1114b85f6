//! Snapshots of a partition: which are kept, which one is found, and the end of what none of them needs any more.

use std::collections::BTreeSet;
use std::time::Duration;

use pelton_engine::epoch::Marker;
use pelton_engine::log::{FoundSnapshot, Snapshot, StoredMarker};
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::api::Fault;
use crate::bucket::{Bucket, Head, Listing};
use crate::connect::Broker;
use crate::log::Target;
use crate::names;

/// How many snapshots of a partition are kept.
const KEPT: usize = 2;

/// An object that stays, and where the pipeline stream holds its marker now.
struct Held {
    subject: String,
    id: String,
    sequence: u64,
}

/// Stores the snapshot, deletes all but the newest two, and purges changes and markers before the older of them.
///
/// Snapshots of epochs that the stream has lost do not count, however new: they would push out the ones that are
/// needed, and one that comes late would take the place of the same epoch's. Chunks of this partition without an object,
/// left by a kill or a lost connection, go when the last of them is older than `abandoned_after`.
pub(crate) async fn save(
    broker: &Broker,
    target: &Target,
    snapshot: &Snapshot,
    abandoned_after: Duration,
) -> Result<(), Fault> {
    let bucket = Bucket::new(broker, target);
    // Tells a bucket that is not there from a server that does not answer.
    bucket.list_heads().await?;
    let epoch = snapshot.stored.marker.epoch;
    if find_marker(broker, target, &snapshot.stored).await?.is_none() {
        debug!(epoch, "a snapshot of an epoch that the stream does not hold is of no use to anyone");
        return Ok(());
    }
    bucket.put(snapshot).await?;
    let listing = bucket.list().await?;
    let mut kept = Vec::new();
    for (epoch, subject) in &listing.heads {
        let head = bucket.head(*epoch, subject).await?;
        let sequence = match &head {
            Ok(Head { found, .. }) => find_marker(broker, target, &found.stored).await?,
            Err(_) => None,
        };
        match (head, sequence) {
            (Ok(Head { found, .. }), Some(sequence)) => {
                kept.push(Held { subject: subject.clone(), id: found.object, sequence });
            }
            (head, _) => {
                let id = head.ok().map(|head| head.found.object);
                let purged = bucket.delete(subject, id.as_deref()).await?;
                debug!(epoch, purged, "a snapshot of an epoch that the stream does not hold was deleted");
            }
        }
    }
    let old = kept.len().saturating_sub(KEPT);
    for object in kept.drain(..old) {
        let purged = bucket.delete(&object.subject, Some(&object.id)).await?;
        debug!(object = object.id, purged, "an old snapshot was deleted");
    }
    delete_abandoned(&bucket, &listing, &kept, abandoned_after).await?;
    match kept.as_slice() {
        [older, _] => purge_log(broker, target, older.sequence).await,
        _ => Ok(()),
    }
}

async fn delete_abandoned(
    bucket: &Bucket<'_>,
    listing: &Listing,
    kept: &[Held],
    abandoned_after: Duration,
) -> Result<(), Fault> {
    let kept: BTreeSet<&str> = kept.iter().map(|object| object.id.as_str()).collect();
    for id in listing.chunks.keys().filter(|id| bucket.is_ours(id) && !kept.contains(id.as_str())) {
        let purged = bucket.delete_chunks(id, listing.broker_time, abandoned_after).await?;
        if purged > 0 {
            debug!(id, purged, "chunks without an object were deleted");
        }
    }
    Ok(())
}

/// Changes and markers before a marker: nobody goes back behind the older snapshot. The newest marker stays, since the
/// older snapshot's own marker is not newer.
async fn purge_log(broker: &Broker, target: &Target, below: u64) -> Result<(), Fault> {
    let stream = target.log_stream();
    let prefix = target.prefix();
    for filter in [names::delta_subject(&prefix), names::marker_filter(&prefix)] {
        let body = json!({ "filter": filter, "seq": below });
        let answer: Value = broker.api(&stream, &format!("STREAM.PURGE.{stream}"), &body).await?;
        debug!(stream, filter, below, purged = %answer["purged"], "purged");
    }
    Ok(())
}

/// Epoch of the newest stored snapshot of the partition, whatever became of its epoch.
pub(crate) async fn newest_epoch(broker: &Broker, target: &Target) -> Result<Option<u64>, Fault> {
    let listing = Bucket::new(broker, target).list_heads().await?;
    Ok(listing.heads.last().map(|(epoch, _)| *epoch))
}

/// The newest snapshot of epoch `epoch_max` or before that the stream holds the marker of. One that cannot be right is
/// passed over with a warning: its head does not decode, or chunks are missing.
pub(crate) async fn find(broker: &Broker, target: &Target, epoch_max: u64) -> Result<Option<FoundSnapshot>, Fault> {
    let bucket = Bucket::new(broker, target);
    let listing = bucket.list().await?;
    for (epoch, subject) in listing.heads.iter().rev().filter(|(epoch, _)| *epoch <= epoch_max) {
        let head = bucket.head(*epoch, subject).await?;
        let checked = match head {
            Ok(head) => check(head, &listing, target.snapshot_bytes_max),
            Err(reason) => Err(reason),
        };
        let reason = match checked {
            Ok(mut found) => match find_marker(broker, target, &found.stored).await? {
                Some(sequence) => {
                    found.stored.sequence = sequence;
                    return Ok(Some(found));
                }
                None => "the pipeline stream does not hold its marker".to_string(),
            },
            Err(reason) => reason,
        };
        warn!(pipeline = target.pipeline, partition = target.partition, epoch, reason, "snapshot is passed over");
    }
    Ok(None)
}

/// What the head says against what may be and what is there. Whoever reads it may rely on the length then: memory for
/// the state grows with what is read, up to it.
pub(crate) fn check(head: Head, listing: &Listing, bytes_max: u64) -> Result<FoundSnapshot, String> {
    let Head { found, chunks } = head;
    if found.bytes > bytes_max {
        return Err(format!("it claims {} bytes, and with `limits.state` it may have {bytes_max}", found.bytes));
    }
    let there = listing.chunks.get(&found.object).copied().unwrap_or(0);
    if there != chunks {
        return Err(format!("{there} of its {chunks} chunks are there"));
    }
    if found.bytes > listing.bytes {
        return Err(format!("it claims {} bytes, and the whole bucket holds {}", found.bytes, listing.bytes));
    }
    Ok(found)
}

/// Where the pipeline stream holds this marker. Mostly where it was; but an epoch that was published again, after the
/// stream lost its tail, lies elsewhere.
async fn find_marker(broker: &Broker, target: &Target, wanted: &StoredMarker) -> Result<Option<u64>, Fault> {
    let stream = target.log_stream();
    let is_wanted = |payload: &[u8]| {
        Marker::decode(payload)
            .is_ok_and(|marker| marker.epoch == wanted.marker.epoch && marker.nonce == wanted.marker.nonce)
    };
    let subject = names::marker_subject(&target.prefix(), &wanted.marker.slot());
    if let Some(message) = broker.message_at(&stream, wanted.sequence).await?
        && message.subject == subject
        && is_wanted(&message.payload)
    {
        return Ok(Some(wanted.sequence));
    }
    // One run of one process uses a slot again after thousands of epochs, so these are few.
    let mut from = 1;
    while let Some(message) = broker.next_message(&stream, &subject, from).await? {
        if is_wanted(&message.payload) {
            return Ok(Some(message.sequence));
        }
        let Some(next) = message.sequence.checked_add(1) else { break };
        from = next;
    }
    Ok(None)
}
