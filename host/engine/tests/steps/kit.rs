//! Native guests made of closures, and a driver that cuts input and epochs wherever a test says.
//!
//! Also part of `tests/fuzz`, so there is no test framework in here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pelton_engine::effects::{Effects, Origin, Room};
use pelton_engine::epoch::{Channel, DeltaReader, Part, Position};
use pelton_engine::event::{Events, Field, Kind, Need, RawBatch};
use pelton_engine::guest::*;
use pelton_engine::judge::StepError;
use pelton_engine::plan::{
    self, Dedupe, EventOrder, Key, Limits, Plan, Source, Stage, Time, TimeUnit, Watermark, Window, WindowKind,
};
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Options, Progress};
use pelton_engine::time::{Span, WallTime};
use pelton_engine::totals::Totals;

/// Arrival of every event.
pub(crate) const NOW: i64 = 1_767_225_600_000;

type Process = Arc<dyn Fn(Metering, &Events, &mut Output) -> Result<(), Fault> + Send + Sync>;
type Evaluate = Arc<dyn Fn(&Panes, &States, &mut Output) -> Result<(), Fault> + Send + Sync>;
type Extract = Arc<dyn Fn(&Events, &mut Samples) -> Result<(), Fault> + Send + Sync>;
type Reduce = Arc<dyn Fn(&Events, &Groups, &mut Reduced) -> Result<(), Fault> + Send + Sync>;
type Fold = Arc<dyn Fn(&Events, &Groups, &mut Folded) -> Result<(), Fault> + Send + Sync>;

/// A guest in native code.
#[derive(Clone)]
pub(crate) struct Native {
    pub(crate) descriptor: Descriptor,
    pub(crate) plan: Aggregation,
    pub(crate) process: Option<Process>,
    pub(crate) extract: Option<Extract>,
    /// `evaluate` and `finish`.
    pub(crate) evaluate: Option<Evaluate>,
    pub(crate) reduce: Option<Reduce>,
    pub(crate) fold: Option<Fold>,
}

impl Native {
    pub(crate) fn new(world: World, fields: &[(&str, Kind, bool)]) -> Native {
        let field = |&(name, kind, required): &(&str, Kind, bool)| Field {
            name: name.into(),
            kind,
            need: if required { Need::Required } else { Need::Optional },
        };
        Native {
            descriptor: Descriptor {
                identity: Identity { state_version: 1, ..Identity::new(world, "native", "1.0.0") },
                shape: Shape {
                    fields: fields.iter().map(field).collect(),
                    ports: vec!["main".into(), "side".into()],
                    counters: vec!["seen".into()],
                    ..Shape::default()
                },
            },
            plan: Aggregation::default(),
            process: None,
            extract: None,
            evaluate: None,
            reduce: None,
            fold: None,
        }
    }
}

impl Guest for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
    fn digest(&self) -> [u8; 32] {
        [7; 32]
    }
    fn process(&mut self, metering: Metering, events: &mut Events, output: &mut Output) -> Result<(), Fault> {
        *output = Output::default();
        self.process.as_ref().unwrap()(metering, events, output)
    }
    fn aggregates(&mut self) -> Result<Aggregation, Fault> {
        Ok(self.plan.clone())
    }
    fn extract(&mut self, _: Metering, events: &mut Events, samples: &mut Samples) -> Result<(), Fault> {
        self.extract.as_ref().unwrap()(events, samples)
    }
    fn evaluate(&mut self, _: Metering, panes: &mut Panes, output: &mut Output) -> Result<(), Fault> {
        *output = Output::default();
        self.evaluate.as_ref().unwrap()(panes, &States::default(), output)
    }
    fn reduce(
        &mut self,
        _: Metering,
        events: &mut Events,
        groups: &mut Groups,
        reduced: &mut Reduced,
    ) -> Result<(), Fault> {
        self.reduce.as_ref().unwrap()(events, groups, reduced)
    }
    fn fold(
        &mut self,
        _: Metering,
        events: &mut Events,
        groups: &mut Groups,
        folded: &mut Folded,
    ) -> Result<(), Fault> {
        self.fold.as_ref().unwrap()(events, groups, folded)
    }
    fn merge(&mut self, _: Metering, left: &mut States, right: &mut States, states: &mut States) -> Result<(), Fault> {
        (0..left.ends.len()).for_each(|row| states.push(&[left.get(row), right.get(row)].concat()));
        Ok(())
    }
    fn finish(
        &mut self,
        _: Metering,
        panes: &mut Panes,
        states: &mut States,
        output: &mut Output,
    ) -> Result<(), Fault> {
        *output = Output::default();
        self.evaluate.as_ref().unwrap()(panes, states, output)
    }
}

/// A condition of integers.
pub(crate) fn at_least(aggregate: u32, least: i64) -> Condition {
    Condition { aggregate, bound: Bound::AtLeastInteger(least) }
}

