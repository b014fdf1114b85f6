//! Event-time windows of one stage: slices per key, what is due, corrections, and their deltas.
//!
//! A sliding window is kept as slices of its step, never as one copy per window. What is due is a queue that is part
//! of the state: while it is not empty no further event is taken, so firing can be cut over many epochs at any pane.

mod aggregate;
mod keys;
mod slices;

use std::collections::{BTreeMap, VecDeque};

use aggregate::Merged;
pub(crate) use aggregate::{Accumulators, Shape, Value, column};
use keys::Keys;
use slices::Slice;

use crate::codec::{Damaged, Reader, put_bytes, put_i64, put_u64};
use crate::guest::{AggregateColumn, Firing, Panes};
use crate::plan::{Window, WindowKind};
use crate::time::EventTime;

/// Ids below the largest one that a snapshot or delta may leave free: as many keys as a partition ever had at once.
const UNUSED_IDS_MAX: usize = 1 << 24;

/// What became of an event at its window stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Counted,
    /// Behind every window that could take it.
    Late,
}

/// A pane that is due, in the order in which panes are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Correction {
    end: i64,
    key: u32,
    number: u32,
}

/// A window whose panes are being judged.
struct InFiring {
    end: i64,
    /// Keys that remain, largest first, so that the next one is popped.
    rest: Vec<u32>,
}

/// Windows of one stage and partition.
pub(crate) struct Windows {
    size: i64,
    every: i64,
    lateness: i64,
    global: bool,
    shapes: Vec<Shape>,
    fold: bool,
    at_least: Vec<(usize, i64)>,
    keys: Keys,
    slices: BTreeMap<i64, Slice>,
    /// Panes that a correction has fired: (window end, key) → number of the last one.
    revisions: BTreeMap<(i64, u32), u32>,
    revisions_changed: Vec<(i64, u32)>,
    /// Every window that ends here or earlier has fired entirely.
    fired_until: i64,
    corrections: VecDeque<Correction>,
    firing: Option<InFiring>,
    /// Key of the last judged pane of the firing window, for the delta.
    firing_after: Option<Vec<u8>>,
    dropped: Vec<i64>,
    /// Below this watermark nothing fires. Not part of the state: found again after a restart.
    wake: i64,
    scratch: Scratch,
}

/// Dense tables by key id, kept between firings.
#[derive(Default)]
struct Scratch {
    slot: Vec<u32>,
    touched: Vec<u32>,
    sums: Vec<i64>,
}

impl Windows {
    pub(crate) fn new(window: &Window, shapes: Vec<Shape>, at_least: Vec<(usize, i64)>, fold: bool) -> Windows {
        let (size, every, global) = match window.kind {
            WindowKind::Tumbling { size } => (size.0, size.0, false),
            WindowKind::Sliding { size, every } => (size.0, every.0, false),
            WindowKind::Global => (i64::MAX, i64::MAX, true),
        };
        Windows {
            size,
            every,
            lateness: window.lateness.0,
            global,
            shapes,
            fold,
            at_least,
            keys: Keys::default(),
            slices: BTreeMap::new(),
            revisions: BTreeMap::new(),
            revisions_changed: Vec::new(),
            fired_until: i64::MIN,
            corrections: VecDeque::new(),
            firing: None,
            firing_after: None,
            dropped: Vec::new(),
            wake: i64::MIN,
            scratch: Scratch::default(),
        }
    }

    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// Start of the slice that `time` falls into.
    pub(crate) fn slice_start(&self, time: EventTime) -> i64 {
        if self.global { i64::MIN } else { time.0.div_euclid(self.every).saturating_mul(self.every) }
    }

    /// First instant after the last window of the slice at `start`.
    fn last_end(&self, start: i64) -> i64 {
        if self.global { i64::MAX } else { start.saturating_add(self.size) }
    }

    /// Whether an event at `time` is behind every window that could take it.
    pub(crate) fn is_late(&self, time: EventTime, watermark: EventTime) -> bool {
        self.last_end(self.slice_start(time)).saturating_add(self.lateness) <= watermark.0
    }

    /// Whether an event at `time` that arrives at this watermark fires a correction.
    pub(crate) fn corrects(&self, time: EventTime, watermark: EventTime) -> bool {
        !self.global && self.lateness > 0 && self.slice_start(time).saturating_add(self.every) <= watermark.0
    }

