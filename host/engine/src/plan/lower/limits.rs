//! `[limits]`: bounds of time, fuel, memory and state. Every one has a default.

use crate::plan::raw::{Reader, Section, size_text};
use crate::plan::{Limits, Shape};
use crate::problem::code;
use crate::time::Span;

const KEYS: [&str; 10] = [
    "call_timeout",
    "fuel_per_event",
    "memory",
    "reply_bytes",
    "state",
    "max_payload",
    "state_per_key",
    "epoch_max_events",
    "epoch_max_age",
    "shape",
];
const SHAPES: [(&str, Shape); 2] = [("compiled", Shape::Compiled), ("interpreter", Shape::Interpreter)];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Of one guest call, and of an epoch.
const MINUTE: Span = Span::from_secs(60);

/// The limits, with defaults where nothing is said.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(table) = reader.table(root, "limits") else {
        return limits;
    };
    let section = reader.section(table, "`[limits]`", &KEYS);
    for (key, limit) in [("call_timeout", &mut limits.call_timeout), ("epoch_max_age", &mut limits.epoch_max_age)] {
        if let Some(span) = reader.duration(&section, key, Span(1)..=MINUTE) {
            *limit = span.value;
        }
    }
    let sizes = [
        ("memory", &mut limits.memory, MIB..=4 * GIB),
        ("reply_bytes", &mut limits.reply_bytes, 4 * KIB..=256 * MIB),
        ("state", &mut limits.state, MIB..=1024 * GIB),
        ("max_payload", &mut limits.max_payload, 64..=64 * MIB),
        ("state_per_key", &mut limits.state_per_key, 64..=16 * MIB),
    ];
    for (key, limit, bounds) in sizes {
        if let Some(size) = reader.size(&section, key, bounds) {
            *limit = size.value;
        }
    }
    if let Some(fuel) = reader.integer(&section, "fuel_per_event", 10_000..=1_000_000_000_000) {
        limits.fuel_per_event = fuel;
    }
    if let Some(events) = reader.integer(&section, "epoch_max_events", 1..=1_000_000) {
        limits.epoch_max_events = events as u32;
    }
    if let Some(shape) = reader.choice(&section, "shape", "shape of modules", &SHAPES) {
        limits.shape = shape;
    }
    if limits.state_per_key > limits.state {
        let place = reader.key_place(&section, "state_per_key");
        let (one, all) = (size_text(limits.state_per_key), size_text(limits.state));
        let message = format!("`state_per_key` `{one}` is larger than `state` `{all}`");
        reader.report(code::BAD_VALUE, place, message, "lower `state_per_key` or raise `state`");
    }
    limits
}
