//! Must forward every event that has all six fields, without asking for the payload; rejects `ms_played` below 0 with code `negative`.

use pelton_sdk::{Error, Event, Fields, Module, Output, Transform};

/// The host makes a dead letter of every event without one of them.
#[derive(Fields)]
pub(crate) struct Play<'a> {
    user_id: &'a str,
    track_id: &'a str,
    country: &'a str,
    device: &'a str,
    ts: i64,
    ms_played: i64,
}

pub(crate) struct FieldsCheck;

impl Module for FieldsCheck {
    type Fields = Play<'static>;
    type Config = ();

    fn configure(_config: ()) -> Result<FieldsCheck, String> {
        Ok(FieldsCheck)
    }
}

impl Transform for FieldsCheck {
    fn process(&self, event: &Event<'_, Play<'static>>, output: &mut Output<'_>) -> Result<(), Error> {
        let ms_played = event.fields.ms_played;
        if ms_played < 0 {
            return Err(Error::reject("negative", format!("ms_played is {ms_played}, wanted 0 or more")));
        }
        output.forward();
        Ok(())
    }
}

pelton_sdk::export!(transform: FieldsCheck);
