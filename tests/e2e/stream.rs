//! Chaos: host and broker are killed again and again during one run, and the result is that of a calm one.
//!
//! `PELTON_CHAOS_KILLS`, `PELTON_CHAOS_BROKER_KILLS`, `PELTON_CHAOS_EVENTS` and `PELTON_CHAOS_SEED` make it longer or
//! another one. When a run is done before all blows have fallen, it is compared, and the next one begins.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{GLANCE, PATIENCE, Process, finish, until};
use crate::scene::{Dice, Scene, Truth, alerts};

/// Moments that come with nearly every epoch.
const FREQUENT: [&str; 7] =
    ["apply.before", "apply.after", "publish.before", "publish.during", "publish.after", "ack.before", "sync.before"];
/// Moments of starts, snapshots and rebuilds.
const RARE: [&str; 9] = [
    "load.before",
    "survey.before",
    "reset.before",
    "lease.before",
    "snapshot.before",
    "compact.before",
    "compact.after",
    "rebase.before",
    "rebase.after",
];
const KILLS: u64 = 40;
const BROKER_KILLS: u64 = 10;
const EVENTS: u64 = 100_000;
/// Longest time after a start at which a host is killed.
const LIFE_MS: u64 = 700;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// The host dies at the `n`th passing of a named moment.
    Named(&'static str, u64),
    /// The host is killed after it has committed so many more events.
    Progress(u64),
    /// The host is killed so many milliseconds after it was started.
    Life(u64),
    /// The broker is killed under the host, and is back after so many milliseconds.
    Broker(u64),
}

/// The pipeline, its broker and its input, before any run.
struct Stage {
    scene: Scene,
    broker: Broker,
    pipeline: String,
    truth: Truth,
    events: u64,
}

impl Stage {
    fn new(events: u64, seed: u64) -> Stage {
        let scene = Scene::new();
        let broker = Broker::start();
        let pipeline = scene.fraud();
        // Small epochs: many commits to kill between.
        let text = scene.read("fraud.toml");
        scene.write("fraud.toml", [&text, &b"\n[limits]\nepoch_events = 2000\n"[..]].concat());
        broker.up(&pipeline);
        let (count, seed, truth) = (events.to_string(), seed.to_string(), scene.arg("truth.json"));
        let mut args = vec!["generate", "plays", "--publish", "--pipeline", &pipeline, "--events", &count];
        args.extend(["--seed", &seed, "--farms", "5", "--bad", "0.001", "--late", "0.002", "--truth", &truth]);
        finish(&mut broker.pelton(&args)).code(0);
        let truth = serde_json::from_slice(&scene.read("truth.json")).expect("the truth reads back");
        Stage { scene, broker, pipeline, truth, events }
    }

    /// A host; its state lies in a folder of this name.
    fn host(&self, state: &str, more: &[&str]) -> Command {
        let state = self.scene.arg(state);
        let mut args = vec!["run", &self.pipeline, "--state", &state, "--listen", "off"];
        args.extend(more);
        let mut command = self.broker.pelton(&args);
        command.env("PELTON_TEST_SNAPSHOT_EPOCHS", "3");
        command
    }

    /// An undisturbed run, compared with the truth of the generator; the pipeline is as new afterwards.
    fn calm(&self) -> Dump {
        finish(&mut self.host("calm", &["--drain"])).code(0);
        let calm = Dump::read(&self.broker, "fraud");
        calm.assert_chain(self.events);
        assert_eq!(calm.alerts(), self.truth.alerts(false), "alerts against the truth");
        assert_eq!(calm.count("dlq.") as u64, self.truth.bad_records(), "dead letters: {:?}", calm.dead());
        assert_eq!(calm.count("late.") as u64, self.truth.late_rows, "late rows");
        self.renew();
        calm
    }

    /// Asserts that the public stream, which the broker fills by itself, gets exactly the alerts.
    fn assert_public(&self, dump: &Dump) {
        let public = until("all alerts in the public stream", || {
            let messages = self.broker.messages("FRAUD_ALERTS");
            (dump.count("out.") <= messages.len()).then_some(messages)
        });
        assert_eq!(public.len(), dump.count("out."), "alerts in the public stream");
        assert_eq!(alerts(public.iter().map(|message| &message.payload[..])), dump.alerts());
    }

