//! The fraud pipeline on a broker, with its input: run calmly once, then in disturbed rounds that must come out the
//! same.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{GLANCE, PATIENCE, Process, finish, until};
use crate::scene::{Scene, Truth, alerts};

/// The pipeline, its broker and its input, before any run.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) broker: Broker,
    pipeline: String,
    truth: Truth,
    pub(crate) events: u64,
}

impl Stage {
    pub(crate) fn new(broker: Broker, events: u64, epoch_max_events: u64, seed: u64) -> Stage {
        let scene = Scene::new();
        let pipeline = scene.fraud();
        // Small epochs: many commits to kill between.
        let limits = format!("\n[limits]\nepoch_max_events = {epoch_max_events}\n");
        scene.write("fraud.toml", [scene.read("fraud.toml"), limits.into_bytes()].concat());
        broker.up(&pipeline);
        let (count, seed, truth) = (events.to_string(), seed.to_string(), scene.arg("truth.json"));
        let mut args = vec!["generate", "plays", "--publish", "--pipeline", &pipeline, "--events", &count];
        args.extend(["--seed", &seed, "--farms", "5", "--bad", "0.001", "--late", "0.002", "--truth", &truth]);
        finish(&mut broker.pelton(&args)).code(0);
        let truth = serde_json::from_slice(&scene.read("truth.json")).expect("the truth reads back");
        Stage { scene, broker, pipeline, truth, events }
    }

    /// A host; its state lies in a folder of this name.
    pub(crate) fn host(&self, state: &str, more: &[&str]) -> Command {
        let state = self.scene.arg(state);
        let mut args = vec!["run", &self.pipeline, "--state-dir", &state, "--listen", "off"];
        args.extend(more);
        let mut command = self.broker.pelton(&args);
        command.env("PELTON_TEST_SNAPSHOT_EPOCHS", "3");
        command
    }

    /// An undisturbed run, compared with the truth of the generator; the pipeline is as new afterwards.
    pub(crate) fn calm(&self) -> Dump {
        finish(&mut self.host("calm", &["--exit-when-caught-up"])).code(0);
        let calm = Dump::read(&self.broker, "fraud");
        calm.assert_chain(self.events);
        assert_eq!(calm.alerts(), self.truth.alerts(false), "alerts against the truth");
        assert_eq!(calm.count("dlq.") as u64, self.truth.bad_records(), "dead letters: {:?}", calm.dead());
        assert_eq!(calm.count("late.") as u64, self.truth.late_events, "late events");
        self.renew();
        calm
    }

    /// Asserts that the output stream, which the broker fills by itself, gets exactly the alerts.
    pub(crate) fn assert_output_stream(&self, dump: &Dump) {
        let count = dump.count("out.");
        until("all alerts in the output stream", || (count as u64 <= self.broker.held("FRAUD_ALERTS")).then_some(()));
        let copied = self.broker.messages("FRAUD_ALERTS");
        assert_eq!(copied.len(), count, "alerts in the output stream");
        assert_eq!(alerts(copied.iter().map(|message| &message.payload[..])), dump.alerts());
    }

    /// Forgets all results, keeps the input.
    fn renew(&self) {
        self.broker.down(&self.pipeline);
        self.broker.up(&self.pipeline);
    }
}

/// Disturbed runs, one after the other: one that is done is compared with the calm one, and the next one begins.
pub(crate) struct Rounds<'a> {
    pub(crate) stage: &'a Stage,
    calm: &'a Dump,
    watcher: Context,
    /// Where hosts find the broker when it is not where it is.
    pub(crate) detour: Option<String>,
    pub(crate) host: Option<Process>,
    round: u64,
    epochs: usize,
    /// Epochs of this round that were seen in the stream, with their nonces.
    seen: BTreeMap<u64, u128>,
    began: Instant,
}

