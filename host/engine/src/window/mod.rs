//! Event-time windows of one stage: slices per key, what is due, corrections, and their deltas.
//!
//! A sliding window is kept as slices of one slide each, never as one copy per window. What is due is a queue that is part
//! of the state: while it is not empty no further event is taken, so firing can be cut over many epochs at any pane.

mod aggregate;
mod keys;
mod slices;
mod stored;
mod thresholds;

use std::collections::{BTreeMap, VecDeque};

pub(crate) use aggregate::{column, column_of_nothing};
use keys::Keys;
use pelton_aggregates::{Accumulators, Growth, HashKey, IntegerSum, Merged};
pub(crate) use pelton_aggregates::{Shape, Value};
use slices::Slice;
use thresholds::{Test, Thresholds};

use crate::guest::{Condition, Panes, Timing};
use crate::plan::{Window, WindowKind};
use crate::time::EventTime;

/// Most bytes of a stored number, of a window that is corrected, and of what is stored once: the lengths of all lists,
/// and how far windows have fired.
const NUMBER_STORED_BYTES_MAX: usize = 10;
const CORRECTION_STORED_BYTES_MAX: usize = 3 * NUMBER_STORED_BYTES_MAX;
const REST_STORED_BYTES_MAX: usize = 128;

/// What became of an event at its window stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Counted,
    /// Behind every window that could take it.
    Late,
}

/// A pane that is due, in the order in which panes are evaluated.
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
    slide: i64,
    allowed_lateness: i64,
    global: bool,
    shapes: Vec<Shape>,
    /// Of the hash by which texts are counted.
    pub(crate) hash_key: HashKey,
    fold: bool,
    thresholds: Thresholds,
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
    /// Sum over the slices' changed rows.
    change_bytes: usize,
    /// Below this watermark nothing fires. Not part of the state: found again after a restart.
    wake: i64,
    scratch: Scratch,
}

/// Dense tables by key id, kept between firings.
#[derive(Default)]
struct Scratch {
    /// One past a key's place among the touched ones; 0 for those that are not.
    slot: Vec<u32>,
    touched: Vec<u32>,
    /// Of the rows of one slice: the places of their keys.
    places: Vec<u32>,
    /// By table of [`Thresholds`], then by place.
    counts: Vec<Vec<i64>>,
    sums: Vec<Vec<IntegerSum>>,
}

impl Windows {
    /// Conditions of `thresholds` name shapes.
    pub(crate) fn new(window: &Window, shapes: Vec<Shape>, thresholds: &[Vec<Condition>], fold: bool) -> Windows {
        let (size, slide, global) = match window.kind {
            WindowKind::Tumbling { size } => (size.0, size.0, false),
            WindowKind::Sliding { size, slide } => (size.0, slide.0, false),
            WindowKind::Global => (i64::MAX, i64::MAX, true),
        };
        Windows {
            size,
            slide,
            allowed_lateness: window.allowed_lateness.0,
            global,
            thresholds: Thresholds::new(thresholds, &shapes),
            shapes,
            hash_key: HashKey::default(),
            fold,
            keys: Keys::default(),
            slices: BTreeMap::new(),
            revisions: BTreeMap::new(),
            revisions_changed: Vec::new(),
            fired_until: i64::MIN,
            corrections: VecDeque::new(),
            firing: None,
            firing_after: None,
            dropped: Vec::new(),
            change_bytes: 0,
            wake: i64::MIN,
            scratch: Scratch::default(),
        }
    }

    /// Forgets everything but how it was set up.
    pub(crate) fn clear(&mut self) {
        (self.keys, self.slices, self.revisions) = Default::default();
        (self.revisions_changed, self.corrections, self.dropped) = Default::default();
        (self.firing, self.firing_after) = (None, None);
        (self.fired_until, self.change_bytes, self.wake) = (i64::MIN, 0, i64::MIN);
    }

    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// Start of the slice that `time` falls into.
    pub(crate) fn slice_start(&self, time: EventTime) -> i64 {
        if self.global { i64::MIN } else { time.0.div_euclid(self.slide).saturating_mul(self.slide) }
    }

    /// First instant after the last window of the slice at `start`.
    fn last_end(&self, start: i64) -> i64 {
        if self.global { i64::MAX } else { start.saturating_add(self.size) }
    }

    /// Whether an event at `time` is behind every window that could take it.
    pub(crate) fn is_late(&self, time: EventTime, watermark: EventTime) -> bool {
        self.last_end(self.slice_start(time)).saturating_add(self.allowed_lateness) <= watermark.0
    }

