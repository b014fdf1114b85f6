//! The store of a run that keeps nothing: results on stdout cannot be taken back, so there is no epoch to go on from.

use pelton_engine::epoch::Epoch;
use pelton_engine::log::Snapshot;
use pelton_engine::store::{Discard, Local, Store, StoreError};

/// Forgets everything.
pub(super) struct Nowhere;

impl Store for Nowhere {
    fn load(&mut self) -> Result<Option<Local>, StoreError> {
        Ok(None)
    }

    fn apply(&mut self, _: &Epoch, _: u64, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn compact(&mut self, _: &Snapshot) -> Result<(), StoreError> {
        Ok(())
    }

    fn rebase(&mut self, _: Option<&Snapshot>, _: Discard<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn outbox(&mut self, _: u64) -> Result<Option<Epoch>, StoreError> {
        Ok(None)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
