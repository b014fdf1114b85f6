//! What one seed is about: the pipeline, the inputs, the settings and the weather. All of it follows from the seed.

use std::sync::Arc;

use pelton_engine::effects::{Origin, Room};
use pelton_engine::guest::{Guest, World};
use pelton_engine::judge::StepError;
use pelton_engine::log::Request;
use pelton_engine::partition::Config;
use pelton_engine::plan::{
    Dedupe, EventOrder, Key, Limits, Output, Plan, Source, Stage, Time, TimeUnit, Watermark, Window, WindowKind,
};
use pelton_engine::step::{Engine, Envelope, HashKey, Options};
use pelton_engine::time::Span;

use crate::guests::{SimGuest, Temper};
use crate::log::{OTHERS, Retention};
use crate::rng::Rng;
use crate::store::Cost;

/// Wall time at simulated time 0, milliseconds since the Unix epoch.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

/// One input message before it is published.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Simulated time of its publication.
    pub at: u64,
    pub partition: u32,
    /// Last token of the subject.
    pub token: u32,
    /// Own time to live, milliseconds.
    pub lives: Option<i64>,
    pub payload: Vec<u8>,
}

/// What happens to the streams beyond the everyday faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disaster {
    None,
    /// The pipeline stream loses acknowledged epochs, perhaps several times.
    LogTail,
    /// The pipeline stream is purged or made again.
    LogAnew,
    /// The input loses acknowledged messages and uses their sequences again.
    InputTail,
    /// The input stream is made again.
    InputAnew,
    /// The input expires before it is read.
    InputExpired,
    /// The pipeline stream is bounded after all: its front expires, markers of quiet partitions among it.
    LogExpired,
}

/// A kind of request that always takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    Survey,
    Changes,
    Snapshots,
    Save,
    Reset,
    Publish,
    Lease,
}

impl Slow {
    /// Whether a request is of this kind.
    #[must_use]
    pub fn concerns(self, request: &Request) -> bool {
        match request {
            Request::Survey { .. } => self == Slow::Survey,
            Request::Changes { .. } => self == Slow::Changes,
            Request::FindSnapshot { .. } | Request::ReadPart { .. } => self == Slow::Snapshots,
            Request::SaveSnapshot { .. } => self == Slow::Save,
            Request::Reset { .. } => self == Slow::Reset,
            Request::Publish { .. } => self == Slow::Publish,
            Request::AcquireLease | Request::RenewLease { .. } | Request::ReleaseLease { .. } => self == Slow::Lease,
            Request::Fetch { .. } | Request::Ack { .. } => false,
        }
    }
}

