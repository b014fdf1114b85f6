//! The sandbox from outside: what it refuses, and what it makes of guests that behave and that do not.
//!
//! The guests are real modules, built by `just guests`; broken ones that no compiler would emit are written as text.
//! One test binary, because linking wasmtime takes longer than all the tests.

mod behaving;
mod compiler;
mod determinism;
mod generated;
mod misbehaving;
mod refused;
mod schemas;
mod worlds;

use std::path::PathBuf;
use std::sync::OnceLock;

use pelton_engine::event::{Events, Strings};
use pelton_engine::guest::Guest;
use pelton_sandbox::{Limits, Module, Options, Sandbox};

/// The bytes of a built guest: `fraud`, or `examples/echo`.
#[track_caller]
fn wasm(name: &str) -> Vec<u8> {
    let folder = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    };
    let file = folder.join("wasm32-unknown-unknown/guest").join(name).with_extension("wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("run `just guests` first: {}: {error}", file.display()))
}

/// One sandbox for all tests, as in a process. Its cache makes the second run ten times faster.
fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let cache_dir = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled-modules"));
        Sandbox::new(&Options { cache_dir, ..Options::default() }).unwrap()
    })
}

#[track_caller]
fn load(name: &str) -> Module {
    sandbox().load(wasm(name), &Limits::default()).unwrap()
}

#[track_caller]
fn guest(name: &str) -> Box<dyn Guest> {
    load(name).instantiate("null", &Limits::default()).unwrap()
}

/// Events with these payloads, keys `k0`, `k1`, … and no columns.
fn events(payloads: &[&str]) -> Events {
    let mut events = Events::default();
    for (row, payload) in payloads.iter().enumerate() {
        events.data.extend_from_slice(format!("k{row}").as_bytes());
        events.ends.push(events.data.len() as u32);
        events.data.extend_from_slice(payload.as_bytes());
        events.ends.push(events.data.len() as u32);
        events.timestamps.push(1_000 + row as i64);
        events.sequences.push(1 + row as u64);
    }
    events
}

fn texts(rows: &[&[u8]]) -> Strings {
    let mut texts = Strings::default();
    rows.iter().for_each(|row| texts.push(row));
    texts
}
