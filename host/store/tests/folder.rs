//! The folder of a store: its lock, its format, its generations, its disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use pelton_engine::epoch::{Marker, MarkerFields};
use pelton_engine::store::{Discard, Store, StoreError};
use pelton_store::disk::{Disk as _, RealDisk};
use pelton_store::{Options, SledStore, check_folder};
use tempfile::TempDir;

use crate::fixture::{Chain, options};

fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, options()).unwrap()
}

fn fill(store: &mut SledStore, chain: &mut Chain, epochs: std::ops::RangeInclusive<u64>) {
    for epoch in epochs {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_second_handle_is_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    match SledStore::open(dir.path(), options()) {
        Err(StoreError::InUse(text)) => assert!(text.contains(&std::process::id().to_string()), "{text}"),
        other => panic!("expected InUse, got {:?}", other.map(drop)),
    }
    drop(first);
    open(dir.path());
}

#[test]
fn an_index_that_a_kill_left_unfinished_is_passed_over() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1000);
    for (round, content) in ["", "cut sho"].into_iter().enumerate() {
        let mut store = open(dir.path());
        let first = round as u64 * 20 + 1;
        fill(&mut store, &mut chain, first..=first + 19);
        store.sync().unwrap();
        drop(store);
        let index = dir.path().join("gen-000001/snap.00000000FFFFFFFF.generating");
        fs::write(&index, content).unwrap();
        let mut store = open(dir.path());
        assert_eq!(chain.verify(&store.load().unwrap().unwrap()), first + 19);
        assert!(!index.exists());
        assert_eq!(store.quarantined(), 0);
    }
}

#[test]
fn two_generations_are_kept_and_no_blobs() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(300_000);
    let mut store = open(dir.path());
    for round in 0..4 {
        fill(&mut store, &mut chain, round * 25 + 1..=round * 25 + 25);
        store.compact(&chain.snapshot(round * 25 + 25)).unwrap();
    }
    fill(&mut store, &mut chain, 101..=180);
    assert_eq!(names(dir.path()), ["CURRENT", "gen-000004", "gen-000005", "lock"]);
    // sled's blob files are outside of what a sync covers.
    for generation in ["gen-000004", "gen-000005"] {
        assert_eq!(names(&dir.path().join(generation).join("blobs")), [""; 0]);
    }
    assert!(store.disk_bytes().unwrap() > 1 << 20);
    assert_eq!(store.quarantined(), 0);
}

/// Links where the store has files of its own, also below a generation, and the folder itself.
#[test]
fn folders_of_others_and_links_are_refused() {
    let outside = TempDir::new().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["lock", "id", "making", "CURRENT", "CURRENT.new", "gen-000001", "gen-000001/db", "gen-000001/blobs/1"]
    {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&victim, &link).unwrap();
        let error = check_folder(dir.path()).unwrap_err();
        assert!(error.to_string().contains(name) && error.way_out().is_some(), "{error}");
        match SledStore::open(dir.path(), options()) {
            Err(StoreError::Environment(text)) => assert!(text.contains("is a link"), "{text}"),
            other => panic!("{name}: {:?}", other.map(drop)),
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
    }
    let dir = TempDir::new().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    drop(open(&real));
    symlink(&real, &link).unwrap();
    assert!(check_folder(&link).is_err() && check_folder(&real).is_ok());
    // Above it, links are the user's own.
    symlink(dir.path(), outside.path().join("above")).unwrap();
    drop(open(&outside.path().join("above/real")));
    fs::set_permissions(&real, Permissions::from_mode(0o770)).unwrap();
    assert!(check_folder(&real).unwrap_err().to_string().contains("mode 0770"));
    assert!(matches!(SledStore::open(&real, options()).map(drop), Err(StoreError::Environment(_))));
}

/// What is set aside may hold anything; it is moved and deleted, never followed.
#[test]
fn what_was_set_aside_is_deleted_and_not_what_it_leads_to() {
    let (dir, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("precious"), "x").unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 1..=2);
    fs::create_dir(dir.path().join("bad.1.old")).unwrap();
    symlink(outside.path(), dir.path().join("bad.1.old/gen-000009")).unwrap();
    for round in 1..=3 {
        store.rebase(Some(&chain.snapshot(round * 10)), Discard::Damaged("x")).unwrap();
    }
    assert!(!dir.path().join("bad.1.old").exists());
    assert!(outside.path().join("precious").exists());
}

