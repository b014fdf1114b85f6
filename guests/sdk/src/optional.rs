//! What a rule with state can do besides: rewrite what an earlier version kept, and take a person out of it.

use crate::error::Failure;
use crate::field::{no_strings, push, text};
use crate::module::{Adapter, Module, with};
use crate::pane::slice;
use crate::raw::{self, Change, Rewritten};

/// What becomes of the state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// It stays as it is.
    Keep,
    /// It becomes this.
    Replace(Vec<u8>),
    /// The key is forgotten.
    Delete,
}

/// A rule that reads what an earlier state version of it has kept. Export it with `export!(migrations: Rule)`.
pub trait Migrate: Module {
    /// The state of a key as this version keeps it. `before` is the state version that wrote it, `config_before` the
    /// configuration that it had, as JSON. Timers stay.
    ///
    /// # Errors
    /// When the bytes are not what that version wrote.
    fn migrate(&self, before: u32, config_before: &str, key: &str, state: &[u8]) -> Result<Rewrite, Failure>;
}

/// A rule that keeps what belongs to persons under keys that are not theirs. Export it with `export!(erasures: Rule)`.
pub trait Erase: Module {
    /// The state of a key without what it holds of `subject`.
    ///
    /// # Errors
    /// When the bytes are not what the rule wrote.
    fn erase(&self, subject: &str, key: &str, state: &[u8]) -> Result<Rewrite, Failure>;
}

fn rewrite(
    keys: &raw::Strings,
    states: &raw::Strings,
    mut rewrite: impl FnMut(&str, &[u8]) -> Result<Rewrite, Failure>,
) -> Result<Rewritten, raw::Failure> {
    let mut rewritten = Rewritten { changes: Vec::with_capacity(keys.ends.len()), states: no_strings() };
    for row in 0..keys.ends.len() {
        let (change, state) = match rewrite(text(slice(keys, row)), slice(states, row))? {
            Rewrite::Keep => (Change::Keep, Vec::new()),
            Rewrite::Replace(state) => (Change::Replace, state),
            Rewrite::Delete => (Change::Delete, Vec::new()),
        };
        rewritten.changes.push(change);
        push(&mut rewritten.states, &state);
    }
    Ok(rewritten)
}

impl<M: Migrate> raw::migration::Guest for Adapter<M> {
    fn migrate(
        before: u32,
        config_before: String,
        keys: raw::Strings,
        states: raw::Strings,
    ) -> Result<Rewritten, raw::Failure> {
        with::<M, _>(|module| {
            rewrite(&keys, &states, |key, state| module.rule.migrate(before, &config_before, key, state))
        })
    }
}

impl<M: Erase> raw::erasure::Guest for Adapter<M> {
    fn erase(subject: String, keys: raw::Strings, states: raw::Strings) -> Result<Rewritten, raw::Failure> {
        with::<M, _>(|module| rewrite(&keys, &states, |key, state| module.rule.erase(&subject, key, state)))
    }
}
