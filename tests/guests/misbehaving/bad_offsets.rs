//! Must be a broken contract: every record's payload ends beyond both arenas.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    let mut output = pelton_test_guests::forward((0..events.timestamps.len() as u32).collect());
    for slice in output.slices.chunks_exact_mut(4) {
        slice[2] = events.data.len() as u32;
        slice[3] = 1_000_000;
    }
    output
}

pelton_test_guests::raw_transform!("bad-offsets", process);
