//! Guests that say anything, and what they are told: every reply goes through the sandbox's checks, and what passes
//! them may not disturb the engine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use pelton_engine::event::{Column, Events, Field, Kind, Need, Strings, Values};
use pelton_engine::guest::*;
use pelton_engine::plan::WindowKind;
use pelton_engine::time::Span;
use pelton_sandbox::Limits;
use pelton_sandbox::testing::{self, Call};

use crate::bytes::Bytes;
use crate::kit::{NOW, Native, Setup, drive};
use crate::windows::cuts;

const EVENTS_MAX: usize = 40;
/// Names that a module may declare; a name has one kind, which the plan would insist on.
const FIELDS: [(&str, Kind); 9] = [
    ("v", Kind::Integer),
    ("x", Kind::Number),
    ("s", Kind::String),
    ("b", Kind::Boolean),
    ("a/~b", Kind::String),
    ("d", Kind::Decimal),
    ("j", Kind::Json),
    ("y", Kind::Bytes),
    ("not in any event", Kind::String),
];

/// What the guests of one run draw their replies from.
type Script = Arc<Mutex<Bytes>>;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    let worlds: &[World] = match script.below(7) {
        0 => &[World::Transform],
        1 => &[World::Transform, World::Transform],
        2 => &[World::WindowRule],
        3 => &[World::Transform, World::WindowRule],
        4 => &[World::WindowFold],
        5 => &[World::Reducer],
        _ => &[World::Transform, World::Reducer],
    };
    let Ok(mut guests) = worlds.iter().map(|world| guest(*world, &mut script)).collect::<Result<Vec<_>, String>>()
    else {
        return;
    };
    let kinds = [
        WindowKind::Sliding { size: Span(60), slide: Span(20) },
        WindowKind::Tumbling { size: Span(10) },
        WindowKind::Global,
    ];
    let kind = script.pick(&kinds);
    let allowed_lateness = if kind == WindowKind::Global { 0 } else { script.pick(&[0, 25, 90]) };
    let delay = script.pick(&[0, 40]);
    let cuts = cuts(&mut script);
    let records = script.pick(&[900, 1, 3, 10]);
    let events = events(&mut script);
    let script = Arc::new(Mutex::new(script));
    let limits = limits();
    for guest in &mut guests {
        answer(guest, &script, &limits);
    }
    let is_windowed = matches!(worlds[worlds.len() - 1], World::WindowRule | World::WindowFold);
    let mut setup = Setup::new(guests);
    if is_windowed {
        setup = setup.window(kind, allowed_lateness, delay);
    }
    setup.room.records = records;
    // An error is a guest's wish to stop or to try again; all that `drive` promises it asserts itself.
    let Ok(outcome) = drive(&setup, &events, &cuts) else { return };
    outcome.headers.iter().for_each(|headers| check_headers(headers));
    for row in &outcome.rows {
        let subject = row.split(' ').next().unwrap_or_default();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'%');
        let good = subject.split('.').all(|token| !token.is_empty() && token.bytes().all(is_token));
        assert!(good && ["out.", "dlq.", "late."].iter().any(|start| subject.starts_with(start)), "{row:?}");
    }
}

/// Every line is a name and a value; nothing that a guest or an event says makes a line of its own but the headers that a
/// guest gives its records, which are behind those of the host.
pub(crate) fn check_headers(headers: &str) {
    const GIVEN: [&str; 3] = ["KV-Operation: DEL", "A: b", "C: "];
    let lines: Vec<&str> = headers.split_terminator("\r\n").collect();
    for line in &lines {
        let name = line.split_once(": ").map(|(name, _)| name);
        let is_known = name.is_some_and(|name| name.starts_with("Pelton-")) || GIVEN.contains(line);
        assert!(is_known && !line.contains(['\r', '\n']), "{line:?} in {headers:?}");
    }
    let own = lines.iter().take_while(|line| !GIVEN.contains(line)).count();
    assert!(lines[own..].iter().all(|line| GIVEN.contains(line)), "{headers:?}");
}

fn limits() -> Limits {
    Limits { records_per_event: 6, bytes_per_event: 1000, state_bytes: 120, ..Limits::default() }
}

fn events(script: &mut Bytes) -> Vec<String> {
    let count = script.below(EVENTS_MAX);
    let mut time = NOW;
    (0..count)
        .map(|_| {
            let (what, value) = (script.byte(), script.byte());
            time += i64::from(what / 8) - 8;
            let key = what % 4;
            match what {
                0xf0.. => "not JSON".to_owned(),
                _ => format!(
                    r#"{{"k":"k\u00e9{key}","t":{time},"v":{value},"x":{value}.25,"s":"ä{value}","b":true,"d":{value}e-2,"j":[{value}, {{}}],"y":"aGk=","a/~b":"\r\n{value}"}}"#
                ),
            }
        })
        .collect()
}

