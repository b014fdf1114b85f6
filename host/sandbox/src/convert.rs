//! Checks every reply and moves it into the engine's types. Whatever a guest says, this does not panic.
//!
//! A reply that breaks the contract is `Fault::Contract`; one that keeps it but is too large is `Fault::Limit`.
//! After these checks the engine may index with every offset, row and port without looking again.

use pelton_engine::event::{Kind, Strings, Values};
use pelton_engine::guest::{Addition, Change, Fault, Folded, OF_ROW, Output, Reduced, Reject, Rewritten, Samples};
use pelton_engine::text::is_printable;

use crate::bindings::exports::pelton::guest::reducers as wit_reducers;
use crate::bindings::exports::pelton::guest::window_folds::Folded as WitFolded;
use crate::bindings::exports::pelton::guest::window_rules::Samples as WitSamples;
use crate::bindings::pelton::guest::types as wit;
use crate::lend::from_wit;
use crate::limits::{CODE_BYTES, DETAIL_BYTES, Limits, PLACE_BYTES, RECORD_HEADER_BYTES};
use crate::log::printable;

/// What a reply may refer to.
pub(crate) struct Rows<'a> {
    /// Events or panes.
    pub(crate) count: usize,
    /// Whether these rows have payloads that a record may take as they are. Panes have none.
    pub(crate) payloads: bool,
    /// Bytes of the input arena.
    pub(crate) arena_bytes: usize,
    /// Reducers only: where each group's run of due timers ends. Group `g` may be a row as `count + g`.
    pub(crate) timer_ends: &'a [u32],
    /// Output ports of the module.
    pub(crate) ports: usize,
    /// Counters of the module.
    pub(crate) counters: usize,
    pub(crate) limits: &'a Limits,
}

fn broken<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Contract(message.into()))
}

/// Checks `said` and moves it into `output`.
pub(crate) fn output(said: wit::Output, rows: &Rows<'_>, output: &mut Output) -> Result<(), Fault> {
    let records = said.rows.len();
    if !said.ports.is_empty() && said.ports.len() != records {
        return broken(format!("{} ports for {records} records", said.ports.len()));
    }
    if let Some(port) = said.ports.iter().find(|port| usize::from(**port) >= rows.ports) {
        return broken(format!("record on port {port}, module has {} ports", rows.ports));
    }
    if !said.timestamps.is_empty() && said.timestamps.len() != records {
        return broken(format!("{} timestamps for {records} records", said.timestamps.len()));
    }
    if said.slices.len() as u64 != records as u64 * 4 {
        return broken(format!("{} slice numbers for {records} records, need 4 each", said.slices.len()));
    }
    records_in_range(&said, rows)?;
    deletes(&said)?;
    headers(&said)?;
    output.rejects = rejects(said.rejects, rows.count)?;
    output.additions = additions(&said.additions, rows)?;
    output.data = said.data;
    output.rows = said.rows;
    output.ports = said.ports;
    output.slices = said.slices;
    output.timestamps = said.timestamps;
    output.deletes = said.deletes;
    output.headers = said.headers;
    output.header_ends = said.header_ends;
    Ok(())
}