    /// Forgets all results, keeps the input.
    fn renew(&self) {
        finish(&mut self.broker.pelton(&["down", &self.pipeline, "--yes", "--public"])).code(0);
        self.broker.up(&self.pipeline);
    }
}

/// The disturbed runs.
struct Chaos<'a> {
    stage: &'a Stage,
    calm: &'a Dump,
    watcher: Context,
    host: Option<Process>,
    round: u64,
    /// Deaths of hosts by what killed them.
    deaths: BTreeMap<String, u64>,
    broker_kills: u64,
    epochs: usize,
}

impl Chaos<'_> {
    fn state(&self) -> String {
        format!("round-{}", self.round)
    }

    fn start(&mut self, moment: Option<String>) {
        let mut command = self.stage.host(&self.state(), &["--drain"]);
        command.envs(moment.map(|moment| ("PELTON_FAILPOINT", moment)));
        self.host = Some(Process::start(&mut command));
    }

    /// Starts a host unless one is running.
    fn ensure_host(&mut self) {
        if self.host.is_none() {
            self.start(None);
        }
    }

    fn count(&mut self, what: &str) {
        *self.deaths.entry(what.to_owned()).or_default() += 1;
    }

    /// SIGKILL for the host, if it runs; a host that is done ends the round.
    fn kill(&mut self, what: &str) {
        let Some(mut host) = self.host.take() else { return };
        if host.kill() {
            self.count(what);
            self.stage.broker.evict("fraud");
        } else {
            host.wait().code(0);
            self.finish_round();
        }
    }

    fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Named(moment, count) => self.strike_named(moment, count),
            Blow::Progress(events) => {
                let from = self.committed();
                self.ensure_host();
                self.watch(from + events);
                self.kill("random progress");
            }
            Blow::Life(millis) => {
                self.kill("before a new start");
                self.start(None);
                pause(millis);
                self.kill("random moment");
            }
            Blow::Broker(millis) => self.strike_broker(millis),
        }
    }

    fn strike_named(&mut self, moment: &'static str, count: u64) {
        self.kill("before a new start");
        // When the run is done before the moment comes, it comes in the next one.
        for _ in 0..2 {
            if moment.starts_with("rebase") {
                // Without its local state, the host rebuilds it from the stream.
                drop(std::fs::remove_dir_all(self.stage.scene.path(&self.state())));
            }
            self.start(Some(format!("{moment}:{count}")));
            let said = self.host.take().expect("started above").wait();
            // abort()
            if said.status.signal() == Some(6) {
                self.count(moment);
                self.stage.broker.evict("fraud");
                return;
            }
            said.code(0);
            self.finish_round();
        }
    }

    fn strike_broker(&mut self, millis: u64) {
        let from = self.committed();
        self.ensure_host();
        self.watch(from + 1);
        self.stage.broker.kill_and_restart(millis);
        self.broker_kills += 1;
        self.committed();
    }

    /// Waits until so many events are committed, or the host has ended.
    fn watch(&mut self, target: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.committed() < target {
            let host = self.host.as_mut().expect("a host is watched");
            if let Some(status) = host.ended() {
                assert!(status.success(), "the host ended with {status}:\n{}", host.stderr());
                return;
            }
            assert!(Instant::now() < deadline, "no progress to event {target}:\n{}", host.stderr());
            std::thread::sleep(GLANCE);
        }
    }

    fn committed(&self) -> u64 {
        until("an answer of the broker", || self.stage.broker.committed(&self.watcher, "fraud"))
    }

    /// The host is done: compares, and begins anew.
    fn finish_round(&mut self) {
        let dump = Dump::read(&self.stage.broker, "fraud");
        dump.assert_chain(self.stage.events);
        dump.assert_same(self.calm);
        self.stage.assert_public(&dump);
        self.epochs += dump.markers.len();
        self.round += 1;
        self.stage.renew();
    }

    /// Lets the last host come to its end.
    fn finish(&mut self) {
        self.ensure_host();
        self.host.take().expect("ensured above").wait().code(0);
        self.finish_round();
    }

    fn kills(&self) -> u64 {
        self.deaths.values().sum()
    }
}

