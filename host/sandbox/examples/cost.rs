//! Measures what the sandbox costs: `cargo run -p pelton-sandbox --example cost` after `just guests`.
//!
//! Loading with and without the cache, starting instances with and without a pool, and calls of 1 and 256 rows.

use std::path::Path;
use std::time::{Duration, Instant};

use pelton_engine::event::Events;
use pelton_engine::guest::{AggregateColumn, AggregateData, Metering, Output, Panes, Timing};
use pelton_sandbox::{Limits, Module, Options, Sandbox};

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/wasm32-unknown-unknown/guest".into());
    let read = |name: &str| std::fs::read(Path::new(&folder).join(name)).expect("`just guests` has built it");
    let cache_dir = Some(std::env::temp_dir().join(format!("pelton-cost-{}", std::process::id())));
    for name in ["examples/echo.wasm", "fraud.wasm", "schema_check.wasm"] {
        let bytes = read(name);
        for state in ["cold", "warm"] {
            let sandbox = Sandbox::new(&Options { cache_dir: cache_dir.clone(), pooling: false, ..Options::default() })
                .expect("an engine");
            let start = Instant::now();
            load(&sandbox, &bytes);
            println!("load {name} {state}: {:.1?}", start.elapsed());
        }
    }
    for pooling in [false, true] {
        let sandbox =
            Sandbox::new(&Options { cache_dir: cache_dir.clone(), pooling, ..Options::default() }).expect("an engine");
        starts(&load(&sandbox, &read("examples/echo.wasm")), pooling);
        calls(&load(&sandbox, &read("examples/echo.wasm")), pooling);
        panes(&load(&sandbox, &read("fraud.wasm")), pooling);
    }
    if let Some(folder) = cache_dir {
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn load(sandbox: &Sandbox, bytes: &[u8]) -> Module {
    sandbox.load(bytes, &Limits::default()).expect("a good module")
}

/// The median time of `call` over 7 runs of `count`.
fn median(count: u32, mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..7)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| call());
            start.elapsed() / count
        })
        .collect();
    times.sort_unstable();
    times[3]
}

fn starts(module: &Module, pooling: bool) {
    let start = || module.instantiate("null", &Limits::default()).expect("a good configuration");
    println!("pooling {pooling}: start, configure, drop: {:.2?}", median(500, || drop(start())));
    let (mut events, mut output) = (events(256), Output::default());
    let once = || start().process(Metering::Deadline, &mut events, &mut output).expect("echo");
    println!("pooling {pooling}: start, configure, one call of 256, drop: {:.2?}", median(500, once));
}

fn events(rows: u32) -> Events {
    let mut events = Events::default();
    for row in 0..rows {
        events.data.extend_from_slice(format!("user-{row:05}").as_bytes());
        events.ends.push(events.data.len() as u32);
        events.data.extend_from_slice(&[b'x'; 172]);
        events.ends.push(events.data.len() as u32);
        events.timestamps.push(i64::from(row));
        events.sequences.push(u64::from(row));
    }
    events
}

fn calls(module: &Module, pooling: bool) {
    let mut guest = module.instantiate("null", &Limits::default()).expect("a good configuration");
    let mut output = Output::default();
    for metering in [Metering::Deadline, Metering::Fuel] {
        for rows in [1, 256] {
            let mut events = events(rows);
            let call = || guest.process(metering, &mut events, &mut output).expect("echo");
            let time = median(1000, call);
            println!("pooling {pooling}: {metering:?}, call of {rows}: {time:.2?}, {:.2?} per event", time / rows);
        }
    }
}

fn panes(module: &Module, pooling: bool) {
    let mut guest = module.instantiate("null", &Limits::default()).expect("a good configuration");
    guest.aggregates().expect("aggregates");
    let mut panes = Panes::default();
    let rows = 4096_u32;
    for row in 0..rows {
        panes.keys.push(format!("user-{row:05}").as_bytes());
        panes.starts.push(0);
        panes.ends.push(3_600_000);
        panes.timings.push(Timing::OnTime);
        panes.indexes.push(0);
        panes.lasts.push(true);
        panes.watermarks.push(3_600_000);
    }
    panes.values = [20, 4_000_000, 18]
        .map(|value| AggregateColumn::new(AggregateData::Integers(vec![value; rows as usize])))
        .into();
    let mut output = Output::default();
    let time = median(100, || guest.evaluate(Metering::Deadline, &mut panes, &mut output).expect("fraud"));
    println!("pooling {pooling}: evaluate {rows} panes: {time:.2?}, {:.2?} per pane", time / rows);
}
