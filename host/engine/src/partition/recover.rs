//! The recovery table: what the local store and the stream say, and what follows from it. A pure function.

use crate::codes::HaltCode;
use crate::epoch::Position;
use crate::log::{StoredMarker, Survey};
use crate::store::Local;

/// What to do before the first event is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing was ever committed: begin at the start of the input.
    Start,
    /// Store and stream agree.
    Continue { marker: StoredMarker },
    /// The stream has lost its tail, or never got it: publish these epochs again, the same bytes.
    Republish { first: u64, last: u64, base: Option<StoredMarker> },
    /// The stream is ahead by epochs that follow ours: replay their changes. `after` is where ours lies in the stream.
    Replay { after: u64, marker: StoredMarker },
    /// The store is empty, or not an ancestor of the stream: newest snapshot and changes.
    Rebuild { marker: StoredMarker, reason: &'static str },
    /// Integrity fault: stop and keep the evidence.
    Halt(Halted),
}

/// Why a partition stands still until an operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Short code, for status and alerts.
    pub code: HaltCode,
    /// The facts, both sides.
    pub evidence: String,
}

impl Halted {
    pub(crate) fn new(code: HaltCode, evidence: String) -> Halted {
        Halted { code, evidence }
    }
}

/// The recovery table. `outbox_reaches` says whether every epoch of a range can be published again with its bytes.
#[must_use]
pub fn decide(local: Option<&Local>, survey: &Survey, outbox_reaches: &mut dyn FnMut(u64, u64) -> bool) -> Decision {
    if let Some(halted) = recreated(local, survey) {
        return Decision::Halt(halted);
    }
    match (local, &survey.marker) {
        (None, None) => consumed_without_marker(survey).map_or(Decision::Start, Decision::Halt),
        (None, Some(marker)) => Decision::Rebuild { marker: marker.clone(), reason: "the local store is empty" },
        // Nothing but where the partition began: it begins again, unless another host has gone on from there.
        (Some(local), None) if local.head.marker.is_fresh() => {
            consumed_without_marker(survey).map_or(Decision::Start, Decision::Halt)
        }
        (Some(local), None) => {
            let last = local.head.marker.epoch;
            // A stream that has lost its tail ends before our marker; one that goes on behind it has deleted it.
            let is_tail = survey.log.last_sequence < local.head.sequence;
            if is_tail && outbox_reaches(1, last) {
                return Decision::Republish { first: 1, last, base: None };
            }
            let evidence =
                format!("the local store is at epoch {last}, the pipeline stream holds no marker of this partition");
            Decision::Halt(Halted::new(HaltCode::MarkersMissing, evidence))
        }
        (Some(local), Some(marker)) => compare(local, marker, survey, outbox_reaches),
    }
}

fn compare(
    local: &Local,
    marker: &StoredMarker,
    survey: &Survey,
    outbox_reaches: &mut dyn FnMut(u64, u64) -> bool,
) -> Decision {
    let (mine, theirs) = (&local.head.marker, &marker.marker);
    if mine.epoch == theirs.epoch {
        return if mine.nonce == theirs.nonce {
            Decision::Continue { marker: marker.clone() }
        } else {
            Decision::Rebuild { marker: marker.clone(), reason: "another host committed this epoch" }
        };
    }
    if theirs.epoch < mine.epoch {
        let known = local.history.iter().find(|past| past.epoch == theirs.epoch);
        if known.is_none_or(|past| past.nonce != theirs.nonce) {
            return Decision::Rebuild { marker: marker.clone(), reason: "the stream's last epoch is not one of ours" };
        }
        let (first, last) = (theirs.epoch + 1, mine.epoch);
        return if outbox_reaches(first, last) {
            Decision::Republish { first, last, base: Some(marker.clone()) }
        } else {
            Decision::Rebuild {
                marker: marker.clone(),
                reason: "the stream lost epochs that the outbox no longer holds",
            }
        };
    }
    match &survey.marker_of_epoch {
        Some(ours) if ours.marker.epoch == mine.epoch && ours.marker.nonce == mine.nonce => {
            Decision::Replay { after: ours.sequence, marker: marker.clone() }
        }
        _ => Decision::Rebuild { marker: marker.clone(), reason: "our last epoch is not in the stream" },
    }
}

