//! Must forward every event, key and payload untouched, without asking for the payload.

use pelton_sdk::{Error, Event, Module, Output, Transform};

pub(crate) struct Echo;

impl Module for Echo {
    type Fields = ();
    type Config = ();

    fn configure(_config: ()) -> Result<Echo, String> {
        Ok(Echo)
    }
}

impl Transform for Echo {
    fn process(&self, _event: &Event<'_, ()>, output: &mut Output<'_>) -> Result<(), Error> {
        output.forward();
        Ok(())
    }
}

pelton_sdk::export!(transform: Echo);
