//! The generation at work: epochs are written into it and read back from its outbox.

use std::collections::VecDeque;
use std::time::Duration;

use pelton_engine::epoch::Epoch;
use pelton_engine::log::StoredMarker;
use pelton_engine::store::{OUTBOX_MAX, Past, StoreError};

use crate::codec;
use crate::envelope::{Kind, Place};
use crate::generation::Generation;
use crate::record::{Base, Head, PAGE_SLOTS, Page, page_of, past};

/// An open generation and what is known of it.
pub(crate) struct Working {
    pub(crate) generation: Generation,
    pub(crate) base: Base,
    /// `None` in an empty store.
    pub(crate) head: Option<Head>,
    /// Ends at the head; begins with a whole page or with all there is.
    pub(crate) history: VecDeque<Past>,
}

impl Working {
    pub(crate) fn stored(&self) -> Option<&StoredMarker> {
        self.head.as_ref().map(|head| &head.stored)
    }

    /// Writes an epoch that follows the head, as one batch.
    pub(crate) fn write(
        &mut self,
        epoch: &Epoch,
        stored: StoredMarker,
        sink: &[u8],
        body: &[u8],
    ) -> Result<(), StoreError> {
        let number = stored.marker.epoch;
        self.history.push_back(past(&stored));
        let page = page_of(number);
        let mut batch = sled::Batch::default();
        let mut put = |kind, slot, bytes: &[u8]| {
            self.generation.put(&mut batch, Place { kind, slot }, number, bytes);
        };
        put(Kind::Delta, number, &epoch.delta);
        put(Kind::Outbox, number % OUTBOX_MAX as u64, body);
        put(Kind::History, page % PAGE_SLOTS, &Page::cut(&self.history, page).encode());
        put(Kind::Head, 0, &Head::encode(&stored, sink));
        self.generation.write(batch)?;
        self.head = Some(Head { stored, sink: sink.to_vec() });
        let first = page_of(self.base.history_from(number));
        while self.history.front().is_some_and(|past| page_of(past.epoch) < first) {
            self.history.pop_front();
        }
        Ok(())
    }

    pub(crate) fn outbox(&self, epoch: u64, limit: Duration) -> Result<Option<Epoch>, StoreError> {
        let Some(head) = &self.head else { return Ok(None) };
        if epoch < self.base.outbox_from(head.epoch()) || head.epoch() < epoch {
            return Ok(None);
        }
        let value = |kind, slot| match self.generation.read(Place { kind, slot }, limit)? {
            Some(value) if value.tag == epoch => Ok(value.bytes),
            _ => Err(StoreError::Damaged(format!("{kind:?} of epoch {epoch} is gone"))),
        };
        let (marker, records) = codec::decode(&value(Kind::Outbox, epoch % OUTBOX_MAX as u64)?)?;
        let delta = value(Kind::Delta, epoch)?;
        let known = self.history.iter().rev().any(|past| past.epoch == epoch && past.nonce == marker.nonce);
        let found = Epoch { marker, records, delta };
        if found.marker.epoch != epoch || !known || !found.is_whole() {
            return Err(StoreError::Damaged(format!("outbox entry of epoch {epoch} is not what was published")));
        }
        Ok(Some(found))
    }
}
