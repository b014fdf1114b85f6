//! A reducer equals one event at a time, however events are batched and wherever epochs are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use pelton_engine::event::{Kind, Values};
use pelton_engine::guest::*;

use crate::cuts::{RECORD_BYTES, any_cuts, any_room, small_records};
use crate::kit::{Cuts, NOW, Native, Setup, drive, push};

/// What a handler did besides changing the state.
#[derive(Default)]
struct Did {
    sets: BTreeSet<i64>,
    cancels: BTreeSet<i64>,
    records: Vec<String>,
    reject: bool,
}

impl Did {
    fn set(&mut self, at: i64) {
        self.cancels.remove(&at);
        self.sets.insert(at);
    }
    fn is_huge(&self) -> bool {
        self.records.iter().any(|record| record.len() >= RECORD_BYTES)
    }
    fn cancel(&mut self, at: i64) {
        self.cancels.insert(at);
    }
}

/// One event: `op` decides, the state is the text of all that happened.
fn on_event(op: &str, arg: i64, time: i64, state: &mut String, did: &mut Did) {
    match op {
        "set" => did.set(time + arg),
        "cancel" => did.cancel(time + arg),
        "past" => did.set(time - arg),
        "delete" if state.len() < 150 => state.clear(),
        "emit" => (0..arg % 4).for_each(|nth| did.records.push(format!("e{nth} {state}"))),
        "huge" => did.records.extend(["before".into(), "h".repeat(RECORD_BYTES)]),
        "flood" => (0..7).for_each(|nth| did.records.push(format!("flood{nth}"))),
        "reject" => did.reject = true,
        "big" => state.push_str(&"x".repeat(200)),
        _ => {}
    }
    if !matches!(op, "delete" | "keep") {
        state.push_str(&format!("{}{} ", &op[..1], arg % 10));
    }
    // A state beyond the limit stays so: the host sees only what a call returns.
    if (80..150).contains(&state.len()) {
        state.clear();
    }
}

/// Due timers of one key: each leaves a mark, every third sets another one.
fn on_timers(timers: &[i64], state: &mut String, did: &mut Did) {
    let last = timers[timers.len() - 1];
    for at in timers {
        did.records.push(format!("timer {} {state}", at - NOW));
    }
    state.push_str("t ");
    match last % 7 {
        0 => did.set(last + 5),
        1 => did.set(last + 60),
        2 => did.cancel(last + 10),
        3 => state.clear(),
        4 => did.reject = true,
        5 => did.set(last),
        6 => did.records.push("h".repeat(RECORD_BYTES)),
        _ => {}
    }
}

/// Applies the same handlers group by group.
pub(crate) fn reducer() -> Native {
    let mut native = Native::new(World::Reducer, &[("op", Kind::String, true), ("arg", Kind::Integer, true)]);
    native.reduce = Some(Arc::new(|events, groups, reduced| {
        *reduced = Reduced::default();
        let (Values::Strings(ops), Values::Integers(args)) = (
            &events.columns.first().map_or(Values::Strings(Default::default()), |column| column.values.clone()),
            &args(events),
        ) else {
            unreachable!()
        };
        if (0..events.len()).any(|row| ops.get(row) == b"trap") {
            return Err(Fault::Trap("asked to".into()));
        }
        let (mut member, mut timer) = (0, 0);
        let mut records: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for group in 0..groups.member_ends.len() {
            let before = String::from_utf8(groups.states.get(group).to_vec()).unwrap();
            let mut state = before.clone();
            let mut all = Did::default();
            let mut handle = |source: u32, handler: &mut dyn FnMut(&mut String, &mut Did)| {
                handler(&mut state, &mut all);
                records.insert(source, std::mem::take(&mut all.records));
                if std::mem::take(&mut all.reject) {
                    reduced.output.rejects.push(Reject {
                        row: source,
                        code: "no".into(),
                        detail: "asked to".into(),
                        place: None,
                    });
                }
            };
            for &row in &groups.members[member..groups.member_ends[group] as usize] {
                let op = String::from_utf8(ops.get(row as usize).to_vec()).unwrap();
                let (arg, time) = (args[row as usize], events.timestamps[row as usize]);
                handle(row, &mut |state, did| on_event(&op, arg, time, state, did));
            }
            let timers = &groups.timers[timer..groups.timer_ends[group] as usize];
            if !timers.is_empty() {
                handle((events.len() + group) as u32, &mut |state, did| on_timers(timers, state, did));
            }
            (member, timer) = (groups.member_ends[group] as usize, groups.timer_ends[group] as usize);
            reduced.changes.push(match (&state, &before) {
                _ if state == before => Change::Keep,
                _ if state.is_empty() => Change::Delete,
                _ => Change::Replace,
            });
            reduced.states.push(state.as_bytes());
            reduced.timers.extend(all.sets.iter().map(|&at| (group as u32, at)));
            reduced.cancels.extend(all.cancels.iter().map(|&at| (group as u32, at)));
        }
        for (source, records) in records {
            records.iter().for_each(|text| push(&mut reduced.output, events.data.len(), source, 0, text.as_bytes()));
        }
        Ok(())
    }));
    native
}

