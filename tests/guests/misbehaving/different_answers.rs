//! Must be found by running the same cases twice on one instance: emits the address of fresh memory, which it never frees.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    let leaked = Vec::leak(std::hint::black_box(vec![0_u8; 4096]));
    let text = (leaked.as_ptr() as usize).to_string();
    let mut output = pelton_test_guests::forward((0..events.timestamps.len() as u32).collect());
    for slice in output.slices.chunks_exact_mut(4) {
        slice[2] = events.data.len() as u32;
        slice[3] = text.len() as u32;
    }
    output.data = text.into_bytes();
    output
}

pelton_test_guests::raw_transform!("different-answers", process);
