//! The world `reducer`: rules with state bytes and timers per key.

use crate::error::Error;
use crate::event::Event;
use crate::field::{Columns, text};
use crate::module::{Adapter, Configured, Module, with};
use crate::output::Output;
use crate::pane::slice;
use crate::raw;
use crate::raw::Change;
use crate::raw::reducer::{Guest, Reduced, Timer};
use crate::state::{State, decode};

/// A rule that keeps state per key.
pub trait Reducer: Module {
    /// What is kept per key. The host stores it; a new key starts with the default.
    type State: State;

    /// Handles one event. One that is rejected leaves the state as it was, whatever was done to it before.
    ///
    /// # Errors
    /// [`Error::reject`] makes the event a dead letter.
    fn event(
        &self,
        event: &Event<'_, Self::Fields>,
        key: &mut KeyState<'_, Self::State>,
        output: &mut Output<'_>,
    ) -> Result<(), Error>;

    /// A timer that the rule set for this key is due. The time of a record emitted here is the timer's.
    ///
    /// # Errors
    /// Only [`Error::retry`] and [`Error::halt`] make sense here.
    fn timer(&self, at: i64, key: &mut KeyState<'_, Self::State>, output: &mut Output<'_>) -> Result<(), Error> {
        let _ = (at, key, output);
        Ok(())
    }
}

/// State and timers of one key.
pub struct KeyState<'a, S> {
    /// The key.
    pub key: &'a str,
    /// The state; change it in place.
    pub state: S,
    group: u32,
    delete: bool,
    timers: &'a mut Vec<Timer>,
    cancels: &'a mut Vec<Timer>,
}

impl<S: State> KeyState<'_, S> {
    /// Forgets this key: its state is the default from here on.
    pub fn delete(&mut self) {
        self.state = S::default();
        self.delete = true;
    }

    /// Calls `timer` when the watermark reaches `at`: after the event that moves it there, of whatever key, and before the
    /// next one. Setting a timer that is set changes nothing. The end of a file fires the timers that are set then; what
    /// they set does not fire.
    pub fn set_timer(&mut self, at: i64) {
        let timer = Timer { group: self.group, at };
        self.cancels.retain(|cancel| *cancel != timer);
        self.timers.push(timer);
    }

    /// Takes a timer back.
    pub fn cancel_timer(&mut self, at: i64) {
        // It stays among those set: event time may have reached it before this event.
        self.cancels.push(Timer { group: self.group, at });
    }
}

/// Handles one batch, key by key, each key's events in order.
pub(crate) fn reduce<M: Reducer>(
    module: &Configured<M>,
    events: &raw::Events,
    groups: &raw::Groups,
) -> Result<Reduced, raw::Failure> {
    let columns = Columns::new(&events.columns);
    let mut output = Output::new(&events.data, &module.shape);
    let mut changes = Vec::with_capacity(groups.member_ends.len());
    let mut states = raw::Strings { data: Vec::new(), ends: Vec::with_capacity(groups.member_ends.len()) };
    let (mut timers, mut cancels, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    M::State::default().encode(&mut fresh);
    for group in 0..groups.member_ends.len() {
        let stored = slice(&groups.states, group);
        let mut key = KeyState {
            key: text(slice(&groups.keys, group)),
            state: decode::<M::State>(stored)?,
            group: group as u32,
            delete: false,
            timers: &mut timers,
            cancels: &mut cancels,
        };
        for row in run(&groups.members, &groups.member_ends, group) {
            let row = *row as usize;
            output.begin(row as u32, events.timestamps[row]);
            let result = module.rule.event(&Event::new(events, &columns, row), &mut key, &mut output);
            output.settle(result)?;
        }
        for at in run(&groups.timers, &groups.timer_ends, group) {
            output.begin((events.timestamps.len() + group) as u32, *at);
            let result = module.rule.timer(*at, &mut key, &mut output);
            output.settle(result)?;
        }
        changes.push(store(&key.state, key.delete, stored, &fresh, &mut states));
    }
    Ok(Reduced { changes, states, timers, cancels, output: output.finish() })
}

/// Appends the new state bytes and says what becomes of the old ones. A default that was never stored stays unstored.
fn store<S: State>(state: &S, deleted: bool, stored: &[u8], fresh: &[u8], states: &mut raw::Strings) -> Change {
    let start = states.data.len();
    state.encode(&mut states.data);
    let bytes = &states.data[start..];
    let change = if bytes == fresh && stored.is_empty() {
        Change::Keep
    } else if bytes == fresh && deleted {
        Change::Delete
    } else if bytes == stored {
        Change::Keep
    } else {
        Change::Replace
    };
    if change != Change::Replace {
        states.data.truncate(start);
    }
    states.ends.push(states.data.len() as u32);
    change
}

/// Run `group` of `items`; empty where there are no ends at all.
fn run<'a, T>(items: &'a [T], ends: &[u32], group: usize) -> &'a [T] {
    let start = if group == 0 || ends.is_empty() { 0 } else { ends[group - 1] as usize };
    ends.get(group).map_or(&[], |end| &items[start..*end as usize])
}

impl<M: Reducer> Guest for Adapter<M> {
    fn reduce(input: raw::Events, groups: raw::Groups) -> Result<Reduced, raw::Failure> {
        with::<M, _>(|module| reduce(module, &input, &groups))
    }
}

/// Run `group` of `items`, for folds.
pub(crate) fn members(groups: &raw::Groups, group: usize) -> &[u32] {
    run(&groups.members, &groups.member_ends, group)
}
