//! Must be a broken contract: adds to a counter that it does not declare.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    let rows = events.timestamps.len() as u32;
    let mut output = pelton_test_guests::forward((0..rows).collect());
    output.additions = (0..rows).map(|row| raw::Addition { row, counter: 0, add: 1 }).collect();
    output
}

pelton_test_guests::raw_transform!("counts-elsewhere", process);
