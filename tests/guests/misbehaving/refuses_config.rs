//! Must refuse the pipeline with this text: accepts no configuration at all.

use pelton_sdk::{Error, Event, Module, Output, Transform};

struct Picky;

impl Module for Picky {
    type Fields = ();
    type Config = ();

    fn configure(_config: ()) -> Result<Picky, String> {
        Err("no configuration is good enough".to_owned())
    }
}

impl Transform for Picky {
    fn process(&self, _event: &Event<'_, ()>, output: &mut Output<'_>) -> Result<(), Error> {
        output.forward();
        Ok(())
    }
}

pelton_sdk::export!(transform: Picky);