    /// Whether an event at `time` that arrives at this watermark fires a correction.
    pub(crate) fn corrects(&self, time: EventTime, watermark: EventTime) -> bool {
        !self.global && self.allowed_lateness > 0 && self.slice_start(time).saturating_add(self.slide) <= watermark.0
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
        self.wake = self.wake.min(self.last_end(start).saturating_add(self.allowed_lateness));
        let key = self.keys.intern(key);
        self.correct(start, key, watermark);
        let (shapes, fold) = (&self.shapes, self.fold);
        let slice = self.slices.entry(start).or_insert_with(|| Slice::new(shapes, fold));
        let before = slice.change_bytes();
        let row = slice.touch(key, &mut self.keys);
        let mut grown = Growth::default();
        for (idx, (column, &shape)) in slice.accumulators.iter_mut().zip(shapes).enumerate() {
            grown += column.add(row, shape, value(idx), self.hash_key);
        }
        slice.grow(grown);
        self.change_bytes = self.change_bytes + slice.change_bytes() - before;
        Placed::Counted
    }

    /// The accumulator of a window-fold and its place, for an event that is not late.
    pub(crate) fn accumulator(&self, key: &[u8], time: EventTime) -> (i64, Vec<u8>) {
        let start = self.slice_start(time);
        let bytes = self.keys.find(key).and_then(|key| {
            let slice = self.slices.get(&start)?;
            Some(slice.folded(slice.row(key)?).to_vec())
        });
        (start, bytes.unwrap_or_default())
    }

    /// Stores what `fold` returned for the slice at `start`, and queues corrections of windows that have fired.
    pub(crate) fn replace(&mut self, key: &[u8], start: i64, bytes: &[u8], watermark: EventTime) {
        self.wake = self.wake.min(self.last_end(start).saturating_add(self.allowed_lateness));
        let key = self.keys.intern(key);
        self.correct(start, key, watermark);
        let slice = self.slices.entry(start).or_insert_with(|| Slice::new(&[], true));
        let before = slice.change_bytes();
        let row = slice.touch(key, &mut self.keys);
        slice.replace(row, bytes);
        self.change_bytes = self.change_bytes + slice.change_bytes() - before;
    }