fn args(events: &pelton_engine::event::Events) -> Values {
    events.columns.get(1).map_or(Values::Integers(Vec::new()), |column| column.values.clone())
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    key: u8,
    pub(crate) time: i64,
    op: &'static str,
    arg: i64,
}

impl Event {
    pub(crate) fn json(&self) -> String {
        format!(r#"{{"k":"key{}","t":{},"op":"{}","arg":{}}}"#, self.key, NOW + self.time, self.op, self.arg)
    }
}

pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    let op = prop::sample::select(vec![
        "set", "set", "set", "cancel", "past", "delete", "emit", "emit", "keep", "reject", "trap", "big", "flood",
        "huge", "add",
    ]);
    let event = (0..4u8, 0..30i64, 0..30i64, op, 0..40i64)
        .prop_map(|(key, step, back, op, arg)| (step, back, Event { key, time: 0, op, arg }));
    prop::collection::vec(event, 0..80).prop_map(|events| {
        let mut base = 0;
        let place = |(step, back, event): (i64, i64, Event)| {
            base += if step == 29 { 300 } else { step / 3 };
            Event { time: base - back / 2, ..event }
        };
        events.into_iter().map(place).collect()
    })
}

/// What the reducer must give: one event at a time, one key's due timers at a time.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) rows: Vec<String>,
    states: BTreeMap<String, String>,
    timers: BTreeSet<(i64, String)>,
    /// How long a key lives after its newest event.
    ttl: Option<i64>,
    /// The time of each key's newest event, or the watermark before its last one where that was further. Nothing is ever
    /// forgotten here.
    touched: BTreeMap<String, i64>,
    watermark: i64,
    expired: i128,
}

impl Oracle {
    pub(crate) fn take(&mut self, event: &Event, records_max: usize) {
        let key = format!("key{}", event.key);
        let mut state = self.states.get(&key).cloned().unwrap_or_default();
        let mut did = Did::default();
        on_event(event.op, event.arg, NOW + event.time, &mut state, &mut did);
        let code = match event.op {
            "trap" => Some("trap"),
            _ if state.len() > 100 => Some("limit"),
            _ if did.reject => Some("no"),
            _ if did.is_huge() => Some("record-size"),
            _ if did.records.len() > records_max => Some("too-many-records"),
            _ => None,
        };
        if let Some(code) = code {
            self.rows.push(format!("dlq.s0.{code} {}", event.json()));
        } else {
            self.rows.extend(did.records.iter().map(|text| format!("out.0-0 {text}")));
            let touched = self.touched.entry(key.clone()).or_insert(i64::MIN);
            *touched = (*touched).max(self.watermark).max(NOW + event.time);
            self.apply(&key, state, &did);
        }
    }

    fn expiry(&self, key: &str) -> i64 {
        self.ttl.map_or(i64::MAX, |ttl| self.touched[key] + ttl)
    }

    /// What goes before the next timer; at the end only a key that the timer is of.
    fn over(&self, watermark: i64) -> Option<String> {
        let next = self.timers.first().filter(|(at, _)| *at <= watermark);
        if let Some((_, key)) = next.filter(|(at, key)| self.expiry(key) < *at) {
            return Some(key.clone());
        }
        let with_state = self.states.iter().filter(|(_, state)| !state.is_empty()).map(|(key, _)| key);
        let first = with_state.chain(self.timers.iter().map(|(_, key)| key)).min_by_key(|key| self.expiry(key))?;
        let expiry = self.expiry(first);
        let is_next = expiry <= watermark && self.timers.first().is_none_or(|(at, _)| expiry < *at);
        (is_next && watermark < i64::MAX).then(|| first.clone())
    }

