//! What both stores demand of a write before they take it.

use std::collections::VecDeque;

use pelton_engine::epoch::{Epoch, Marker, roll, sha256};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{Past, StoreError};

/// State hash before the first epoch.
pub(crate) const STATE_HASH_START: [u8; 32] = [0; 32];

/// What to do with an epoch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Apply,
    /// It is the head already: an earlier attempt failed after it was written.
    Applied,
}

/// Whether `epoch` comes right after `head`.
///
/// # Errors
/// `Damaged` when it does not: then store and stream have gone apart.
pub(crate) fn follows(head: Option<&StoredMarker>, epoch: &Epoch, sequence: u64) -> Result<Next, StoreError> {
    let marker = &epoch.marker;
    if head.is_some_and(|head| head.marker == *marker && head.sequence == sequence) {
        return Ok(Next::Applied);
    }
    marker.follows(head.map(|head| &head.marker)).map_err(StoreError::Damaged)?;
    let before = head.map_or(&STATE_HASH_START, |head| &head.marker.state_hash);
    debug_assert_eq!(
        roll(before, &sha256(&epoch.delta)),
        marker.state_hash,
        "state hash of epoch {} does not roll from the head",
        marker.epoch
    );
    Ok(Next::Apply)
}

/// Whether a snapshot was taken of an epoch that this store has applied.
///
/// # Errors
/// `Damaged` when it was not.
pub(crate) fn belongs(
    head: Option<&StoredMarker>,
    history: &VecDeque<Past>,
    marker: &Marker,
) -> Result<(), StoreError> {
    let known = match head {
        Some(head) if head.marker.epoch == marker.epoch => head.marker == *marker,
        _ => history.iter().rev().any(|past| past.epoch == marker.epoch && past.nonce == marker.nonce),
    };
    if known {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!("snapshot of epoch {} is not of this store", marker.epoch)))
    }
}

/// Takes what a snapshot starts a store with.
pub(crate) fn history_of(snapshot: Option<&Snapshot>) -> VecDeque<Past> {
    snapshot.map(|snapshot| crate::record::past(&snapshot.stored)).into_iter().collect()
}