/// A guest with a descriptor and a plan that the host's checks have let pass.
fn guest(world: World, script: &mut Bytes) -> Result<Native, String> {
    let mut guest = Native::new(world, &[]);
    let identity =
        Identity { name: script.pick(&["guest", "guest", "a.b", ""]).into(), ..guest.descriptor.identity.clone() };
    let shape = Shape {
        fields: (0..script.below(5)).map(|_| field(script)).collect(),
        payload: script.below(2) == 0,
        headers: script.below(3) == 1,
        ports: match script.below(8) {
            0..6 => vec!["main".into(), "side".into()],
            6 => vec!["main".into()],
            _ => (0..script.below(4)).map(|_| String::from_utf8_lossy(&script.short()).into_owned()).collect(),
        },
        counters: (0..script.below(3)).map(|_| script.pick(&["one", "two", "Three"]).to_owned()).collect(),
        ..Shape::default()
    };
    guest.descriptor = Descriptor { identity: testing::identity(identity)?, shape: testing::shape(shape)? };
    if world == World::WindowRule {
        let said = aggregation(script);
        let options = vec![("option".to_owned(), String::new()); usize::from(script.below(32) == 31)];
        let function = (script.below(32) == 31).then_some("median");
        guest.plan = testing::aggregation(said, function, &options, &guest.descriptor.shape.fields)?;
    }
    Ok(guest)
}

fn field(script: &mut Bytes) -> Field {
    let (name, kind) = script.pick(&FIELDS);
    Field { name: name.into(), kind, need: need(kind, script) }
}

fn need(kind: Kind, script: &mut Bytes) -> Need {
    let can_be_lenient = matches!(kind, Kind::String | Kind::Integer | Kind::Number | Kind::Boolean);
    match script.below(4) {
        3 => Need::Required,
        2 if can_be_lenient => Need::Lenient,
        _ => Need::Optional,
    }
}

fn aggregation(script: &mut Bytes) -> Aggregation {
    let functions = [Function::Count, Function::Sum, Function::Min, Function::Max, Function::Distinct, Function::TopK];
    let aggregate = |idx: usize, script: &mut Bytes| Aggregate {
        name: if script.below(16) == 15 { "same".into() } else { format!("a{idx}") },
        function: script.pick(&functions),
        field: match script.below(4) {
            0 => None,
            1 => Some(script.pick(&["d0", "d1", "d2"]).to_owned()),
            _ => Some(script.pick(&FIELDS).0.to_owned()),
        },
        limit: script.pick(&[3, 1, 0, u32::MAX]),
    };
    let derived = |idx: usize, script: &mut Bytes| Field {
        name: format!("d{idx}"),
        kind: script.pick(&Kind::ALL),
        need: Need::Optional,
    };
    let condition = |script: &mut Bytes| {
        let value = i64::from(script.byte()) - 2;
        let bounds = [
            Bound::AtLeastInteger(value),
            Bound::AtMostInteger(value),
            Bound::AtLeastNumber(value as f64),
            Bound::AtMostNumber(value as f64),
        ];
        Condition { aggregate: index(script, 5), bound: script.pick(&bounds) }
    };
    Aggregation {
        aggregates: (0..script.below(5)).map(|idx| aggregate(idx, script)).collect(),
        derived: (0..script.below(4)).map(|idx| derived(idx, script)).collect(),
        thresholds: (0..script.below(3)).map(|_| (0..script.below(3)).map(|_| condition(script)).collect()).collect(),
        filters: script.below(2) == 1,
    }
}

