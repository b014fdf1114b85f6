//! `dedupe`: an event that repeats another one of its key has no effect, whatever the stages would make of it.
//!
//! An id is remembered from the first event that has it, unless that ends as a dead letter: who sends it again, mended,
//! is heard. It is forgotten when the watermark has passed the time of that event by the time to live.

use std::collections::BTreeSet;
use std::hash::Hasher;

use hashbrown::HashTable;
use pelton_aggregates::HashKey;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::codec::{Damaged, Reader, put_i64};
use crate::effects::Counter;
use crate::epoch::ID_BYTES_AT_ONCE_MAX;
use crate::plan::Dedupe as Settings;
use crate::time::{EventTime, Span};
use crate::unit::{Count, UNIT_EVENTS, Unit};
use crate::watermark::Watermark;

use super::{Head, Stateful};

const NAME: &str = "dedupe";
const FORMAT: u8 = 1;
/// Rough bytes of an id: its slot of the table, its place in the order of expiry.
const ID_BYTES: usize = 96;
/// Most bytes of an id where it is stored.
const ID_STORED_BYTES_MAX: usize = size_of::<Id>() + 10;
const _: () = assert!(UNIT_EVENTS * ID_STORED_BYTES_MAX <= ID_BYTES_AT_ONCE_MAX);
/// The counter of repetitions, and the name that it has in a marker.
pub(crate) const DUPLICATES: (&str, Counter) = ("dedupe/duplicates", Counter { stage: u16::MAX, idx: 0 });

/// What is kept of key and id: a hash with the key of the pipeline, wide enough that no two of them are alike.
type Id = [u8; 16];

/// The ids that are remembered.
pub(crate) struct Dedupe {
    ttl: Span,
    layout: String,
    hash_key: HashKey,
    /// Each with the watermark at which it is forgotten.
    known: HashTable<(Id, i64)>,
    by_expiry: BTreeSet<(i64, Id)>,
    /// Remembered since the last delta.
    fresh: Vec<(i64, Id)>,
    /// Those of the unit at hand, by event.
    of_unit: Vec<Option<Id>>,
}