/// Everything that a seed decides before the first event.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub plan: Arc<Plan>,
    pub worlds: Vec<World>,
    pub room: Room,
    pub inputs: Vec<Planned>,
    pub nondeterministic: bool,
    /// Both hosts may believe that they hold the lease.
    pub broken_lease: bool,
    pub disaster: Disaster,
    /// Faults happen before this time, then everything heals.
    pub storm_ms: u64,
    /// Number of drawn faults.
    pub faults: u64,
    /// Per mille of messages lost, doubled, late.
    pub loss: u64,
    pub double: u64,
    pub late: u64,
    /// What the input deletes by itself.
    pub retention: Retention,
    /// The input holds messages of others, too.
    pub is_shared: bool,
    /// Messages that are deleted one by one, at some time.
    pub deletes: u64,
    /// Largest message that the broker takes.
    pub message_bytes: usize,
    /// A kind of request and how long it takes; what is beyond its limit heals with the storm.
    pub slow: Option<(Slow, u64)>,
    /// What calls of the store take.
    pub cost: Cost,
    /// A host that dies leaves no disk behind.
    pub is_diskless: bool,
    /// Per mille of snapshots that are not saved.
    pub unsaved: u64,
    /// Events that come while no host runs, before the last one starts, to exit when it has caught up.
    pub last_events: u64,
    pub config: Config,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed, 1);
        let partitions = if rng.chance(200) { 2 } else { 1 };
        let (worlds, window) = shape(&mut rng, seed);
        let mut plan = plan(&worlds, Some(window), partitions, limits(&mut rng));
        let storm_ms = rng.range(4_000, 14_000);
        let nondeterministic = rng.chance(300);
        let disaster = match rng.below(100) {
            0..=39 => Disaster::LogTail,
            40..=43 => Disaster::LogAnew,
            44..=47 => Disaster::InputTail,
            48..=49 => Disaster::InputAnew,
            50 => Disaster::InputExpired,
            51..=53 => Disaster::LogExpired,
            _ => Disaster::None,
        };
        plan.source.watermark.idle_timeout = rng.chance(333).then(|| Span(rng.range(200, 2_000) as i64));
        (plan.source.order, plan.source.dedupe) = before_stages(seed);
        let ttl = Rng::new(seed, 9).chance(250).then_some(Span(1_500));
        plan.stages.iter_mut().zip(&worlds).filter(|(_, world)| **world == World::Reducer).for_each(|(stage, _)| {
            stage.ttl = ttl;
        });
        let mut config = Config::new(0, 0);
        (config.idle_check_ms, config.renew_ms, config.retry_ms) = (1_500, 700, 50);
        (config.answer_ms, config.sync_ms) = (1_500, 300);
        config.snapshot_epochs = rng.range(3, 30);
        config.accept_loss = rng.chance(333);
        let is_shared = rng.chance(200);
        // What is acknowledged is all that a partition without its markers is known by, and what shows a roll-back must
        // not expire: then nobody can tell.
        let is_kept = matches!(disaster, Disaster::LogExpired | Disaster::InputTail);
        let is_bounded = rng.chance(350) && !is_kept;
        let retention = if is_bounded { retention(&mut rng) } else { Retention::default() };
        let deletes = if rng.chance(250) && !is_kept { rng.range(1, 6) } else { 0 };
        let message_bytes = if rng.chance(200) { rng.range(1_000, 1_600) as usize } else { usize::MAX };
        let mut inputs = inputs(&mut rng, partitions, storm_ms);
        let is_mortal = rng.chance(150) && !is_kept;
        vary(&mut rng, &mut inputs, (is_shared, is_mortal), message_bytes);
        let room = Room { records: rng.range(3, 24) as usize, ..delta_room(seed, plan.source.order) };
        let record_bytes = room.record_bytes.min(message_bytes);
        Scenario {
            seed,
            plan: Arc::new(plan),
            worlds,
            room: Room { record_bytes, header_bytes: room.header_bytes.min(record_bytes * 3 / 4), ..room },
            inputs,
            nondeterministic,
            broken_lease: rng.chance(500),
            disaster,
            storm_ms,
            faults: rng.range(2, 24),
            loss: rng.below(60),
            double: rng.below(40),
            late: rng.below(50),
            retention,
            is_shared,
            deletes,
            message_bytes,
            slow: slow(&mut rng, config.answer_ms),
            cost: cost(&mut rng),
            is_diskless: rng.chance(80) && disaster != Disaster::LogExpired,
            unsaved: if rng.chance(200) { rng.range(100, 900) } else { 0 },
            last_events: if rng.chance(500) { rng.range(1, 60) } else { 0 },
            config,
        }
    }

    /// An engine with empty state.
    ///
    /// # Errors
    /// Never with these guests.
    pub fn engine(&self, partition: u32, temper: &Temper) -> Result<Engine, StepError> {
        let guests =
            self.worlds.iter().map(|&world| Box::new(SimGuest::new(world, temper.clone())) as Box<dyn Guest>).collect();
        let origin = Origin {
            pipeline: self.plan.name.clone(),
            partition,
            source: self.plan.source.stream.clone(),
            revision: [0; 32],
        };
        Engine::new(
            self.plan.clone(),
            guests,
            Options { origin, room: self.room, envelope: Envelope::Headers, hash_key: HashKey::default() },
        )
    }
}

