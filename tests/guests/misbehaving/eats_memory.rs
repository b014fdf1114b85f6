//! Must be stopped by the memory limit: allocates without end for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn eat(_output: &mut Output<'_>) -> Result<(), Error> {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

pelton_test_guests::transform!(eat);
