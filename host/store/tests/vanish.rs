//! The folder goes away under a running handle: deleted, replaced, unmounted. Nothing goes on as if it were there.

use std::fs;
use std::path::Path;

use pelton_engine::store::{Discard, Store, StoreError};
use pelton_store::SledStore;
use tempfile::TempDir;

use crate::fixture::{Chain, options};

/// A store of three epochs in `dir`.
fn store(dir: &Path, chain: &mut Chain) -> SledStore {
    let mut store = SledStore::open(dir, options()).unwrap();
    for epoch in 1..=3 {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), b"").unwrap();
    }
    store
}

/// Every verb that needs the old content is refused, with the folder and what became of it.
#[track_caller]
fn assert_refused(store: &mut SledStore, chain: &mut Chain, dir: &Path, why: &str) {
    let refusals = [
        store.apply(chain.epoch(4), Chain::sequence(4), b"").unwrap_err(),
        store.sync().unwrap_err(),
        store.outbox(3).map(drop).unwrap_err(),
        store.compact(&chain.snapshot(3)).unwrap_err(),
    ];
    for refusal in refusals {
        let StoreError::Environment(text) = &refusal else { panic!("{refusal:?}") };
        assert!(text.contains(&dir.display().to_string()) && text.contains(why), "{text}");
    }
}

#[track_caller]
fn assert_locked(dir: &Path) {
    let second = SledStore::open(dir, options()).map(drop);
    assert!(matches!(second, Err(StoreError::InUse(_))), "{second:?}");
}

#[test]
fn a_deleted_folder_is_told_and_made_again_with_its_lock() {
    let root = TempDir::new().unwrap();
    let state = root.path().canonicalize().unwrap().join("state");
    let dir = state.join("p0");
    let mut chain = Chain::new(1_000);
    for deleted in [&dir, &state] {
        let mut store = store(&dir, &mut chain);
        let id = store.id().unwrap();
        fs::remove_dir_all(deleted).unwrap();
        assert_refused(&mut store, &mut chain, &dir, "is gone");
        assert!(!dir.exists(), "refusing makes nothing");
        assert_eq!(store.load().unwrap(), None, "what is new is empty");
        assert_locked(&dir);
        assert_eq!(store.id().unwrap(), id, "for others it is the same host");
        store.rebase(Some(&chain.snapshot(3)), Discard::Outdated("rebuilt")).unwrap();
        store.apply(chain.epoch(4), Chain::sequence(4), b"").unwrap();
        store.sync().unwrap();
        drop(store);
        let mut store = SledStore::open(&dir, options()).unwrap();
        assert_eq!((chain.verify(&store.load().unwrap().unwrap()), store.id().unwrap()), (4, id));
        drop(store);
        fs::remove_dir_all(&state).unwrap();
    }
}

#[test]
fn a_rebuild_makes_the_folder_too() {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("p0");
    let mut chain = Chain::new(1_000);
    let mut store = store(&dir, &mut chain);
    fs::remove_dir_all(&dir).unwrap();
    store.rebase(Some(&chain.snapshot(9)), Discard::Damaged("gone")).unwrap();
    assert_locked(&dir);
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 9);
    assert_eq!(store.quarantined(), 0);
}

#[test]
fn another_folder_in_its_place_is_told_and_then_taken_as_it_is() {
    let root = TempDir::new().unwrap();
    let root = root.path().canonicalize().unwrap();
    let (dir, other) = (root.join("p0"), root.join("other"));
    let mut chain = Chain::new(1_000);
    let mut mine = store(&dir, &mut chain);
    let mut theirs = store(&other, &mut chain);
    theirs.rebase(Some(&chain.snapshot(7)), Discard::Outdated("later")).unwrap();
    drop(theirs);
    fs::rename(&dir, root.join("away")).unwrap();
    fs::rename(&other, &dir).unwrap();
    assert_refused(&mut mine, &mut chain, &dir, "was replaced by another one");
    assert_eq!(chain.verify(&mine.load().unwrap().unwrap()), 7);
    assert_locked(&dir);
}

