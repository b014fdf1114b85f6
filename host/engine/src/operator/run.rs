//! Runs of events for stages whose state passes through the module: as many events as can be folded in one call
//! without anything becoming due between them.

use crate::effects::Effects;
use crate::flow::Flow;
use crate::time::EventTime;
use crate::watermark::Watermark;

use crate::unit::{ActKind, Context, Unit};

/// Events `unit.next..end` and the rows of theirs that reach the stage.
pub(crate) struct Run {
    pub(crate) end: usize,
    /// Rows of the flow, ascending.
    pub(crate) rows: Vec<u32>,
    /// Per row, the watermark before its event.
    pub(crate) before: Vec<EventTime>,
    /// Per event of the run, the watermark after it.
    pub(crate) after: Vec<EventTime>,
}

/// Plans the next run of rows of `flow`; `None` when not even the next event fits into the epoch.
/// `stops` says whether the run must end with an event, given a row of it (if any) and the watermark before and after.
/// A row may change `state_bytes` of state besides its key.
pub(crate) fn plan(
    context: &Context,
    (flow, state_bytes): (&Flow, usize),
    unit: &Unit,
    watermark: &Watermark,
    effects: &Effects,
    limit: usize,
    stops: &mut dyn FnMut(Option<u32>, EventTime, EventTime) -> bool,
) -> Option<Run> {
    let mut run = Run { end: unit.next, rows: Vec::new(), before: Vec::new(), after: Vec::new() };
    let mut mark = watermark.clone();
    let mut act = unit.next_act;
    let (mut records, mut bytes, mut changes) = (0, 0_usize, 0_usize);
    while run.end < unit.stop && run.end - unit.next < limit {
        let acts = unit.acts_of(run.end, act);
        bytes = bytes.saturating_add(unit.weights[run.end]);
        let is_first = run.end == unit.next;
        let fits = effects.fits_bytes(&context.room, records + acts.len(), bytes);
        let must = is_first && effects.records.rows.is_empty();
        for act in &unit.acts[acts.clone()] {
            if let ActKind::Item { row, .. } = act.kind {
                changes = changes.saturating_add(flow.decoded.keys.get(row as usize).len() + state_bytes);
            }
        }
        let changes_too_much = !is_first && changes > context.room.change_bytes_at_once;
        if !fits && !must || changes_too_much {
            break;
        }
        let before = mark.current();
        let mut stop = false;
        if let Some(time) = unit.times[run.end] {
            mark.observe(EventTime(time));
        }
        for act in &unit.acts[acts.clone()] {
            if let ActKind::Item { row, .. } = act.kind {
                run.rows.push(row);
                run.before.push(before);
                stop |= stops(Some(row), before, mark.current());
            }
        }
        stop |= stops(None, before, mark.current());
        run.after.push(mark.current());
        records += acts.len();
        act = acts.end;
        run.end += 1;
        if stop {
            break;
        }
    }
    (run.end > unit.next).then_some(run)
}