/// Lets every function of the guest look at what it is told and draw its reply from the script.
fn answer(guest: &mut Native, script: &Script, limits: &Limits) {
    let shape = &guest.descriptor.shape;
    let (ports, counters, fields) = (shape.ports.len(), shape.counters.len(), shape.fields.clone());
    let derived: Vec<Kind> = guest.plan.derived.iter().map(|field| field.kind).collect();
    let teller = Teller { script: Arc::clone(script), limits: limits.clone(), ports, counters, fields };
    let one = teller.clone();
    guest.process = Some(Arc::new(move |_, events, output| {
        one.check_events(events);
        *output = one.output(&one.of_events(events, &[]))?;
        Ok(())
    }));
    let one = teller.clone();
    guest.extract = Some(Arc::new(move |events, samples| {
        one.check_events(events);
        *samples = one.samples(events, &derived)?;
        Ok(())
    }));
    let one = teller.clone();
    guest.evaluate = Some(Arc::new(move |panes, states, output| {
        check_panes(panes, states);
        let call = Call { payloads: false, rows: panes.len(), arena_bytes: panes.keys.data.len(), ..one.call() };
        *output = one.output(&call)?;
        Ok(())
    }));
    let one = teller.clone();
    guest.reduce = Some(Arc::new(move |events, groups, reduced| {
        one.check_events(events);
        check_groups(events, groups, true);
        *reduced = one.reduced(events, groups)?;
        Ok(())
    }));
    let one = teller;
    guest.fold = Some(Arc::new(move |events, groups, folded| {
        one.check_events(events);
        check_groups(events, groups, false);
        *folded = one.folded(events, groups.keys.ends.len())?;
        Ok(())
    }));
}

/// What a guest needs to say something.
#[derive(Clone)]
struct Teller {
    script: Script,
    limits: Limits,
    ports: usize,
    counters: usize,
    fields: Vec<Field>,
}

impl Teller {
    fn call(&self) -> Call<'_> {
        let (ports, counters, limits) = (self.ports, self.counters, &self.limits);
        Call { rows: 0, payloads: true, arena_bytes: 0, timer_ends: &[], ports, counters, limits }
    }

    fn of_events<'a>(&'a self, events: &Events, timer_ends: &'a [u32]) -> Call<'a> {
        Call { rows: events.len(), arena_bytes: events.data.len(), timer_ends, ..self.call() }
    }

    fn output(&self, call: &Call<'_>) -> Result<Output, Fault> {
        let mut script = self.script.lock().expect("no guest panics while it speaks");
        fault(&mut script)?;
        testing::output(output(&mut script, call), call)
    }

    fn samples(&self, events: &Events, derived: &[Kind]) -> Result<Samples, Fault> {
        let mut script = self.script.lock().expect("no guest panics while it speaks");
        fault(&mut script)?;
        let mut said = Samples::default();
        let count = script.below(6);
        said.rows = ascending(&mut script, count, events.len());
        for kind in derived {
            let kind = if script.below(32) == 31 { Kind::Boolean } else { *kind };
            said.columns.push(column(&mut script, kind, count));
        }
        said.rejects = rejects(&mut script, events.len());
        said.additions = additions(&mut script, events.len());
        testing::samples(said, derived, &self.of_events(events, &[]))
    }

    fn folded(&self, events: &Events, groups: usize) -> Result<Folded, Fault> {
        let mut script = self.script.lock().expect("no guest panics while it speaks");
        fault(&mut script)?;
        let said = Folded {
            states: states(&mut script, groups),
            rejects: rejects(&mut script, events.len()),
            additions: additions(&mut script, events.len()),
        };
        testing::folded(said, groups, &self.of_events(events, &[]))
    }

    fn reduced(&self, events: &Events, groups: &Groups) -> Result<Reduced, Fault> {
        let mut script = self.script.lock().expect("no guest panics while it speaks");
        fault(&mut script)?;
        let count = groups.keys.ends.len();
        let call = self.of_events(events, &groups.timer_ends);
        let changes = if script.below(16) == 15 { script.below(4) } else { count };
        let timer = |script: &mut Bytes| (index(script, count), time(script));
        let said = Reduced {
            changes: (0..changes).map(|_| script.pick(&[Change::Keep, Change::Replace, Change::Delete])).collect(),
            states: states(&mut script, count),
            timers: (0..script.below(4)).map(|_| timer(&mut script)).collect(),
            cancels: (0..script.below(3)).map(|_| timer(&mut script)).collect(),
            output: output(&mut script, &call),
        };
        testing::reduced(said, count, &call)
    }

    /// What the engine tells a guest is what the contract says, and lending it changes nothing.
    fn check_events(&self, events: &Events) {
        let rows = events.len();
        assert_eq!(events.ends.len(), 2 * rows);
        assert_eq!(events.sequences.len(), rows);
        assert!(events.ends.is_sorted() && last(&events.ends) == events.data.len());
        assert!(events.header_ends.is_sorted() && last(&events.header_ends) == events.headers.len());
        assert!([0, rows].contains(&events.header_ends.len()));
        // A call for timers has no events, and no columns either.
        assert!(events.columns.len() == self.fields.len() || rows == 0, "{} columns", events.columns.len());
        for (column, field) in events.columns.iter().zip(&self.fields) {
            assert_eq!((column.kind(), column.len()), (field.kind, rows), "{}", field.name);
            assert!(column.missing.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(column.missing.last().is_none_or(|&row| (row as usize) < rows));
            assert!(column.unlike.iter().all(|row| column.missing.contains(row)) && column.unlike.is_sorted());
            assert!(field.need == Need::Lenient || column.unlike.is_empty(), "{} is not lenient", field.name);
            assert!(field.need != Need::Required || column.missing.is_empty(), "{} is required", field.name);
            if let Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) = &column.values {
                assert!(texts.ends.is_sorted() && last(&texts.ends) == texts.data.len());
                assert!((0..rows).all(|row| str::from_utf8(texts.get(row)).is_ok()));
            }
        }
        let mut lent = events.clone();
        testing::lend_events(&mut lent);
        assert_eq!(&lent, events);
    }
}

