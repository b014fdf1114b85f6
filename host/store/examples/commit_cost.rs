//! What one epoch costs on this disk: milliseconds per apply of a 300 KiB delta, with and without a sync.

use std::time::{Duration, Instant};

use pelton_engine::epoch::{Epoch, Marker, MarkerFields, Position, Records, StreamIdentity};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::Store;
use pelton_store::{Options, SledStore};

const DELTA_BYTES: usize = 300 << 10;
const EPOCHS: u64 = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".into()))?;
    for sync in [false, true] {
        let options = Options { reserve_bytes: 0, ..Options::default() };
        let mut store = SledStore::open(&dir.path().join(sync.to_string()), options)?;
        let mut head = None;
        let mut times: Vec<Duration> = Vec::new();
        for number in 1..=EPOCHS {
            let epoch = epoch(number, head.as_ref());
            let start = Instant::now();
            store.apply(&epoch, number, &[])?;
            if sync {
                store.sync()?;
            }
            times.push(start.elapsed());
            head = Some(epoch.marker);
        }
        times.sort();
        let ms = |part: f64| times[((EPOCHS - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("sync {sync:5}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(0.5), ms(0.99), ms(1.0));
        report_rest(&mut store, head.ok_or("no epoch")?)?;
    }
    Ok(())
}

/// Disk, load and compaction after the run.
fn report_rest(store: &mut SledStore, marker: Marker) -> Result<(), Box<dyn std::error::Error>> {
    let logical = EPOCHS as f64 * DELTA_BYTES as f64;
    let ratio = store.disk_bytes()? as f64 / logical;
    let start = Instant::now();
    store.load()?;
    let load = start.elapsed();
    let snapshot = Snapshot { stored: StoredMarker { sequence: EPOCHS, marker }, state: vec![7; 50 << 20] };
    let start = Instant::now();
    store.compact(&snapshot)?;
    println!(
        "  disk {ratio:.1} x logical, load {:.0} ms, compact to 50 MiB {:.0} ms",
        load.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

fn epoch(number: u64, before: Option<&Marker>) -> Epoch {
    // Not compressible and different every time.
    let mut word = number;
    let delta: Vec<u8> = (0..DELTA_BYTES / 8)
        .flat_map(|_| {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            word.to_le_bytes()
        })
        .collect();
    let fields = MarkerFields {
        epoch: number,
        nonce: u128::from(number),
        prev_nonce: u128::from(number - 1),
        input: StreamIdentity { name: "PLAYS".into(), created: 1 },
        position: Position { sequence: number, fingerprint: number },
        read_through: number,
        pipeline_stream: StreamIdentity { name: "PELTON".into(), created: 1 },
        lease: 1,
        ..MarkerFields::default()
    };
    Epoch::new(fields, before, Records::default(), delta)
}
