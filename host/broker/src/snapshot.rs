//! Snapshots of a partition: which are kept, which one is found, and the end of what none of them needs any more.
//!
//! Order makes this safe wherever it is killed: parts come before the manifest that names them, a manifest goes before
//! its parts, and the stream is purged last. A host that lost its lease may still be at it, beside the next one: what it
//! is about to name is too young to be deleted, and a snapshot counts only while all of its parts are there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pelton_engine::epoch::{
    MANIFEST_BYTES_MAX, Manifest, Marker, PART_BYTES_MAX, SnapshotPart, SnapshotSection, sha256,
};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::time::WallTime;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::api::Fault;
use crate::bucket::{Bucket, Found, Layout, Listing, Name};
use crate::connect::Broker;
use crate::target::Target;
use crate::{ledger, names, part};

/// How many snapshots of a partition are kept.
const KEPT: usize = 2;

/// A snapshot that cannot be used.
struct Unusable {
    /// When it can be read at least.
    manifest: Option<Manifest>,
    reason: String,
}

/// Stores the snapshot, deletes all but the newest two, and purges changes and markers before the older of them.
///
/// Snapshots that cannot be used do not count, however new: they would push out the ones that are needed. Snapshots of
/// epochs that the stream has lost are such, and one that comes late would take the place of the same epoch's.
pub(crate) async fn save(
    broker: &Broker,
    target: &Target,
    snapshot: &Snapshot,
    layouts: &[String],
    abandoned_after: Duration,
) -> Result<(), Fault> {
    let bucket = Bucket::new(broker, target);
    // Tells a bucket that is not there from a server that does not answer.
    let listing = bucket.list().await?;
    let epoch = snapshot.stored.marker.epoch;
    if find_marker(broker, target, &snapshot.stored.marker, snapshot.stored.sequence).await?.is_none() {
        debug!(epoch, "a snapshot of an epoch that the stream does not hold is of no use to anyone");
        return Ok(());
    }
    let manifest = put_parts(&bucket, snapshot, layouts, &listing).await?.encode();
    if manifest.len() > MANIFEST_BYTES_MAX {
        return Err(Fault::Damaged(format!("a manifest of {} bytes, limit {MANIFEST_BYTES_MAX}", manifest.len())));
    }
    bucket.put(Name::manifest(epoch), &manifest, sha256(&manifest)).await?;
    clean(&bucket, target, epoch, abandoned_after).await
}

/// Stores the parts of a snapshot that are not there yet, and says where each of them is.
async fn put_parts(
    bucket: &Bucket<'_>,
    snapshot: &Snapshot,
    layouts: &[String],
    listing: &Listing,
) -> Result<Manifest, Fault> {
    let StoredMarker { sequence, marker } = &snapshot.stored;
    let mut stored = stored_parts(bucket, listing).await?;
    let mut next = listing.next_part(&bucket.layout, marker.epoch);
    let states = snapshot.sections().map_err(|damaged| Fault::Damaged(damaged.to_string()))?;
    assert!(layouts.len() == states.len(), "each section has its layout's text");
    let mut sections = Vec::new();
    for ((section, layout_text), state) in marker.sections.iter().zip(layouts).zip(states) {
        let mut parts = Vec::new();
        for bytes in state.chunks(PART_BYTES_MAX) {
            let (sha256, length) = (sha256(bytes), bytes.len() as u64);
            parts.push(match stored.remove(&(sha256, length)) {
                Some(part) if reuse(bucket, &part, listing).await? => part,
                _ => {
                    let name = Name::part(marker.epoch, next);
                    next = next.saturating_add(1);
                    bucket.put(name, bytes, sha256).await?;
                    SnapshotPart { object: bucket.layout.object(name), sha256, bytes: length }
                }
            });
        }
        let (name, operator) = (section.name.clone(), section.operator.clone());
        let layout_text = layout_text.clone();
        sections.push(SnapshotSection { name, operator, layout: section.layout, layout_text, parts });
    }
    Ok(Manifest { marker: marker.clone(), sequence: *sequence, sections })
}

/// Parts that snapshots of this partition name, by sha256 and length.
async fn stored_parts(
    bucket: &Bucket<'_>,
    listing: &Listing,
) -> Result<BTreeMap<([u8; 32], u64), SnapshotPart>, Fault> {
    let mut stored = BTreeMap::new();
    for epoch in listing.manifests() {
        let Some(found) = bucket.find(Name::manifest(epoch)).await? else { continue };
        let Ok(manifest) = read_manifest(bucket, epoch, &found, listing).await? else { continue };
        stored.extend(manifest.parts().map(|part| ((part.sha256, part.bytes), part.clone())));
    }
    Ok(stored)
}