/// Records that delete their key exist, and have no payload.
fn deletes(said: &wit::Output) -> Result<(), Fault> {
    if !said.deletes.windows(2).all(|pair| pair[0] < pair[1]) {
        return broken("deletes do not ascend");
    }
    let records = said.rows.len();
    for &record in &said.deletes {
        match said.slices.get(4 * record as usize + 2..4 * record as usize + 4) {
            None => return broken(format!("record {record} of {records} deletes its key")),
            Some(&[offset, bytes]) if offset == OF_ROW || bytes > 0 => {
                return broken(format!("record {record} deletes its key and has a payload"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Header blocks, one per record, that any client can read and that say nothing in the name of the server or the host.
fn headers(said: &wit::Output) -> Result<(), Fault> {
    if said.header_ends.is_empty() && said.headers.is_empty() {
        return Ok(());
    }
    if said.header_ends.len() != said.rows.len() {
        return broken(format!("{} header blocks for {} records", said.header_ends.len(), said.rows.len()));
    }
    ends_in_range(&said.header_ends, said.headers.len(), "headers")?;
    let mut start = 0;
    for (record, &end) in said.header_ends.iter().enumerate() {
        let block = &said.headers[start..end as usize];
        start = end as usize;
        if block.len() > RECORD_HEADER_BYTES {
            let limit = RECORD_HEADER_BYTES;
            return Err(Fault::Limit(format!("record {record} has {} bytes of headers, limit {limit}", block.len())));
        }
        if let Err(reason) = header_block(block) {
            return broken(format!("a header of record {record} {reason}"));
        }
    }
    Ok(())
}

/// Lines `name: value\r\n`, or what is wrong with them.
fn header_block(block: &[u8]) -> Result<(), String> {
    /// Of the server, of the host, and of key-value buckets, which a tombstone speaks to.
    const RESERVED: [&str; 3] = ["nats-", "pelton-", "kv-"];
    let text = str::from_utf8(block).map_err(|_| "is not UTF-8".to_owned())?;
    let Some(lines) = text.strip_suffix("\r\n") else {
        return if text.is_empty() { Ok(()) } else { Err("does not end with a line break".to_owned()) };
    };
    for line in lines.split("\r\n") {
        let shown = printable(line, CODE_BYTES);
        let Some((name, value)) = line.split_once(": ") else { return Err(format!("is not `name: value`: `{shown}`")) };
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name || !value.chars().all(is_printable) {
            return Err(format!("has a name or value that cannot be one: `{shown}`"));
        }
        let lower = name.to_ascii_lowercase();
        if RESERVED.iter().any(|reserved| lower.starts_with(reserved)) {
            return Err(format!("has a name that only the server and the host may use: `{shown}`"));
        }
    }
    Ok(())
}

/// Additions to counters that exist, by rows that exist.
fn additions(said: &[wit::Addition], rows: &Rows<'_>) -> Result<Vec<Addition>, Fault> {
    let most = (rows.count + rows.timer_ends.len()) as u64 * u64::from(rows.limits.records_per_event);
    if said.len() as u64 > most {
        return Err(Fault::Limit(format!("{} additions to counters, limit {most}", said.len())));
    }
    let checked = |addition: &wit::Addition| {
        let wit::Addition { row, counter, add } = *addition;
        let is_row = (row as usize) < rows.count;
        if !is_row && !has_timers(rows.timer_ends, row as usize - rows.count) {
            return broken(format!("an addition of row {row} of {}", rows.count));
        }
        if usize::from(counter) >= rows.counters {
            return broken(format!("an addition to counter {counter}, module has {} counters", rows.counters));
        }
        Ok(Addition { row, counter, add })
    };
    said.iter().map(checked).collect()
}

/// Rows ascend and exist, slices lie inside one arena, and no row emits too much.
fn records_in_range(said: &wit::Output, rows: &Rows<'_>) -> Result<(), Fault> {
    let limits = rows.limits;
    let (mut previous, mut run, mut bytes) = (0_u32, 0_u32, 0_u64);
    let (slices, _) = said.slices.as_chunks::<4>();
    for (record, (&row, slice)) in said.rows.iter().zip(slices).enumerate() {
        if row < previous {
            return broken(format!("record {record} comes from row {row} after row {previous}"));
        }
        if row != previous {
            (previous, run, bytes) = (row, 0, 0);
        }
        let is_row = (row as usize) < rows.count;
        if !is_row && !has_timers(rows.timer_ends, row as usize - rows.count) {
            return broken(format!("record {record} comes from row {row} of {}", rows.count));
        }
        let [key_offset, key_bytes, payload_offset, payload_bytes] = *slice;
        if payload_offset == OF_ROW && !(is_row && rows.payloads) {
            return broken(format!("record {record} takes the payload of row {row}, which has none"));
        }
        let key = slice_bytes(key_offset, key_bytes, rows.arena_bytes, said.data.len());
        let payload = slice_bytes(payload_offset, payload_bytes, rows.arena_bytes, said.data.len());
        let (Some(key), Some(payload)) = (key, payload) else {
            let (input, output) = (rows.arena_bytes, said.data.len());
            return broken(format!(
                "record {record} has slices {slice:?} outside of {input} input and {output} output bytes"
            ));
        };
        run += 1;
        bytes += u64::from(key) + u64::from(payload);
        if run > limits.records_per_event {
            let limit = limits.records_per_event;
            return Err(Fault::Limit(format!("row {row} emits more than {limit} records")));
        }
        if bytes > limits.bytes_per_event {
            let limit = limits.bytes_per_event;
            return Err(Fault::Limit(format!("row {row} emits more than {limit} bytes")));
        }
    }
    Ok(())
}

/// Whether `group` exists and has due timers.
fn has_timers(timer_ends: &[u32], group: usize) -> bool {
    let Some(&end) = timer_ends.get(group) else { return false };
    end > if group == 0 { 0 } else { timer_ends[group - 1] }
}

/// The bytes of a slice if it lies inside one of the arenas; 0 for what is taken from the row.
fn slice_bytes(offset: u32, bytes: u32, input_bytes: usize, output_bytes: usize) -> Option<u32> {
    if offset == OF_ROW {
        return Some(0);
    }
    let (input, output) = (input_bytes as u64, output_bytes as u64);
    let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(bytes));
    (end <= input || (start >= input && end <= input + output)).then_some(bytes)
}

/// Rejects with rows that exist, each at most once, and codes that can be part of a subject.
fn rejects(said: Vec<wit::Reject>, rows: usize) -> Result<Vec<Reject>, Fault> {
    if said.is_empty() {
        return Ok(Vec::new());
    }
    let mut refused: Vec<u32> = said.iter().map(|reject| reject.row).collect();
    refused.sort_unstable();
    if let Some(pair) = refused.windows(2).find(|pair| pair[0] == pair[1]) {
        return broken(format!("row {} is rejected twice", pair[0]));
    }
    let mut rejects = Vec::with_capacity(said.len());
    for wit::Reject { row, code, detail, place } in said {
        if row as usize >= rows {
            return broken(format!("row {row} of {rows} is rejected"));
        }
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if code.is_empty() || code.len() > CODE_BYTES || !code.bytes().all(good) {
            return broken(format!("reject code `{}` is not 1 to 64 of [a-z0-9-]", printable(&code, CODE_BYTES)));
        }
        let detail = printable(&detail, DETAIL_BYTES).into_owned();
        if let Some(place) = place.as_ref().filter(|place| !place.is_empty() && !place.starts_with('/')) {
            let shown = printable(place, CODE_BYTES);
            return broken(format!("the place of reject `{code}` is not a JSON pointer: `{shown}`"));
        }
        let place = place.map(|place| above(&place).to_owned());
        rejects.push(Reject { row, code, detail, place });
    }
    Ok(rejects)
}

/// A pointer that can stand in a header: itself, or what is above it. Events have the names, so a module that says where it
/// found something cannot be blamed for them.
fn above(place: &str) -> &str {
    let can_be_shown = |place: &str| place.len() <= PLACE_BYTES && place.chars().all(is_printable);
    let mut place = place;
    while !can_be_shown(place) {
        place = &place[..place.rfind('/').unwrap_or(0)];
    }
    place
}

/// Checks samples against the kinds of the derived fields.
pub(crate) fn samples(said: WitSamples, derived: &[Kind], rows: &Rows<'_>, samples: &mut Samples) -> Result<(), Fault> {
    let count = said.rows.len();
    let (mut previous, mut run) = (0_u32, 0_u32);
    for &row in &said.rows {
        if row < previous || row as usize >= rows.count {
            return broken(format!("sample of event {row} after event {previous}, {} events", rows.count));
        }
        run = if row == previous { run + 1 } else { 1 };
        previous = row;
        if run > rows.limits.records_per_event {
            let limit = rows.limits.records_per_event;
            return Err(Fault::Limit(format!("event {row} gives more than {limit} samples")));
        }
    }
    if said.columns.len() != derived.len() {
        return broken(format!("{} derived columns, plan has {}", said.columns.len(), derived.len()));
    }
    samples.columns.clear();
    for (index, (column, kind)) in said.columns.into_iter().zip(derived).enumerate() {
        let column = from_wit(column);
        if column.kind() != *kind {
            return broken(format!("derived column {index} is {}, plan says {}", column.kind().name(), kind.name()));
        }
        if column.len() != count {
            return broken(format!("derived column {index} has {} rows for {count} samples", column.len()));
        }
        match &column.values {
            Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) => {
                ends_in_range(&texts.ends, texts.data.len(), "derived column")?;
                utf8(texts)?;
            }
            Values::Blobs(blobs) => ends_in_range(&blobs.ends, blobs.data.len(), "derived column")?,
            Values::Integers(_) | Values::Numbers(_) | Values::Booleans(_) => {}
        }
        let ascending = column.missing.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || column.missing.last().is_some_and(|row| *row as usize >= count) {
            return broken(format!("derived column {index} has missing rows that do not ascend below {count}"));
        }
        if !column.unlike.is_empty() {
            return broken(format!("derived column {index} has rows that are unlike its kind"));
        }
        samples.columns.push(column);
    }
    samples.rejects = rejects(said.rejects, rows.count)?;
    samples.additions = additions(&said.additions, rows)?;
    samples.rows = said.rows;
    Ok(())
}

/// Ends that ascend and finish at the arena's end.
fn ends_in_range(ends: &[u32], data_bytes: usize, what: &str) -> Result<(), Fault> {
    if ends.last().map_or(0, |end| *end as usize) == data_bytes && ends.is_sorted() {
        return Ok(());
    }
    broken(format!("{what}: ends of {} rows do not ascend to {data_bytes} bytes", ends.len()))
}

/// Every row is text.
fn utf8(texts: &Strings) -> Result<(), Fault> {
    let Ok(all) = str::from_utf8(&texts.data) else { return broken("derived text is not UTF-8") };
    match texts.ends.iter().position(|end| !all.is_char_boundary(*end as usize)) {
        Some(row) => broken(format!("derived text of row {row} ends inside a character")),
        None => Ok(()),
    }
}

/// States or accumulators, one for each of `count` keys.
pub(crate) fn states(said: wit::Strings, count: usize, limits: &Limits, states: &mut Strings) -> Result<(), Fault> {
    if said.ends.len() != count {
        return broken(format!("{} states for {count} keys", said.ends.len()));
    }
    ends_in_range(&said.ends, said.data.len(), "states")?;
    let mut start = 0;
    for &end in &said.ends {
        if end - start > limits.state_bytes {
            return Err(Fault::Limit(format!("state of {} bytes, limit {} bytes", end - start, limits.state_bytes)));
        }
        start = end;
    }
    states.data = said.data;
    states.ends = said.ends;
    Ok(())
}

/// Checks what `fold` returned for `groups` groups.
pub(crate) fn folded(said: WitFolded, groups: usize, rows: &Rows<'_>, folded: &mut Folded) -> Result<(), Fault> {
    states(said.states, groups, rows.limits, &mut folded.states)?;
    folded.rejects = rejects(said.rejects, rows.count)?;
    folded.additions = additions(&said.additions, rows)?;
    Ok(())
}

/// Checks what `migrate` or `erase` returned for `keys` keys.
pub(crate) fn rewritten(
    said: wit::Rewritten,
    keys: usize,
    limits: &Limits,
    rewritten: &mut Rewritten,
) -> Result<(), Fault> {
    if said.changes.len() != keys {
        return broken(format!("{} changes for {keys} keys", said.changes.len()));
    }
    states(said.states, keys, limits, &mut rewritten.states)?;
    rewritten.changes.clear();
    rewritten.changes.extend(said.changes.iter().map(change));
    Ok(())
}

fn change(said: &wit::Change) -> Change {
    match said {
        wit::Change::Keep => Change::Keep,
        wit::Change::Replace => Change::Replace,
        wit::Change::Delete => Change::Delete,
    }
}

/// Checks what `reduce` returned for `groups` groups.
pub(crate) fn reduced(
    said: wit_reducers::Reduced,
    groups: usize,
    rows: &Rows<'_>,
    reduced: &mut Reduced,
) -> Result<(), Fault> {
    if said.changes.len() != groups {
        return broken(format!("{} changes for {groups} groups", said.changes.len()));
    }
    let timers_max = (rows.count + groups) as u64 * u64::from(rows.limits.records_per_event);
    if (said.timers.len() + said.cancels.len()) as u64 > timers_max {
        return Err(Fault::Limit(format!("{} timers, limit {timers_max}", said.timers.len() + said.cancels.len())));
    }
    if let Some(timer) = said.timers.iter().chain(&said.cancels).find(|timer| timer.group as usize >= groups) {
        return broken(format!("timer of group {} of {groups}", timer.group));
    }
    states(said.states, groups, rows.limits, &mut reduced.states)?;
    output(said.output, rows, &mut reduced.output)?;
    let timer = |timer: &wit_reducers::Timer| (timer.group, timer.at);
    reduced.timers.clear();
    reduced.timers.extend(said.timers.iter().map(timer));
    reduced.cancels.clear();
    reduced.cancels.extend(said.cancels.iter().map(timer));
    reduced.changes.clear();
    reduced.changes.extend(said.changes.iter().map(change));
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
