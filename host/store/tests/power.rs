//! Power cuts and failing disks: what was synced is there, what opens is one epoch of the run, and a handle whose sync
//! failed is done.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use pelton_engine::store::{Discard, Store, StoreError};
use pelton_store::{Options, SledStore};
use tempfile::TempDir;

use crate::fixture::{Chain, options};
use crate::shim::{CUTS, Shim};

const DELTA_BYTES: usize = 20_000;

fn on(disk: &Arc<Shim>) -> Options {
    Options { disk: disk.clone(), ..options() }
}

/// What has to be there after a power cut: at least what was promised, at most what was asked for.
#[derive(Default)]
struct Promises {
    least: AtomicU64,
    most: AtomicU64,
}

/// A host over one folder: does what it has to, and when it is refused what the protocol does.
struct Host<'a> {
    dir: &'a Path,
    disk: Arc<Shim>,
    promises: Arc<Promises>,
    chain: Chain,
    store: Option<SledStore>,
    head: u64,
}

type Verb<'a> = &'a mut dyn FnMut(&mut SledStore, &mut Chain) -> Result<(), StoreError>;

impl Host<'_> {
    fn new(dir: &Path) -> Host<'_> {
        let (disk, chain) = (Arc::new(Shim::new(dir)), Chain::new(DELTA_BYTES));
        Host { dir, disk, promises: Arc::default(), chain, store: None, head: 0 }
    }

    fn open(&mut self) {
        self.store = None;
        let options = on(&self.disk);
        let store = SledStore::open(self.dir, options.clone()).or_else(|_| SledStore::open(self.dir, options));
        self.store = Some(store.unwrap());
        self.attempt(&mut |store, _| store.load().map(drop));
    }

    /// Does it; a refusal is tried again, and what stays refused is rebuilt at the head. Whether it came to that.
    fn attempt(&mut self, verb: Verb<'_>) -> bool {
        let store = self.store.as_mut().unwrap();
        let tried = verb(store, &mut self.chain).or_else(|_| verb(store, &mut self.chain));
        let Err(error) = tried else { return false };
        assert!(matches!(error, StoreError::Damaged(_)), "refused twice: {error}");
        let snapshot = (0 < self.head).then(|| self.chain.snapshot(self.head));
        let rebuild = store.rebase(snapshot.as_ref(), Discard::Damaged("a failed sync"));
        rebuild.or_else(|_| store.rebase(snapshot.as_ref(), Discard::Damaged("a failed sync"))).unwrap();
        true
    }

    /// The same for what has to be done after a rebuild, too.
    fn insist(&mut self, verb: Verb<'_>) {
        if self.attempt(verb) {
            verb(self.store.as_mut().unwrap(), &mut self.chain).unwrap();
        }
    }

    fn apply_to(&mut self, last: u64) {
        for epoch in self.head + 1..=last {
            self.promises.most.store(epoch, SeqCst);
            self.insist(&mut |store, chain| {
                store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch))
            });
            self.head = epoch;
        }
    }

    fn promise(&self) {
        self.promises.least.store(self.head, SeqCst);
    }

    fn sync(&mut self) {
        self.insist(&mut |store, _| store.sync());
        self.promise();
    }

    fn compact(&mut self, epoch: u64) {
        self.attempt(&mut |store, chain| store.compact(&chain.snapshot(epoch)));
        self.promise();
    }

    fn rebase(&mut self, epoch: u64, discard: Discard<'_>) {
        self.promises.most.store(epoch, SeqCst);
        self.insist(&mut |store, chain| store.rebase(Some(&chain.snapshot(epoch)), discard));
        self.head = epoch;
        self.promise();
    }

    /// A life with everything in it.
    fn live(&mut self) {
        self.open();
        self.apply_to(3);
        self.sync();
        self.apply_to(5);
        self.compact(4);
        self.apply_to(7);
        self.sync();
        self.compact(7);
        self.apply_to(8);
        self.open();
        self.apply_to(9);
        self.sync();
        self.rebase(20, Discard::Outdated("the stream has gone on"));
        self.apply_to(22);
        self.sync();
        self.rebase(30, Discard::Damaged("damage"));
        self.apply_to(31);
        self.sync();
    }

    /// Opens what power cuts would leave now.
    fn check_cuts(&self, what: &str) {
        check_cuts(&self.disk, &self.promises, &mut Chain::new(DELTA_BYTES), what);
    }
}

