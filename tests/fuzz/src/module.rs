//! Any bytes as a module, up to the compiler: refused with a reason, or of one world.

use pelton_sandbox::{Limits, Refusal, testing};

pub(crate) fn run(bytes: &[u8]) {
    let Err(error) = testing::verify(bytes, &Limits::default()) else { return };
    assert!(!error.message.is_empty() && !error.message.contains(char::is_control), "{error:?}");
    let is_fault_of_the_module =
        !matches!(error.refusal, Refusal::Host | Refusal::Compile | Refusal::Describe | Refusal::Configure);
    assert!(is_fault_of_the_module, "nothing was compiled: {error:?}");
}
