//! Panes on their way to records: judged by a module, some rows at a time, and kept one after the other.

use std::ops::ControlFlow;

use crate::codes::{Class, Code};
use crate::effects::{Counter, DeadLetter, Effects, key_text};
use crate::event::Strings;
use crate::guest::{Addition, AggregateColumn, AggregateData, Fault, Metering, OF_ROW, Output, Panes};
use crate::judge::{StepError, Verdict, judge};
use crate::totals::Faults;
use crate::unit::{Cause, Context, Held, Outgoing, Refusal, Scale};

/// Records of judged panes that wait for room in an epoch.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) panes: Panes,
    /// One per pane.
    pub(crate) results: Vec<PaneResult>,
    /// Next pane whose records are kept.
    pub(crate) next: usize,
}

/// What a module said of one pane.
pub(crate) enum PaneResult {
    Records(Vec<PaneRecord>, Vec<Addition>),
    Dead { class: Class, code: String, path: String, message: String },
}

/// One record that a pane gave.
pub(crate) struct PaneRecord {
    port: u8,
    /// `None`: the pane's key.
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
    headers: Vec<u8>,
    is_delete: bool,
}

/// Splits the output of a call over panes `rows` into results per pane; `input` is the arena that offsets start in.
pub(crate) fn split_output(rows: &[u32], output: &Output, input: &[u8], results: &mut [PaneResult]) {
    let slice = |offset: u32, len: u32| -> Vec<u8> {
        let (offset, len) = (offset as usize, len as usize);
        match offset.checked_sub(input.len()) {
            None => input[offset..offset + len].to_vec(),
            Some(offset) => output.data[offset..offset + len].to_vec(),
        }
    };
    for &row in rows {
        results[row as usize] = PaneResult::Records(Vec::new(), Vec::new());
    }
    for (idx, &of) in output.rows.iter().enumerate() {
        let [key, key_len, payload, payload_len] = output.slices[4 * idx..4 * idx + 4] else {
            unreachable!("a slice of four has four parts")
        };
        let record = PaneRecord {
            port: output.ports.get(idx).copied().unwrap_or(0),
            key: (key != OF_ROW).then(|| slice(key, key_len)),
            // A pane has no payload of its own to forward.
            payload: if payload == OF_ROW { Vec::new() } else { slice(payload, payload_len) },
            headers: output.headers_of(idx).to_vec(),
            is_delete: output.deletes(idx),
        };
        if let PaneResult::Records(records, _) = &mut results[rows[of as usize] as usize] {
            records.push(record);
        }
    }
    for addition in &output.additions {
        if let PaneResult::Records(_, additions) = &mut results[rows[addition.row as usize] as usize] {
            additions.push(*addition);
        }
    }
    for reject in &output.rejects {
        let row = rows[reject.row as usize] as usize;
        let (code, message) = (reject.code.clone(), reject.detail.clone());
        let path = reject.place.clone().unwrap_or_default();
        results[row] = PaneResult::Dead { class: Class::Reject, code, path, message };
    }
}

impl PaneResult {
    pub(crate) fn of_verdict(verdict: &Verdict) -> PaneResult {
        PaneResult::of_code(verdict.code, verdict.message.clone())
    }

    fn of_code(code: Code, message: String) -> PaneResult {
        PaneResult::Dead { class: code.class(), code: code.name().to_owned(), path: String::new(), message }
    }
}

impl Judged {
    /// Keeps the records of judged panes while they fit; returns how many panes are done by this call.
    pub(crate) fn keep(&mut self, context: &Context, stage: usize, digest: [u8; 32], effects: &mut Effects) -> usize {
        let first = self.next;
        while self.next < self.results.len() {
            let (count, bytes) = self.weigh_next(context, stage);
            if count > 0 && !effects.fits_bytes(&context.room, count, bytes) && !effects.records.rows.is_empty() {
                break;
            }
            self.keep_pane(context, stage, digest, effects);
            self.next += 1;
        }
        self.next - first
    }

    /// Whether every judged pane's records are kept.
    pub(crate) fn is_done(&self) -> bool {
        self.next == self.results.len()
    }

    /// How many records the next pane has, and their bytes. Records that cannot be kept become one dead letter.
    fn weigh_next(&mut self, context: &Context, stage: usize) -> (usize, usize) {
        let idx = self.next;
        let PaneResult::Records(records, _) = &self.results[idx] else { return (1, 0) };
        let weighed = Scale::weigh(context, |scale| {
            self.outgoing(context, stage, idx, records).for_each(|record| scale.add(&record));
        });
        match weighed {
            Ok(scale) => (scale.records, scale.bytes),
            Err(Refusal { code, message, .. }) => {
                self.results[idx] = PaneResult::of_code(code, message);
                (1, 0)
            }
        }
    }

