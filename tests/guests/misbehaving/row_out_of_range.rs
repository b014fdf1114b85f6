//! Must be a broken contract: its records come from a row that does not exist.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    pelton_test_guests::forward(vec![events.timestamps.len() as u32 + 7])
}

pelton_test_guests::raw_transform!("row-out-of-range", process);
