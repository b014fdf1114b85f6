//! Must be a broken contract: sends its records to port 9 and declares one port.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    let rows = events.timestamps.len();
    let mut output = pelton_test_guests::forward((0..rows as u32).collect());
    output.ports = vec![9; rows];
    output
}

pelton_test_guests::raw_transform!("unknown-port", process);
