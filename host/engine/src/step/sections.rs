//! The state of a partition as named sections: what a delta and a snapshot hold.

use pelton_aggregates::HashKey;

use crate::codec::{Damaged, Reader, put_i64};
use crate::epoch::{DeltaReader, DeltaWriter, Part, SECTION_STORED_BYTES_MAX, Section, layout_of};
use crate::operator::{Head, Stateful};
use crate::time::EventTime;

use super::Engine;

/// Most bytes of a delta besides its parts and what operators write: its head, key and times.
const REST_STORED_BYTES_MAX: usize = 4 + size_of::<HashKey>() + 20;
/// Most bytes of a part besides what its operator writes: its frame and its format.
const PART_REST_BYTES_MAX: usize = SECTION_STORED_BYTES_MAX + 1;
/// What the engine keeps itself: the key of its hashes, and the watermark.
const CORE: Head<'_> = Head { name: "core", operator: "core", layout: r#"{"operator":"core","format":1}"#, format: 1 };

impl Engine {
    /// What keeps a section besides the engine itself, in the order of the indices of deltas and snapshots.
    pub(super) fn stateful(&self) -> impl Iterator<Item = &dyn Stateful> {
        let order = self.order.iter().map(|order| order as &dyn Stateful);
        let dedupe = self.dedupe.iter().map(|dedupe| dedupe as &dyn Stateful);
        order.chain(dedupe).chain(self.operators.iter().map(|operator| &**operator as &dyn Stateful))
    }

    pub(super) fn stateful_mut(&mut self) -> impl Iterator<Item = &mut dyn Stateful> {
        let order = self.order.iter_mut().map(|order| order as &mut dyn Stateful);
        let dedupe = self.dedupe.iter_mut().map(|dedupe| dedupe as &mut dyn Stateful);
        order.chain(dedupe).chain(self.operators.iter_mut().map(|operator| &mut **operator as &mut dyn Stateful))
    }

    /// The parts of the state, in the order of the indices of deltas and snapshots.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let section = |head: Head<'_>, bytes: usize| Section {
            name: head.name.to_owned(),
            operator: head.operator.to_owned(),
            layout: layout_of(head.layout),
            epoch: 0,
            bytes: bytes as u64,
        };
        let of_operators = self.stateful().map(|operator| section(operator.section(), operator.bytes()));
        std::iter::once(section(CORE, 0)).chain(of_operators).collect()
    }

    /// What the layouts of [`Engine::sections`] identify, as JSON, in the same order.
    #[must_use]
    pub fn layouts(&self) -> Vec<&str> {
        std::iter::once(CORE.layout).chain(self.stateful().map(|operator| operator.section().layout)).collect()
    }

    /// At least what [`Engine::cut`] would append to a delta; cheap, asked after every event.
    #[must_use]
    pub fn change_bytes(&self) -> usize {
        let of_operators = self.stateful().map(|operator| PART_REST_BYTES_MAX + operator.change_bytes());
        REST_STORED_BYTES_MAX + PART_REST_BYTES_MAX + of_operators.sum::<usize>()
    }

    pub(super) fn encode(&mut self, all: bool, out: &mut Vec<u8>) {
        let (newest, current) = (self.watermark.newest(), self.watermark.current());
        let mut delta = DeltaWriter::new(out);
        delta.part(0, all, |out| {
            out.push(CORE.format);
            out.extend_from_slice(&self.hash_key.0);
            put_i64(out, newest.0);
            put_i64(out, current.0);
        });
        for (idx, operator) in (1..).zip(self.stateful_mut()) {
            delta.part(idx, all, |out| {
                out.push(operator.section().format);
                operator.encode(all, current, out);
            });
        }
    }

    /// Applies a snapshot or a delta that [`Engine::cut`] wrote, in order, starting from empty state. The caller has
    /// compared the marker's sections with those of this engine.
    ///
    /// # Errors
    /// When the bytes are damaged or were written by stages of another kind.
    pub fn restore(&mut self, delta: &[u8]) -> Result<(), Damaged> {
        let mut parts = DeltaReader::new(delta)?;
        while let Some(part) = parts.part()? {
            self.restore_part(part)?;
        }
        Ok(())
    }

    /// [`Engine::restore`] of one section of a snapshot alone: all of them in their order make the state, and no more than
    /// one of them has to be in memory.
    ///
    /// # Errors
    /// As [`Engine::restore`].
    pub fn restore_section(&mut self, section: u8, bytes: &[u8]) -> Result<(), Damaged> {
        self.restore_part(Part { section, is_whole: true, bytes })
    }

    fn restore_part(&mut self, Part { section, is_whole, bytes }: Part<'_>) -> Result<(), Damaged> {
        let mut reader = Reader::new(bytes);
        let format = reader.byte()?;
        let known = |known: u8| match format == known {
            true => Ok(()),
            false => Err(Damaged(format!("section {section} has format {format}, this host reads {known}"))),
        };
        let watermark = self.watermark.current();
        match section.checked_sub(1) {
            None => {
                known(CORE.format)?;
                self.restore_core(&mut reader)?;
            }
            Some(idx) => {
                let Some(operator) = self.stateful_mut().nth(usize::from(idx)) else {
                    return Err(Damaged(format!("has a section {section}, which this pipeline has not")));
                };
                known(operator.section().format)?;
                if is_whole {
                    operator.clear();
                }
                operator.apply(&mut reader, watermark)?;
            }
        }
        if !reader.is_empty() {
            return Err(Damaged(format!("section {section} has bytes behind its end")));
        }
        Ok(())
    }

    /// The key that the state began with counts.
    fn restore_core(&mut self, reader: &mut Reader<'_>) -> Result<(), Damaged> {
        let key = HashKey(reader.array()?);
        if key != self.hash_key {
            self.hash_key = key;
            self.stateful_mut().for_each(|operator| operator.set_hash_key(key));
        }
        let (newest, current) = (EventTime(reader.i64()?), EventTime(reader.i64()?));
        self.watermark.restore(newest, current);
        Ok(())
    }
}