/// The moment of a blow, not a wait for something.
fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// All blows in random order.
fn schedule(dice: &mut Dice, kills: u64, broker_kills: u64, events: u64) -> Vec<Blow> {
    let named = (FREQUENT.len() + RARE.len()) as u64;
    let mut blows: Vec<Blow> = (0..kills)
        .map(|idx| match (idx % (2 * named)) as usize {
            // Release builds have no named moments.
            at if cfg!(debug_assertions) && at < FREQUENT.len() => Blow::Named(FREQUENT[at], 1 + dice.below(3)),
            at if cfg!(debug_assertions) && at < FREQUENT.len() + RARE.len() => {
                Blow::Named(RARE[at - FREQUENT.len()], 1)
            }
            at if at % 2 == 0 => Blow::Progress(1 + dice.below(events / 20)),
            _ => Blow::Life(dice.below(LIFE_MS)),
        })
        .collect();
    blows.extend((0..broker_kills).map(|_| Blow::Broker(dice.below(300))));
    for idx in (1..blows.len()).rev() {
        blows.swap(idx, dice.below(idx as u64 + 1) as usize);
    }
    blows
}

#[test]
fn chaos_kills_of_host_and_broker_leave_no_trace() {
    let (kills, broker_kills) =
        (setting("PELTON_CHAOS_KILLS", KILLS), setting("PELTON_CHAOS_BROKER_KILLS", BROKER_KILLS));
    let (events, seed) = (setting("PELTON_CHAOS_EVENTS", EVENTS), setting("PELTON_CHAOS_SEED", 1));
    let began = Instant::now();
    let stage = Stage::new(events, seed);
    let calm = stage.calm();
    let mut dice = Dice::new(seed);
    let watcher = stage.broker.watcher();
    let mut chaos = Chaos {
        stage: &stage,
        calm: &calm,
        watcher,
        host: None,
        round: 0,
        deaths: BTreeMap::new(),
        broker_kills: 0,
        epochs: 0,
    };
    for blow in schedule(&mut dice, kills, broker_kills, events) {
        chaos.strike(blow);
    }
    // Blows that hit a host which was done already.
    while chaos.kills() < kills {
        chaos.strike(Blow::Life(dice.below(LIFE_MS)));
    }
    chaos.finish();
    println!(
        "chaos (seed {seed}): {} kills of the host {:?}, {} of the broker, {} runs of {events} events, {} epochs, \
         {:.0} s: {} alerts, {} dead letters, {} late rows equal byte for byte",
        chaos.kills(),
        chaos.deaths,
        chaos.broker_kills,
        chaos.round,
        chaos.epochs,
        began.elapsed().as_secs_f64(),
        calm.count("out."),
        calm.count("dlq."),
        calm.count("late."),
    );
    assert!(chaos.kills() >= kills && chaos.broker_kills >= broker_kills);
}

#[test]
fn chaos_a_host_that_slept_longer_than_its_lease_changes_nothing() {
    let stage = Stage::new(60_000, 2);
    let calm = stage.calm();
    let watcher = stage.broker.watcher();
    let mut sleeper = Process::start(&mut stage.host("sleeper", &["--holder", "sleeper"]));
    until("some epochs of the sleeper", || {
        (5_000 <= stage.broker.committed(&watcher, "fraud").unwrap_or(0)).then_some(())
    });
    sleeper.signal("STOP");
    let asleep = stage.broker.committed(&watcher, "fraud").expect("the broker runs");
    let mut other = Process::start(&mut stage.host("other", &["--holder", "other", "--drain"]));
    // The lease expires, then the other one does the rest. Only an epoch after its first word counts: a batch that the
    // sleeper had sent before it fell asleep may land late.
    other.wait_for("running");
    let taken = stage.broker.committed(&watcher, "fraud").expect("the broker runs");
    until("the other host's first epoch", || {
        let committed = stage.broker.committed(&watcher, "fraud").unwrap_or(0);
        let done = taken < committed || other.ended().is_some();
        done.then_some(())
    });
    // It wakes up while the other one works, or right after.
    sleeper.signal("CONT");
    other.wait().code(0);
    until("every event", || (stage.broker.committed(&watcher, "fraud") == Some(stage.events)).then_some(()));
    until("the sleeper's return", || {
        let text = sleeper.stderr();
        assert!(sleeper.ended().is_none(), "{text}");
        (text.matches("running").count() >= 2).then_some(())
    });
    sleeper.signal("INT");
    sleeper.wait().code(0);
    let dump = Dump::read(&stage.broker, "fraud");
    dump.assert_chain(stage.events);
    dump.assert_same(&calm);
    stage.assert_public(&dump);
    println!("zombie: asleep at event {asleep}, {} epochs, equal", dump.markers.len());
}
