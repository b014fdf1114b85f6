//! What a run of events or timers brings about, on an overlay, before any of it is kept.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::codes::Code;
use crate::effects::Room;
use crate::event::Events;
use crate::guest::{Addition, Change, Fault, Groups, Guest, Metering, OF_ROW, Reduced, Reject};
use crate::totals::Faults;
use crate::unit::{Held, Letter, Refusal, state_size};

use super::kept::Entries;

/// A record that waits until its event or timer is accounted for.
pub(super) struct Emitted {
    pub(super) port: u8,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) time: Option<i64>,
    pub(super) headers: Vec<u8>,
    pub(super) is_delete: bool,
}

/// What a run brings about, before it is kept.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) overlay: Entries,
    /// Records per flow row, or per timer group.
    pub(super) records: BTreeMap<u32, Vec<Emitted>>,
    /// What the module counts, by the same rows and groups.
    pub(super) additions: BTreeMap<u32, Vec<Addition>>,
    /// Why rows, or timer groups, end as dead letters: the first reason of each. Nothing else is kept of these.
    pub(super) refused: BTreeMap<u32, Letter>,
    pub(super) earliest_timer: Option<i64>,
    pub(super) held: Held,
    /// Timer groups that were judged, from the first one.
    pub(super) taken: usize,
    pub(super) faults: Faults,
}

impl Outcome {
    /// Takes one call's reply; `row_of` gives the row of the flow, or the timer group.
    pub(super) fn take(
        &mut self,
        entries: &Entries,
        keys: &[Vec<u8>],
        reduced: Reduced,
        input: &[u8],
        row_of: &dyn Fn(u32) -> u32,
        letter_of: &dyn Fn(&Reject) -> Letter,
    ) -> ControlFlow<()> {
        for (idx, key) in keys.iter().enumerate() {
            let entry =
                self.overlay.entry(key.clone()).or_insert_with(|| entries.get(key).cloned().unwrap_or_default());
            match reduced.changes[idx] {
                Change::Keep => {}
                Change::Replace => entry.state = reduced.states.get(idx).to_vec(),
                Change::Delete => entry.state.clear(),
            }
        }
        for (group, at) in &reduced.timers {
            self.overlay.get_mut(&keys[*group as usize]).expect("inserted above").timers.insert(*at);
            self.earliest_timer = Some(self.earliest_timer.map_or(*at, |earliest| earliest.min(*at)));
        }
        for (group, at) in &reduced.cancels {
            self.overlay.get_mut(&keys[*group as usize]).expect("inserted above").timers.remove(at);
        }
        let output = &reduced.output;
        let slice = |offset: u32, len: u32| {
            let (offset, len) = (offset as usize, len as usize);
            match offset.checked_sub(input.len()) {
                None => input[offset..offset + len].to_vec(),
                Some(offset) => output.data[offset..offset + len].to_vec(),
            }
        };
        for (idx, &of) in output.rows.iter().enumerate() {
            let at = &output.slices[4 * idx..4 * idx + 4];
            let record = Emitted {
                port: output.ports.get(idx).copied().unwrap_or(0),
                key: (at[0] != OF_ROW).then(|| slice(at[0], at[1])),
                payload: (at[2] != OF_ROW).then(|| slice(at[2], at[3])),
                time: output.timestamps.get(idx).copied(),
                headers: output.headers_of(idx).to_vec(),
                is_delete: output.deletes(idx),
            };
            self.records.entry(row_of(of)).or_default().push(record);
        }
        for addition in &output.additions {
            self.additions.entry(row_of(addition.row)).or_default().push(*addition);
        }
        for reject in &output.rejects {
            self.refused.entry(row_of(reject.row)).or_insert_with(|| letter_of(reject));
        }
        let states = self.held.add(keys.len() + reduced.timers.len(), reduced.states.data.len());
        if states.is_break() { states } else { self.held.add_output(output) }
    }

    /// At least what the changed keys take where they are stored.
    pub(super) fn change_bytes(&self) -> usize {
        self.overlay.iter().map(|(key, entry)| entry.stored_bytes_max(key)).sum()
    }

    /// Why a run of one event cannot be kept.
    pub(super) fn too_much(&self, room: &Room) -> Option<Refusal> {
        if let Some(refusal) = self.held.refusal() {
            return Some(refusal);
        }
        let (changes, limit) = (self.change_bytes(), room.change_bytes_at_once);
        let message = || state_size(changes, limit);
        (changes > limit).then(|| Refusal { code: Code::StateSize, stage: None, message: message() })
    }
}

/// Calls the module and holds it to its limits.
pub(super) fn call(
    guest: &mut dyn Guest,
    metering: Metering,
    events: &mut Events,
    groups: &mut Groups,
    state_max: usize,
) -> Result<Reduced, Fault> {
    let mut reduced = Reduced::default();
    guest.reduce(metering, events, groups, &mut reduced)?;
    for idx in 0..reduced.changes.len() {
        let len = reduced.states.get(idx).len();
        if reduced.changes[idx] == Change::Replace && len > state_max {
            return Err(Fault::Limit(format!("state of a key has {len} bytes, limit {state_max}")));
        }
    }
    Ok(reduced)
}

/// Groups rows by key in order of first appearance, with states as the overlay has them.
pub(super) fn group<'a>(
    entries: &Entries,
    overlay: &Entries,
    rows: &[u32],
    key: impl Fn(u32) -> &'a [u8],
) -> (Groups, Vec<Vec<u8>>) {
    let mut index: BTreeMap<&[u8], usize> = BTreeMap::new();
    let (mut members, mut keys): (Vec<Vec<u32>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for (at, &row) in rows.iter().enumerate() {
        let idx = *index.entry(key(row)).or_insert_with(|| {
            keys.push(key(row).to_vec());
            members.push(Vec::new());
            members.len() - 1
        });
        members[idx].push(at as u32);
    }
    let mut groups = Groups::default();
    for (key, run) in keys.iter().zip(members) {
        let entry = overlay.get(key).or_else(|| entries.get(key));
        groups.keys.push(key);
        groups.states.push(entry.map_or(&[][..], |entry| &entry.state));
        groups.members.extend(run);
        groups.member_ends.push(groups.members.len() as u32);
        groups.timer_ends.push(0);
    }
    (groups, keys)
}