/// Appends a record with the row's key and a payload of its own; `input` is the length of the input arena.
pub(crate) fn push(output: &mut Output, input: usize, source: u32, port: u8, payload: &[u8]) {
    output.rows.push(source);
    output.ports.push(port);
    let at = (input + output.data.len()) as u32;
    output.slices.extend([OF_ROW, 0, at, payload.len() as u32]);
    output.data.extend_from_slice(payload);
}

/// A whole pipeline: guests, window of the stages that have one, watermark delay, room of an epoch.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) guests: Vec<Native>,
    /// The stage that each one reads; without an entry the one before.
    pub(crate) from: Vec<Option<usize>>,
    pub(crate) window: Option<Window>,
    pub(crate) delay: i64,
    pub(crate) order: EventOrder,
    pub(crate) dedupe: Option<Dedupe>,
    /// Of reducers, ms.
    pub(crate) ttl: Option<i64>,
    pub(crate) room: Room,
    pub(crate) limits: Limits,
    /// Each engine gets another one when nothing is said: no result depends on it, and the one that is restored counts.
    pub(crate) hash_key: Option<HashKey>,
}

impl Setup {
    pub(crate) fn new(guests: Vec<Native>) -> Setup {
        let limits = Limits { state_per_key: 100, ..Limits::default() };
        let (from, window, delay, order, room) = (Vec::new(), None, 0, EventOrder::Arrival, Room::default());
        Setup { guests, from, window, delay, order, dedupe: None, ttl: None, room, limits, hash_key: None }
    }

    pub(crate) fn window(mut self, kind: WindowKind, allowed_lateness: i64, delay: i64) -> Setup {
        self.window = Some(Window { kind, allowed_lateness: Span(allowed_lateness) });
        self.delay = delay;
        self
    }

    /// Every port of every stage that an output may take has one, named `STAGE-PORT`.
    fn plan(&self) -> Plan {
        let last = self.guests.len() - 1;
        let from = |idx: usize| self.from.get(idx).copied().unwrap_or_else(|| idx.checked_sub(1));
        let is_windowed =
            |idx: usize| matches!(self.guests[idx].descriptor.identity.world, World::WindowRule | World::WindowFold);
        let stage = |idx: usize| Stage {
            name: format!("s{idx}"),
            from: from(idx),
            module: String::new(),
            config: "{}".into(),
            window: self.window.filter(|_| is_windowed(idx)),
            ttl: self.ttl.filter(|_| self.guests[idx].descriptor.identity.world == World::Reducer).map(Span),
        };
        let is_read = |stage: usize| (0..=last).any(|other| from(other) == Some(stage));
        let outputs = (0..=last)
            .flat_map(|stage| (0..2).map(move |port| (stage, port)))
            .filter(|&(stage, port)| !is_read(stage) || port > 0)
            .map(|(stage, port)| plan::Output { name: format!("{stage}-{port}"), stage, port, stream: None })
            .collect();
        let century = Span::from_secs(100 * 366 * 86_400);
        Plan {
            name: "p".into(),
            source: Source {
                stream: "S".into(),
                subject: "s".into(),
                partitions: 1,
                create: None,
                key: Key::Field(vec!["k".into()]),
                time: Time { field: vec!["t".into()], unit: TimeUnit::Millis },
                watermark: Watermark {
                    delay: Span(self.delay),
                    idle_timeout: None,
                    max_future: century,
                    max_past: century,
                },
                order: self.order,
                dedupe: self.dedupe.clone(),
                fields: Vec::new(),
            },
            stages: (0..=last).map(stage).collect(),
            outputs,
            limits: self.limits,
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        let guests = self.guests.iter().map(|guest| Box::new(guest.clone()) as Box<dyn Guest>).collect();
        let origin = Origin { pipeline: "p".into(), partition: 0, source: "S".into(), revision: [0; 32] };
        static ENGINES: AtomicU64 = AtomicU64::new(1);
        let number = ENGINES.fetch_add(1, Ordering::Relaxed);
        let hash_key = self.hash_key.unwrap_or(HashKey(u128::from(number).to_le_bytes()));
        let options = Options { origin, room: self.room, envelope: Envelope::Headers, hash_key };
        Engine::new(Arc::new(self.plan()), guests, options).unwrap()
    }
}

/// Where input and epochs are cut, and what happens at each cut of an epoch; each list is cycled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts {
    /// Events per batch; empty: all in one.
    pub(crate) batches: Vec<usize>,
    /// Steps per epoch; empty: only when the epoch is full, and at the end.
    pub(crate) steps: Vec<usize>,
    pub(crate) restarts: Vec<Restart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    No,
    /// Nothing but a snapshot of this epoch is taken.
    Snapshot,
    FromDeltas,
    FromSnapshot,
}

/// All that a run gave.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// `SUBJECT PAYLOAD` per record, in order.
    pub(crate) rows: Vec<String>,
    /// Headers of each record.
    pub(crate) headers: Vec<String>,
    pub(crate) totals: Totals,
    /// What the modules have counted, by the names of markers.
    pub(crate) counters: BTreeMap<String, i128>,
    pub(crate) epochs: usize,
    pub(crate) deltas: Vec<Vec<u8>>,
}

