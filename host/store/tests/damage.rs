//! Damaged files: what loads is the end of an epoch of the run, or it is an error. Never anything else.
//!
//! A store of about 200 epochs with compactions is copied and damaged, once per case. `PELTON_DAMAGE_CASES` asks for
//! more cases than the normal run.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pelton_engine::store::{Discard, Store, StoreError};
use pelton_store::SledStore;
use tempfile::TempDir;

use crate::fixture::{Chain, bytes, mix, options};

const EPOCHS: u64 = 200;
const CASES: u64 = 96;

#[derive(Debug, Default)]
struct Outcomes {
    same: u64,
    older: u64,
    fallback: u64,
    damaged: u64,
    empty: u64,
}

#[test]
fn damage_is_never_served() {
    let cases = std::env::var("PELTON_DAMAGE_CASES").map_or(CASES, |text| text.parse().unwrap());
    quiet_panics();
    let mut chain = Chain::new(12_000);
    let (origin, stale) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make_origin(origin.path(), stale.path(), &mut chain);
    let mut outcomes = Outcomes::default();
    for case in 0..cases {
        let copy = TempDir::new().unwrap();
        copy_dir(origin.path(), copy.path());
        let what = damage(copy.path(), stale.path(), case);
        let outcome = check(copy.path(), &mut chain, case, &what);
        if std::env::var_os("PELTON_DAMAGE_SHOW").is_some() {
            println!("{case}: {what} -> {outcome}");
        }
        match outcome {
            "same" => outcomes.same += 1,
            "older" => outcomes.older += 1,
            "fallback" => outcomes.fallback += 1,
            "empty" => outcomes.empty += 1,
            _ => outcomes.damaged += 1,
        }
    }
    println!("{cases} damaged stores: {outcomes:?}");
    assert!(0 < outcomes.damaged && 0 < outcomes.fallback, "the damage hardly hit anything: {outcomes:?}");
    assert_eq!(outcomes.empty, 0, "a generation that starts from a snapshot is never empty");
}

/// sled's panics are expected here, and only in the way.
fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some("pelton-store") {
            usual(info);
        }
    }));
}

/// Two generations: one of epochs 60 to 130, one from there to the end. `stale` gets the data file of epoch 180.
fn make_origin(dir: &Path, stale: &Path, chain: &mut Chain) {
    let mut store = SledStore::open(dir, options()).unwrap();
    for epoch in 1..=EPOCHS {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
        if epoch % 10 == 0 {
            store.sync().unwrap();
        }
        if epoch == 180 {
            fs::copy(dir.join("gen-000003/db"), stale.join("db")).unwrap();
        }
        if [60, 130].contains(&epoch) {
            store.compact(&chain.snapshot(epoch)).unwrap();
        }
    }
}

/// Opens the damaged copy and gives what came of it; fails on anything that is not allowed.
fn check(dir: &Path, chain: &mut Chain, case: u64, what: &str) -> &'static str {
    let mut store = SledStore::open(dir, options()).unwrap();
    let outcome = match store.load() {
        Ok(None) => "empty",
        Ok(Some(local)) => {
            let head = chain.verify(&local);
            // What is served can also be built upon, and comes back after that.
            if let Ok(()) = store.apply(chain.epoch(head + 1), Chain::sequence(head + 1), &Chain::sink(head + 1)) {
                store.sync().unwrap();
                let again = store.load().unwrap().unwrap();
                assert_eq!(chain.verify(&again), head + 1, "case {case}: {what}");
            }
            match (head, store.quarantined()) {
                (EPOCHS, 0) => "same",
                (_, 0) => "older",
                _ => "fallback",
            }
        }
        Err(StoreError::Damaged(_)) => "damaged",
        Err(error) => panic!("case {case}: {what}: {error}"),
    };
    let snapshot = chain.snapshot(150);
    store.rebase(Some(&snapshot), Discard::Damaged("damage test")).unwrap();
    assert!(1 <= store.quarantined());
    store.apply(chain.epoch(151), Chain::sequence(151), &Chain::sink(151)).unwrap();
    drop(store);
    let mut store = SledStore::open(dir, options()).unwrap();
    let local = store.load().unwrap().unwrap();
    assert_eq!(chain.verify(&local), 151, "case {case}: {what}");
    outcome
}

