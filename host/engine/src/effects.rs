//! What one epoch brings about: records, counts, and at its end the state delta.
//!
//! Every record is made here, and none leaves here that the broker cannot take: outputs are weighed before
//! (`step::output`), dead letters and late events keep what fits (`letter`).

mod headers;
mod letter;

use std::collections::BTreeMap;

pub use headers::key_token;
pub(crate) use headers::{Headers, KEY_BYTES_MAX, key_text};
pub(crate) use letter::DeadLetter;

use crate::codes::Class;
use crate::epoch::{
    CHANGE_BYTES_AT_ONCE_MAX, Channel, Clock, EPOCH_BYTES_MAX, EPOCH_CHANGE_BYTES_MAX, EPOCH_RECORDS_MAX,
    HEADER_BYTES_MAX, RECORD_BYTES_MAX, Record, Records,
};
use crate::event::RawEvent;
use crate::totals::{Faults, Totals};

/// How much one epoch may bring about before it must be cut.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub records: usize,
    pub bytes: usize,
    /// Bytes that one event, pane or timer may bring about: these records cannot be cut apart, so they have to fit into
    /// one epoch whatever its other bounds are.
    pub bytes_at_once: usize,
    /// Bytes of the state delta at which it must be cut.
    pub change_bytes: usize,
    /// Bytes of the state delta that one event, timer or run of events may bring about on top of that.
    pub change_bytes_at_once: usize,
    /// Largest record, header block and payload together: what the broker takes, less what the batch adds to it.
    /// A dead letter needs 9 KiB of it for what the host says.
    pub record_bytes: usize,
    /// Largest header block of a record.
    pub header_bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            records: EPOCH_RECORDS_MAX,
            bytes: EPOCH_BYTES_MAX,
            bytes_at_once: EPOCH_BYTES_MAX,
            change_bytes: EPOCH_CHANGE_BYTES_MAX,
            change_bytes_at_once: CHANGE_BYTES_AT_ONCE_MAX,
            record_bytes: RECORD_BYTES_MAX,
            header_bytes: HEADER_BYTES_MAX,
        }
    }
}

/// A counter of a module: the stage, and the place of the counter in the module's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    pub stage: u16,
    pub idx: u16,
}

/// The effects of an epoch while it is being computed.
#[derive(Debug, Default)]
pub struct Effects {
    pub records: Records,
    pub totals: Totals,
    /// What came from a clock, behind the last event.
    pub clock: Vec<Clock>,
    pub dead_by_class: BTreeMap<Class, u64>,
    /// Dead letters by code.
    pub dead_by_code: BTreeMap<String, u64>,
    /// Those among them that are windows and timers rather than events.
    pub dead_firings_by_code: BTreeMap<String, u64>,
    /// What modules have counted.
    pub counters: BTreeMap<Counter, i128>,
    /// Records per output of the plan.
    pub records_by_output: Vec<u64>,
    /// Failed calls of modules by stage.
    pub faults_by_stage: BTreeMap<usize, Faults>,
    /// Of the event at hand: where its records begin, and how many of its rows are late.
    event_start: usize,
    event_late: u32,
}

impl Effects {
    /// Forgets everything and keeps allocations.
    pub fn clear(&mut self) {
        self.records.clear();
        self.totals = Totals::default();
        self.clock.clear();
        self.dead_by_class.clear();
        self.dead_by_code.clear();
        self.dead_firings_by_code.clear();
        self.counters.clear();
        self.records_by_output.clear();
        self.faults_by_stage.clear();
        (self.event_start, self.event_late) = (0, 0);
    }

    /// Whether `records` more records still fit.
    #[must_use]
    pub fn fits(&self, room: &Room, records: usize) -> bool {
        self.records.rows.len() + records <= room.records && self.records.data.len() < room.bytes
    }

    /// Whether `records` more records of about `bytes` together still fit.
    pub(crate) fn fits_bytes(&self, room: &Room, records: usize, bytes: usize) -> bool {
        self.fits(room, records) && self.records.data.len().saturating_add(bytes) <= room.bytes
    }

    /// The records that follow are those of the next event.
    pub(crate) fn begin_event(&mut self) {
        (self.event_start, self.event_late) = (self.records.data.len(), 0);
    }

    /// Counts failed calls of a stage's module.
    pub(crate) fn count_faults(&mut self, stage: usize, faults: Faults) {
        if faults != Faults::default() {
            self.faults_by_stage.entry(stage).or_default().add(faults);
        }
    }

    /// Adds to a counter of a module.
    pub(crate) fn add(&mut self, counter: Counter, add: i64) {
        *self.counters.entry(counter).or_default() += i128::from(add);
    }

    pub(crate) fn count_output(&mut self, output: usize) {
        if self.records_by_output.len() <= output {
            self.records_by_output.resize(output + 1, 0);
        }
        self.records_by_output[output] += 1;
    }

    /// Appends a record: the only way by which the engine makes one. Subject and headers are written in place; the
    /// latter say how much of the payload is kept.
    pub(crate) fn push(
        &mut self,
        channel: Channel,
        subject: impl FnOnce(&mut Vec<u8>),
        headers: impl FnOnce(&mut Headers<'_>) -> usize,
        payload: &[u8],
    ) {
        let data = &mut self.records.data;
        let start = offset(data);
        subject(data);
        let subject_end = offset(data);
        let kept = headers(&mut Headers::new(data));
        let headers_end = offset(data);
        data.extend_from_slice(&payload[..kept]);
        let (subject, headers) = (start..subject_end, subject_end..headers_end);
        self.records.rows.push(Record { channel, subject, headers, payload: headers_end..offset(data) });
    }
}

/// Where the arena ends. [`Room`] keeps it far below 4 GiB.
fn offset(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("records of an epoch are bounded")
}

/// Who writes: the parts of ids and headers that are the same for every record of a partition.
#[derive(Clone, Debug)]
pub struct Origin {
    pub pipeline: String,
    pub partition: u32,
    /// Name of the source stream, or of the input file.
    pub source: String,
    /// Of the pipeline: sha256 of what its file says, and of its modules.
    pub revision: [u8; 32],
}

/// Roughly what a dead letter or late event takes.
pub(crate) fn letter_bytes(event: &RawEvent) -> usize {
    1024 + event.headers.len() + event.payload.len()
}