/// Deltas of some events, or as large as they are in production. An event that is held takes much of one by itself.
fn delta_room(seed: u64, order: EventOrder) -> Room {
    let mut rng = Rng::new(seed, 6);
    if rng.chance(750) {
        return Room::default();
    }
    let events = if order == EventOrder::EventTime { 4 } else { 1 };
    Room { change_bytes: events * rng.range(150, 400) as usize, change_bytes_at_once: 300, ..Room::default() }
}

/// A quarter of the pipelines hold events until it is their turn, and a quarter take each value of a key once in a while.
fn before_stages(seed: u64) -> (EventOrder, Option<Dedupe>) {
    let mut rng = Rng::new(seed, 8);
    let order = if rng.chance(250) { EventOrder::EventTime } else { EventOrder::Arrival };
    let dedupe = rng.chance(250).then(|| Dedupe { id: Key::Field(vec!["v".into()]), ttl: Span(2_000) });
    (order, dedupe)
}

/// So little that pauses and outages exceed it.
fn retention(rng: &mut Rng) -> Retention {
    match rng.below(3) {
        0 => Retention { messages: Some(rng.range(15, 120)), ..Retention::default() },
        1 => Retention { age_ms: Some(rng.range(400, 8_000) as i64), ..Retention::default() },
        _ => Retention { per_subject: Some(rng.range(2, 30)), ..Retention::default() },
    }
}

/// Just within the time limit, or just beyond it.
fn slow(rng: &mut Rng, limit_ms: u64) -> Option<(Slow, u64)> {
    let kinds = [Slow::Survey, Slow::Changes, Slow::Snapshots, Slow::Save, Slow::Reset, Slow::Publish, Slow::Lease];
    let kind = kinds[rng.below(kinds.len() as u64) as usize];
    let ms = limit_ms * if rng.chance(500) { 9 } else { 11 } / 10;
    rng.chance(150).then_some((kind, ms))
}

/// Calls of a store that take as long as a lease lives, or longer.
fn cost(rng: &mut Rng) -> Cost {
    if rng.chance(850) {
        return Cost::default();
    }
    let (load, rebase, compact) = (rng.below(4_000), rng.below(4_000), rng.below(400));
    Cost { load, rebase, compact, apply: rng.below(20), sync: rng.below(40) }
}

/// Messages of others, with a life of their own, and around the size that the broker takes.
fn vary(rng: &mut Rng, inputs: &mut [Planned], (is_shared, is_mortal): (bool, bool), message_bytes: usize) {
    for planned in inputs {
        planned.lives = (is_mortal && rng.chance(50)).then(|| rng.range(10, 2_000) as i64);
        if is_shared && rng.chance(300) {
            (planned.partition, planned.payload) = (OTHERS, b"other".to_vec());
        } else if message_bytes < usize::MAX && rng.chance(150) {
            let fill = rng.range(message_bytes as u64 / 2, message_bytes as u64 - 100) as usize;
            let end = planned.payload.pop().unwrap_or(b'}');
            planned.payload.extend(format!(",\"fill\":\"{}\"", "x".repeat(fill)).bytes());
            planned.payload.push(end);
            planned.payload.truncate(message_bytes);
        }
    }
}

fn shape(rng: &mut Rng, seed: u64) -> (Vec<World>, Window) {
    let size = Span(1_000);
    let kind = match rng.below(3) {
        0 => WindowKind::Tumbling { size },
        1 => WindowKind::Sliding { size, slide: Span(250) },
        _ => WindowKind::Sliding { size: Span(2_000), slide: size },
    };
    let window = Window { kind, allowed_lateness: Span(if rng.chance(500) { 0 } else { 600 }) };
    let tail = match rng.below(10) {
        0..=3 => Some(World::Reducer),
        4..=6 => Some(World::WindowRule),
        7..=8 => Some(World::WindowFold),
        _ => None,
    };
    let head = (tail.is_none() || rng.chance(400)).then_some(World::Transform);
    let mut worlds: Vec<World> = head.into_iter().chain(tail).collect();
    // Others side by side with it, each with state of its own.
    let mut more = Rng::new(seed, 7);
    for world in [World::WindowFold, World::Reducer, World::WindowRule] {
        if !worlds.contains(&world) && more.chance(150) {
            worlds.push(world);
        }
    }
    (worlds, window)
}

