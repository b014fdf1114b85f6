//! What every store must do, run on sled and on the double in memory.

use std::path::Path;

use pelton_engine::epoch::{Marker, MarkerFields};
use pelton_engine::store::{Discard, HISTORY_MAX, OUTBOX_MAX, Store, StoreError};
use pelton_store::{MemoryStore, SledStore};
use tempfile::TempDir;

use crate::fixture::{Chain, options};

/// Opens a store; called again on the same one it stands for a restart.
trait Home {
    fn open(&mut self) -> Box<dyn Store + '_>;
}

struct OnDisk(TempDir);
struct InMemory(MemoryStore);

impl Home for OnDisk {
    fn open(&mut self) -> Box<dyn Store + '_> {
        Box::new(SledStore::open(Path::new(self.0.path()), options()).unwrap())
    }
}

impl Home for InMemory {
    fn open(&mut self) -> Box<dyn Store + '_> {
        Box::new(Borrowed(&mut self.0))
    }
}

/// The double outlives its handle, as files do.
struct Borrowed<'a>(&'a mut MemoryStore);

impl Store for Borrowed<'_> {
    fn load(&mut self) -> Result<Option<pelton_engine::store::Local>, StoreError> {
        self.0.load()
    }
    fn apply(&mut self, epoch: &pelton_engine::epoch::Epoch, sequence: u64, sink: &[u8]) -> Result<(), StoreError> {
        self.0.apply(epoch, sequence, sink)
    }
    fn compact(&mut self, snapshot: &pelton_engine::log::Snapshot) -> Result<(), StoreError> {
        self.0.compact(snapshot)
    }
    fn rebase(&mut self, snapshot: Option<&pelton_engine::log::Snapshot>, old: Discard<'_>) -> Result<(), StoreError> {
        self.0.rebase(snapshot, old)
    }
    fn outbox(&mut self, epoch: u64) -> Result<Option<pelton_engine::epoch::Epoch>, StoreError> {
        self.0.outbox(epoch)
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        self.0.sync()
    }
}

fn on_both(test: impl Fn(&mut dyn Home)) {
    test(&mut InMemory(MemoryStore::new()));
    test(&mut OnDisk(TempDir::new().unwrap()));
}

fn apply(store: &mut dyn Store, chain: &mut Chain, epochs: std::ops::RangeInclusive<u64>) {
    for epoch in epochs {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
    }
}

#[track_caller]
fn check_head(store: &mut dyn Store, chain: &mut Chain, head: u64, snapshot: u64) {
    let local = store.load().unwrap().expect("something was applied");
    assert_eq!(chain.verify(&local), head);
    assert_eq!(local.snapshot.map_or(0, |snapshot| snapshot.stored.marker.epoch), snapshot);
}

#[track_caller]
fn check_outbox(store: &mut dyn Store, chain: &mut Chain, first: u64, head: u64) {
    assert_eq!(store.outbox(head + 1).unwrap(), None);
    assert_eq!(store.outbox(first.saturating_sub(1)).unwrap(), None);
    for epoch in [first, (first + head) / 2, head] {
        assert_eq!(store.outbox(epoch).unwrap().as_ref(), Some(chain.epoch(epoch)));
    }
}

#[test]
fn an_empty_store_holds_nothing() {
    on_both(|home| {
        for _ in 0..2 {
            let mut store = home.open();
            assert_eq!(store.load().unwrap(), None);
            assert_eq!(store.outbox(1).unwrap(), None);
            store.sync().unwrap();
        }
    });
}

#[test]
fn what_was_applied_is_loaded_again() {
    on_both(|home| {
        let mut chain = Chain::new(40_000);
        apply(&mut *home.open(), &mut chain, 1..=5);
        let mut store = home.open();
        check_head(&mut *store, &mut chain, 5, 0);
        apply(&mut *store, &mut chain, 6..=150);
        check_head(&mut *store, &mut chain, 150, 0);
        store.sync().unwrap();
        check_outbox(&mut *store, &mut chain, 150 - OUTBOX_MAX as u64 + 1, 150);
        drop(store);
        check_head(&mut *home.open(), &mut chain, 150, 0);
    });
}