/// One fault somewhere, chosen by the number of the case. Gives what it was.
fn damage(dir: &Path, stale: &Path, case: u64) -> String {
    let random = |salt: u64, below: u64| mix(case, salt) % below.max(1);
    let current = dir.join("gen-000003");
    let file = match random(1, 8) {
        0 => dir.join("gen-000002").join("db"),
        1 => snap(&current),
        _ => current.join("db"),
    };
    let len = fs::metadata(&file).unwrap().len();
    let at = random(2, len);
    let name = file.strip_prefix(dir).unwrap().display().to_string();
    match case % 14 {
        0..=2 => {
            let bit = random(3, 8);
            edit(&file, at, |byte| byte ^ (1 << bit));
            format!("bit {bit} flipped at {at} of {name}")
        }
        3 | 4 => {
            let at = at / 4096 * 4096;
            overwrite(&file, at, &vec![0; 4096.min(len - at) as usize]);
            format!("4 KiB zeroed at {at} of {name}")
        }
        5..=7 => {
            let cut = [4096, 65_536, len / 2][(case % 3) as usize].min(len);
            File::options().write(true).open(&file).unwrap().set_len(len - random(4, cut + 1)).unwrap();
            format!("tail cut by up to {cut} of {len} of {name}")
        }
        8 => {
            overwrite(&file, len, &bytes(case, 5_000));
            format!("garbage appended to {name}")
        }
        9 => {
            overwrite(&file, at, &bytes(case, 512.min(len - at) as usize));
            format!("512 bytes of garbage at {at} of {name}")
        }
        10 => delete_something(dir, random(5, 6)),
        11 => {
            let zeros = vec![0; (len - at) as usize];
            overwrite(&file, at, &zeros);
            format!("zeros from {at} to the end of {name}")
        }
        12 => lost_writes(&current, stale, random(5, 1 << 40)),
        _ => damage_pointer(dir, random(5, 4)),
    }
}

/// Some blocks are as they were at epoch 180: writes that the disk lost.
fn lost_writes(generation: &Path, stale: &Path, seed: u64) -> String {
    const BLOCK: u64 = 4096;
    let old = fs::read(stale.join("db")).unwrap();
    let blocks = old.len() as u64 / BLOCK;
    let run = 1 + mix(seed, 1) % [1, 16, 128][(seed % 3) as usize];
    let mut changed = 0;
    for round in 0..1 + mix(seed, 2) % 8 {
        let from = mix(seed, 10 + round) % blocks * BLOCK;
        let range = from as usize..old.len().min((from + run * BLOCK) as usize);
        overwrite(&generation.join("db"), from, &old[range]);
        changed += run;
    }
    format!("up to {changed} old blocks in {}", generation.file_name().unwrap().display())
}

fn delete_something(dir: &Path, choice: u64) -> String {
    let current = dir.join("gen-000003");
    let path = match choice {
        0 => current.join("db"),
        1 => current.join("conf"),
        2 => snap(&current),
        3 => current.join("blobs"),
        4 => dir.join("gen-000002/db"),
        _ => current,
    };
    if path.is_dir() {
        fs::remove_dir_all(&path).unwrap();
    } else {
        fs::remove_file(&path).unwrap();
    }
    format!("{} deleted", path.strip_prefix(dir).unwrap().display())
}

fn damage_pointer(dir: &Path, choice: u64) -> String {
    let pointer = dir.join("CURRENT");
    match choice {
        0 => fs::remove_file(&pointer).unwrap(),
        1 => File::options().write(true).open(&pointer).unwrap().set_len(20).unwrap(),
        2 => edit(&pointer, 20, |byte| byte ^ 3),
        _ => fs::write(&pointer, "").unwrap(),
    }
    format!("pointer file damaged in way {choice}")
}

/// sled's own index file of a generation; its data file when there is none.
fn snap(generation: &Path) -> PathBuf {
    let entries = fs::read_dir(generation).unwrap().map(|entry| entry.unwrap().path());
    let mut snaps = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."));
    snaps.next().unwrap_or_else(|| generation.join("db"))
}

fn edit(path: &Path, at: u64, change: impl Fn(u8) -> u8) {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[change(byte[0])]).unwrap();
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

