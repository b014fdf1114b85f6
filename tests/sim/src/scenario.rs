//! What one seed is about: the pipeline, the inputs, the settings and the weather. All of it follows from the seed.

use std::sync::Arc;

use pelton_engine::effects::{Origin, Room};
use pelton_engine::guest::{Guest, World};
use pelton_engine::judge::StepError;
use pelton_engine::partition::Config;
use pelton_engine::plan::{Key, Limits, Output, Plan, Source, Stage, Time, TimeUnit, Watermark, Window, WindowKind};
use pelton_engine::step::{Engine, Envelope, Options};
use pelton_engine::time::Span;

use crate::guests::{SimGuest, Temper};
use crate::rng::Rng;

/// Wall time at simulated time 0, milliseconds since the Unix epoch.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

/// One input message before it is published.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Simulated time of its publication.
    pub at: u64,
    pub partition: u32,
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
    pub config: Config,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed, 1);
        let partitions = if rng.chance(200) { 2 } else { 1 };
        let (worlds, window) = shape(&mut rng);
        let plan = Arc::new(plan(&worlds, window, partitions, limits(&mut rng)));
        let storm_ms = rng.range(4_000, 14_000);
        let nondeterministic = rng.chance(300);
        let disaster = match rng.below(100) {
            0..=44 => Disaster::LogTail,
            45..=48 => Disaster::LogAnew,
            49..=52 => Disaster::InputTail,
            53 => Disaster::InputAnew,
            54 => Disaster::InputExpired,
            _ => Disaster::None,
        };
        let mut config = Config::new(0, 0);
        (config.idle_check_ms, config.renew_ms, config.retry_ms) = (1_500, 700, 50);
        (config.answer_ms, config.sync_ms) = (1_500, 300);
        config.snapshot_epochs = rng.range(3, 30);
        Scenario {
            seed,
            plan,
            worlds,
            room: Room { records: rng.range(3, 24) as usize, ..Room::default() },
            inputs: inputs(&mut rng, partitions, storm_ms),
            nondeterministic,
            broken_lease: rng.chance(500),
            disaster,
            storm_ms,
            faults: rng.range(2, 24),
            loss: rng.below(60),
            double: rng.below(40),
            late: rng.below(50),
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
        let origin = Origin { pipeline: self.plan.name.clone(), partition, source: self.plan.source.stream.clone() };
        Engine::new(self.plan.clone(), guests, Options { origin, room: self.room, envelope: Envelope::Headers })
    }
}

fn shape(rng: &mut Rng) -> (Vec<World>, Option<Window>) {
    let size = Span(1_000);
    let kind = match rng.below(3) {
        0 => WindowKind::Tumbling { size },
        1 => WindowKind::Sliding { size, every: Span(250) },
        _ => WindowKind::Sliding { size: Span(2_000), every: size },
    };
    let window = Window { kind, lateness: Span(if rng.chance(500) { 0 } else { 600 }) };
    let (tail, window) = match rng.below(10) {
        0..=3 => (Some(World::Reducer), None),
        4..=6 => (Some(World::WindowRule), Some(window)),
        7..=8 => (Some(World::WindowFold), Some(window)),
        _ => (None, None),
    };
    let head = (tail.is_none() || rng.chance(400)).then_some(World::Transform);
    (head.into_iter().chain(tail).collect(), window)
}

fn limits(rng: &mut Rng) -> Limits {
    Limits { epoch_events: rng.range(2, 40) as u32, epoch_time: Span(rng.range(5, 120) as i64), ..Limits::default() }
}

/// A pipeline of these stages.
#[must_use]
pub fn plan(worlds: &[World], window: Option<Window>, partitions: u32, limits: Limits) -> Plan {
    let stage = |world: &World| Stage {
        name: world.name().into(),
        module: format!("{}.wasm", world.name()),
        config: "{}".into(),
        window: matches!(world, World::WindowRule | World::WindowFold).then(|| window.expect("the shape has a window")),
    };
    let mut outputs = vec![Output { name: "main".into(), stage: worlds.len() - 1, port: 0, publish: None }];
    if worlds[0] == World::Transform {
        outputs.push(Output { name: "side".into(), stage: 0, port: 1, publish: None });
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
            fields: Vec::new(),
        },
        stages: worlds.iter().map(stage).collect(),
        outputs,
        limits,
    }
}

fn watermark() -> Watermark {
    Watermark { delay: Span(200), idle: None, max_future: Span(3_600_000), max_past: Span(86_400_000) }
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
            Planned { at, partition, payload: payload.into_bytes() }
        })
        .collect()
}