fn last(ends: &[u32]) -> usize {
    ends.last().map_or(0, |&end| end as usize)
}

fn check_groups(events: &Events, groups: &Groups, has_timers: bool) {
    let count = groups.keys.ends.len();
    assert!(groups.states.ends.len() == count && groups.member_ends.len() == count);
    assert!(groups.member_ends.is_sorted() && last(&groups.member_ends) == groups.members.len());
    let mut members = groups.members.clone();
    members.sort_unstable();
    assert!(members.iter().copied().eq(0..events.len() as u32), "every event is in one group");
    // A fold has a group per key and slice.
    let keys: BTreeSet<&[u8]> = (0..count).map(|group| groups.keys.get(group)).collect();
    assert!(keys.len() == count || !has_timers, "one group per key");
    assert_eq!(groups.timer_ends.len(), if has_timers { count } else { 0 });
    assert!(groups.timer_ends.is_sorted() && last(&groups.timer_ends) == groups.timers.len());
    assert!(events.is_empty() || groups.timers.is_empty(), "events or timers, never both");
    let mut lent = groups.clone();
    testing::lend_groups(&mut lent);
    assert_eq!(&lent, groups);
}

fn check_panes(panes: &Panes, states: &States) {
    let rows = panes.len();
    let lengths =
        [panes.keys.ends.len(), panes.ends.len(), panes.timings.len(), panes.indexes.len(), panes.watermarks.len()];
    assert!(lengths.iter().all(|&length| length == rows) && panes.lasts.len() == rows, "{panes:?}");
    assert!([0, rows].contains(&states.ends.len()));
    for column in &panes.values {
        if let AggregateData::Tops { items, counts, errors, pane_ends } = &column.data {
            assert!(items.ends.len() == counts.len() && last(pane_ends) == counts.len() && pane_ends.is_sorted());
            assert!(errors.iter().zip(counts).all(|(error, count)| (0..=*count).contains(error)), "{column:?}");
        }
        assert_eq!(column.len(), rows);
        for marked in [&column.missing, &column.clipped] {
            assert!(marked.is_sorted_by(|left, right| left < right), "{column:?}");
            assert!(marked.last().is_none_or(|last| (*last as usize) < rows), "{column:?}");
        }
    }
    let mut lent = panes.clone();
    // A sum that is no number is not equal to itself.
    let is_equal = lent == *panes;
    testing::lend_panes(&mut lent);
    assert_eq!(lent == *panes, is_equal, "{lent:?} {panes:?}");
}

/// Now and then a guest says no.
fn fault(script: &mut Bytes) -> Result<(), Fault> {
    let text = || "said\r\nEvil: 1".to_owned();
    Err(match script.below(32) {
        25 | 26 => Fault::Trap(text()),
        27 => Fault::Timeout,
        28 => Fault::Fuel,
        29 => Fault::Limit(text()),
        30 => Fault::Retry(text()),
        31 => Fault::Halt(text()),
        _ => return Ok(()),
    })
}

/// Mostly an index below `count`, else one that lies right behind or far behind.
fn index(script: &mut Bytes, count: usize) -> u32 {
    match script.byte() {
        0xf0..0xf8 => count as u32,
        0xf8..0xfc => count as u32 + 1,
        0xfc | 0xfd => u32::MAX,
        0xfe | 0xff => script.u32(),
        byte => u32::from(byte) % (count as u32).max(1),
    }
}

fn time(script: &mut Bytes) -> i64 {
    match script.byte() {
        0xfd => i64::MIN,
        0xfe => i64::MAX,
        0xff => script.i64(),
        byte => NOW + i64::from(byte) * 3 - 200,
    }
}

