//! The most frequent values: exact counts as long as there are not too many different ones, bounded estimates beyond.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many items with so many bytes of text are kept in a sorted list, which needs less memory than a tree, and are
/// stored whole.
const FEW_MAX: usize = 32;
const FEW_TEXT_MAX: usize = 4 << 10;
/// Rough bytes of an item where it is stored, besides its text.
const STORED_BYTES: usize = 32;
/// Rough bytes of an item besides its text.
const FEW_BYTES: usize = 48;
const MANY_BYTES: usize = 112;

/// How many different items of one key and slice a top-k of `limit` items counts exactly: 1024, or 8 times `limit` if
/// that is more.
#[must_use]
pub fn top_capacity(limit: u32) -> usize {
    (limit as usize).saturating_mul(8).max(1024)
}

/// The count of an item: the true one is `count - error` to `count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub count: i64,
    /// By how much `count` may be too high; 0 when it is exact.
    pub error: i64,
}

impl Counter {
    fn can_be(&self) -> bool {
        0 <= self.error && self.error <= self.count
    }
}

/// The items of one key and slice: Space-Saving with a floor (Metwally, Agrawal, El Abbadi: "Efficient computation of
/// frequent and top-k elements", 2005).
///
/// Up to [`top_capacity`] different items every count is exact. Beyond, a newcomer takes the place and the count of the
/// smallest, which becomes its error. So after n events, with m the capacity:
/// - a count is never too low, and too high by at most its error;
/// - no error, and no count of an item that is not here, is above n / m.
///
/// The smallest is the one with the lowest count, of those the one with the largest error, of those the first in byte
/// order; so what is kept depends on the items alone, not on when they were stored and read back.
#[derive(Clone, Debug, Default)]
pub struct Top {
    items: Items,
    /// No item that is not here has a higher count; 0 as long as all are here.
    floor: i64,
    /// Bytes of all items' texts.
    text_bytes: usize,
}

#[derive(Clone, Debug)]
enum Items {
    /// Ascending by item.
    Few(Vec<(Arc<[u8]>, Counter)>),
    /// Boxed, so that the many rows with few items stay small.
    Many(Box<Many>),
}

#[derive(Clone, Debug, Default)]
struct Many {
    counters: BTreeMap<Arc<[u8]>, Counter>,
    /// All items from the smallest on; empty until the first one has to go.
    ranks: BTreeSet<Rank>,
    news: News,
}

/// What has happened since it was stored.
#[derive(Clone, Debug, Default)]
struct News {
    /// All of it: it was stored as [`Items::Few`], or not at all.
    is_all: bool,
    /// Items that are here and were counted.
    counted: BTreeSet<Arc<[u8]>>,
    /// Items that had to go, and may be back.
    gone: BTreeSet<Arc<[u8]>>,
    /// Rough bytes of both where they are stored.
    bytes: usize,
}

impl News {
    fn count(&mut self, item: &Arc<[u8]>) {
        if !self.is_all && self.counted.insert(Arc::clone(item)) {
            self.bytes += item.len() + STORED_BYTES;
        }
    }

    fn remove(&mut self, item: Arc<[u8]>) {
        if self.is_all {
            return;
        }
        let bytes = item.len() + STORED_BYTES;
        if self.counted.remove(&item) {
            self.bytes -= bytes;
        }
        if self.gone.insert(item) {
            self.bytes += bytes;
        }
    }
}

impl Many {
    fn new(items: Vec<(Arc<[u8]>, Counter)>, is_stored: bool) -> Box<Many> {
        let news = News { is_all: !is_stored, ..News::default() };
        Box::new(Many { counters: items.into_iter().collect(), ranks: BTreeSet::new(), news })
    }
}

type Rank = (i64, Reverse<i64>, Arc<[u8]>);

impl Default for Items {
    fn default() -> Items {
        Items::Few(Vec::new())
    }
}

fn rank(item: &Arc<[u8]>, counter: Counter) -> Rank {
    (counter.count, Reverse(counter.error), Arc::clone(item))
}

impl Top {
    /// Items that were stored, with their floor; `None` when they do not ascend or their numbers cannot be.
    #[must_use]
    pub fn from_ascending(items: Vec<(Arc<[u8]>, Counter)>, floor: i64) -> Option<Top> {
        let ascends = items.is_sorted_by(|left, right| left.0 < right.0);
        if !ascends || floor < 0 || !items.iter().all(|(_, counter)| counter.can_be()) {
            return None;
        }
        let text_bytes = items.iter().map(|(item, _)| item.len()).sum();
        let are_few = items.len() <= FEW_MAX && text_bytes <= FEW_TEXT_MAX;
        let items = if are_few { Items::Few(items) } else { Items::Many(Many::new(items, true)) };
        Some(Top { items, floor, text_bytes })
    }

