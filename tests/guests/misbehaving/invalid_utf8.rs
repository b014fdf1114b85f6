//! Must be a broken contract, not a crash: rejects with a detail that is no UTF-8 for the event that misbehaves.
#![allow(unsafe_code, reason = "safe Rust cannot make such a string")]

use pelton_sdk::{Error, Output};

fn reject(_output: &mut Output<'_>) -> Result<(), Error> {
    let bytes = std::hint::black_box(vec![b'a', 0xff, 0xfe, b'z']);
    // SAFETY: none. The string is only ever handed to the host, which must check it.
    let detail = unsafe { String::from_utf8_unchecked(bytes) };
    Err(Error::reject("odd", detail))
}

pelton_test_guests::transform!(reject);