/// No marker, and yet a message that is still in the input was acknowledged, or a snapshot was stored: the pipeline
/// stream was emptied or made again, and to begin at the start would bring everything about twice.
fn consumed_without_marker(survey: &Survey) -> Option<Halted> {
    let evidence = if survey.ack_floor >= survey.input.first_sequence && survey.ack_floor > 0 {
        format!("input stream `{}` is acknowledged up to sequence {}", survey.input.identity.name, survey.ack_floor)
    } else {
        format!("the bucket holds a snapshot of epoch {}", survey.snapshot_epoch?)
    };
    let evidence =
        format!("pipeline stream `{}` holds no marker of this partition, but {evidence}", survey.log.identity.name);
    Some(Halted::new(HaltCode::MarkersMissing, evidence))
}

fn recreated(local: Option<&Local>, survey: &Survey) -> Option<Halted> {
    let known = local.map(|local| &local.head).or(survey.marker.as_ref())?;
    // Before an event was read there is nothing to lose.
    if known.marker.is_fresh() {
        return None;
    }
    if let Some(local) = local.filter(|local| local.head.marker.pipeline_stream != survey.log.identity)
        && !holds(&local.head, survey)
    {
        let (stored, found) = (&local.head.marker.pipeline_stream, &survey.log.identity);
        let evidence = format!(
            "epoch {} was committed to pipeline stream `{}` created at {} ns; found `{}` created at {} ns",
            local.head.marker.epoch, stored.name, stored.created, found.name, found.created
        );
        return Some(Halted::new(HaltCode::PipelineStreamRecreated, evidence));
    }
    let (stored, found) = (&known.marker.input, &survey.input.identity);
    (stored != found).then(|| {
        Halted::new(
            HaltCode::InputRecreated,
            format!(
                "input stream `{}` created at {} ns was consumed up to epoch {}; found `{}` created at {} ns",
                stored.name, stored.created, known.marker.epoch, found.name, found.created
            ),
        )
    })
}

/// Whether the stream holds our head: then it is the same history, as after a restore, whenever it was created.
fn holds(head: &StoredMarker, survey: &Survey) -> bool {
    let is_ours = |stored: &Option<StoredMarker>| {
        stored
            .as_ref()
            .is_some_and(|stored| stored.marker.epoch == head.marker.epoch && stored.marker.nonce == head.marker.nonce)
    };
    is_ours(&survey.marker) || is_ours(&survey.marker_of_epoch)
}

/// Whether the input still holds what was consumed; what is missing behind that is told by the fetch. The survey tells the fingerprint of the message at the position, when
/// the stream still has it.
///
/// # Errors
/// The integrity fault.
pub fn check_position(position: Position, survey: &Survey) -> Result<(), Halted> {
    let input = &survey.input;
    if position.sequence == 0 {
        return Ok(());
    }
    if input.last_sequence < position.sequence {
        let evidence = format!(
            "consumed up to sequence {}, but stream `{}` ends at {}: it lost acknowledged messages or was purged",
            position.sequence, input.identity.name, input.last_sequence
        );
        return Err(Halted::new(HaltCode::InputRolledBack, evidence));
    }
    match survey.input_fingerprint {
        Some(found) if found != position.fingerprint => {
            let evidence = format!(
                "message {} of stream `{}` is not the one that was consumed (fingerprint {found:016x}, expected {:016x}): \
                 the stream was rolled back and its sequences used again",
                position.sequence, input.identity.name, position.fingerprint
            );
            Err(Halted::new(HaltCode::InputRolledBack, evidence))
        }
        _ => Ok(()),
    }
}

/// Input from `first` to `last` is gone without having been read.
pub(super) fn input_gap((first, last): (u64, u64), survey: &Survey) -> Halted {
    let input = &survey.input;
    let shared =
        if survey.is_alone { "" } else { "; the stream has other subjects, some of these may have been theirs" };
    let evidence = format!(
        "sequences {first}..={last} of stream `{}` expired before they were read; it holds {}..={} now{shared}",
        input.identity.name, input.first_sequence, input.last_sequence
    );
    Halted::new(HaltCode::InputGap, evidence)
}