    /// What has changed since [`Top::mark_stored`]; `None` when that is all of it, or it is small.
    #[must_use]
    pub fn changes(&self) -> Option<TopChanges<'_>> {
        match &self.items {
            Items::Many(many) if !many.news.is_all => Some(TopChanges { floor: self.floor, many }),
            _ => None,
        }
    }

    /// Rough bytes of what has to be stored: the changes, or all of it.
    #[must_use]
    pub fn change_bytes(&self) -> usize {
        match &self.items {
            Items::Many(many) if !many.news.is_all => many.news.bytes,
            _ => self.text_bytes + self.len() * STORED_BYTES,
        }
    }

    /// All of it is stored.
    pub fn mark_stored(&mut self) {
        if let Items::Many(many) = &mut self.items {
            many.news = News::default();
        }
    }

    /// Applies changes that were stored, to what they are changes of: `gone` first, then `counted`. `None`, with nothing
    /// changed, when they cannot be.
    #[must_use]
    pub fn apply(&mut self, floor: i64, gone: &[&[u8]], counted: Vec<(Arc<[u8]>, Counter)>) -> Option<()> {
        let Items::Many(many) = &mut self.items else { return None };
        if floor < self.floor || !counted.iter().all(|(_, counter)| counter.can_be()) {
            return None;
        }
        self.floor = floor;
        // Made again when the next one has to go.
        many.ranks.clear();
        for item in gone {
            if many.counters.remove(*item).is_some() {
                self.text_bytes -= item.len();
            }
        }
        for (item, counter) in counted {
            let len = item.len();
            if many.counters.insert(item, counter).is_none() {
                self.text_bytes += len;
            }
        }
        Some(())
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Few(items) => items.len(),
            Items::Many(many) => many.counters.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest count that an item which is not here may have.
    #[must_use]
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// All items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Counter)> {
        let (few, many) = match &self.items {
            Items::Few(items) => (Some(items), None),
            Items::Many(many) => (None, Some(&many.counters)),
        };
        let few = few.into_iter().flatten().map(|(item, counter)| (&**item, *counter));
        few.chain(many.into_iter().flatten().map(|(item, counter)| (&**item, *counter)))
    }

    /// Counts one occurrence of `item`, in logarithmic time whatever the items are.
    pub fn add(&mut self, item: &[u8], limit: u32) {
        match &mut self.items {
            Items::Few(items) => match items.binary_search_by(|(known, _)| (**known).cmp(item)) {
                Ok(at) => {
                    let counter = &mut items[at].1;
                    counter.count = counter.count.saturating_add(1);
                }
                Err(at) => {
                    items.insert(at, (item.into(), Counter { count: 1, error: 0 }));
                    self.text_bytes += item.len();
                    if items.len() > FEW_MAX || self.text_bytes > FEW_TEXT_MAX {
                        self.items = Items::Many(Many::new(std::mem::take(items), false));
                    }
                }
            },
            Items::Many(many) => {
                let Many { counters, ranks, news } = &mut **many;
                if let Some(counter) = counters.get_mut(item) {
                    let before = *counter;
                    counter.count = counter.count.saturating_add(1);
                    let after = *counter;
                    let (known, _) = counters.get_key_value(item).expect("it was found before");
                    news.count(known);
                    if !ranks.is_empty() {
                        ranks.remove(&rank(known, before));
                        ranks.insert(rank(known, after));
                    }
                    return;
                }
                let mut counter = Counter { count: 1, error: 0 };
                if counters.len() >= top_capacity(limit) {
                    if ranks.is_empty() {
                        ranks.extend(counters.iter().map(|(item, counter)| rank(item, *counter)));
                    }
                    let (least, _, smallest) = ranks.pop_first().expect("the capacity is above 0");
                    counters.remove(&smallest);
                    self.text_bytes -= smallest.len();
                    news.remove(smallest);
                    self.floor = self.floor.max(least);
                    counter = Counter { count: least.saturating_add(1), error: least };
                }
                let item: Arc<[u8]> = item.into();
                self.text_bytes += item.len();
                news.count(&item);
                if !ranks.is_empty() {
                    ranks.insert(rank(&item, counter));
                }
                counters.insert(item, counter);
            }
        }
    }

    /// Rough memory in bytes. Depends on the items alone.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let each = match &self.items {
            Items::Few(_) => FEW_BYTES,
            Items::Many(_) => MANY_BYTES,
        };
        self.text_bytes + self.len() * each
    }
}

