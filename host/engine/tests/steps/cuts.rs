//! Random places to cut input and epochs.

use pelton_engine::effects::Room;
use proptest::prelude::*;

use crate::kit::{Cuts, Restart};

/// Where a random test may cut.
pub(crate) fn any_cuts() -> impl Strategy<Value = Cuts> {
    let restart =
        prop::sample::select(vec![Restart::No, Restart::Snapshot, Restart::FromDeltas, Restart::FromSnapshot]);
    let (batches, steps) = (prop::collection::vec(1..40usize, 0..4), prop::collection::vec(1..4usize, 0..4));
    (batches, steps, prop::collection::vec(restart, 0..6)).prop_map(|(batches, steps, restarts)| Cuts {
        batches,
        steps,
        restarts,
    })
}

/// Room for records that are small enough for a test to write a larger one.
pub(crate) fn small_records() -> Room {
    Room { record_bytes: RECORD_BYTES, header_bytes: RECORD_BYTES, ..Room::default() }
}

/// Largest record of these tests.
pub(crate) const RECORD_BYTES: usize = 16 << 10;

/// The room of an epoch, down to one record.
pub(crate) fn any_room() -> impl Strategy<Value = Room> {
    (prop_oneof![2..6usize, Just(900usize)], prop_oneof![Just(200usize), Just(16usize << 20)])
        .prop_map(|(records, bytes)| Room { records, bytes, ..small_records() })
}
