//! Must be a broken contract in batches of two or more: its sources descend.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    pelton_test_guests::forward((0..events.timestamps.len() as u32).rev().collect())
}

pelton_test_guests::raw_transform!("answers-out-of-order", process);
