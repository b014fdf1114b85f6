//! Chaos: host and broker are killed again and again during one run, and the result is that of a calm one.
//!
//! `PELTON_CHAOS_KILLS`, `PELTON_CHAOS_BROKER_KILLS`, `PELTON_CHAOS_EVENTS` and `PELTON_CHAOS_SEED` make it longer or
//! another one. When a run is done before all blows have fallen, it is compared, and the next one begins.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, until};
use crate::scene::Dice;
use crate::stage::{Blows, Rounds, Stage, pause, setting};

/// Moments that come with nearly every epoch.
const FREQUENT: [&str; 6] =
    ["apply.before", "apply.after", "publish.before", "publish.during", "publish.after", "ack.before"];
/// Moments of a start, its recovery, snapshots, and the end.
const RARE: [&str; 13] = [
    "open.before",
    "open.after",
    "load.before",
    "lease.before",
    "survey.before",
    "survey.after",
    "reset.before",
    "snapshot.before",
    "snapshot.during",
    "snapshot.after",
    "compact.before",
    "compact.after",
    "sync.before",
];
/// Moments of a start that has lost its local state.
const REBUILD: [&str; 6] =
    ["rebuild.before", "rebuild.after", "changes.before", "changes.after", "rebase.before", "rebase.after"];
const KILLS: u64 = 60;
const BROKER_KILLS: u64 = 15;
const EVENTS: u64 = 100_000;
const EPOCH_EVENTS: u64 = 2000;
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

/// The disturbed runs.
struct Chaos<'a> {
    rounds: Rounds<'a>,
    /// Deaths of hosts by what killed them.
    deaths: BTreeMap<String, u64>,
    broker_kills: u64,
}

impl Chaos<'_> {
    fn count(&mut self, what: &str) {
        *self.deaths.entry(what.to_owned()).or_default() += 1;
        self.rounds.stage.broker.evict("fraud");
    }

    /// SIGKILL for the host, if it runs; a host that is done ends the round.
    fn kill(&mut self, what: &str) {
        let Some(mut host) = self.rounds.host.take() else { return };
        if host.kill() {
            self.count(what);
        } else {
            host.wait().code(0);
            self.rounds.finish_round();
        }
    }

    fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Named(moment, count) => self.strike_named(moment, count),
            Blow::Progress(events) => {
                let from = self.rounds.committed();
                if self.rounds.host.is_none() {
                    self.rounds.start(None);
                }
                self.rounds.watch(from + events);
                self.kill("random progress");
            }
            Blow::Life(millis) => {
                self.kill("before a new start");
                self.rounds.start(None);
                pause(millis);
                self.kill("random moment");
            }
            Blow::Broker(millis) => {
                self.rounds.ensure_work();
                self.rounds.stage.broker.kill_and_restart(millis);
                self.broker_kills += 1;
                self.rounds.committed();
            }
        }
    }

    fn strike_named(&mut self, moment: &'static str, count: u64) {
        // When a run is done before the moment comes, it comes in the next one.
        for _ in 0..3 {
            let rebuild = REBUILD.contains(&moment);
            if rebuild {
                // There must be something to rebuild.
                self.rounds.ensure_work();
            }
            self.kill("before a new start");
            if rebuild {
                drop(std::fs::remove_dir_all(self.rounds.stage.scene.path(&self.rounds.state())));
            }
            self.rounds.start(Some(format!("{moment}:{count}")));
            let said = self.rounds.host.take().expect("started above").wait();
            // abort()
            if said.status.signal() == Some(6) {
                self.count(moment);
                return;
            }
            said.code(0);
            self.rounds.finish_round();
        }
        panic!("{moment} did not come in three runs");
    }

    fn kills(&self) -> u64 {
        self.deaths.values().sum()
    }
}

/// All blows in random order.
fn schedule(dice: &mut Dice, kills: u64, broker_kills: u64, events: u64) -> Vec<Blow> {
    // Release builds have no named moments.
    let named: Vec<Blow> = if cfg!(debug_assertions) {
        let frequent = FREQUENT.iter().map(|moment| Blow::Named(moment, 1 + dice.below(3)));
        frequent.chain(RARE.iter().chain(&REBUILD).map(|moment| Blow::Named(moment, 1))).collect()
    } else {
        Vec::new()
    };
    let mut blows: Vec<Blow> = (0..kills as usize)
        .map(|idx| match named.get(idx % (2 * named.len().max(1))) {
            Some(blow) => *blow,
            None if idx % 2 == 0 => Blow::Progress(1 + dice.below(events / 20)),
            None => Blow::Life(dice.below(LIFE_MS)),
        })
        .collect();
    blows.extend((0..broker_kills).map(|_| Blow::Broker(dice.below(300))));
    dice.shuffle(&mut blows);
    blows
}

#[test]
fn chaos_kills_of_host_and_broker_leave_no_trace() {
    let (kills, broker_kills) =
        (setting("PELTON_CHAOS_KILLS", KILLS), setting("PELTON_CHAOS_BROKER_KILLS", BROKER_KILLS));
    let (events, seed) = (setting("PELTON_CHAOS_EVENTS", EVENTS), setting("PELTON_CHAOS_SEED", 1));
    println!("PELTON_CHAOS_SEED={seed}");
    let stage = Stage::new(Broker::start(), events, EPOCH_EVENTS, seed);
    let calm = stage.calm();
    let mut dice = Dice::new(seed);
    let mut chaos = Chaos { rounds: Rounds::new(&stage, &calm), deaths: BTreeMap::new(), broker_kills: 0 };
    for blow in schedule(&mut dice, kills, broker_kills, events) {
        chaos.strike(blow);
    }
    // Blows that hit a host which was done already.
    while chaos.kills() < kills {
        chaos.strike(Blow::Life(dice.below(LIFE_MS)));
    }
    chaos.rounds.ensure_work();
    chaos.rounds.end_host();
    let blows = Blows { host_kills: chaos.kills(), broker_kills: chaos.broker_kills, ..Blows::default() };
    chaos.rounds.tell(&format!("host and broker killed (seed {seed}): {:?}", chaos.deaths), &blows);
    assert!(blows.host_kills >= kills && blows.broker_kills >= broker_kills);
}

#[test]
fn chaos_a_host_that_slept_longer_than_its_lease_changes_nothing() {
    let stage = Stage::new(Broker::start(), 60_000, EPOCH_EVENTS, 2);
    let calm = stage.calm();
    let watcher = stage.broker.watcher();
    let mut sleeper = Process::start(&mut stage.host("sleeper", &["--holder", "sleeper"]));
    until("some epochs of the sleeper", || {
        (5_000 <= stage.broker.committed(&watcher, "fraud").unwrap_or(0)).then_some(())
    });
    sleeper.signal("STOP");
    let asleep = stage.broker.committed(&watcher, "fraud").expect("the broker runs");
    let mut other = Process::start(&mut stage.host("other", &["--holder", "other", "--exit-when-caught-up"]));
    // The lease expires, then the other one does the rest. Only an epoch after its first word counts: a batch that the
    // sleeper had sent before it fell asleep may land late.
    other.wait_until_running();
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
    stage.assert_output_stream(&dump);
    let epochs = dump.epochs();
    Blows::default().tell(&format!("epochs={epochs}; a host slept from event {asleep} on, longer than its lease"));
}
