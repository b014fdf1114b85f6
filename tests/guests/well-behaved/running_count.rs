//! Must emit for each event how many its key has had, and after a quiet minute of event time `{"total":n}`, then forget the key.

use pelton_sdk::{Error, Event, KeyState, Module, Output, Reducer, State};

const QUIET_MS: i64 = 60_000;

pub(crate) struct RunningCount;

/// Events so far, and the timer that is set.
#[derive(Default)]
pub(crate) struct Counted {
    count: u64,
    timer: i64,
}

impl State for Counted {
    fn decode(bytes: &[u8]) -> Result<Counted, String> {
        let (count, timer) = bytes.split_at_checked(8).ok_or_else(|| format!("state has {} bytes", bytes.len()))?;
        Ok(Counted { count: u64::decode(count)?, timer: i64::decode(timer)? })
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        self.count.encode(bytes);
        self.timer.encode(bytes);
    }
}

impl Module for RunningCount {
    type Fields = ();
    type Config = ();

    fn configure(_config: ()) -> Result<RunningCount, String> {
        Ok(RunningCount)
    }
}

impl Reducer for RunningCount {
    type State = Counted;

    fn event(
        &self,
        event: &Event<'_, ()>,
        kept: &mut KeyState<'_, Counted>,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        let due = event.timestamp.saturating_add(QUIET_MS);
        if kept.state.timer < due {
            if kept.state.count != 0 {
                kept.cancel_timer(kept.state.timer);
            }
            kept.set_timer(due);
            kept.state.timer = due;
        }
        kept.state.count += 1;
        output.emit(format!(r#"{{"count":{}}}"#, kept.state.count));
        Ok(())
    }

    fn timer(&self, _at: i64, kept: &mut KeyState<'_, Counted>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit(format!(r#"{{"total":{}}}"#, kept.state.count));
        kept.delete();
        Ok(())
    }
}

pelton_sdk::export!(reducer: RunningCount);
