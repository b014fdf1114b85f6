//! Must keep the pages that each key was visited by, tell how many, and forget a person.
//!
//! State version 2 keeps `user,user,…`; version 1 kept `user;user;…`. An event of the user `nobody` is rejected, after its
//! visit was noted; one of the user `-` deletes the key, by a tombstone. A quiet minute after the last event the key counts
//! as closed (`closed`). It counts visits (`visits`).

use pelton_sdk::{Erase, Error, Event, Failure, Fields, KeyState, Migrate, Module, Output, Reducer, Rewrite, State};

const QUIET_MS: i64 = 60_000;

#[derive(Fields)]
pub(crate) struct Visit<'a> {
    user: &'a str,
}

pub(crate) struct Visits;

/// The users of a key, in order of arrival.
#[derive(Default)]
pub(crate) struct Users(Vec<String>);

impl State for Users {
    fn decode(bytes: &[u8]) -> Result<Users, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        Ok(Users(text.split(',').map(str::to_owned).collect()))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.0.join(",").as_bytes());
    }
}

impl Module for Visits {
    type Fields = Visit<'static>;
    type Config = ();
    const STATE_VERSION: u32 = 2;
    const COUNTERS: &'static [&'static str] = &["visits", "closed"];

    fn configure(_config: ()) -> Result<Visits, String> {
        Ok(Visits)
    }
}

impl Reducer for Visits {
    type State = Users;

    fn event(
        &self,
        event: &Event<'_, Visit<'static>>,
        key: &mut KeyState<'_, Users>,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        let user = event.fields.user;
        output.add("visits", 1);
        key.state.0.push(user.to_owned());
        match user {
            "nobody" => return Err(Error::reject_at("/user", "nobody", "a visit of nobody")),
            "-" => {
                key.delete();
                output.record().delete();
            }
            _ => {
                key.set_timer(event.timestamp.saturating_add(QUIET_MS));
                output.emit(key.state.0.len().to_string());
            }
        }
        Ok(())
    }

    fn timer(&self, _at: i64, _key: &mut KeyState<'_, Users>, output: &mut Output<'_>) -> Result<(), Error> {
        output.add("closed", 1);
        Ok(())
    }
}

impl Migrate for Visits {
    fn migrate(&self, before: u32, _config_before: &str, _key: &str, state: &[u8]) -> Result<Rewrite, Failure> {
        match before {
            1 => Ok(Rewrite::Replace(String::from_utf8_lossy(state).replace(';', ",").into_bytes())),
            2 => Ok(Rewrite::Keep),
            _ => Err(Failure::halt(format!("state version {before} never was"))),
        }
    }
}

impl Erase for Visits {
    fn erase(&self, subject: &str, _key: &str, state: &[u8]) -> Result<Rewrite, Failure> {
        let mut users = Users::decode(state).map_err(Failure::halt)?;
        let before = users.0.len();
        users.0.retain(|user| user != subject);
        if users.0.is_empty() {
            return Ok(Rewrite::Delete);
        }
        let mut bytes = Vec::new();
        users.encode(&mut bytes);
        Ok(if users.0.len() == before { Rewrite::Keep } else { Rewrite::Replace(bytes) })
    }
}

pelton_sdk::export!(reducer: Visits);
pelton_sdk::export!(migrations: Visits);
pelton_sdk::export!(erasures: Visits);