#[test]
fn compaction_keeps_head_history_and_outbox() {
    on_both(|home| {
        let mut chain = Chain::new(20_000);
        let mut store = home.open();
        apply(&mut *store, &mut chain, 1..=30);
        store.compact(&chain.snapshot(30)).unwrap();
        check_head(&mut *store, &mut chain, 30, 30);
        check_outbox(&mut *store, &mut chain, 1, 30);
        apply(&mut *store, &mut chain, 31..=100);
        // A snapshot that was encoded while epochs went on.
        store.compact(&chain.snapshot(97)).unwrap();
        check_head(&mut *store, &mut chain, 100, 97);
        drop(store);
        let mut store = home.open();
        check_head(&mut *store, &mut chain, 100, 97);
        check_outbox(&mut *store, &mut chain, 37, 100);
        let local = store.load().unwrap().unwrap();
        assert_eq!(local.history.len(), 100);
        assert_eq!(local.sink, Chain::sink(100));
        apply(&mut *store, &mut chain, 101..=103);
        store.compact(&chain.snapshot(103)).unwrap();
        drop(store);
        check_head(&mut *home.open(), &mut chain, 103, 103);
    });
}

#[test]
fn a_snapshot_of_something_else_is_refused() {
    on_both(|home| {
        let mut chain = Chain::new(100);
        let mut store = home.open();
        assert!(matches!(store.compact(&chain.snapshot(1)), Err(StoreError::Damaged(_))));
        apply(&mut *store, &mut chain, 1..=3);
        assert!(matches!(store.compact(&chain.snapshot(4)), Err(StoreError::Damaged(_))));
        let mut foreign = chain.snapshot(2);
        let fields = (*foreign.stored.marker).clone();
        foreign.stored.marker = Marker::new(MarkerFields { nonce: fields.nonce + 1, ..fields });
        assert!(matches!(store.compact(&foreign), Err(StoreError::Damaged(_))));
        check_head(&mut *store, &mut chain, 3, 0);
    });
}

#[test]
fn only_the_next_epoch_is_taken() {
    on_both(|home| {
        let mut chain = Chain::new(1_000);
        let mut store = home.open();
        apply(&mut *store, &mut chain, 1..=3);
        for epoch in [1, 2, 5] {
            let result = store.apply(chain.epoch(epoch), Chain::sequence(epoch), b"");
            assert!(matches!(result, Err(StoreError::Damaged(_))), "epoch {epoch}: {result:?}");
        }
        let mut foreign = chain.epoch(4).clone();
        let fields = (*foreign.marker).clone();
        foreign.marker = Marker::new(MarkerFields { prev_nonce: fields.prev_nonce + 1, ..fields });
        assert!(matches!(store.apply(&foreign, 28, b""), Err(StoreError::Damaged(_))));
        // The head once more is what a caller does who did not hear of its success.
        apply(&mut *store, &mut chain, 3..=3);
        check_head(&mut *store, &mut chain, 3, 0);
        apply(&mut *store, &mut chain, 4..=4);
        check_head(&mut *store, &mut chain, 4, 0);
    });
}

