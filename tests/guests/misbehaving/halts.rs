//! Must stop the partition with this reason and commit nothing of the batch: refuses to go on for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn halt(_output: &mut Output<'_>) -> Result<(), Error> {
    Err(Error::halt("the books do not balance"))
}

pelton_test_guests::transform!(halt);
