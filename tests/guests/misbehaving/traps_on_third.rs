//! Must cost one instance and no event: each instance panics in its third call, whatever the events are.

use std::sync::atomic::{AtomicU32, Ordering};

use pelton_sdk::raw;

static CALLS: AtomicU32 = AtomicU32::new(0);

fn process(events: &raw::Events) -> raw::Output {
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    assert!(call != 3, "this is call 3");
    pelton_test_guests::forward((0..events.timestamps.len() as u32).collect())
}

pelton_test_guests::raw_transform!("traps-on-third", process);