fn check_cuts(disk: &Shim, promises: &Promises, chain: &mut Chain, what: &str) {
    for cut in CUTS {
        let copy = TempDir::new().unwrap();
        disk.power_cut(cut, copy.path());
        // The copy is thrown away: nothing in it needs to be synced for real.
        let mut store = SledStore::open(copy.path(), on(&Arc::new(Shim::new(copy.path())))).unwrap();
        let loaded = store.load().unwrap_or_else(|error| panic!("{cut:?} {what}: {error}"));
        let found = loaded.map_or(0, |local| chain.verify(&local));
        let (least, most) = (promises.least.load(SeqCst), promises.most.load(SeqCst));
        assert!((least..=most).contains(&found), "{cut:?} {what}: epoch {found} is not of {least}..={most}");
    }
}

#[test]
fn a_power_cut_at_any_operation_leaves_what_was_synced() {
    let dir = TempDir::new().unwrap();
    let mut host = Host::new(dir.path());
    let (promises, chain) = (host.promises.clone(), Mutex::new(Chain::new(DELTA_BYTES)));
    host.disk.watch(move |disk, name| {
        check_cuts(disk, &promises, &mut chain.lock().unwrap(), &format!("before {name}"));
    });
    host.live();
    host.check_cuts("at the end");
    println!("{} operations", host.disk.done().len());
}

#[test]
fn any_single_failing_operation_is_survived() {
    let count = {
        let dir = TempDir::new().unwrap();
        let mut host = Host::new(dir.path());
        host.live();
        host.disk.done().len()
    };
    for number in 0..count {
        let dir = TempDir::new().unwrap();
        let mut host = Host::new(dir.path());
        host.disk.fail_at(number);
        host.live();
        let failed = host.disk.done()[number].clone();
        let loaded = host.store.as_mut().unwrap().load().unwrap().unwrap();
        assert_eq!(host.chain.verify(&loaded), 31, "{failed}");
        host.check_cuts(&format!("after a failed {failed}"));
        host.open();
        let loaded = host.store.as_mut().unwrap().load().unwrap().unwrap();
        assert_eq!(host.chain.verify(&loaded), 31, "{failed}, opened again");
    }
    println!("{count} operations");
}

/// The kernel tells a failed write once and then forgets the pages: a second sync that works proves nothing.
#[test]
fn after_a_failed_sync_a_handle_refuses_everything_but_a_rebuild() {
    let dir = TempDir::new().unwrap();
    let mut host = Host::new(dir.path());
    host.open();
    host.apply_to(3);
    host.disk.refuse(Some("sync_file gen-000001/db"));
    let mut store = host.store.take().unwrap();
    assert!(matches!(store.sync(), Err(StoreError::Environment(_))));
    host.disk.refuse(None);
    let chain = &mut host.chain;
    let refusals = [
        store.sync().unwrap_err(),
        store.load().map(drop).unwrap_err(),
        store.apply(chain.epoch(4), Chain::sequence(4), b"").unwrap_err(),
        store.outbox(3).map(drop).unwrap_err(),
        store.compact(&chain.snapshot(3)).unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(&refusal, StoreError::Damaged(why) if why.contains("failed sync")), "{refusal}");
    }
    store.rebase(Some(&chain.snapshot(3)), Discard::Damaged("failed sync")).unwrap();
    store.apply(chain.epoch(4), Chain::sequence(4), b"").unwrap();
    store.sync().unwrap();
}