/// Mostly ascending.
fn ascending(script: &mut Bytes, count: usize, rows: usize) -> Vec<u32> {
    let mut drawn: Vec<u32> = (0..count).map(|_| index(script, rows)).collect();
    if script.below(8) != 7 {
        drawn.sort_unstable();
    }
    drawn
}

fn output(script: &mut Bytes, call: &Call<'_>) -> Output {
    let mut said = Output::default();
    let count = script.below(6);
    let rows = call.rows + call.timer_ends.len();
    if count > 0 {
        said.data = script.short();
        said.rows = ascending(script, count, rows);
        said.slices = (0..2 * count).flat_map(|_| slice(script, call, said.data.len())).collect();
        said.ports = (0..script.pick(&[0, count, 1])).map(|_| script.pick(&[0, 1, 2, 255])).collect();
        said.timestamps = (0..script.pick(&[0, count, 1])).map(|_| time(script)).collect();
        if script.below(4) == 3 {
            let record = index(script, count);
            said.deletes = vec![record];
            if let Some(slice) = said.slices.get_mut(4 * record as usize + 2..4 * record as usize + 4) {
                slice.copy_from_slice(&script.pick(&[[0, 0], [0, 0], [OF_ROW, 0]]));
            }
        }
        for _ in 0..script.pick(&[0, 0, count, 1]) {
            let blocks = ["", "A: b\r\n", "A: b\r\nC: \r\n", "Pelton-Id: 1\r\n", "A: b", "\r\n"];
            said.headers.extend_from_slice(script.pick(&blocks).as_bytes());
            said.header_ends.push(said.headers.len() as u32);
        }
    }
    said.rejects = rejects(script, call.rows);
    said.additions = additions(script, rows);
    said
}

fn additions(script: &mut Bytes, rows: usize) -> Vec<Addition> {
    let addition = |script: &mut Bytes| {
        let counter = script.pick(&[0, 0, 1, 2, u16::MAX]);
        Addition { row: index(script, rows), counter, add: script.pick(&[1, -1, 0, i64::MAX, i64::MIN]) }
    };
    (0..script.pick(&[0, 0, 1, 3])).map(|_| addition(script)).collect()
}

/// Offset and length: of the row, in the input, in the output, or across a border.
fn slice(script: &mut Bytes, call: &Call<'_>, data_bytes: usize) -> [u32; 2] {
    let (input, both) = (call.arena_bytes, call.arena_bytes + data_bytes);
    match script.below(8) {
        0..4 => [OF_ROW, 0],
        4 => {
            let start = index(script, input);
            [start, index(script, input.saturating_sub(start as usize))]
        }
        5 | 6 => {
            let start = (input as u32).saturating_add(index(script, data_bytes));
            [start, index(script, both.saturating_sub(start as usize))]
        }
        _ => [index(script, both), index(script, both)],
    }
}

fn rejects(script: &mut Bytes, rows: usize) -> Vec<Reject> {
    let codes = ["bad", "a-b-1", "bad", "", "A", "a.b", "\r\n"];
    let reject = |script: &mut Bytes| Reject {
        row: index(script, rows),
        code: script.pick(&codes).to_owned(),
        detail: String::from_utf8_lossy(&script.short()).into_owned(),
        place: script.pick(&[None, None, Some(""), Some("/a/0"), Some("a"), Some("/\r\n")]).map(str::to_owned),
    };
    (0..script.pick(&[0, 0, 0, 1, 2, 3])).map(|_| reject(script)).collect()
}

/// Mostly one per key.
fn states(script: &mut Bytes, count: usize) -> Strings {
    let mut states = Strings::default();
    let count = if script.below(16) == 15 { script.below(4) } else { count };
    for _ in 0..count {
        states.push(&script.short());
    }
    if script.below(16) == 15
        && let Some(end) = states.ends.last_mut()
    {
        *end = script.u32();
    }
    states
}

fn column(script: &mut Bytes, kind: Kind, count: usize) -> Column {
    let mut column = Column::new(kind);
    let count = if script.below(16) == 15 { script.below(4) } else { count };
    for row in 0..count {
        if script.below(4) == 3 {
            column.missing.push(index(script, row));
        }
        match &mut column.values {
            Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
                texts.push(&script.short());
            }
            Values::Integers(values) => values.push(time(script)),
            Values::Numbers(values) => values.push(script.pick(&[0.5, -1.0, 1e308, f64::MIN, f64::INFINITY])),
            Values::Booleans(values) => values.push(script.below(2) == 1),
        }
    }
    column
}
