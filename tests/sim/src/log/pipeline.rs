//! The pipeline stream: epochs as atomic batches behind two fences, and the snapshots beside it.
//!
//! Entries are kept per partition; sequences are those of one stream. A batch takes one sequence per message.

use std::sync::Arc;

use pelton_engine::epoch::{BATCH_MESSAGES_MAX, Epoch, MARKER_SLOTS, Manifest, Marker, SnapshotPart, StreamIdentity};
use pelton_engine::log::{Change, Fence, Published, Response, Snapshot, StoredMarker, StreamFacts, Survey};
use pelton_engine::time::WallTime;

use crate::scenario::EPOCH_MS;

use super::bucket::Bucket;
use super::{Adapter, LogMutants, SimLog};

/// One stored batch.
#[derive(Clone)]
pub struct Entry {
    /// Of the first message of the batch.
    pub first: u64,
    /// Of the marker, or of the last message of a torn batch.
    pub sequence: u64,
    pub epoch: Arc<Epoch>,
    /// Its changes are purged.
    pub purged: bool,
    /// Its marker is purged, too.
    pub is_unmarked: bool,
    /// Only the first so many records landed, and no marker (only by a mutant).
    pub torn: Option<usize>,
}

impl Entry {
    /// Of the first message that is still there.
    fn first_kept(&self) -> Option<u64> {
        match (self.purged, self.is_unmarked) {
            (false, _) => Some(self.first),
            (true, false) => Some(self.first + u64::from(self.epoch.marker.delta_chunks)),
            (true, true) => None,
        }
    }

    /// Changes and markers below this sequence go.
    fn lose_below(&mut self, below: u64) {
        self.purged |= self.first < below;
        self.is_unmarked |= self.sequence < below;
    }

    /// Whether a reader of markers finds one.
    fn is_marked(&self) -> bool {
        self.torn.is_none() && !self.is_unmarked
    }
}

/// The stream and the bucket.
pub struct Pipeline {
    created: i64,
    last: u64,
    partitions: Vec<Vec<Entry>>,
    buckets: Vec<Bucket>,
}

impl Pipeline {
    pub(super) fn new(partitions: usize) -> Pipeline {
        Pipeline {
            created: super::PIPELINE_CREATED,
            last: 0,
            partitions: vec![Vec::new(); partitions],
            buckets: (0..partitions).map(|_| Bucket::default()).collect(),
        }
    }

    /// All batches of a partition, in order.
    #[must_use]
    pub fn entries(&self, partition: u32) -> &[Entry] {
        &self.partitions[partition as usize]
    }

    /// The newest marker of a partition and its sequence.
    #[must_use]
    pub fn head(&self, partition: u32) -> Option<(u64, &Marker)> {
        self.markers(partition).next().map(|entry| (entry.sequence, &entry.epoch.marker))
    }

    /// Batches with a marker, newest first.
    fn markers(&self, partition: u32) -> impl Iterator<Item = &Entry> {
        self.partitions[partition as usize].iter().rev().filter(|entry| entry.is_marked())
    }

    pub(super) fn publish(
        &mut self,
        partition: u32,
        epoch: &Arc<Epoch>,
        fence: &Fence,
        mutants: LogMutants,
        torn: bool,
    ) -> Published {
        let records = epoch.records.rows.len();
        let messages = epoch.messages();
        if messages > BATCH_MESSAGES_MAX {
            return Published::Permanent(format!(
                "atomic publish batch is too large: {BATCH_MESSAGES_MAX} (error 10199)"
            ));
        }
        if let Err(found) = self.check(partition, fence, mutants) {
            return Published::Rejected(format!("wrong last sequence: {found} (error 10071)"));
        }
        let first = self.last + 1;
        let torn = torn.then_some(records / 2);
        self.last += torn.map_or(messages, |kept| epoch.marker.delta_chunks as usize + kept) as u64;
        let entry = Entry { first, sequence: self.last, epoch: epoch.clone(), purged: false, is_unmarked: false, torn };
        self.partitions[partition as usize].push(entry);
        if torn.is_some() {
            return Published::Refused("the server went away".into());
        }
        Published::Stored { sequence: self.last }
    }