type Values = std::collections::BTreeMap<sled::IVec, sled::IVec>;

/// Below sled's own checks: values that are missing, or as they were some epochs before, one by one and all but one.
#[test]
fn a_mixture_of_values_is_never_served() {
    quiet_panics();
    let mut chain = Chain::new(12_000);
    let dir = TempDir::new().unwrap();
    let mut versions = Vec::new();
    for epochs in [1..=66, 67..=71] {
        let mut store = SledStore::open(dir.path(), options()).unwrap();
        for epoch in epochs {
            store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
        }
        drop(store);
        versions.push(open_values(dir.path()).iter().collect::<Result<Values, _>>().unwrap());
    }
    let [old, new] = &versions[..] else { unreachable!("two versions were made") };
    let mut cases = 0;
    let mut check = |what: &str, key: &sled::IVec, values: &Values| {
        write_values(dir.path(), values);
        match SledStore::open(dir.path(), options()).unwrap().load() {
            Err(StoreError::Damaged(_)) => cases += 1,
            Ok(Some(local)) if *values == *old || *values == *new => drop(chain.verify(&local)),
            other => panic!("{what} {key:?}: {:?}", other.map(|local| local.map(|local| local.head.marker.epoch))),
        }
    };
    let changed: Vec<_> = new.keys().filter(|key| old.get(*key) != new.get(*key)).collect();
    for key in &changed {
        let put = |values: &Values, from: &Values| {
            let mut values = values.clone();
            match from.get(*key) {
                Some(value) => values.insert((*key).clone(), value.clone()),
                None => values.remove(*key),
            };
            values
        };
        check("old value of", key, &put(new, old));
        check("only new value is", key, &put(old, new));
    }
    for key in new.keys().step_by(5) {
        let mut values = new.clone();
        values.remove(key);
        check("missing", key, &values);
    }
    check("nothing wrong with", &sled::IVec::default(), new);
    check("nothing wrong with", &sled::IVec::default(), old);
    println!("{cases} mixtures, {} values differ", changed.len());
}

/// Bytes that changed before their checksum was made, in memory: every value by itself is whole.
#[test]
fn a_delta_with_other_bytes_and_a_checksum_that_fits_is_found() {
    let mut chain = Chain::new(12_000);
    let dir = TempDir::new().unwrap();
    let mut store = SledStore::open(dir.path(), options()).unwrap();
    for epoch in 1..=6 {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
    }
    drop(store);
    let values: Values = open_values(dir.path()).iter().collect::<Result<_, _>>().unwrap();
    let deltas: Vec<_> = values.keys().filter(|key| key[0] == b'D').collect();
    assert!(6 < deltas.len(), "some deltas have more than one chunk");
    for key in deltas {
        let mut changed = values.clone();
        let mut value = values[key].to_vec();
        *value.last_mut().unwrap() ^= 1;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &value[..1]), &value[5..]);
        value[1..5].copy_from_slice(&crc.to_be_bytes());
        changed.insert(key.clone(), value.into());
        write_values(dir.path(), &changed);
        match SledStore::open(dir.path(), options()).unwrap().load() {
            Err(StoreError::Damaged(why)) => assert!(why.contains("do not roll"), "{why}"),
            other => panic!("{key:?}: {:?}", other.map(|local| local.map(|local| local.head.marker.epoch))),
        }
    }
    write_values(dir.path(), &values);
    let mut store = SledStore::open(dir.path(), options()).unwrap();
    assert_eq!(chain.verify(&store.load().unwrap().unwrap()), 6);
}

fn open_values(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("gen-000001")).flush_every_ms(None);
    (0..200)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            config.open().ok()
        })
        .expect("the store gave its lock back")
}

fn write_values(dir: &Path, values: &Values) {
    let db = open_values(dir);
    let mut batch = sled::Batch::default();
    for key in db.iter().keys().map(Result::unwrap).filter(|key| !values.contains_key(key)) {
        batch.remove(key);
    }
    values.iter().filter(|(key, value)| db.get(key).unwrap().as_ref() != Some(*value)).for_each(|(key, value)| {
        batch.insert(key, value);
    });
    db.apply_batch(batch).unwrap();
    db.flush().unwrap();
}
