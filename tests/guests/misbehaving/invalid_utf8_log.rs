//! Must be a broken contract, not a crash: logs bytes that are no UTF-8 for the event that misbehaves.
#![allow(unsafe_code, reason = "safe Rust cannot make such a string")]

use pelton_sdk::{Error, Output};

fn log(output: &mut Output<'_>) -> Result<(), Error> {
    let bytes = std::hint::black_box(vec![b'a', 0xff, 0xfe, b'z']);
    // SAFETY: none. The string is only ever handed to the host, which must check it.
    pelton_sdk::log::warn(unsafe { String::from_utf8_unchecked(bytes) });
    output.forward();
    Ok(())
}

pelton_test_guests::transform!(log);
