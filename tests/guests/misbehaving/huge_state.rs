//! Must be stopped by the quota on state: each event adds 1 MiB to the state of its key.

use pelton_sdk::{Error, Event, KeyState, Module, Output, Reducer};

struct Hoarder;

impl Module for Hoarder {
    type Fields = ();
    type Config = ();

    fn configure(_config: ()) -> Result<Hoarder, String> {
        Ok(Hoarder)
    }
}

impl Reducer for Hoarder {
    type State = Vec<u8>;

    fn event(
        &self,
        _event: &Event<'_, ()>,
        kept: &mut KeyState<'_, Vec<u8>>,
        _output: &mut Output<'_>,
    ) -> Result<(), Error> {
        kept.state.resize(kept.state.len() + (1 << 20), b'x');
        Ok(())
    }
}

pelton_sdk::export!(reducer: Hoarder);
