//! Must be stopped by the deadline, then by fuel: never returns for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn spin(_output: &mut Output<'_>) -> Result<(), Error> {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

pelton_test_guests::transform!(spin);