impl Dedupe {
    /// Remembers nothing yet.
    pub(crate) fn new(settings: &Settings) -> Dedupe {
        let id = serde_json::Value::from(settings.id.to_string());
        Dedupe {
            ttl: settings.ttl,
            layout: format!(r#"{{"operator":"{NAME}","format":{FORMAT},"id":{id}}}"#),
            hash_key: HashKey::default(),
            known: HashTable::new(),
            by_expiry: BTreeSet::new(),
            fresh: Vec::new(),
            of_unit: Vec::new(),
        }
    }

    /// Looks at a fresh unit.
    pub(crate) fn read(&mut self, unit: &Unit) {
        self.of_unit.clear();
        self.of_unit.resize(unit.events.len(), None);
        let source = unit.flow(0);
        for (row, &origin) in source.origins.iter().enumerate() {
            let (key, id) = (source.decoded.keys.get(row), source.decoded.ids.get(row));
            let mut hasher = SipHasher13::new_with_key(&self.hash_key.0);
            hasher.write_u64(key.len() as u64);
            hasher.write(key);
            hasher.write(id);
            self.of_unit[origin as usize] = Some(hasher.finish128().as_bytes());
        }
    }

    /// Takes all acts of the unit's next events that repeat an earlier one, up to `stop`. Ends before an event that has the
    /// id of one that is not accounted for, since that may end as a dead letter; says where.
    pub(crate) fn screen(&mut self, unit: &mut Unit, watermark: &Watermark, stop: usize) -> usize {
        let mut watermark = watermark.clone();
        let mut open: BTreeSet<Id> = BTreeSet::new();
        let mut repeated: Vec<u32> = Vec::new();
        let mut end = stop;
        for idx in unit.next..stop {
            if let Some(id) = self.of_unit[idx] {
                if self.expiry(&id).is_some_and(|expiry| watermark.current().0 < expiry) {
                    repeated.push(idx as u32);
                    self.of_unit[idx] = None;
                } else if !open.insert(id) {
                    end = idx;
                    break;
                }
            }
            if let Some(time) = unit.times[idx] {
                watermark.observe(EventTime(time));
            }
        }
        if !repeated.is_empty() {
            let is_first = |origin: u32| repeated.binary_search(&origin).is_err();
            unit.acts.retain(|act| is_first(act.origin));
            unit.counts.retain(|count| is_first(count.origin));
            unit.counts.extend(repeated.iter().map(|&origin| Count { origin, counter: DUPLICATES.1, add: 1 }));
            unit.counts.sort_by_key(|count| count.origin);
        }
        end
    }

    /// Remembers the unit's events from `first` up to the next one, but for those that are dead letters, and forgets what
    /// is old enough.
    pub(crate) fn settle(&mut self, unit: &Unit, first: usize, watermark: EventTime) {
        self.forget(watermark);
        let source = unit.flow(0);
        let rows = source.origins.partition_point(|&origin| (origin as usize) < first);
        for (row, &origin) in source.origins.iter().enumerate().skip(rows) {
            if origin as usize >= unit.next {
                break;
            }
            let Some(id) = self.of_unit[origin as usize] else { continue };
            if unit.dead.binary_search(&origin).is_err() {
                let expiry = EventTime(source.decoded.timestamps[row]).plus(self.ttl).0;
                self.remember(id, expiry, watermark);
                self.fresh.push((expiry, id));
            }
        }
    }

    fn expiry(&self, id: &Id) -> Option<i64> {
        self.known.find(hash(id), |(known, _)| known == id).map(|(_, expiry)| *expiry)
    }

    fn remember(&mut self, id: Id, expiry: i64, watermark: EventTime) {
        if expiry > watermark.0 {
            self.known.insert_unique(hash(&id), (id, expiry), |(id, _)| hash(id));
            self.by_expiry.insert((expiry, id));
        }
    }

    fn forget(&mut self, watermark: EventTime) {
        while let Some(&(expiry, id)) = self.by_expiry.first().filter(|(expiry, _)| *expiry <= watermark.0) {
            self.by_expiry.remove(&(expiry, id));
            if let Ok(entry) = self.known.find_entry(hash(&id), |(known, _)| *known == id) {
                entry.remove();
            }
        }
    }
}

/// An id is a hash with a key.
fn hash(id: &Id) -> u64 {
    u64::from_le_bytes(id[..8].try_into().expect("it has 16 bytes"))
}

impl Stateful for Dedupe {
    fn section(&self) -> Head<'_> {
        Head { name: NAME, operator: NAME, layout: &self.layout, format: FORMAT }
    }

    fn set_hash_key(&mut self, key: HashKey) {
        self.hash_key = key;
    }

    /// In the order of expiry, or that in which they were remembered.
    fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.forget(watermark);
        let mut put = |&(expiry, id): &(i64, Id)| {
            put_i64(out, expiry);
            out.extend_from_slice(&id);
        };
        if all {
            self.by_expiry.iter().for_each(&mut put);
        } else {
            std::mem::take(&mut self.fresh).iter().for_each(&mut put);
        }
    }

    fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        self.forget(watermark);
        while !reader.is_empty() {
            let (expiry, id) = (reader.i64()?, reader.array()?);
            if self.expiry(&id).is_some() {
                return Err(Damaged("an id is remembered twice".to_owned()));
            }
            self.remember(id, expiry, watermark);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.known.clear();
        self.by_expiry.clear();
        self.fresh.clear();
    }

    fn bytes(&self) -> usize {
        self.by_expiry.len() * ID_BYTES
    }

    fn change_bytes(&self) -> usize {
        self.fresh.len() * ID_STORED_BYTES_MAX
    }
}