/// What has changed of a [`Top`] since it was stored.
#[derive(Clone, Copy, Debug)]
pub struct TopChanges<'a> {
    /// As it is now.
    pub floor: i64,
    many: &'a Many,
}

impl<'a> TopChanges<'a> {
    /// Items that had to go, ascending; some may be back, and some were never stored.
    pub fn gone(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.many.news.gone.iter().map(|item| &**item)
    }

    /// Items that were counted, with their counts as they are now, ascending.
    pub fn counted(&self) -> impl ExactSizeIterator<Item = (&'a [u8], Counter)> + use<'a> {
        let many = self.many;
        many.news.counted.iter().map(move |item| (&**item, many.counters[item]))
    }
}

/// One of the most frequent items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopItem<'a> {
    pub item: &'a [u8],
    pub count: i64,
    /// By how much `count` may be too high; 0 when it is exact.
    pub error: i64,
}

/// The items of all slices of a pane, merged without loss.
///
/// An item that a slice does not have may have occurred there as often as the slice's floor, so its count and its error
/// both grow by that; it stays true that a count is never too low and too high by at most its error (the rule for sums
/// of summaries in Agarwal and others: "Mergeable summaries", 2013). Over slices with n events together, no error is
/// above n / m, and neither is the count of an item that is nowhere.
#[derive(Clone, Debug, Default)]
pub struct TopMerge<'a> {
    /// (item, count above the slice's floor, error above the slice's floor); ascending within a slice.
    rows: Vec<(&'a [u8], i64, i64)>,
    floor: i64,
}

impl<'a> TopMerge<'a> {
    /// Adds a slice.
    pub fn merge(&mut self, top: &'a Top) {
        let floor = top.floor;
        self.rows.extend(
            top.iter().map(|(item, counter)| {
                (item, counter.count.saturating_sub(floor), counter.error.saturating_sub(floor))
            }),
        );
        self.floor = self.floor.saturating_add(floor);
    }

    /// The `limit` most frequent items: highest count first, of equal counts in byte order. Of several that tie for the
    /// last place, the first in byte order are given.
    #[must_use]
    pub fn finish(mut self, limit: u32) -> Vec<TopItem<'a>> {
        // Stable, since that sort makes use of the runs it finds: one per slice.
        self.rows.sort_by_key(|row| row.0);
        let mut items: Vec<TopItem<'a>> = Vec::new();
        for (item, count, error) in self.rows {
            match items.last_mut() {
                Some(last) if last.item == item => {
                    last.count = last.count.saturating_add(count);
                    last.error = last.error.saturating_add(error);
                }
                _ => items.push(TopItem {
                    item,
                    count: self.floor.saturating_add(count),
                    error: self.floor.saturating_add(error),
                }),
            }
        }
        let order = |left: &TopItem<'_>, right: &TopItem<'_>| {
            right.count.cmp(&left.count).then_with(|| left.item.cmp(right.item))
        };
        let limit = limit as usize;
        if limit < items.len() {
            items.select_nth_unstable_by(limit, order);
            items.truncate(limit);
        }
        items.sort_unstable_by(order);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows in the order of their ranks would be wrong if an item were ever counted under two of them.
    fn check(top: &Top) {
        assert!(top.iter().map(|(item, _)| item).is_sorted_by(|left, right| left < right));
        assert_eq!(top.text_bytes, top.iter().map(|(item, _)| item.len()).sum::<usize>());
        if let Items::Many(many) = &top.items {
            let Many { counters, ranks, news } = &**many;
            assert!(news.counted.iter().all(|item| counters.contains_key(item)));
            let stored = news.counted.iter().chain(&news.gone).map(|item| item.len() + STORED_BYTES).sum::<usize>();
            assert_eq!(news.bytes, stored);
            assert!(ranks.is_empty() || ranks.len() == counters.len());
            assert!(ranks.iter().all(|(count, Reverse(error), item)| {
                counters.get(item) == Some(&Counter { count: *count, error: *error })
            }));
        }
    }

    #[test]
    fn a_larger_item_that_takes_a_place_is_accounted_for() {
        let mut top = Top::default();
        (0..1024).for_each(|number| top.add(format!("{number}").as_bytes(), 1));
        let before = top.bytes();
        for number in 0..1024 {
            top.add(format!("{number:01000}").as_bytes(), 1);
            check(&top);
        }
        assert_eq!(top.len(), 1024);
        assert!(top.bytes() > before + 900 * 1024, "{} bytes", top.bytes());
        // And smaller ones give it back.
        (0..3000).for_each(|number| top.add(format!("x{number}").as_bytes(), 1));
        check(&top);
        assert!(top.bytes() < before + 10 * 1024, "{} bytes", top.bytes());
    }

