//! kill -9 at any moment: the store opens again, holds one epoch of the run, and nothing that was synced is gone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pelton_engine::store::Store;
use pelton_store::SledStore;
use tempfile::TempDir;

use crate::fixture::{Chain, mix, options};

const DIR: &str = "PELTON_STORE_KILL_DIR";
const DELTA_BYTES: usize = 60_000;

/// The victim: this test again in a child process, told by the variable where to write.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut chain = Chain::new(DELTA_BYTES);
    let mut store = SledStore::open(Path::new(&dir), options()).unwrap();
    let head = store.load().unwrap().map_or(0, |local| chain.verify(&local));
    println!("synced 0");
    for epoch in head + 1..head + 100_000 {
        store.apply(chain.epoch(epoch), Chain::sequence(epoch), &Chain::sink(epoch)).unwrap();
        if epoch % 3 == 0 {
            store.sync().unwrap();
            println!("synced {epoch}");
        }
        if epoch % 23 == 0 {
            store.compact(&chain.snapshot(epoch)).unwrap();
        }
    }
}

#[test]
fn a_killed_store_opens_at_an_epoch() {
    const KILLS: u64 = 30;
    let dir = TempDir::new().unwrap();
    let mut chain = Chain::new(DELTA_BYTES);
    let mut head = 0;
    for kill in 0..KILLS {
        // Every third one dies while it opens, or earlier.
        let (in_open, most_ms) = if kill % 3 == 2 { (true, 40) } else { (false, 150) };
        let synced = run_and_kill(dir.path(), in_open, Duration::from_millis(mix(kill, 77) % most_ms));
        let mut store = SledStore::open(dir.path(), options()).unwrap();
        let found = store.load().unwrap().map_or(0, |local| chain.verify(&local));
        assert!(synced.max(head) <= found, "kill {kill}: epoch {found} found, {synced} synced, {head} seen before");
        assert_eq!(store.quarantined(), 0, "kill {kill}");
        head = found;
    }
    println!("{KILLS} kills, {head} epochs");
    assert!(KILLS < head, "the victim hardly wrote");
}

#[test]
fn a_killed_first_start_leaves_a_usable_store() {
    for kill in 0..10 {
        let dir = TempDir::new().unwrap();
        run_and_kill(dir.path(), true, Duration::from_millis(mix(kill, 78) % 30));
        let mut chain = Chain::new(DELTA_BYTES);
        let mut store = SledStore::open(dir.path(), options()).unwrap();
        let head = store.load().unwrap().map_or(0, |local| chain.verify(&local));
        store.apply(chain.epoch(head + 1), Chain::sequence(head + 1), b"").unwrap();
        assert_eq!(store.quarantined(), 0, "kill {kill}");
    }
}

/// Runs the victim for `lifetime` (from its first word or `in_open` from its start) and kills it. Gives the last epoch
/// that it had synced.
fn run_and_kill(dir: &Path, in_open: bool, lifetime: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (started, start) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut synced = 0;
        for line in stdout.lines().map_while(Result::ok) {
            // The first one stands on the line that names the test.
            if let Some((_, epoch)) = line.split_once("synced ") {
                synced = epoch.parse().unwrap_or(synced);
                let _ = started.send(());
            }
        }
        synced
    });
    if !in_open {
        start.recv_timeout(Duration::from_secs(60)).expect("the victim opens its store");
    }
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}