/// Whether a stored part can be named again: all of it is there, and from now on it is as young as a new one, so that
/// nobody deletes it before the manifest is stored.
async fn reuse(bucket: &Bucket<'_>, part: &SnapshotPart, listing: &Listing) -> Result<bool, Fault> {
    let Some(name) = bucket.layout.name(&part.object) else { return Ok(false) };
    let Some(found) = bucket.find(name).await? else { return Ok(false) };
    let is_whole = found.head.as_ref().is_ok_and(|head| head.is_of(part) && listing.has_chunks(head));
    Ok(is_whole && bucket.renew(name, &found).await?)
}

/// Deletes what the newest two snapshots do not need, in the bucket and in the stream; `saved` is the epoch of the one
/// that was just stored.
async fn clean(bucket: &Bucket<'_>, target: &Target, saved: u64, abandoned_after: Duration) -> Result<(), Fault> {
    let listing = bucket.list().await?;
    let (mut kept, mut dropped, mut lost) = (Vec::new(), Vec::new(), None);
    for epoch in listing.manifests() {
        let Some(found) = bucket.find(Name::manifest(epoch)).await? else { continue };
        match usable(bucket, target, epoch, &found, &listing).await? {
            Ok(manifest) => kept.push((found, manifest)),
            Err(Unusable { manifest, reason }) => {
                debug!(epoch, reason, "a snapshot that cannot be used is deleted");
                if epoch == saved {
                    lost = Some(reason);
                }
                dropped.push((epoch, found, manifest));
            }
        }
    }
    let old = kept.len().saturating_sub(KEPT);
    dropped.extend(kept.drain(..old).map(|(found, manifest)| (manifest.marker.epoch, found, Some(manifest))));
    let names = |manifest: &Manifest| -> Vec<Name> {
        manifest.parts().filter_map(|part| bucket.layout.name(&part.object)).collect()
    };
    let mut known: BTreeSet<Name> = kept.iter().flat_map(|(_, manifest)| names(manifest)).collect();
    for (epoch, found, manifest) in &dropped {
        bucket.delete(Name::manifest(*epoch), found).await?;
        // Only from this manifest can others know what was stored for it: a head that is older than the manifest was seen
        // by nobody else. Everything else may be named by a snapshot that is under way.
        for name in manifest.iter().flat_map(names).filter(|name| name.epoch == *epoch) {
            if !known.contains(&name)
                && let Some(part) = bucket.find(name).await?
                && part.sequence < found.sequence
            {
                bucket.delete(name, &part).await?;
                known.insert(name);
            }
        }
    }
    let ids = kept.iter().filter_map(|(found, _)| Some(found.head.as_ref().ok()?.id.as_str())).collect();
    delete_abandoned(bucket, &listing, &known, &ids, abandoned_after).await?;
    if let [(_, older), _] = kept.as_slice() {
        purge_log(bucket.broker, target, older.sequence).await?;
        ledger::purge(bucket.broker, target, older.sequence).await?;
    }
    match lost {
        Some(reason) => Err(Fault::Unavailable(format!("the snapshot was stored and cannot be used: {reason}"))),
        None => Ok(()),
    }
}

/// Something that no snapshot names.
enum Unnamed {
    Object(Name, Found),
    /// Without a head; of this id.
    Chunks(String),
}