    /// Both fences, each against the last message of its own subject filter.
    fn check(&self, partition: u32, fence: &Fence, mutants: LogMutants) -> Result<(), u64> {
        if mutants.no_fence {
            return Ok(());
        }
        let newest = self.head(partition).map_or(0, |(sequence, _)| sequence);
        if newest != fence.sequence && !mutants.slot_fence {
            return Err(newest);
        }
        let Some(slot) = fence.slot.as_ref().filter(|_| !mutants.sequence_fence) else { return Ok(()) };
        let name = |slot: &str| if mutants.slot_without_run { without_run(slot) } else { slot.to_string() };
        let wanted = name(slot);
        let found = self.markers(partition).find(|entry| name(&entry.epoch.marker.slot()) == wanted);
        let found = found.map_or(0, |entry| entry.sequence);
        if found == fence.sequence { Ok(()) } else { Err(found) }
    }

    /// As a survey reports it.
    #[must_use]
    pub fn facts(&self) -> StreamFacts {
        let identity = StreamIdentity { name: "PELTON_sim".into(), created: self.created };
        let firsts = self.partitions.iter().filter_map(|entries| entries.iter().find_map(Entry::first_kept));
        let first_sequence = firsts.min().unwrap_or(self.last + 1);
        StreamFacts { identity, first_sequence, last_sequence: self.last }
    }

    pub(super) fn newest(&self, partition: u32) -> Option<StoredMarker> {
        self.head(partition).map(|(sequence, marker)| StoredMarker { sequence, marker: marker.clone() })
    }

    pub(super) fn of_epoch(&self, partition: u32, epoch: u64) -> Option<StoredMarker> {
        let found =
            self.markers(partition).find(|entry| entry.epoch.marker.epoch % MARKER_SLOTS == epoch % MARKER_SLOTS)?;
        let stored = StoredMarker { sequence: found.sequence, marker: found.epoch.marker.clone() };
        (stored.marker.epoch == epoch).then_some(stored)
    }

    pub(super) fn changes(&self, partition: u32, after: u64, up_to: u64, part: usize) -> Response {
        let mut changes = Vec::new();
        let entries = self.partitions[partition as usize].iter().filter(|entry| !entry.is_unmarked);
        for entry in entries.filter(|entry| after < entry.sequence && entry.sequence <= up_to) {
            let marker = &entry.epoch.marker;
            if entry.purged {
                let what = format!(
                    "epoch {} (sequence {}) has 0 of its {} change chunks",
                    marker.epoch, entry.sequence, marker.delta_chunks
                );
                return Response::Damaged(what);
            }
            let stored = StoredMarker { sequence: entry.sequence, marker: marker.clone() };
            changes.push(Change { stored, delta: entry.epoch.delta.clone() });
            if changes.len() == part {
                break;
            }
        }
        Response::Changes(changes)
    }

    pub(super) fn find_snapshot(&self, partition: u32, epoch_max: u64) -> Response {
        Response::SnapshotFound(self.buckets[partition as usize].find(epoch_max).map(Box::new))
    }

    pub(super) fn read_part(&self, partition: u32, part: &SnapshotPart, offset: u64, most: usize) -> Response {
        match self.buckets[partition as usize].read(part, offset, most) {
            Some(bytes) => Response::PartRead(bytes),
            None => Response::Damaged(format!("part `{}` is gone", part.object)),
        }
    }

    /// Epoch of the newest stored snapshot of a partition.
    #[must_use]
    pub fn newest_snapshot(&self, partition: u32) -> Option<u64> {
        self.buckets[partition as usize].newest()
    }

    /// Keeps the two newest snapshots by epoch, and purges changes and markers below the older of them. Snapshots of
    /// epochs that the stream has lost do not count: they would push out the ones that are needed. After so many new
    /// parts the process is killed, or the bucket is full.
    pub fn save_snapshot(
        &mut self,
        partition: u32,
        (snapshot, layouts): (&Snapshot, &[String]),
        parts_max: usize,
        now: u64,
        mutants: LogMutants,
    ) -> Response {
        let StoredMarker { sequence, marker } = &snapshot.stored;
        if !mutants.stale_snapshots && !self.holds(partition, *sequence, marker) {
            return Response::SnapshotSaved;
        }
        if !self.buckets[partition as usize].put(snapshot, layouts, parts_max, now) {
            return Response::Unavailable("maximum bytes exceeded".into());
        }
        let mut bucket = std::mem::take(&mut self.buckets[partition as usize]);
        let holds =
            |manifest: &Manifest| mutants.stale_snapshots || self.holds(partition, manifest.sequence, &manifest.marker);
        if let [older, newer] = bucket.clean(holds, now, mutants).as_slice() {
            let below = if mutants.purge_above_snapshot { newer.sequence } else { older.sequence };
            self.partitions[partition as usize].iter_mut().for_each(|entry| entry.lose_below(below));
        }
        self.buckets[partition as usize] = bucket;
        Response::SnapshotSaved
    }