    /// Fires what is due at the watermark; `i64::MAX` is the end.
    pub(crate) fn fire(&mut self, watermark: i64, records_max: usize) {
        self.watermark = watermark;
        loop {
            if let Some(key) = self.over(watermark) {
                self.states.remove(&key);
                self.timers.retain(|(_, of)| *of != key);
                self.expired += 1;
                continue;
            }
            let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= watermark).cloned() else { break };
            let until = watermark.min(self.expiry(&key));
            let due: Vec<i64> =
                self.timers.iter().filter(|(at, of)| *of == key && *at <= until).map(|(at, _)| *at).collect();
            self.timers.retain(|(at, of)| *of != key || *at > until);
            let mut state = self.states.get(&key).cloned().unwrap_or_default();
            let mut did = Did::default();
            on_timers(&due, &mut state, &mut did);
            let row = format!(r#"{{"key":"{key}","timers":{due:?}}}"#).replace(", ", ",");
            let code = match () {
                () if did.sets.iter().any(|at| *at <= due[due.len() - 1]) => Some("contract-violation"),
                () if state.len() > 100 => Some("limit"),
                () if did.reject => Some("no"),
                () if did.is_huge() => Some("record-size"),
                () if did.records.len() > records_max => Some("too-many-records"),
                () => None,
            };
            if let Some(code) = code {
                self.rows.push(format!("dlq.s0.{code} {row}"));
                if watermark == i64::MAX {
                    self.timers.retain(|(_, of)| *of != key);
                }
                continue;
            }
            self.rows.extend(did.records.iter().map(|text| format!("out.0-0 {text}")));
            self.apply(&key, state, &did);
            if watermark == i64::MAX {
                self.timers.retain(|(_, of)| *of != key);
            }
        }
    }

    fn apply(&mut self, key: &str, state: String, did: &Did) {
        self.states.insert(key.into(), state);
        self.timers.extend(did.sets.iter().map(|&at| (at, key.into())));
        self.timers.retain(|(at, of)| of != key || !did.cancels.contains(at));
    }
}

fn oracle(events: &[Event], delay: i64, records_max: usize) -> Vec<String> {
    with_ttl(events, delay, records_max, None).0
}

/// And how many keys have gone because their time was over.
fn with_ttl(events: &[Event], delay: i64, records_max: usize, ttl: Option<i64>) -> (Vec<String>, i128) {
    let (mut oracle, mut watermark) = (Oracle { ttl, ..Oracle::default() }, i64::MIN);
    for event in events {
        oracle.take(event, records_max);
        watermark = watermark.max(NOW + event.time - delay);
        oracle.fire(watermark, records_max);
    }
    oracle.fire(i64::MAX, records_max);
    (oracle.rows, oracle.expired)
}

/// A timer that is due between the event that sets it and the one that cancels it fires, in one batch or in two.
#[test]
fn a_timer_is_due_before_a_later_event_cancels_it() {
    let event = |key, time, op, arg| Event { key, time, op, arg };
    let events = [event(1, 0, "set", 7), event(0, 8, "emit", 0), event(1, 0, "cancel", 7), event(0, 9, "emit", 1)];
    let payloads: Vec<String> = events.iter().map(Event::json).collect();
    let rows = drive(&Setup { room: small_records(), ..Setup::new(vec![reducer()]) }, &payloads, &Cuts::default())
        .unwrap()
        .rows;
    assert_eq!(rows, oracle(&events, 0, 900));
    assert_eq!(rows[0], "out.0-0 timer 7 s7 ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_reducer_equals_one_event_at_a_time(
        events in events(),
        cuts in any_cuts(),
        room in any_room(),
        delay in prop::sample::select(vec![0i64, 20, 200]),
        ttl in prop::sample::select(vec![None, None, Some(5), Some(12), Some(100)]),
    ) {
        let setup = Setup { delay, room, ttl, ..Setup::new(vec![reducer()]) };
        let payloads: Vec<String> = events.iter().map(Event::json).collect();
        let outcome = drive(&setup, &payloads, &cuts).unwrap();
        let (expected, expired) = with_ttl(&events, delay, room.records, ttl);
        prop_assert_eq!(outcome.counters.get("s0/expired-keys").copied().unwrap_or_default(), expired);
        for (got, expected) in outcome.rows.iter().zip(&expected) {
            prop_assert_eq!(got, expected);
        }
        prop_assert_eq!(outcome.rows.len(), expected.len());
    }
}