/// Deletes what no snapshot names, objects and chunks without a head: a put was killed, or lost its connection, or goes on.
/// Therefore only when nothing that was stored for the same epoch is younger than `abandoned_after`. `ids` are those of the
/// manifests that are kept: one that was stored again has left the chunks of the first.
async fn delete_abandoned(
    bucket: &Bucket<'_>,
    listing: &Listing,
    known: &BTreeSet<Name>,
    ids: &BTreeSet<&str>,
    abandoned_after: Duration,
) -> Result<(), Fault> {
    let mut unnamed: BTreeMap<u64, (Vec<Unnamed>, Option<WallTime>)> = BTreeMap::new();
    for name in listing.objects.iter().filter(|name| name.part.is_some() && !known.contains(name)) {
        let Some(found) = bucket.find(*name).await? else { continue };
        let (all, newest) = unnamed.entry(name.epoch).or_default();
        *newest = (*newest).max(Some(found.stored_at));
        all.push(Unnamed::Object(*name, found));
    }
    for id in listing.chunks.keys() {
        let is_unnamed = |name: &Name| match name.part {
            None => !ids.contains(id.as_str()),
            Some(_) => !listing.objects.contains(name),
        };
        if let Some(name) = bucket.layout.name_of_id(id).filter(is_unnamed) {
            let (all, newest) = unnamed.entry(name.epoch).or_default();
            *newest = (*newest).max(bucket.chunks_stored_at(id).await?);
            all.push(Unnamed::Chunks(id.clone()));
        }
    }
    for (epoch, (all, newest)) in unnamed {
        let age = newest.map_or(0, |newest| listing.broker_time.0.saturating_sub(newest.0));
        if u128::from(age.max(0).unsigned_abs()) < abandoned_after.as_millis() {
            continue;
        }
        let mut purged = 0;
        for one in &all {
            purged += match one {
                Unnamed::Object(name, found) => bucket.delete(*name, found).await?,
                Unnamed::Chunks(id) => bucket.delete_chunks(id).await?,
            };
        }
        debug!(epoch, purged, "what no snapshot names was deleted");
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
    Ok(Bucket::new(broker, target).list_objects().await?.manifests().next_back())
}

/// The newest snapshot of epoch `epoch_max` or before that can be used; others are passed over with a warning.
pub(crate) async fn find(broker: &Broker, target: &Target, epoch_max: u64) -> Result<Option<Manifest>, Fault> {
    let bucket = Bucket::new(broker, target);
    let listing = bucket.list().await?;
    for epoch in listing.manifests().rev().filter(|epoch| *epoch <= epoch_max) {
        let Some(found) = bucket.find(Name::manifest(epoch)).await? else { continue };
        match usable(&bucket, target, epoch, &found, &listing).await? {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(Unusable { reason, .. }) => {
                warn!(
                    pipeline = target.pipeline,
                    partition = target.partition,
                    epoch,
                    reason,
                    "snapshot is passed over"
                );
            }
        }
    }
    Ok(None)
}

/// The snapshot of an epoch whose manifest was found, with the sequence at which the stream holds its marker now.
async fn usable(
    bucket: &Bucket<'_>,
    target: &Target,
    epoch: u64,
    found: &Found,
    listing: &Listing,
) -> Result<Result<Manifest, Unusable>, Fault> {
    let mut manifest = match read_manifest(bucket, epoch, found, listing).await? {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(Err(Unusable { manifest: None, reason })),
    };
    let checked = check(&bucket.layout, &manifest, listing, target.snapshot_bytes_max);
    let place = match checked {
        Ok(()) => find_marker(bucket.broker, target, &manifest.marker, manifest.sequence).await?,
        Err(reason) => return Ok(Err(Unusable { manifest: Some(manifest), reason })),
    };
    let Some(sequence) = place else {
        let reason = "the pipeline stream does not hold its marker".to_string();
        return Ok(Err(Unusable { manifest: Some(manifest), reason }));
    };
    manifest.sequence = sequence;
    Ok(Ok(manifest))
}

/// The manifest of an epoch. The inner error is about its content.
async fn read_manifest(
    bucket: &Bucket<'_>,
    epoch: u64,
    found: &Found,
    listing: &Listing,
) -> Result<Result<Manifest, String>, Fault> {
    let head = match &found.head {
        Ok(head) => head,
        Err(reason) => return Ok(Err(reason.clone())),
    };
    if head.bytes > MANIFEST_BYTES_MAX as u64 || !listing.has_chunks(head) {
        let reason = format!("its manifest claims {} bytes in {} chunks, which it has not", head.bytes, head.chunks);
        return Ok(Err(reason));
    }
    let bytes = match part::read_all(bucket, head).await {
        Ok(bytes) => bytes,
        Err(Fault::Damaged(reason)) => return Ok(Err(reason)),
        Err(fault) => return Err(fault),
    };
    if sha256(&bytes) != head.sha256 {
        return Ok(Err("its manifest has another sha256 than its head says".to_string()));
    }
    Ok(match Manifest::decode(&bytes) {
        Ok(manifest) if manifest.marker.epoch == epoch => Ok(manifest),
        Ok(manifest) => Err(format!("it holds epoch {}", manifest.marker.epoch)),
        Err(error) => Err(error.to_string()),
    })
}

/// What a manifest says against what may be and what is there.
pub(crate) fn check(layout: &Layout, manifest: &Manifest, listing: &Listing, bytes_max: u64) -> Result<(), String> {
    if manifest.bytes() > bytes_max {
        let bytes = manifest.bytes();
        return Err(format!("it claims {bytes} bytes, and with `limits.state` it may have {bytes_max}"));
    }
    let is_there = |part: &SnapshotPart| layout.name(&part.object).is_some_and(|name| listing.objects.contains(&name));
    match manifest.parts().find(|part| !is_there(part)) {
        Some(part) => Err(format!("part `{}` is not there", part.object)),
        None => Ok(()),
    }
}

/// Where the pipeline stream holds this marker. Mostly where it was, at `sequence`; but an epoch that was published again,
/// after the stream lost its tail, lies elsewhere.
async fn find_marker(broker: &Broker, target: &Target, wanted: &Marker, sequence: u64) -> Result<Option<u64>, Fault> {
    let stream = target.log_stream();
    let is_wanted = |payload: &[u8]| {
        Marker::decode(payload).is_ok_and(|marker| marker.epoch == wanted.epoch && marker.nonce == wanted.nonce)
    };
    let subject = names::marker_subject(&target.prefix(), &wanted.slot());
    if let Some(message) = broker.message_at(&stream, sequence).await?
        && message.subject == subject
        && is_wanted(&message.payload)
    {
        return Ok(Some(sequence));
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