    /// Whether a marker lies where it was stored.
    fn holds(&self, partition: u32, sequence: u64, marker: &Marker) -> bool {
        let entries = &self.partitions[partition as usize];
        let found = entries.binary_search_by_key(&sequence, |entry| entry.sequence);
        found.is_ok_and(|idx| entries[idx].is_marked() && entries[idx].epoch.marker.nonce == marker.nonce)
    }

    /// Acknowledged batches vanish: the last `count` of the whole stream, newest first, but neither the
    /// first of a partition nor one whose changes are purged. Their sequences will be given out again. Returns how many.
    pub fn lose_tail(&mut self, count: u64) -> u64 {
        for lost in 0..count {
            let newest = |entries: &Vec<Entry>| entries.last().map_or(0, |entry| entry.sequence);
            let Some(entries) = self.partitions.iter_mut().max_by_key(|entries| newest(entries)) else { return lost };
            if entries.len() < 2 || entries.last().is_none_or(|entry| entry.purged) {
                return lost;
            }
            if let Some(entry) = entries.pop() {
                self.last = entry.first - 1;
            }
        }
        count
    }

    /// Everything below this sequence goes, of every partition: the stream is bounded.
    pub fn expire(&mut self, below: u64) {
        self.partitions.iter_mut().flatten().for_each(|entry| entry.lose_below(below));
    }

    /// One bit of the stored change of the newest epoch of a partition flips, and nothing shows it.
    pub fn damage_newest(&mut self, partition: u32) {
        if let Some(entry) = self.partitions[partition as usize].last_mut()
            && let Some(byte) = Arc::make_mut(&mut entry.epoch).delta.last_mut()
        {
            *byte ^= 1;
        }
    }

    /// The last sequence that was given out.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// When it was created.
    #[must_use]
    pub fn created(&self) -> i64 {
        self.created
    }

    /// The snapshots of a partition are lost, as when the bucket is made again.
    pub fn lose_snapshots(&mut self) {
        self.buckets.iter_mut().for_each(|bucket| *bucket = Bucket::default());
    }

    /// Everything is purged; sequences go on.
    pub fn purge(&mut self) {
        self.partitions.iter_mut().for_each(Vec::clear);
    }

    /// Another stream of the same name.
    pub fn recreate(&mut self) {
        self.purge();
        (self.last, self.created) = (0, self.created + 1);
    }
}

/// A slot as `<lease>.<epoch>`.
fn without_run(slot: &str) -> String {
    let (owner, epoch) = slot.split_once('.').unwrap_or((slot, ""));
    format!("{}.{epoch}", owner.split('-').next().unwrap_or(owner))
}

impl SimLog {
    /// What both streams hold.
    pub(super) fn survey(
        &mut self,
        adapter: &mut Adapter,
        input_sequence: Option<u64>,
        epoch: Option<u64>,
        history: bool,
        now: u64,
    ) -> Response {
        let partition = adapter.partition;
        Response::Survey(Box::new(Survey {
            input: self.input.facts(),
            is_alone: self.consumers.len() == 1 && !self.input.is_shared(),
            log: self.pipeline.facts(),
            marker: self.pipeline.newest(partition),
            input_fingerprint: input_sequence.and_then(|sequence| self.input.fingerprint(sequence)),
            marker_of_epoch: epoch.and_then(|epoch| self.pipeline.of_epoch(partition, epoch)),
            all_delivered: self.all_delivered(adapter),
            ack_floor: self.ack_floor(partition),
            broker_time: WallTime(EPOCH_MS + now as i64),
            snapshot_epoch: self.pipeline.newest_snapshot(partition).filter(|_| history),
        }))
    }
}