/// What was done to a pipeline.
#[derive(Default)]
pub(crate) struct Blows {
    pub(crate) host_kills: u64,
    pub(crate) broker_kills: u64,
    pub(crate) proxy_faults: u64,
    pub(crate) node_kills: u64,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(stage: &'a Stage, calm: &'a Dump) -> Rounds<'a> {
        Rounds {
            stage,
            calm,
            watcher: stage.broker.watcher(),
            detour: None,
            host: None,
            round: 0,
            epochs: 0,
            seen: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Folder of this round's state.
    pub(crate) fn state(&self) -> String {
        format!("round-{}", self.round)
    }

    /// Starts a host that dies at a named moment, or lives.
    pub(crate) fn start(&mut self, moment: Option<String>) {
        let mut command = self.stage.host(&self.state(), &["--exit-when-caught-up"]);
        command.envs(moment.map(|moment| ("PELTON_FAILPOINT", moment)));
        command.envs(self.detour.as_ref().map(|url| ("NATS_URL", url)));
        self.host = Some(Process::start(&mut command));
    }

    /// A host at work: it has just committed something. One that is done on the way ends the round.
    pub(crate) fn ensure_work(&mut self) {
        loop {
            let from = self.committed();
            if self.host.is_none() {
                self.start(None);
            }
            if self.watch(from + 1) {
                return;
            }
            self.end_host();
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.host.as_mut().is_some_and(|host| host.ended().is_none())
    }

    /// Waits until so many events are committed, or the host has ended; whether it still runs.
    pub(crate) fn watch(&mut self, target: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let committed = self.committed();
            let host = self.host.as_mut().expect("a host is watched");
            if let Some(status) = host.ended() {
                assert!(status.success(), "the host ended with {status}:\n{}", host.stderr());
                return false;
            }
            if target <= committed {
                return true;
            }
            assert!(Instant::now() < deadline, "no progress to event {target}:\n{}", host.stderr());
            std::thread::sleep(GLANCE);
        }
    }

    /// Events that are committed now.
    pub(crate) fn committed(&mut self) -> u64 {
        let newest = until("an answer of the broker", || self.stage.broker.newest(&self.watcher, "fraud"));
        newest.map_or(0, |marker| {
            self.seen.insert(marker.epoch, marker.nonce);
            marker.totals_sum.received
        })
    }

    /// Lets the host come to its end, and with it the round.
    pub(crate) fn end_host(&mut self) {
        /// How often a host may be done too early.
        const EARLY: usize = 3;
        self.host.take().expect("a host runs").wait().code(0);
        // A node that was just elected may know less of the input than its predecessor had acknowledged: who asks it then
        // has caught up with that. The next host goes on from there.
        for _ in 0..if self.stage.broker.is_cluster() { EARLY } else { 0 } {
            if self.committed() < self.stage.events {
                self.start(None);
                self.host.take().expect("just started").wait().code(0);
            }
        }
        self.finish_round();
    }

    /// The host is done: compares, and begins anew.
    pub(crate) fn finish_round(&mut self) {
        let dump = Dump::read(&self.stage.broker, "fraud");
        dump.assert_chain(self.stage.events);
        dump.assert_same(self.calm);
        dump.assert_holds(&self.seen);
        self.stage.assert_output_stream(&dump);
        self.epochs += dump.epochs();
        self.round += 1;
        self.seen.clear();
        self.stage.renew();
    }

    /// Says what was done in all rounds; nothing wrong was found.
    pub(crate) fn tell(&self, what: &str, blows: &Blows) {
        let records: usize = ["out.", "dlq.", "late."].map(|channel| self.calm.count(channel)).iter().sum();
        blows.tell(&format!(
            "runs={}, events={}, epochs={}, records={}, seconds={}; {what}",
            self.round,
            self.round * self.stage.events,
            self.epochs,
            self.round * records as u64,
            self.began.elapsed().as_secs(),
        ));
    }
}

impl Blows {
    /// The line of a test that found nothing wrong. It passes by the capture of the test runner, so every log shows it,
    /// and it stands on a line of its own also where the runner has begun one.
    pub(crate) fn tell(&self, rest: &str) {
        let Blows { host_kills, broker_kills, proxy_faults, node_kills } = self;
        let line = format!(
            "\nchaos: host kills={host_kills}, broker kills={broker_kills}, proxy faults={proxy_faults}, \
             node kills={node_kills}, violations=0, {rest}\n"
        );
        std::io::stdout().write_all(line.as_bytes()).expect("stdout is open");
    }
}

/// The moment of a blow, not a wait for something.
pub(crate) fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}