    /// Queues a correction for every window over the slice at `start` that has fired and still takes events.
    fn correct(&mut self, start: i64, key: u32, watermark: EventTime) {
        if !self.corrects(EventTime(start), watermark) {
            return;
        }
        let mut end = start + self.slide;
        while end <= watermark.0 && end <= start + self.size {
            if end.saturating_add(self.allowed_lateness) > watermark.0 {
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
            end += self.slide;
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
        let next = self.fired_until.saturating_add(self.slide);
        let unfired = |start: i64| (start + self.slide).max(next);
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
                self.push_pane(end, *key, Timing::OnTime, 0, watermark, panes);
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
            self.push_pane(*end, *key, Timing::Late, *number, watermark, panes);
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
        let thresholds = &self.thresholds;
        scratch.counts.resize_with(thresholds.counts.len(), Vec::new);
        scratch.sums.resize_with(thresholds.sums.len(), Vec::new);
        for slice in self.window_slices(end) {
            scratch.places.clear();
            for &key in &slice.keys {
                let slot = &mut scratch.slot[key as usize];
                if *slot == 0 {
                    scratch.touched.push(key);
                    *slot = scratch.touched.len() as u32;
                }
                scratch.places.push(*slot - 1);
            }
            let (touched, places) = (scratch.touched.len(), &scratch.places);
            for (counts, aggregate) in scratch.counts.iter_mut().zip(&thresholds.counts) {
                counts.resize(touched, 0);
                if let Accumulators::Counts(rows) = &slice.accumulators[*aggregate] {
                    for (&place, row) in places.iter().zip(rows) {
                        let count = &mut counts[place as usize];
                        *count = count.saturating_add(*row);
                    }
                }
            }
            for (sums, aggregate) in scratch.sums.iter_mut().zip(&thresholds.sums) {
                sums.resize(touched, IntegerSum::default());
                if let Accumulators::IntegerSums(rows) = &slice.accumulators[*aggregate] {
                    places.iter().zip(rows).for_each(|(&place, row)| sums[place as usize].merge(row));
                }
            }
        }
        // Test by test, each over all places that are left: a table is walked once.
        let mut passed = vec![false; scratch.touched.len()];
        for tests in thresholds.lists() {
            let mut places: Vec<usize> = (0..passed.len()).filter(|&place| !passed[place]).collect();
            for test in tests {
                match *test {
                    Test::Count(table, bound) => {
                        let counts = &scratch.counts[table];
                        places.retain(|&place| bound.holds_integer(counts[place]));
                    }
                    Test::Sum(table, bound) => {
                        let sums = &scratch.sums[table];
                        let holds = |sum: &IntegerSum| sum.clipped().is_some_and(|(sum, _)| bound.holds_integer(sum));
                        places.retain(|&place| holds(&sums[place]));
                    }
                    Test::Merged(aggregate, bound) => {
                        let merged = |key| self.merged(end, key, aggregate).finish(self.shapes[aggregate]);
                        places.retain(|&place| merged(scratch.touched[place]).is_within(bound));
                    }
                }
            }
            places.into_iter().for_each(|place| passed[place] = true);
        }
        let touched = scratch.touched.iter().zip(passed);
        let mut keys: Vec<u32> = touched.filter(|(_, passed)| *passed).map(|(&key, _)| key).collect();
        for key in scratch.touched.drain(..) {
            scratch.slot[key as usize] = 0;
        }
        scratch.counts.iter_mut().for_each(Vec::clear);
        scratch.sums.iter_mut().for_each(Vec::clear);
        self.scratch = scratch;
        if let Some(after) = after {
            keys.retain(|&key| self.keys.name(key) > after);
        }
        keys.sort_unstable_by(|&left, &right| self.keys.name(right).cmp(self.keys.name(left)));
        keys
    }

    /// Whether the pane is within the thresholds; a value that is missing is within none.
    fn passes(&self, end: i64, key: u32) -> bool {
        let within =
            |aggregate: usize, bound| self.merged(end, key, aggregate).finish(self.shapes[aggregate]).is_within(bound);
        self.thresholds.any(|test| match *test {
            Test::Count(table, bound) => within(self.thresholds.counts[table], bound),
            Test::Sum(table, bound) => within(self.thresholds.sums[table], bound),
            Test::Merged(aggregate, bound) => within(aggregate, bound),
        })
    }

    fn merged(&self, end: i64, key: u32, aggregate: usize) -> Merged<'_> {
        let shape = self.shapes[aggregate];
        let mut merged = Merged::new(shape);
        for slice in self.window_slices(end) {
            if let Some(row) = slice.row(key) {
                merged.merge(shape, &slice.accumulators[aggregate], row);
            }
        }
        merged
    }

    fn push_pane(&self, end: i64, key: u32, timing: Timing, index: u32, watermark: EventTime, panes: &mut Panes) {
        panes.keys.push(self.keys.name(key));
        panes.starts.push(if self.global { i64::MIN } else { end - self.size });
        panes.ends.push(end);
        panes.timings.push(timing);
        panes.indexes.push(index);
        panes.lasts.push(end.saturating_add(self.allowed_lateness) <= watermark.0);
        panes.watermarks.push(watermark.0);
        for (idx, values) in panes.values.iter_mut().enumerate() {
            aggregate::push(values, self.merged(end, key, idx).finish(self.shapes[idx]));
        }
    }

    /// The accumulators of a pane, slice by slice in time order: what a window-fold merges.
    pub(crate) fn accumulators_of(&self, end: i64, key: &[u8]) -> Vec<Vec<u8>> {
        let Some(key) = self.keys.find(key) else { return Vec::new() };
        let bytes = |slice: &Slice| slice.row(key).map(|row| slice.folded(row).to_vec());
        self.window_slices(end).filter_map(bytes).collect()
    }

    /// Forgets slices and revisions that no event can reach any more. Called when nothing is due.
    ///
    /// Windows that had no event count as fired: a late event in one of them is a correction.
    fn expire(&mut self, watermark: EventTime) {
        if self.global {
            self.wake = i64::MAX;
        } else {
            let passed = watermark.0.div_euclid(self.slide).saturating_mul(self.slide);
            self.fired_until = self.fired_until.max(passed);
            self.wake = passed.saturating_add(self.slide);
        }
        while let Some(entry) = self.slices.first_entry() {
            let start = *entry.key();
            let end = if self.global { i64::MAX } else { start.saturating_add(self.size) };
            let gone = end.saturating_add(self.allowed_lateness);
            if gone > watermark.0 || end > self.fired_until {
                // Not later than then, so that the state at a watermark does not depend on when it was looked at.
                self.wake = if gone > watermark.0 { self.wake.min(gone) } else { self.wake };
                break;
            }
            let slice = entry.remove();
            self.change_bytes -= slice.change_bytes();
            slice.keys.iter().for_each(|&key| self.keys.release(key));
            self.dropped.push(start);
        }
        self.drop_revisions(watermark);
    }

    fn drop_revisions(&mut self, watermark: EventTime) {
        while let Some(entry) = self.revisions.first_entry() {
            if entry.key().0.saturating_add(self.allowed_lateness) > watermark.0 {
                break;
            }
            entry.remove();
        }
    }

    /// At least what [`Windows::encode`] would append of what has changed; cheap, asked after every event.
    pub(crate) fn change_bytes(&self) -> usize {
        let corrections = (self.revisions_changed.len() + self.corrections.len()) * CORRECTION_STORED_BYTES_MAX;
        let dropped = self.dropped.len() * NUMBER_STORED_BYTES_MAX;
        let firing = self.firing_after.as_ref().map_or(0, Vec::len);
        self.change_bytes + self.keys.fresh_bytes() + corrections + dropped + firing + REST_STORED_BYTES_MAX
    }

    /// Rough memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.slices.values().map(Slice::bytes).sum::<usize>() + self.revisions.len() * 48
    }
}