#[test]
fn a_lock_on_a_deleted_file_is_no_lock() {
    let root = TempDir::new().unwrap();
    let dir = root.path().canonicalize().unwrap().join("p0");
    let mut chain = Chain::new(1_000);
    let mut first = store(&dir, &mut chain);
    fs::remove_dir_all(&dir).unwrap();
    let second = store(&dir, &mut chain);
    assert_refused(&mut first, &mut chain, &dir, "was replaced by another one");
    for refused in [first.load().map(drop), first.rebase(None, Discard::Outdated("x"))] {
        assert!(matches!(refused, Err(StoreError::InUse(_))), "{refused:?}");
    }
    drop(second);
    assert_eq!(chain.verify(&first.load().unwrap().unwrap()), 3);
}

#[test]
fn a_data_file_that_is_gone_takes_no_epoch() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = store(dir.path(), &mut chain);
    fs::remove_dir_all(dir.path().join("gen-000001")).unwrap();
    let refused = store.apply(chain.epoch(4), Chain::sequence(4), b"");
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    assert!(matches!(store.load(), Err(StoreError::Damaged(_))));
    store.rebase(Some(&chain.snapshot(3)), Discard::Damaged("gone")).unwrap();
    store.apply(chain.epoch(4), Chain::sequence(4), b"").unwrap();
}

/// Where a file system can be mounted: the folder below its mount point is on another disk, which must not be filled.
#[test]
fn an_unmounted_volume_is_not_replaced_by_the_disk_below() {
    let root = TempDir::new().unwrap();
    let volume = root.path().canonicalize().unwrap().join("volume");
    fs::create_dir(&volume).unwrap();
    let run = |args: &[&str]| {
        let command = std::process::Command::new(args[0]).args(&args[1..]).arg(&volume).output();
        command.is_ok_and(|output| output.status.success())
    };
    if !run(&["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs"]) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let dir = volume.join("state/p0");
    let mut chain = Chain::new(1_000);
    let mut store = store(&dir, &mut chain);
    assert!(run(&["umount", "-l"]));
    assert_refused(&mut store, &mut chain, &dir, "is gone");
    for refused in [store.load().map(drop), store.rebase(None, Discard::Outdated("x"))] {
        let Err(StoreError::Environment(text)) = &refused else { panic!("{refused:?}") };
        assert!(text.contains("on another volume"), "{text}");
    }
    assert!(!volume.join("state").exists());
}

#[test]
fn an_id_stays_through_damage_and_is_not_copied() {
    let root = TempDir::new().unwrap();
    let (dir, copy) = (root.path().join("p0"), root.path().join("copy"));
    let mut chain = Chain::new(1_000);
    let mut first = store(&dir, &mut chain);
    let id = first.id().unwrap();
    assert_eq!((id.len(), id.chars().all(|c| c.is_ascii_hexdigit())), (32, true), "{id}");
    first.rebase(Some(&chain.snapshot(9)), Discard::Damaged("x")).unwrap();
    assert_eq!(first.id().unwrap(), id);
    drop(first);
    fs::write(dir.join("CURRENT"), "").unwrap();
    let mut again = SledStore::open(&dir, options()).unwrap();
    assert!(again.load().is_err());
    assert_eq!(again.id().unwrap(), id);
    drop(again);

    fs::create_dir(&copy).unwrap();
    for name in ["id", "lock"] {
        fs::copy(dir.join(name), copy.join(name)).unwrap();
    }
    let copied = SledStore::open(&copy, options()).unwrap().id().unwrap();
    assert_ne!(copied, id);
    assert_eq!(SledStore::open(&copy, options()).unwrap().id().unwrap(), copied);

    fs::write(dir.join("id"), "pelton-store-id 00 inode=1").unwrap();
    assert_ne!(SledStore::open(&dir, options()).unwrap().id().unwrap(), id, "damaged: a new one");
}