fn limits(rng: &mut Rng) -> Limits {
    Limits {
        epoch_max_events: rng.range(2, 40) as u32,
        epoch_max_age: Span(rng.range(5, 120) as i64),
        ..Limits::default()
    }
}

/// A pipeline of these stages.
#[must_use]
pub fn plan(worlds: &[World], window: Option<Window>, partitions: u32, limits: Limits) -> Plan {
    let head = (worlds[0] == World::Transform).then_some(0);
    let stage = |(idx, world): (usize, &World)| Stage {
        name: world.name().into(),
        from: head.filter(|head| *head < idx),
        module: format!("{}.wasm", world.name()),
        config: "{}".into(),
        window: matches!(world, World::WindowRule | World::WindowFold).then(|| window.expect("the shape has a window")),
        ttl: None,
    };
    let mut outputs = vec![Output { name: "main".into(), stage: worlds.len() - 1, port: 0, stream: None }];
    let others = head.map_or(0, |head| head + 1)..worlds.len() - 1;
    outputs.extend(others.map(|stage| Output { name: worlds[stage].name().into(), stage, port: 0, stream: None }));
    if worlds[0] == World::Transform {
        outputs.push(Output { name: "side".into(), stage: 0, port: 1, stream: None });
    }
    Plan {
        name: "sim".into(),
        source: Source {
            stream: "IN".into(),
            subject: if partitions > 1 { "in.{partition}".into() } else { "in".into() },
            partitions,
            create: None,
            key: Key::Field(vec!["k".into()]),
            time: Time { field: vec!["t".into()], unit: TimeUnit::Millis },
            watermark: watermark(),
            order: EventOrder::Arrival,
            dedupe: None,
            fields: Vec::new(),
        },
        stages: worlds.iter().enumerate().map(stage).collect(),
        outputs,
        limits,
    }
}

fn watermark() -> Watermark {
    Watermark { delay: Span(200), idle_timeout: None, max_future: Span(3_600_000), max_past: Span(86_400_000) }
}

/// Events out of order, late, malformed and refused among good ones, in bursts.
fn inputs(rng: &mut Rng, partitions: u32, storm_ms: u64) -> Vec<Planned> {
    let count = rng.range(60, 260);
    let mut at = 0;
    let mut time = EPOCH_MS;
    (0..count)
        .map(|_| {
            if rng.chance(300) {
                at = (at + rng.below(4 * storm_ms / count)).min(storm_ms);
            }
            time += rng.below(60) as i64;
            let shift = match rng.below(100) {
                0..=59 => 0,
                60..=89 => rng.below(200) as i64,
                90..=95 => rng.below(900) as i64,
                _ => rng.below(4_000) as i64,
            };
            let key = rng.below(5);
            let partition = (key % u64::from(partitions)) as u32;
            let value = rng.below(400);
            let time = time - shift;
            let payload = match rng.below(60) {
                0 => format!("{{\"k\":\"k{key}\",\"t\":{time},"),
                1 => format!("{{\"t\":{time},\"v\":{value}}}"),
                2 => format!("{{\"k\":\"k{key}\",\"t\":{time},\"v\":\"many\"}}"),
                3 => format!("{{\"k\":\"k{key}\",\"t\":{},\"v\":{value}}}", time + 90_000_000),
                _ => format!("{{\"k\":\"k{key}\",\"t\":{time},\"v\":{value},\"u\":\"u{}\"}}", value % 5),
            };
            Planned { at, partition, token: key as u32, lives: None, payload: payload.into_bytes() }
        })
        .collect()
}