/// A file is replaced by a new one, never written into: what has its name may be anything.
#[test]
fn a_file_of_the_store_is_never_written_through_a_link() {
    let dir = TempDir::new().unwrap();
    let (victim, path) = (dir.path().join("victim"), dir.path().join("CURRENT.new"));
    fs::write(&victim, "precious").unwrap();
    for is_hard in [false, true] {
        if is_hard { fs::hard_link(&victim, &path) } else { symlink(&victim, &path) }.unwrap();
        RealDisk.write(&path, b"new").unwrap();
        assert_eq!((fs::read(&victim).unwrap(), fs::read(&path).unwrap()), (b"precious".into(), b"new".into()));
        fs::remove_file(&path).unwrap();
    }
    symlink(&victim, &path).unwrap();
    assert!(RealDisk.sync_file(&path).is_err());
    fs::write(path.with_file_name("left"), "of a kill").unwrap();
    RealDisk.write(&path.with_file_name("left"), b"new").unwrap();
}

#[test]
fn another_format_is_left_untouched() {
    for (format, age) in [(1, "from before the first release"), (3, "from a newer version")] {
        untouched(format, age);
    }
}

fn untouched(format: u8, age: &str) {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    fill(&mut open(dir.path()), &mut chain, 1..=3);
    let line = format!("pelton-store format={format} current=1 floor=1 color=red");
    let text = format!("{line} crc={:08x}\n", crc32c::crc32c(line.as_bytes()));
    fs::write(dir.path().join("CURRENT"), &text).unwrap();
    let before = fs::read(dir.path().join("gen-000001/db")).unwrap();
    let result = SledStore::open(dir.path(), options()).map(drop);
    assert!(matches!(&result, Err(StoreError::Format(text)) if text.contains(age)), "{result:?}");
    assert_eq!(fs::read(dir.path().join("gen-000001/db")).unwrap(), before);
    assert_eq!(fs::read_to_string(dir.path().join("CURRENT")).unwrap(), text);
}

#[test]
fn a_rebase_of_an_empty_store_sets_nothing_aside() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    assert_eq!(store.load().unwrap(), None);
    store.rebase(Some(&chain.snapshot(9)), Discard::Damaged("new host")).unwrap();
    assert_eq!(store.quarantined(), 0);
    store.rebase(Some(&chain.snapshot(12)), Discard::Damaged("Stream was re-created!")).unwrap();
    assert_eq!(store.quarantined(), 1);
    assert_eq!(names(dir.path()), ["CURRENT", "bad.1.stream-was-re-created", "gen-000003", "lock"]);
}

#[test]
fn outdated_content_is_deleted_and_of_the_damaged_the_newest_two_are_kept() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 1..=2);
    for round in 1..=4 {
        store.rebase(Some(&chain.snapshot(round * 10)), Discard::Outdated("was away")).unwrap();
        assert_eq!(names(dir.path()), ["CURRENT", &format!("gen-{:06}", round + 1), "lock"]);
    }
    for round in 1..=4 {
        store.rebase(Some(&chain.snapshot(round * 10)), Discard::Damaged("x")).unwrap();
    }
    assert_eq!(names(dir.path()), ["CURRENT", "bad.3.x", "bad.4.x", "gen-000009", "lock"]);
    assert_eq!(names(&dir.path().join("bad.4.x")), ["gen-000008"]);
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 40);
}

/// Without a broker there is nobody to publish to again, and a compaction is to make the store small.
#[test]
fn a_compaction_without_outbox_keeps_the_snapshot_and_nothing_before_it() {
    let (with, without) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut chain = Chain::new(20_000);
    let mut bytes = Vec::new();
    for (dir, outbox) in [(&with, true), (&without, false)] {
        let mut store = SledStore::open(dir.path(), Options { outbox, ..options() }).unwrap();
        fill(&mut store, &mut chain, 1..=60);
        for _ in 0..2 {
            store.compact(&chain.snapshot(60)).unwrap();
        }
        assert_eq!(store.outbox(60).unwrap().is_some(), outbox);
        fill(&mut store, &mut chain, 61..=62);
        drop(store);
        let mut store = open(dir.path());
        let local = store.load().unwrap().unwrap();
        assert_eq!((chain.verify(&local), local.history.len(), local.deltas.len()), (62, 62, 2));
        bytes.push(store.disk_bytes().unwrap());
    }
    assert!(bytes[1] < bytes[0], "{bytes:?}");
}

#[test]
fn leftovers_of_a_cut_short_rebase_go() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 1..=2);
    for round in 1..=3 {
        store.rebase(Some(&chain.snapshot(round * 10)), Discard::Damaged("x")).unwrap();
    }
    drop(store);
    // Of another host that kept everything, and of kills between two steps.
    for name in ["bad.1.old", "bad.9.empty", "gen-000001", "gen-000003", "gen-000007"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("bad.1.old/evidence"), b"x").unwrap();
    for name in ["gen-000001/db", "gen-000003/db", "gen-000007/db", "CURRENT.new", "id.new"] {
        fs::write(dir.path().join(name), b"half").unwrap();
    }
    let mut store = open(dir.path());
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 30);
    assert_eq!(names(dir.path()), ["CURRENT", "bad.2.x", "bad.3.x", "gen-000004", "lock"]);
    store.rebase(Some(&chain.snapshot(40)), Discard::Damaged("y")).unwrap();
    assert_eq!(names(dir.path()), ["CURRENT", "bad.3.x", "bad.4.y", "gen-000005", "lock"]);
}

