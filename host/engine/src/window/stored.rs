//! Windows as deltas and snapshots, and back.

use super::slices::Slice;
use super::{Correction, InFiring, Windows};
use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::time::EventTime;

/// Ids below the largest one that a snapshot or delta may leave free: as many keys as a partition ever had at once.
const UNUSED_IDS_MAX: usize = 1 << 24;

impl Windows {
    /// Appends what changed since the last call, or with `all` the whole state.
    pub(crate) fn encode(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        let dropped = std::mem::take(&mut self.dropped);
        let dropped = if all { Vec::new() } else { dropped };
        put_u64(out, dropped.len() as u64);
        dropped.iter().for_each(|&start| put_i64(out, start));
        let fresh = self.keys.take_fresh();
        let keys: Vec<u32> = if all { self.keys.live().collect() } else { fresh };
        put_u64(out, keys.len() as u64);
        for id in keys {
            put_u64(out, u64::from(id));
            put_bytes(out, self.keys.name(id));
        }
        let changed = self.slices.values().filter(|slice| all || slice.is_changed()).count();
        put_u64(out, changed as u64);
        for (&start, slice) in &mut self.slices {
            if all || slice.is_changed() {
                slice.encode(start, all, out);
            }
        }
        self.encode_revisions(all, watermark, out);
        self.encode_due(out);
        if !all {
            self.change_bytes = 0;
        }
    }

    fn encode_revisions(&mut self, all: bool, watermark: EventTime, out: &mut Vec<u8>) {
        self.drop_revisions(watermark);
        let mut changed = std::mem::take(&mut self.revisions_changed);
        if all {
            changed = self.revisions.keys().copied().collect();
        } else {
            changed.sort_unstable();
            changed.dedup();
            changed.retain(|place| self.revisions.contains_key(place));
        }
        put_u64(out, changed.len() as u64);
        for place in changed {
            put_i64(out, place.0);
            put_u64(out, u64::from(place.1));
            put_u64(out, u64::from(self.revisions[&place]));
        }
    }

    fn encode_due(&self, out: &mut Vec<u8>) {
        put_i64(out, self.fired_until);
        put_u64(out, self.corrections.len() as u64);
        for due in &self.corrections {
            put_i64(out, due.end);
            put_u64(out, u64::from(due.key));
            put_u64(out, u64::from(due.number));
        }
        match &self.firing {
            None => out.push(0),
            Some(firing) => {
                out.push(if self.firing_after.is_some() { 2 } else { 1 });
                put_i64(out, firing.end);
                put_bytes(out, self.firing_after.as_deref().unwrap_or_default());
            }
        }
    }

    /// Applies what [`Windows::encode`] wrote.
    pub(crate) fn apply(&mut self, reader: &mut Reader<'_>, watermark: EventTime) -> Result<(), Damaged> {
        let dropped = (0..reader.count()?).map(|_| reader.i64()).collect::<Result<Vec<_>, _>>()?;
        // Ids that are free in between take memory, too: a few damaged ones could ask for any amount of it.
        let mut unused = UNUSED_IDS_MAX;
        for _ in 0..reader.count()? {
            let id = reader.u32()?;
            let key = reader.bytes()?;
            unused = unused
                .checked_sub((id as usize).saturating_sub(self.keys.span()))
                .ok_or_else(|| Damaged(format!("key id {id} is out of range")))?;
            self.keys.define(id, key);
        }
        for _ in 0..reader.count()? {
            let start = self.read_slice_start(reader)?;
            let (shapes, fold) = (&self.shapes, self.fold);
            let slice = self.slices.entry(start).or_insert_with(|| Slice::new(shapes, fold));
            slice.decode(&mut self.keys, reader)?;
        }
        // Last, so that a key which a dropped slice shared with a new row keeps its id.
        for start in dropped {
            if let Some(slice) = self.slices.remove(&start) {
                slice.keys.iter().for_each(|&key| self.keys.release(key));
            }
        }
        for _ in 0..reader.count()? {
            let place = (reader.i64()?, reader.u32()?);
            self.revisions.insert(place, reader.u32()?);
        }
        self.drop_revisions(watermark);
        self.fired_until = reader.i64()?;
        self.corrections.clear();
        for _ in 0..reader.count()? {
            let (end, key, number) = (self.read_end(reader)?, reader.u32()?, reader.u32()?);
            if !self.keys.is_defined(key) {
                return Err(Damaged(format!("a due correction names key {key}, which is not defined")));
            }
            self.corrections.push_back(Correction { end, key, number });
        }
        (self.firing, self.firing_after) = (None, None);
        let state = reader.byte()?;
        if state > 0 {
            let end = self.read_end(reader)?;
            let after = reader.bytes()?.to_vec();
            // The keys that remain are found again when the last delta has been applied.
            self.firing = Some(InFiring { end, rest: Vec::new() });
            self.firing_after = (state == 2).then_some(after);
        }
        Ok(())
    }

    /// Times of windows are far from the ends of 64 bits, so that adding a size to them does not overflow.
    fn read_slice_start(&self, reader: &mut Reader<'_>) -> Result<i64, Damaged> {
        let start = reader.i64()?;
        let is_start =
            if self.global { start == i64::MIN } else { in_range(start) && start.rem_euclid(self.slide) == 0 };
        if is_start { Ok(start) } else { Err(Damaged(format!("no slice starts at {start}"))) }
    }

    fn read_end(&self, reader: &mut Reader<'_>) -> Result<i64, Damaged> {
        let end = reader.i64()?;
        let is_end = if self.global { end == i64::MAX } else { in_range(end) && end.rem_euclid(self.slide) == 0 };
        if is_end { Ok(end) } else { Err(Damaged(format!("no window ends at {end}"))) }
    }

    /// After the last delta: finds the panes that remain of a window that was being fired.
    pub(crate) fn restored(&mut self) {
        if let Some(end) = self.firing.as_ref().map(|firing| firing.end) {
            let after = self.firing_after.clone();
            let rest = self.candidates(end, after.as_deref());
            self.firing = Some(InFiring { end, rest });
        }
    }
}

fn in_range(time: i64) -> bool {
    time.unsigned_abs() < 1 << 60
}