    #[test]
    fn the_capacity_has_a_floor_and_no_overflow() {
        assert_eq!([0, 1, 128, 129, 10_000].map(top_capacity), [1024, 1024, 1024, 1032, 80_000]);
        assert_eq!(top_capacity(u32::MAX), u32::MAX as usize * 8);
    }

    #[test]
    fn a_stored_top_goes_on_as_if_it_had_not_been() {
        let mut top = Top::default();
        for round in 0..6000_u32 {
            let number = round.wrapping_mul(2_654_435_761) % 3000;
            if round % 1500 == 0 {
                let stored = top.iter().map(|(item, counter)| (item.into(), counter)).collect();
                let mut restored = Top::from_ascending(stored, top.floor()).unwrap();
                assert_eq!(restored.bytes(), top.bytes());
                (0..100).for_each(|number| restored.add(format!("n{number}").as_bytes(), 3));
                (0..100).for_each(|number| top.add(format!("n{number}").as_bytes(), 3));
                assert!(restored.iter().eq(top.iter()) && restored.floor() == top.floor());
            }
            top.add(number.to_string().as_bytes(), 3);
        }
        check(&top);
        assert!(top.floor() > 0);
    }

    #[test]
    fn what_is_stored_as_changes_is_what_is_here() {
        // Few items, then so many that some have to go, some of them large.
        let text = |number: u32| format!("{number:0width$}", width = if number.is_multiple_of(97) { 900 } else { 4 });
        let mut top = Top::default();
        let (mut stored, mut bytes_max) = (Top::default(), 0);
        for round in 0..9000_u32 {
            let number = round.wrapping_mul(2_654_435_761) % (10 + round / 4);
            top.add(text(number).as_bytes(), 1);
            if round % 61 != 60 {
                continue;
            }
            check(&top);
            match top.changes() {
                None => {
                    let items = top.iter().map(|(item, counter)| (item.into(), counter)).collect();
                    stored = Top::from_ascending(items, top.floor()).unwrap();
                }
                Some(changes) => {
                    let gone: Vec<&[u8]> = changes.gone().collect();
                    let counted = changes.counted().map(|(item, counter)| (item.into(), counter)).collect();
                    stored.apply(changes.floor, &gone, counted).unwrap();
                    bytes_max = bytes_max.max(top.change_bytes());
                }
            }
            top.mark_stored();
            check(&stored);
            assert!(stored.iter().eq(top.iter()) && stored.floor() == top.floor(), "round {round}");
            assert_eq!(stored.bytes(), top.bytes());
        }
        assert!(top.floor() > 0 && top.changes().is_some());
        assert!(bytes_max < 2 * 61 * (900 + STORED_BYTES), "61 events change that much, not {bytes_max}");
    }

    #[test]
    fn changes_that_cannot_be_are_refused() {
        let item = |text: &str, count, error| (Arc::from(text.as_bytes()), Counter { count, error });
        assert_eq!(Top::default().apply(0, &[], vec![item("a", 1, 0)]), None, "a small one is stored whole");
        let mut top = Top::default();
        (0..100).for_each(|number| top.add(format!("{number}").as_bytes(), 1));
        assert_eq!(top.apply(-1, &[], vec![]), None);
        assert_eq!(top.apply(0, &[], vec![item("a", 1, 2)]), None);
        assert_eq!(top.apply(0, &[b"7", b"none"], vec![item("7", 3, 0), item("a", 1, 0)]), Some(()));
        assert_eq!((top.len(), top.floor()), (101, 0));
        check(&top);
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let item = |text: &str, count, error| (Arc::from(text.as_bytes()), Counter { count, error });
        assert!(Top::from_ascending(vec![item("a", 1, 0), item("b", 2, 2)], 1).is_some());
        assert!(Top::from_ascending(vec![item("b", 1, 0), item("a", 1, 0)], 0).is_none());
        assert!(Top::from_ascending(vec![item("a", 1, 0), item("a", 1, 0)], 0).is_none());
        assert!(Top::from_ascending(vec![item("a", 1, 2)], 0).is_none());
        assert!(Top::from_ascending(vec![item("a", 1, -1)], 0).is_none());
        assert!(Top::from_ascending(vec![], -1).is_none());
    }
}