/// Runs `events` (payloads, sequence 1, 2, …) to their end.
pub(crate) fn drive(setup: &Setup, events: &[String], cuts: &Cuts) -> Result<Outcome, StepError> {
    let mut outcome = Outcome::default();
    let mut engine = setup.engine();
    let mut effects = Effects::default();
    let (mut snapshot, mut base): (Option<Vec<u8>>, usize) = (None, 0);
    let (mut fed, mut ended, mut batches, mut steps) = (0, false, 0, 0_usize);
    let mut progress = Progress::More;
    // The first step of a restored engine only finds out where it stands.
    let mut restarted = false;
    loop {
        let input = match progress {
            Progress::NeedInput if fed < events.len() => {
                let size = cuts.batches.get(batches % cuts.batches.len().max(1)).copied().unwrap_or(usize::MAX);
                batches += 1;
                let end = events.len().min(fed.saturating_add(size));
                let mut batch = RawBatch::default();
                for (idx, event) in events.iter().enumerate().take(end).skip(fed) {
                    batch.push(idx as u64 + 1, WallTime(NOW), b"", b"", event.as_bytes());
                }
                fed = end;
                Input::Batch(batch)
            }
            Progress::NeedInput if !ended => {
                ended = true;
                Input::End
            }
            Progress::NeedInput => break,
            _ => Input::Continue,
        };
        progress = engine.step(input, &mut effects)?;
        steps += usize::from(!restarted);
        restarted = false;
        let limit = cuts.steps.get(outcome.epochs % cuts.steps.len().max(1)).copied().unwrap_or(usize::MAX);
        if progress != Progress::Full && steps < limit {
            continue;
        }
        steps = 0;
        let position = cut(&mut engine, &mut effects, setup, &mut outcome);
        let restart = cuts.restarts.get(outcome.epochs % cuts.restarts.len().max(1)).copied().unwrap_or(Restart::No);
        if restart == Restart::Snapshot {
            (snapshot, base) = (Some(engine.snapshot()), outcome.deltas.len());
        }
        if matches!(restart, Restart::FromDeltas | Restart::FromSnapshot) {
            let (mut fresh, mut first) = (setup.engine(), 0);
            if let (Restart::FromSnapshot, Some(state)) = (restart, &snapshot) {
                // As a rebuild does; a local store restores all of it at once.
                let mut sections = DeltaReader::new(state).unwrap();
                while let Some(Part { section, bytes, .. }) = sections.part().unwrap() {
                    fresh.restore_section(section, bytes).unwrap();
                }
                first = base;
            }
            outcome.deltas[first..].iter().for_each(|delta| fresh.restore(delta).unwrap());
            fresh.resume(position);
            assert_eq!(fresh.snapshot(), engine.snapshot(), "a restored engine has another state");
            assert_eq!(fresh.watermark(), engine.watermark());
            engine = fresh;
            fed = position.sequence as usize;
            (progress, restarted) = (Progress::More, true);
        }
    }
    cut(&mut engine, &mut effects, setup, &mut outcome);
    assert_eq!(outcome.totals.received, events.len() as u64, "every event is accounted for once");
    outcome.assert_ids_are_unique();
    Ok(outcome)
}

impl Outcome {
    /// The id of each record that has one.
    pub(crate) fn ids(&self) -> Vec<&str> {
        let lines = self.headers.iter().filter_map(|headers| headers.lines().next());
        lines.filter_map(|line| line.strip_prefix("Pelton-Id: ")).collect()
    }

    /// A sink keeps one record per id.
    fn assert_ids_are_unique(&self) {
        let mut ids = self.ids();
        ids.sort_unstable();
        let twice: Vec<_> = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert!(twice.is_empty(), "ids of more than one record: {twice:?}");
        let with_id = self.rows.iter().filter(|row| !row.starts_with("dlq.")).count();
        assert_eq!(ids.len(), with_id, "every output and late event has an id");
    }
}

fn cut(engine: &mut Engine, effects: &mut Effects, setup: &Setup, outcome: &mut Outcome) -> Position {
    effects.totals.held = engine.held();
    assert!(effects.totals.balanced(engine.held_before()), "{:?}", effects.totals);
    assert!(effects.records.rows.len() <= setup.room.records, "{} records", effects.records.rows.len());
    for row in &effects.records.rows {
        let text = |range| String::from_utf8_lossy(effects.records.slice(range)).into_owned();
        assert!(!matches!(row.channel, Channel::Output(_)) || text(&row.subject).starts_with("out."));
        outcome.rows.push(format!("{} {}", text(&row.subject), text(&row.payload)));
        outcome.headers.push(text(&row.headers));
    }
    outcome.totals.add(&effects.totals);
    for (name, count) in engine.counted(&effects.counters) {
        *outcome.counters.entry(name).or_default() += count;
    }
    effects.clear();
    let mut delta = Vec::new();
    let position = engine.cut(&mut delta);
    outcome.deltas.push(delta);
    outcome.epochs += 1;
    position
}