#[test]
fn the_reserve_refuses_writes_without_a_trace() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    fill(&mut open(dir.path()), &mut chain, 1..=3);
    let greedy = Options { reserve_bytes: u64::MAX, ..Options::default() };
    let mut store = SledStore::open(dir.path(), greedy).unwrap();
    let result = store.apply(chain.epoch(4), 28, b"");
    assert!(matches!(result, Err(StoreError::Environment(_))), "{result:?}");
    assert!(matches!(store.compact(&chain.snapshot(3)), Err(StoreError::Environment(_))));
    assert!(matches!(store.rebase(None, Discard::Damaged("x")), Err(StoreError::Environment(_))));
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 3);
    drop(store);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 4..=4);
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 4);
}

#[test]
fn leftovers_of_a_cut_short_compaction_go() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 1..=3);
    store.compact(&chain.snapshot(3)).unwrap();
    drop(store);
    fs::create_dir(dir.path().join("gen-000003")).unwrap();
    fs::write(dir.path().join("gen-000003/db"), b"half a generation").unwrap();
    fs::write(dir.path().join("CURRENT.new"), b"pelton").unwrap();
    let mut store = open(dir.path());
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 3);
    assert!(!names(dir.path()).contains(&"gen-000003".to_string()));
    assert_eq!(store.quarantined(), 0);
}

#[test]
fn a_cut_short_first_start_begins_again() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("making"), "").unwrap();
    fs::create_dir(dir.path().join("gen-000001")).unwrap();
    fs::write(dir.path().join("gen-000001/conf"), b"segm").unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.load().unwrap(), None);
    assert_eq!(names(dir.path()), ["CURRENT", "gen-000001", "lock"]);
}

#[test]
fn a_lost_pointer_is_damage() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut store = open(dir.path());
    fill(&mut store, &mut chain, 1..=2);
    drop(store);
    fs::remove_file(dir.path().join("CURRENT")).unwrap();
    assert!(matches!(open(dir.path()).load(), Err(StoreError::Damaged(_))));
}

#[test]
fn a_newer_value_is_left_where_it_is() {
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(1_000);
    let mut newer = chain.epoch(1).clone();
    newer.marker = Marker::new(MarkerFields { needs: vec!["lanes".into()], ..(*newer.marker).clone() });
    let mut store = open(dir.path());
    store.apply(&newer, 1, b"").unwrap();
    drop(store);
    let mut store = open(dir.path());
    let refused = store.load().map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Format(_)), "{refused:?}");
    assert_eq!(store.rebase(None, Discard::Damaged("newer")), Err(refused));
    assert_eq!(store.quarantined(), 0);
}

/// A real full disk, where a small file system can be mounted; the store must recover by itself.
#[test]
fn a_full_disk_is_survived() {
    let dir = TempDir::new().unwrap();
    let mount = |args: &[&str]| {
        let command = std::process::Command::new(args[0]).args(&args[1..]).arg(dir.path()).output();
        command.is_ok_and(|output| output.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs"]) {
        println!("skipped: no small file system can be mounted here; the reserve is tested above");
        return;
    }
    let result = std::panic::catch_unwind(|| fill_up(dir.path()));
    let remounted = mount(&["umount", "-l"]);
    result.unwrap();
    assert!(remounted);
}

fn fill_up(dir: &Path) {
    let mut chain = Chain::new(200_000);
    let mut store = open(dir);
    let mut synced = 0;
    let refused = (1..2000).find(|&epoch| {
        let applied = store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch));
        let done = applied.and_then(|()| store.sync());
        match done {
            Ok(()) => synced = epoch,
            Err(StoreError::Environment(_)) => {}
            Err(error) => panic!("a full disk was taken for {error}"),
        }
        done_failed(synced, epoch)
    });
    let refused = refused.expect("12 MiB do not hold 2000 epochs");
    println!("full at epoch {refused}, synced up to {synced}");
    let result = store.apply(chain.epoch(refused), Chain::sequence(refused), &[]);
    assert!(result.is_err(), "the disk is still full");
    drop(store);
    let status = std::process::Command::new("mount").args(["-o", "remount,size=200m"]).arg(dir).status().unwrap();
    assert!(status.success());
    let mut store = open(dir);
    let head = chain.verify(&store.load().unwrap().unwrap());
    assert!(synced <= head, "synced epoch {synced} is gone, head is {head}");
    for epoch in head + 1..head + 4 {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
    }
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), head + 3);
}

fn done_failed(synced: u64, epoch: u64) -> bool {
    synced < epoch
}