#[test]
fn a_rebase_starts_from_the_snapshot() {
    on_both(|home| {
        let mut chain = Chain::new(10_000);
        let mut store = home.open();
        apply(&mut *store, &mut chain, 1..=10);
        store.rebase(Some(&chain.snapshot(70)), Discard::Damaged("behind the stream")).unwrap();
        check_head(&mut *store, &mut chain, 70, 70);
        assert_eq!(store.outbox(70).unwrap(), None);
        assert_eq!(store.load().unwrap().unwrap().history, vec![chain.past(70)]);
        apply(&mut *store, &mut chain, 71..=75);
        drop(store);
        let mut store = home.open();
        check_head(&mut *store, &mut chain, 75, 70);
        check_outbox(&mut *store, &mut chain, 71, 75);
        store.compact(&chain.snapshot(75)).unwrap();
        check_outbox(&mut *store, &mut chain, 71, 75);
        store.rebase(None, Discard::Damaged("start again")).unwrap();
        assert_eq!(store.load().unwrap(), None);
        apply(&mut *store, &mut chain, 1..=2);
        drop(store);
        check_head(&mut *home.open(), &mut chain, 2, 0);
    });
}

#[test]
fn history_reaches_back_as_far_as_promised() {
    on_both(|home| {
        let mut chain = Chain::new(8);
        let mut store = home.open();
        let head = HISTORY_MAX as u64 + 200;
        apply(&mut *store, &mut chain, 1..=4000);
        store.compact(&chain.snapshot(4000)).unwrap();
        apply(&mut *store, &mut chain, 4001..=head);
        for _ in 0..2 {
            let local = store.load().unwrap().unwrap();
            assert_eq!(chain.verify(&local), head);
            assert_eq!(local.history.len(), HISTORY_MAX);
            store.compact(&chain.snapshot(head)).unwrap();
        }
        drop(store);
        let mut store = home.open();
        assert_eq!(store.load().unwrap().unwrap().history.len(), HISTORY_MAX);
        check_outbox(&mut *store, &mut chain, head - 63, head);
    });
}

#[test]
fn big_epochs_and_big_snapshots_come_back() {
    on_both(|home| {
        let mut chain = Chain::new(3 << 20);
        let mut store = home.open();
        apply(&mut *store, &mut chain, 1..=12);
        store.compact(&chain.snapshot(12)).unwrap();
        apply(&mut *store, &mut chain, 13..=14);
        store.sync().unwrap();
        drop(store);
        check_head(&mut *home.open(), &mut chain, 14, 12);
    });
}

#[test]
fn the_double_loses_what_was_not_synced() {
    let mut chain = Chain::new(100);
    let mut store = MemoryStore::new();
    apply(&mut store, &mut chain, 1..=5);
    store.sync().unwrap();
    apply(&mut store, &mut chain, 6..=9);
    assert_eq!(store.unsynced(), 4);
    assert_eq!(store.lose_unsynced(1), 3);
    check_head(&mut store, &mut chain, 6, 0);
    apply(&mut store, &mut chain, 7..=7);
    assert_eq!(store.lose_unsynced(0), 1);
    check_head(&mut store, &mut chain, 6, 0);
    store.drop_everything();
    assert_eq!(store.load().unwrap(), None);
}

#[test]
fn the_double_fails_when_told() {
    let mut chain = Chain::new(100);
    let mut store = MemoryStore::new();
    apply(&mut store, &mut chain, 1..=2);
    store.fail_next("no space");
    let result = store.apply(chain.epoch(3), 21, b"");
    assert_eq!(result, Err(StoreError::Environment("no space".into())));
    apply(&mut store, &mut chain, 3..=3);
    check_head(&mut store, &mut chain, 3, 0);
    store.corrupt("flipped");
    assert_eq!(store.load(), Err(StoreError::Damaged("flipped".into())));
    assert_eq!(store.outbox(3), Err(StoreError::Damaged("flipped".into())));
    store.rebase(Some(&chain.snapshot(2)), Discard::Damaged("flipped")).unwrap();
    assert_eq!(store.quarantined(), 1);
    check_head(&mut store, &mut chain, 2, 2);
    store.fail_next("power");
    assert!(matches!(store.sync(), Err(StoreError::Environment(_))));
    assert!(matches!(store.sync(), Err(StoreError::Damaged(_))), "a failed sync is never repeated");
}
