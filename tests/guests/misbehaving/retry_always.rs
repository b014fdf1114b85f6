//! Must pause the partition and be called again, without a dead letter: asks for a retry as long as the event that misbehaves is in the batch.

use pelton_sdk::{Error, Output};

fn retry(_output: &mut Output<'_>) -> Result<(), Error> {
    Err(Error::retry("the environment is not ready"))
}

pelton_test_guests::transform!(retry);