    /// Puts an event that is not late into its slice; `fold` updates the row.
    pub(crate) fn place<'v>(
        &mut self,
        key: &[u8],
        time: EventTime,
        watermark: EventTime,
        mut value: impl FnMut(usize) -> Value<'v>,
    ) -> Placed {
        if self.is_late(time, watermark) {
            return Placed::Late;
        }
        let start = self.slice_start(time);
        self.wake = self.wake.min(self.last_end(start).saturating_add(self.lateness));
        let key = self.keys.intern(key);
        self.correct(start, key, watermark);
        let (shapes, fold) = (&self.shapes, self.fold);
        let slice = self.slices.entry(start).or_insert_with(|| Slice::new(shapes, fold));
        let (row, _) = slice.touch(key, shapes, &mut self.keys);
        let mut grown = 0;
        for (idx, (column, &shape)) in slice.accumulators.iter_mut().zip(shapes).enumerate() {
            grown += column.add(row, shape, value(idx));
        }
        slice.resize(0, grown);
        Placed::Counted
    }

    /// The accumulator of a window-fold and its place, for an event that is not late.
    pub(crate) fn accumulator(&self, key: &[u8], time: EventTime) -> (i64, Vec<u8>) {
        let start = self.slice_start(time);
        let bytes = self.keys.find(key).and_then(|key| {
            let slice = self.slices.get(&start)?;
            let row = slice.row(key)?;
            match &slice.accumulators[0] {
                Accumulators::Bytes(rows) => Some(rows[row].clone()),
                _ => None,
            }
        });
        (start, bytes.unwrap_or_default())
    }

    /// Stores what `fold` returned for the slice at `start`, and queues corrections of windows that have fired.
    pub(crate) fn replace(&mut self, key: &[u8], start: i64, bytes: &[u8], watermark: EventTime) {
        self.wake = self.wake.min(self.last_end(start).saturating_add(self.lateness));
        let key = self.keys.intern(key);
        self.correct(start, key, watermark);
        let slice = self.slices.entry(start).or_insert_with(|| Slice::new(&[], true));
        let (row, _) = slice.touch(key, &[], &mut self.keys);
        if let Accumulators::Bytes(rows) = &mut slice.accumulators[0] {
            let before = rows[row].len();
            rows[row].clear();
            rows[row].extend_from_slice(bytes);
            slice.resize(before, bytes.len());
        }
    }

    /// Queues a correction for every window over the slice at `start` that has fired and still takes events.
    fn correct(&mut self, start: i64, key: u32, watermark: EventTime) {
        if !self.corrects(EventTime(start), watermark) {
            return;
        }
        let mut end = start + self.every;
        while end <= watermark.0 && end <= start + self.size {
            if end.saturating_add(self.lateness) > watermark.0 {
                let number = match self.revisions.get(&(end, key)) {
                    Some(number) => number.saturating_add(1),
                    None => {
                        u32::from(self.slices.range(end - self.size..end).any(|(_, slice)| slice.row(key).is_some()))
                    }
                };
                self.revisions.insert((end, key), number);
                self.revisions_changed.push((end, key));
                self.corrections.push_back(Correction { end, key, number });
            }
            end += self.every;
        }
    }

    /// Whether something may be due at this watermark; cheap, asked after every event.
    pub(crate) fn has_due(&self, watermark: EventTime) -> bool {
        watermark.0 >= self.wake || !self.corrections.is_empty() || self.firing.is_some()
    }

    /// The earliest window over a live slice that has not fired and ends at or before the watermark.
    fn next_end(&self, watermark: EventTime) -> Option<i64> {
        let (&first, _) = self.slices.first_key_value()?;
        if self.global {
            return (watermark == EventTime::MAX && self.fired_until != i64::MAX).then_some(i64::MAX);
        }
        let next = self.fired_until.saturating_add(self.every);
        let unfired = |start: i64| (start + self.every).max(next);
        // Slices whose windows have all fired are only kept for corrections.
        let start = if first + self.size > self.fired_until {
            first
        } else {
            *self.slices.range(self.fired_until - self.size + 1..).next()?.0
        };
        let end = unfired(start);
        (end <= watermark.0).then_some(end)
    }

    /// The earliest instant at which a window fires for keys that it has; windows that end with the input are never due.
    pub(crate) fn next_due(&self) -> Option<EventTime> {
        if self.global { None } else { self.next_end(EventTime::MAX).map(EventTime) }
    }

    /// Fills `panes` with at most `max` due panes and returns how many there are; 0 means nothing is due.
    /// They stay due until [`Windows::settle`].
    pub(crate) fn due(&mut self, watermark: EventTime, max: usize, panes: &mut Panes) -> usize {
        loop {
            if !self.corrections.is_empty() {
                return self.due_corrections(watermark, max, panes);
            }
            if self.firing.is_none() {
                match self.next_end(watermark) {
                    Some(end) => self.start_firing(end),
                    None => {
                        self.expire(watermark);
                        return 0;
                    }
                }
            }
            let firing = self.firing.as_ref().expect("set above");
            if firing.rest.is_empty() {
                self.fired_until = firing.end;
                (self.firing, self.firing_after) = (None, None);
                continue;
            }
            let end = firing.end;
            let keys: Vec<u32> = firing.rest.iter().rev().take(max).copied().collect();
            for key in &keys {
                self.push_pane(end, *key, Firing::OnTime, 0, watermark, panes);
            }
            return keys.len();
        }
    }

    /// Corrections below a threshold are dropped here, as firing drops them; the queue shrinks to what is judged.
    fn due_corrections(&mut self, watermark: EventTime, max: usize, panes: &mut Panes) -> usize {
        let queue = std::mem::take(&mut self.corrections);
        self.corrections = queue.into_iter().filter(|due| self.passes(due.end, due.key)).collect();
        let due: Vec<Correction> = self.corrections.iter().take(max).cloned().collect();
        for Correction { end, key, number } in &due {
            self.push_pane(*end, *key, Firing::Late, *number, watermark, panes);
        }
        if due.is_empty() { self.due(watermark, max, panes) } else { due.len() }
    }

    /// The first `count` due panes have been judged and their records kept.
    pub(crate) fn settle(&mut self, count: usize) {
        for _ in 0..count {
            if self.corrections.pop_front().is_some() {
                continue;
            }
            if let Some(firing) = &mut self.firing
                && let Some(key) = firing.rest.pop()
            {
                self.firing_after = Some(self.keys.name(key).to_vec());
            }
        }
    }

    fn start_firing(&mut self, end: i64) {
        let rest = self.candidates(end, None);
        self.firing = Some(InFiring { end, rest });
        self.firing_after = None;
    }

    fn window_slices(&self, end: i64) -> impl DoubleEndedIterator<Item = &Slice> {
        let from = if self.global { i64::MIN } else { end - self.size };
        self.slices.range(from..end).map(|(_, slice)| slice)
    }

    /// Keys of a window that pass the thresholds, largest first; with `after`, only those behind it.
    fn candidates(&mut self, end: i64, after: Option<&[u8]>) -> Vec<u32> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.slot.resize(self.keys.span(), 0);
        let quick: Vec<(usize, i64)> = self.quick_thresholds();
        for slice in self.window_slices(end) {
            for (row, &key) in slice.keys.iter().enumerate() {
                let slot = &mut scratch.slot[key as usize];
                if *slot == 0 {
                    scratch.touched.push(key);
                    *slot = scratch.touched.len() as u32;
                    scratch.sums.resize(scratch.touched.len() * quick.len(), 0);
                }
                let base = (*slot as usize - 1) * quick.len();
                for (offset, (aggregate, _)) in quick.iter().enumerate() {
                    if let Accumulators::Integers(rows) = &slice.accumulators[*aggregate] {
                        let sum = &mut scratch.sums[base + offset];
                        *sum = sum.saturating_add(rows[row]);
                    }
                }
            }
        }
        let width = quick.len();
        let mut keys: Vec<u32> = scratch
            .touched
            .iter()
            .enumerate()
            .filter(|(idx, _)| {
                quick.iter().enumerate().all(|(at, (_, least))| scratch.sums[idx * width + at] >= *least)
            })
            .map(|(_, &key)| key)
            .collect();
        for key in scratch.touched.drain(..) {
            scratch.slot[key as usize] = 0;
        }
        scratch.sums.clear();
        self.scratch = scratch;
        if width < self.at_least.len() {
            keys.retain(|&key| self.passes(end, key));
        }
        if let Some(after) = after {
            keys.retain(|&key| self.keys.name(key) > after);
        }
        keys.sort_unstable_by(|&left, &right| self.keys.name(right).cmp(self.keys.name(left)));
        keys
    }

    /// Thresholds that simple addition over slices decides: counts and integer sums.
    fn quick_thresholds(&self) -> Vec<(usize, i64)> {
        use crate::guest::Operator::{Count, Sum};
        let is_quick = |idx: usize| {
            matches!(self.shapes[idx].operator, Count | Sum)
                && matches!(Accumulators::new(self.shapes[idx]), Accumulators::Integers(_))
        };
        self.at_least.iter().copied().filter(|&(idx, _)| is_quick(idx)).collect()
    }

    /// Whether the pane reaches every threshold.
    fn passes(&self, end: i64, key: u32) -> bool {
        self.at_least.iter().all(|&(idx, least)| {
            let mut column = column(self.shapes[idx]);
            self.merged(end, key, idx).push_to(self.shapes[idx], &mut column);
            matches!(column, AggregateColumn::Integers(rows) if rows[0] >= least)
        })
    }

    fn merged(&self, end: i64, key: u32, aggregate: usize) -> Merged {
        let shape = self.shapes[aggregate];
        let mut merged = Merged::empty(shape);
        for slice in self.window_slices(end) {
            if let Some(row) = slice.row(key) {
                merged.merge(shape, &slice.accumulators[aggregate], row);
            }
        }
        merged
    }

    fn push_pane(&self, end: i64, key: u32, firing: Firing, number: u32, watermark: EventTime, panes: &mut Panes) {
        panes.keys.push(self.keys.name(key));
        panes.starts.push(if self.global { i64::MIN } else { end - self.size });
        panes.ends.push(end);
        panes.firings.push(firing);
        panes.numbers.push(number);
        panes.finals.push(end.saturating_add(self.lateness) <= watermark.0);
        panes.watermarks.push(watermark.0);
        for (idx, values) in panes.values.iter_mut().enumerate() {
            self.merged(end, key, idx).push_to(self.shapes[idx], values);
        }
    }

    /// The accumulators of a pane, slice by slice in time order: what a window-fold merges.
    pub(crate) fn accumulators_of(&self, end: i64, key: &[u8]) -> Vec<Vec<u8>> {
        let Some(key) = self.keys.find(key) else { return Vec::new() };
        let bytes = |slice: &Slice| match &slice.accumulators[0] {
            Accumulators::Bytes(rows) => slice.row(key).map(|row| rows[row].clone()),
            _ => None,
        };
        self.window_slices(end).filter_map(bytes).collect()
    }

    /// Forgets slices and revisions that no event can reach any more. Called when nothing is due.
    ///
    /// Windows that had no event count as fired: a late event in one of them is a correction.
    fn expire(&mut self, watermark: EventTime) {
        if self.global {
            self.wake = i64::MAX;
        } else {
            let passed = watermark.0.div_euclid(self.every).saturating_mul(self.every);
            self.fired_until = self.fired_until.max(passed);
            self.wake = passed.saturating_add(self.every);
        }
        while let Some(entry) = self.slices.first_entry() {
            let start = *entry.key();
            let end = if self.global { i64::MAX } else { start.saturating_add(self.size) };
            let gone = end.saturating_add(self.lateness);
            if gone > watermark.0 || end > self.fired_until {
                // Not later than then, so that the state at a watermark does not depend on when it was looked at.
                self.wake = if gone > watermark.0 { self.wake.min(gone) } else { self.wake };
                break;
            }
            let slice = entry.remove();
            slice.keys.iter().for_each(|&key| self.keys.release(key));
            self.dropped.push(start);
        }
        self.drop_revisions(watermark);
    }

    fn drop_revisions(&mut self, watermark: EventTime) {
        while let Some(entry) = self.revisions.first_entry() {
            if entry.key().0.saturating_add(self.lateness) > watermark.0 {
                break;
            }
            entry.remove();
        }
    }

    /// Rough memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.slices.values().map(Slice::bytes).sum::<usize>() + self.revisions.len() * 48
    }

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
            slice.decode(shapes, &mut self.keys, reader)?;
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
            if self.global { start == i64::MIN } else { in_range(start) && start.rem_euclid(self.every) == 0 };
        if is_start { Ok(start) } else { Err(Damaged(format!("no slice starts at {start}"))) }
    }

    fn read_end(&self, reader: &mut Reader<'_>) -> Result<i64, Damaged> {
        let end = reader.i64()?;
        let is_end = if self.global { end == i64::MAX } else { in_range(end) && end.rem_euclid(self.every) == 0 };
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