/// Between the switch of the pointer and the end of what it replaces there are two whole stores in one folder.
#[test]
fn what_was_before_a_rebase_never_comes_back() {
    let dir = TempDir::new().unwrap();
    let mut host = Host::new(dir.path());
    host.open();
    host.apply_to(5);
    host.sync();
    // As a kill: nothing of the old generation can be moved or removed.
    host.disk.refuse(Some("remove_dir"));
    host.rebase(20, Discard::Outdated("another past"));
    host.store = None;
    fs::write(dir.path().join("gen-000002/db"), b"not a store").unwrap();
    let mut store = SledStore::open(dir.path(), on(&host.disk)).unwrap();
    let loaded = store.load().map(|local| local.map(|local| local.head.marker.epoch));
    assert!(matches!(loaded, Err(StoreError::Damaged(_))), "{loaded:?}");
    assert!(dir.path().join("gen-000001/db").exists(), "it was there to be found");
}

/// A store that fell back while it was closed must not promise that what it had is safe.
#[test]
fn a_handle_does_not_go_on_with_less_than_it_had() {
    let (dir, older) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut host = Host::new(dir.path());
    host.open();
    host.apply_to(3);
    host.sync();
    host.disk.power_cut(crate::shim::Cut::Synced, older.path());
    host.apply_to(5);
    let mut store = host.store.take().unwrap();
    // The rename of a compaction fails: the store is closed and looks again.
    host.disk.refuse(Some("rename"));
    assert!(matches!(store.compact(&host.chain.snapshot(5)), Err(StoreError::Environment(_))));
    host.disk.refuse(None);
    let fallen = |result: Result<(), StoreError>| match result {
        Err(StoreError::Damaged(why)) => assert!(why.contains("fell back from epoch 5 to 3"), "{why}"),
        other => panic!("{other:?}"),
    };
    fs::copy(older.path().join("gen-000001/db"), dir.path().join("gen-000001/db")).unwrap();
    fallen(store.sync());
    fallen(store.outbox(5).map(drop));
    fallen(store.compact(&host.chain.snapshot(3)));
}

#[test]
fn a_full_disk_says_what_is_missing_and_sheds_what_is_of_no_use() {
    let dir = TempDir::new().unwrap();
    let mut host = Host::new(dir.path());
    host.open();
    host.apply_to(2);
    host.rebase(10, Discard::Damaged("evidence"));
    assert_eq!(host.store.as_ref().unwrap().quarantined(), 1);
    host.disk.set_free(100);
    let store = host.store.as_mut().unwrap();
    let refused = store.apply(host.chain.epoch(11), Chain::sequence(11), b"").unwrap_err();
    let folder = dir.path().canonicalize().unwrap().display().to_string();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Environment(_)), "{refused:?}");
    assert!(text.contains(&folder) && text.contains("100 bytes free") && text.contains("are needed"), "{text}");
    assert_eq!(store.quarantined(), 0, "evidence is worth less than going on");
    assert_eq!(host.chain.verify(&store.load().unwrap().unwrap()), 10);
    // Outdated content makes room for what replaces it; damaged content is kept while it is all there is.
    let snapshot = host.chain.snapshot(20);
    assert!(store.rebase(Some(&snapshot), Discard::Damaged("x")).is_err());
    assert!(dir.path().join("gen-000002").exists());
    assert!(store.rebase(Some(&snapshot), Discard::Outdated("x")).is_err());
    assert!(!dir.path().join("gen-000002").exists());
    host.disk.set_free(1 << 30);
    store.rebase(Some(&snapshot), Discard::Outdated("x")).unwrap();
    assert_eq!(host.chain.verify(&store.load().unwrap().unwrap()), 20);
}

/// The order in which a generation takes over; each step is what the next one rests on.
#[test]
fn bytes_are_synced_before_a_name_leads_to_them() {
    let dir = TempDir::new().unwrap();
    let mut host = Host::new(dir.path());
    host.open();
    host.apply_to(3);
    let before = host.disk.done().len();
    host.compact(3);
    let mut done = host.disk.done().split_off(before);
    done.retain(|name| !name.contains("snap."));
    let expected = [
        "sync_file gen-000002/conf",
        "sync_file gen-000002/db",
        "sync_dir gen-000002",
        "sync_dir ",
        "write CURRENT.new",
        "sync_file CURRENT.new",
        "rename CURRENT.new",
        "sync_dir ",
    ];
    assert_eq!(done, expected);
}