/// A module that looks again every hour would keep a file run busy until the end of time.
#[test]
fn a_timer_that_is_set_at_the_end_of_the_input_does_not_fire() {
    let mut native = Native::new(World::Reducer, &[]);
    native.reduce = Some(Arc::new(|events, groups, reduced| {
        *reduced = Reduced::default();
        let (mut member, mut timer) = (0, 0);
        for group in 0..groups.member_ends.len() {
            let members = &groups.members[member..groups.member_ends[group] as usize];
            member = groups.member_ends[group] as usize;
            let due = &groups.timers[timer..groups.timer_ends[group] as usize];
            timer = groups.timer_ends[group] as usize;
            reduced.changes.push(Change::Keep);
            reduced.states.push(b"");
            let times = members.iter().map(|&row| events.timestamps[row as usize]).chain(due.last().copied());
            reduced.timers.extend(times.map(|time| (group as u32, time + 1000)));
            if !due.is_empty() {
                let (source, text) = ((events.len() + group) as u32, format!("{}", due[due.len() - 1] - NOW));
                push(&mut reduced.output, events.data.len(), source, 0, text.as_bytes());
            }
        }
        Ok(())
    }));
    let setup = Setup::new(vec![native]);
    let event = |key: &str, time: i64| format!(r#"{{"k":"{key}","t":{}}}"#, NOW + time);
    let events = [event("a", 0), event("b", 500), event("a", 2600)];
    for restart in [crate::kit::Restart::No, crate::kit::Restart::FromDeltas, crate::kit::Restart::FromSnapshot] {
        let cuts = Cuts { restarts: vec![restart], steps: vec![1], ..Cuts::default() };
        let rows = drive(&setup, &events, &cuts).unwrap().rows;
        let times: Vec<&str> = rows.iter().map(|row| row.split_once(' ').unwrap().1).collect();
        // Every second while there are events, then what is left of either key, once.
        assert_eq!(times, ["1000", "1500", "2000", "2500", "3600", "3500"], "{restart:?}");
    }
}

/// More keys than fire in one call, with timers that set others between them.
#[test]
fn many_timers_fire_in_order_of_time_and_key() {
    let mut setup = Setup::new(vec![reducer()]);
    setup.room = small_records();
    let mut events: Vec<Event> =
        (0..250).map(|idx| Event { key: idx as u8, time: 0, op: "set", arg: (idx * 37) % 211 }).collect();
    events.extend((0..250).map(|idx| Event { key: idx as u8, time: 0, op: "set", arg: (idx * 53) % 223 }));
    let payloads: Vec<String> = events.iter().map(Event::json).collect();
    let expected = oracle(&events, 0, 900);
    assert!(expected.len() > 350, "{}", expected.len());
    for records in [900, 5] {
        setup.room.records = records;
        let cuts = Cuts { restarts: vec![crate::kit::Restart::FromDeltas], ..Cuts::default() };
        assert_eq!(drive(&setup, &payloads, &cuts).unwrap().rows, expected);
    }
}

/// Without a call of the module, and with the timers that are set for later; what is refused does not keep a key alive.
#[test]
fn a_key_goes_when_its_time_is_over() {
    let event = |key, time, op, arg| Event { key, time, op, arg };
    let events = [
        event(1, 0, "add", 0),
        event(2, 0, "set", 70),
        event(1, 40, "emit", 1),
        event(2, 45, "reject", 0),
        // Key 2 has gone at 50, before its timer at 70.
        event(3, 80, "add", 0),
        event(2, 81, "emit", 1),
        // Key 1 was to go at 90, and lives on; key 3 is heard of before anybody knows that it is 200.
        event(1, 89, "emit", 1),
        event(3, 200, "add", 0),
        event(1, 201, "emit", 1),
    ];
    let payloads: Vec<String> = events.iter().map(Event::json).collect();
    let setup = Setup { ttl: Some(50), ..Setup::new(vec![reducer()]) };
    for batch in [1, 100] {
        let outcome = drive(&setup, &payloads, &Cuts { batches: vec![batch], ..Cuts::default() }).unwrap();
        let emitted: Vec<&str> = outcome.rows.iter().filter_map(|row| row.strip_prefix("out.0-0 ")).collect();
        assert_eq!(emitted, ["e0 a0 ", "e0 ", "e0 a0 e1 ", "e0 "], "batches of {batch}: {:?}", outcome.rows);
        // Key 2 twice, key 1 once; what is left at the end of the input stays.
        assert_eq!(outcome.counters["s0/expired-keys"], 3);
    }
}
