//! Must trap on the stack limit: calls itself without end for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn recurse(_output: &mut Output<'_>) -> Result<(), Error> {
    if std::hint::black_box(deeper(1)) == 0 {
        Err(Error::halt("came back from a recursion without end"))
    } else {
        Ok(())
    }
}

#[expect(unconditional_recursion, reason = "this is the behaviour")]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 32]);
    deeper(depth + 1) + frame[(depth % 32) as usize]
}

pelton_test_guests::transform!(recurse);
