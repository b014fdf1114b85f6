//! Must be found by running the same cases on instances of different age: emits how many events this instance saw.

use std::sync::atomic::{AtomicU32, Ordering};

use pelton_sdk::raw;

static SEEN: AtomicU32 = AtomicU32::new(0);

fn process(events: &raw::Events) -> raw::Output {
    let rows = events.timestamps.len() as u32;
    let mut output = pelton_test_guests::forward((0..rows).collect());
    for slice in output.slices.chunks_exact_mut(4) {
        let text = (SEEN.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        slice[2] = (events.data.len() + output.data.len()) as u32;
        slice[3] = text.len() as u32;
        output.data.extend_from_slice(text.as_bytes());
    }
    output
}

pelton_test_guests::raw_transform!("hidden-state", process);
