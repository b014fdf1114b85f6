//! Must make one dead letter whose message holds the panic's text: panics for the event that misbehaves.

use pelton_sdk::{Error, Output};

fn trap(_output: &mut Output<'_>) -> Result<(), Error> {
    panic!("the rule gave up on this event")
}

pelton_test_guests::transform!(trap);
