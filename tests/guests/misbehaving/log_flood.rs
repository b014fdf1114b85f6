//! Must neither fill the host's log nor its memory: logs a hundred thousand lines of 1 KiB for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn flood(output: &mut Output<'_>) -> Result<(), Error> {
    let line = "flood ".repeat(170);
    for _ in 0..100_000 {
        pelton_sdk::log::info(&line);
    }
    output.forward();
    Ok(())
}

pelton_test_guests::transform!(flood);
