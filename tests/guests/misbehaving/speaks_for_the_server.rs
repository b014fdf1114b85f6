//! Must be a broken contract: its records have a header that is a command to the server.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    let rows = events.timestamps.len() as u32;
    let mut output = pelton_test_guests::forward((0..rows).collect());
    for _ in 0..rows {
        output.headers.extend_from_slice(b"Nats-Rollup: all\r\n");
        output.header_ends.push(output.headers.len() as u32);
    }
    output
}

pelton_test_guests::raw_transform!("speaks-for-the-server", process);
