//! The end of an epoch, the same for every driver: what was computed is checked and closed.
//!
//! What was closed is sealed into the chain with [`Epoch::seal`](crate::epoch::Epoch::seal), which may be later and on
//! another thread.

use crate::codes::HaltCode;
use crate::effects::Effects;
use crate::epoch::Closed;
use crate::step::Engine;
use crate::time::EventTime;
use crate::totals::Totals;

/// Why an epoch cannot be closed: whoever stored it would store what is wrong, or more than was allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("events do not add up: {totals:?}, {held_before} held before")]
    Unbalanced { totals: Totals, held_before: u64 },
    #[error("state has {bytes} bytes, limit {limit} (`limits.state`); `{largest}` has {largest_bytes} of them")]
    StateFull { bytes: usize, limit: u64, largest: String, largest_bytes: u64 },
}

impl Unsound {
    /// The code under which a partition halts.
    #[must_use]
    pub fn code(&self) -> HaltCode {
        match self {
            Unsound::Unbalanced { .. } => HaltCode::TotalsMismatch,
            Unsound::StateFull { .. } => HaltCode::StateLimit,
        }
    }
}

/// Closes the epoch that was computed: takes its records and its delta. What else the effects say stays there.
///
/// # Errors
/// When it must not be stored; then nothing has changed.
pub fn close(engine: &mut Engine, effects: &mut Effects) -> Result<Closed, Unsound> {
    let totals = Totals { held: engine.held(), ..effects.totals };
    let held_before = engine.held_before();
    if !totals.balanced(held_before) {
        return Err(Unsound::Unbalanced { totals, held_before });
    }
    let (bytes, limit) = (engine.state_bytes(), engine.plan().limits.state);
    if bytes as u64 > limit {
        let largest = engine.sections().into_iter().max_by_key(|section| section.bytes);
        let (largest, largest_bytes) = largest.map(|section| (section.name, section.bytes)).unwrap_or_default();
        return Err(Unsound::StateFull { bytes, limit, largest, largest_bytes });
    }
    let mut delta = Vec::new();
    let position = engine.cut(&mut delta);
    let (origin, watermark) = (engine.origin(), engine.watermark());
    Ok(Closed {
        pipeline: origin.pipeline.clone(),
        partition: origin.partition,
        partitions: engine.plan().source.partitions,
        key: engine.plan().source.key.to_string(),
        revision: origin.revision,
        position,
        published: engine.published().0,
        clock: std::mem::take(&mut effects.clock),
        watermark: watermark.0,
        ended: watermark == EventTime::MAX,
        totals,
        dead: std::mem::take(&mut effects.dead_by_class)
            .into_iter()
            .map(|(class, count)| (class.name().to_owned(), count))
            .collect(),
        counters: engine.counted(&std::mem::take(&mut effects.counters)),
        records: std::mem::take(&mut effects.records),
        delta,
        sections: engine.sections(),
    })
}