    /// The records of a pane that an output takes.
    fn outgoing<'a>(
        &'a self,
        context: &'a Context,
        stage: usize,
        idx: usize,
        records: &'a [PaneRecord],
    ) -> impl Iterator<Item = Outgoing<'a>> {
        records.iter().enumerate().filter_map(move |(nth, record)| {
            Some(Outgoing {
                output: context.route(stage, record.port)?,
                key: record.key.as_deref().unwrap_or_else(|| self.panes.keys.get(idx)),
                payload: &record.payload,
                headers: &record.headers,
                is_delete: record.is_delete,
                cause: Cause::Pane { panes: &self.panes, idx, nth },
            })
        })
    }

    fn keep_pane(&self, context: &Context, stage: usize, digest: [u8; 32], effects: &mut Effects) {
        let idx = self.next;
        match &self.results[idx] {
            PaneResult::Dead { class, code, path, message } => {
                let letter = DeadLetter {
                    stage: &context.plan.stages[stage].name,
                    digest: Some(digest),
                    class: *class,
                    code,
                    path,
                    message,
                };
                effects.push_dead_row(&context.origin, &letter, &self.describe(idx));
            }
            PaneResult::Records(records, additions) => {
                self.outgoing(context, stage, idx, records).for_each(|record| record.push(context, effects));
                add_all(stage, additions, effects);
            }
        }
    }

    /// A pane as JSON: the payload of its dead letter.
    fn describe(&self, idx: usize) -> Vec<u8> {
        let panes = &self.panes;
        serde_json::json!({
            "key": key_text(panes.keys.get(idx)),
            "window_start": panes.starts[idx],
            "window_end": panes.ends[idx],
            "pane_index": panes.indexes[idx],
            "pane_timing": panes.timings[idx].name(),
        })
        .to_string()
        .into_bytes()
    }
}

/// Adds to the counters of a stage's module.
pub(super) fn add_all(stage: usize, additions: &[Addition], effects: &mut Effects) {
    for addition in additions {
        effects.add(Counter { stage: stage as u16, idx: addition.counter }, addition.add);
    }
}

/// Asks a module about some panes, which are those rows of all.
type Call<'a> = dyn FnMut(Metering, &[u32], &mut Panes, &mut Output) -> Result<(), Fault> + 'a;

/// What a module says of panes, of which it is asked some rows at a time. Returns the panes with that, and its faults;
/// panes behind what may be held at one time stay due.
pub(super) fn judge_panes(
    name: &str,
    mut panes: Panes,
    mut held: Held,
    output: &mut Output,
    call: &mut Call<'_>,
) -> Result<(Judged, Faults), StepError> {
    let rows: Vec<u32> = (0..panes.len() as u32).collect();
    let mut results: Vec<PaneResult> = rows.iter().map(|_| PaneResult::Records(Vec::new(), Vec::new())).collect();
    let keys = panes.keys.data.clone();
    let judgement = judge(
        name,
        &rows,
        &mut |metering, rows| {
            if rows.len() == panes.len() {
                call(metering, rows, &mut panes, output)?;
                return Ok((std::mem::take(output), keys.clone()));
            }
            let mut some = pick(&panes, rows);
            call(metering, rows, &mut some, output)?;
            Ok((std::mem::take(output), some.keys.data))
        },
        &mut |rows, reply| match reply {
            Ok((output, input)) => {
                split_output(rows, &output, &input, &mut results);
                held.add_output(&output)
            }
            Err(verdict) => {
                results[rows[0] as usize] = PaneResult::of_verdict(&verdict);
                ControlFlow::Continue(())
            }
        },
    )?;
    results.truncate(judgement.taken);
    Ok((Judged { panes, results, next: 0 }, judgement.faults))
}

/// Some rows of a set of panes, for a call that is bisected.
pub(crate) fn pick(panes: &Panes, rows: &[u32]) -> Panes {
    let mut some =
        Panes { values: panes.values.iter().map(|values| pick_values(values, rows)).collect(), ..Panes::default() };
    for &row in rows {
        let row = row as usize;
        some.keys.push(panes.keys.get(row));
        some.starts.push(panes.starts[row]);
        some.ends.push(panes.ends[row]);
        some.timings.push(panes.timings[row]);
        some.indexes.push(panes.indexes[row]);
        some.lasts.push(panes.lasts[row]);
        some.watermarks.push(panes.watermarks[row]);
    }
    some
}

fn pick_values(all: &AggregateColumn, rows: &[u32]) -> AggregateColumn {
    let among = |marked: &[u32]| {
        let picked = rows.iter().zip(0..).filter(|(row, _)| marked.binary_search(row).is_ok());
        picked.map(|(_, pane)| pane).collect()
    };
    let data = match &all.data {
        AggregateData::Integers(all) => AggregateData::Integers(rows.iter().map(|&row| all[row as usize]).collect()),
        AggregateData::Numbers(all) => AggregateData::Numbers(rows.iter().map(|&row| all[row as usize]).collect()),
        AggregateData::Tops { items, counts, errors, pane_ends } => {
            let mut picked = Strings::default();
            let (mut picked_counts, mut picked_errors, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            for &row in rows {
                let row = row as usize;
                let start = if row == 0 { 0 } else { pane_ends[row - 1] as usize };
                let run = start..pane_ends[row] as usize;
                run.clone().for_each(|idx| picked.push(items.get(idx)));
                picked_counts.extend_from_slice(&counts[run.clone()]);
                picked_errors.extend_from_slice(&errors[run]);
                ends.push(picked_counts.len() as u32);
            }
            AggregateData::Tops { items: picked, counts: picked_counts, errors: picked_errors, pane_ends: ends }
        }
    };
    AggregateColumn { missing: among(&all.missing), clipped: among(&all.clipped), data }
}
