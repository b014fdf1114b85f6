//! Must be refused by the limit on copied bytes: replies with 32 MiB for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn reply(output: &mut Output<'_>) -> Result<(), Error> {
    output.emit(vec![b'x'; 32 << 20]);
    Ok(())
}

pelton_test_guests::transform!(reply);
