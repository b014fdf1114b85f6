//! The bucket of snapshots, one partition of it: parts, and manifests that name them, as `broker` keeps them.

use std::collections::{BTreeMap, BTreeSet};

use pelton_engine::epoch::{Manifest, SnapshotPart, SnapshotSection, sha256};
use pelton_engine::log::Snapshot;

use super::LogMutants;

/// Snapshots that are kept.
const KEPT: usize = 2;
/// Bytes of a part: so few that states have many, and share some.
const PART_BYTES: usize = 64;
/// What no snapshot names goes when it is so old.
const ABANDONED_MS: u64 = 20_000;

/// Manifests by epoch, as stored, and parts by name.
#[derive(Default)]
pub(super) struct Bucket {
    manifests: BTreeMap<u64, Vec<u8>>,
    parts: BTreeMap<String, Part>,
}

struct Part {
    /// For which it was stored first.
    epoch: u64,
    /// Or named again.
    stored_at: u64,
    bytes: Vec<u8>,
}

impl Bucket {
    /// Stores a snapshot; when it has more new parts than so many, only these, and no manifest. Whether all of it is there.
    pub(super) fn put(&mut self, snapshot: &Snapshot, layouts: &[String], parts_max: usize, now: u64) -> bool {
        let marker = &snapshot.stored.marker;
        let all = self.manifests.values().filter_map(|bytes| Manifest::decode(bytes).ok());
        let named: Vec<SnapshotPart> = all.flat_map(|manifest| manifest.parts().cloned().collect::<Vec<_>>()).collect();
        let mut stored: BTreeMap<_, _> = named.into_iter().map(|part| ((part.sha256, part.bytes), part)).collect();
        let (mut count, mut sections) = (0, Vec::new());
        let states = snapshot.sections().expect("an engine wrote it");
        for ((section, layout_text), state) in marker.sections.iter().zip(layouts).zip(states) {
            let mut parts = Vec::new();
            for bytes in state.chunks(PART_BYTES) {
                let key = (sha256(bytes), bytes.len() as u64);
                if let Some(part) = stored.remove(&key)
                    && let Some(held) = self.parts.get_mut(&part.object)
                {
                    held.stored_at = now;
                    parts.push(part);
                    continue;
                }
                if count == parts_max {
                    return false;
                }
                count += 1;
                let object = self.free_name(marker.epoch);
                self.parts.insert(object.clone(), Part { epoch: marker.epoch, stored_at: now, bytes: bytes.to_vec() });
                parts.push(SnapshotPart { object, sha256: key.0, bytes: key.1 });
            }
            let (name, operator) = (section.name.clone(), section.operator.clone());
            let (layout, layout_text) = (section.layout, layout_text.clone());
            sections.push(SnapshotSection { name, operator, layout, layout_text, parts });
        }
        let manifest = Manifest { marker: marker.clone(), sequence: snapshot.stored.sequence, sections };
        self.manifests.insert(marker.epoch, manifest.encode());
        true
    }

    /// A part is never replaced.
    fn free_name(&self, epoch: u64) -> String {
        let name = |idx: usize| format!("{epoch}/{idx}");
        (0..).map(name).find(|name| !self.parts.contains_key(name)).expect("there is no end of names")
    }

    /// Drops all but the newest two snapshots that can be used, with what was stored for the others, and what no snapshot
    /// names, when it is old; those that stay, older first. `holds` says whether the stream holds the marker.
    pub(super) fn clean(&mut self, holds: impl Fn(&Manifest) -> bool, now: u64, mutants: LogMutants) -> Vec<Manifest> {
        let all: Vec<Manifest> = self.manifests.values().filter_map(|bytes| Manifest::decode(bytes).ok()).collect();
        let (mut kept, mut dropped): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|manifest| holds(manifest) && self.has_parts(manifest));
        let old = kept.len().saturating_sub(KEPT);
        dropped.extend(kept.drain(..old));
        dropped.iter().for_each(|manifest| drop(self.manifests.remove(&manifest.marker.epoch)));
        let needed: BTreeSet<&str> = kept.iter().flat_map(Manifest::parts).map(|part| part.object.as_str()).collect();
        let epochs: BTreeSet<u64> = dropped.iter().map(|manifest| manifest.marker.epoch).collect();
        self.parts.retain(|name, part| {
            let is_of_dropped = epochs.contains(&part.epoch);
            let is_needed = needed.contains(name.as_str()) && !(mutants.drop_shared_parts && is_of_dropped);
            is_needed || (!is_of_dropped && now < part.stored_at + ABANDONED_MS)
        });
        kept
    }

    fn has_parts(&self, manifest: &Manifest) -> bool {
        manifest.parts().all(|part| self.parts.contains_key(&part.object))
    }

    /// The newest snapshot up to an epoch that has all of its parts.
    pub(super) fn find(&self, epoch_max: u64) -> Option<Manifest> {
        let mut manifests =
            self.manifests.range(..=epoch_max).rev().filter_map(|(_, bytes)| Manifest::decode(bytes).ok());
        manifests.find(|manifest| self.has_parts(manifest))
    }

    /// Bytes of a part from an offset on; `None` when it is not there.
    pub(super) fn read(&self, part: &SnapshotPart, offset: u64, most: usize) -> Option<Vec<u8>> {
        let rest = self.parts.get(&part.object)?.bytes.get(offset as usize..)?;
        Some(rest[..rest.len().min(most)].to_vec())
    }

    /// Epoch of the newest snapshot.
    pub(super) fn newest(&self) -> Option<u64> {
        self.manifests.keys().next_back().copied()
    }
}
