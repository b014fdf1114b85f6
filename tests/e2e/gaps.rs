//! Input that is gone before it is read, and streams that are not what they were: no event without a fate.
//!
//! Every case is counted again from the raw streams: what was published to a partition is in a record or in a range that
//! a gap names, and the totals of the last marker say the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Config;
use pelton_engine::epoch::Marker;
use serde_json::json;

use crate::broker::Broker;
use crate::process::{Process, Said, finish, until};
use crate::scene::{Scene, module};

/// A pipeline that forwards events, over an input stream that the test makes.
struct Rig {
    scene: Scene,
    broker: Broker,
    pipeline: String,
}

/// What a recount of one partition gives.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    /// Events with a record of their own.
    kept: u64,
    /// Ranges of sequences that are told to be gone.
    gaps: Vec<(u64, u64)>,
    /// Of the last marker.
    received: u64,
    epochs: u64,
}

impl Rig {
    /// `more`: further lines of the source.
    fn new(partitions: u32, input: Config, more: &str) -> Rig {
        let (scene, broker) = (Scene::new(), Broker::start());
        let subject = if partitions > 1 { "zoo.{partition}" } else { "zoo.0" };
        let text = format!(
            "name = \"zoo\"\n[source]\nstream = \"ZOO\"\nsubject = \"{subject}\"\npartitions = {partitions}\n\
             key = \"user\"\ntime = {{ field = \"ts\", unit = \"ms\" }}\n{more}\n\
             [[stage]]\nname = \"guest\"\nmodule = \"{}\"\n[output.seen]\n",
            module("echo").display()
        );
        let pipeline = scene.write("zoo.toml", text);
        let subjects = (0..partitions).map(|partition| format!("zoo.{partition}")).collect();
        broker.ask(async |context| {
            let config = Config { name: "ZOO".into(), subjects, ..input };
            context.create_stream(config).await.expect("the input stream is made");
        });
        broker.up(&pipeline);
        Rig { scene, broker, pipeline }
    }

    fn publish(&self, partition: u32, count: u64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
        let event = |idx: u64| json!({"user": format!("u{}", idx % 5), "ts": now as u64, "n": idx}).to_string();
        self.broker.publish(&format!("zoo.{partition}"), (0..count).map(event));
    }

    fn run(&self, state: &str, more: &[&str]) -> Process {
        let state = self.scene.arg(state);
        let mut args = vec!["run", &self.pipeline, "--state-dir", &state, "--listen", "off"];
        args.extend(more);
        Process::start(&mut self.broker.pelton(&args))
    }

    #[track_caller]
    fn catch_up(&self, more: &[&str]) -> Said {
        self.run("state", &[&["--exit-when-caught-up"], more].concat()).wait()
    }

    fn count(&self, partition: u32) -> Count {
        let prefix = format!("pelton.zoo.{partition}.");
        let mut count = Count { kept: 0, gaps: Vec::new(), received: 0, epochs: 0 };
        for message in self.broker.messages("PELTON_zoo") {
            let Some(subject) = message.subject.strip_prefix(&prefix) else { continue };
            match subject.split('.').next() {
                Some("dlq") if subject == "dlq.source.gap" => {
                    let gap: serde_json::Value = serde_json::from_slice(&message.payload).expect("a gap is JSON");
                    let end = |name: &str| gap[name].as_u64().expect("a gap has two ends");
                    count.gaps.push((end("first"), end("last")));
                }
                Some("out" | "dlq" | "late") => count.kept += 1,
                Some("marker") => {
                    let marker = Marker::decode(&message.payload).expect("a marker");
                    (count.received, count.epochs) = (marker.totals_sum.received, marker.epoch);
                }
                _ => {}
            }
        }
        let gone: u64 = count.gaps.iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(count.kept + gone, count.received, "partition {partition} adds up: {count:?}");
        count
    }
}

/// Event time of an event at the beginning of a window.
const TS: i64 = 1_700_000_000_000;

fn limited(max_messages: i64) -> Config {
    Config { max_messages, ..Config::default() }
}

/// Halts, again and again, until the loss is accepted; then the range is counted.
#[track_caller]
fn halts_until_accepted(rig: &Rig, range: &str) {
    for _ in 0..2 {
        rig.catch_up(&[]).code(3).says(&["input-gap", range]);
    }
    rig.catch_up(&["--accept-loss"]).code(0);
    // It is told once.
    rig.catch_up(&[]).code(0);
}

#[test]
fn events_that_expire_before_they_are_read_are_a_gap_with_its_range() {
    let rig = Rig::new(1, limited(50), "");
    rig.publish(0, 20);
    rig.catch_up(&[]).code(0);
    rig.publish(0, 200);
    halts_until_accepted(&rig, "21..=170");
    let count = rig.count(0);
    assert_eq!((count.kept, count.gaps.as_slice(), count.received), (70, [(21, 170)].as_slice(), 220));
}

#[test]
fn a_gap_in_a_shared_stream_is_told_to_every_partition_that_it_may_concern() {
    let rig = Rig::new(2, limited(50), "");
    rig.publish(0, 20);
    rig.publish(1, 1);
    rig.catch_up(&[]).code(0);
    rig.publish(0, 200);
    halts_until_accepted(&rig, "22..=171");
    let count = rig.count(0);
    assert_eq!((count.kept, count.gaps.as_slice(), count.received), (70, [(22, 171)].as_slice(), 220));
    // Nobody can know whether some of them were its own.
    assert_eq!(rig.count(1).gaps, [(22, 171)]);
}

#[test]
fn a_limit_per_subject_that_deletes_unread_events_is_a_loss() {
    let config = Config { max_messages_per_subject: 50, ..Config::default() };
    let rig = Rig::new(2, config, "");
    rig.publish(1, 1);
    rig.publish(0, 20);
    rig.catch_up(&[]).code(0);
    rig.publish(0, 200);
    halts_until_accepted(&rig, "22..=171");
    let count = rig.count(0);
    assert_eq!((count.kept, count.gaps.as_slice(), count.received), (70, [(22, 171)].as_slice(), 220));
}

#[test]
fn events_that_were_deleted_by_wish_are_counted_and_hold_up_nothing() {
    let rig = Rig::new(1, limited(1_000), "");
    rig.publish(0, 30);
    rig.broker.ask(async |context| {
        let stream = context.get_stream("ZOO").await.expect("the input is there");
        for sequence in [11, 12, 20, 30] {
            stream.delete_message(sequence).await.expect("a message can be deleted");
        }
    });
    rig.catch_up(&[]).code(0);
    let count = rig.count(0);
    assert_eq!((count.kept, count.received), (26, 30));
    assert_eq!(count.gaps, [(11, 12), (20, 20), (30, 30)]);
}

#[test]
fn a_purge_of_everything_that_was_not_read_is_a_gap() {
    let rig = Rig::new(1, limited(1_000), "");
    rig.publish(0, 5);
    rig.catch_up(&[]).code(0);
    rig.publish(0, 10);
    rig.broker.ask(async |context| {
        let stream = context.get_stream("ZOO").await.expect("the input is there");
        stream.purge().await.expect("a stream can be purged");
    });
    halts_until_accepted(&rig, "6..=15");
    assert_eq!((rig.count(0).gaps, rig.count(0).received), (vec![(6, 15)], 15));
}

#[test]
fn the_first_events_of_a_partition_that_never_had_one_are_not_forgotten() {
    let rig = Rig::new(2, limited(20), "");
    rig.publish(0, 3);
    rig.catch_up(&[]).code(0);
    rig.publish(1, 30);
    halts_until_accepted(&rig, "4..=13");
    let count = rig.count(1);
    assert_eq!((count.kept, count.gaps.as_slice(), count.received), (20, [(4, 13)].as_slice(), 30));
}

#[test]
fn accepted_losses_are_counted_while_the_input_goes_on_expiring() {
    let rig = Rig::new(1, limited(20), "");
    rig.publish(0, 10);
    rig.catch_up(&[]).code(0);
    rig.publish(0, 100);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rig.publish(0, 20);
            }
        });
        let mut host = rig.run("state", &["--accept-loss"]);
        host.wait_until_running();
        let watcher = rig.broker.watcher();
        until("some events behind the gap", || {
            assert!(host.ended().is_none(), "{}", host.stderr());
            (rig.broker.committed(&watcher, "zoo")? > 500).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        host.signal("INT");
        host.wait().code(0);
    });
    rig.catch_up(&["--accept-loss"]).code(0);
    let published = rig.broker.ask(async |context| {
        context.get_stream("ZOO").await.expect("the input is there").cached_info().state.last_sequence
    });
    assert_eq!(rig.count(0).received, published);
}

#[test]
fn a_quiet_partition_beside_a_busy_one_is_not_accused() {
    let rig = Rig::new(2, limited(5_000), "");
    rig.publish(1, 1);
    let mut host = rig.run("state", &[]);
    let watcher = rig.broker.watcher();
    until("both partitions at work", || {
        let text = host.stderr();
        (text.matches("running").count() >= 2 && rig.broker.newest(&watcher, "zoo")?.is_some()).then_some(())
    });
    // The stream turns over every second or two, for longer than the usual time between two looks.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        rig.publish(0, 50);
        assert!(host.ended().is_none(), "{}", host.stderr());
    }
    host.signal("INT");
    host.wait().code(0);
    assert_eq!(rig.count(1).gaps, []);
    assert_eq!(rig.count(0).gaps, []);
}

#[test]
fn a_pipeline_stream_made_again_before_the_first_event_costs_nothing() {
    let rig = Rig::new(1, limited(1_000), "");
    let mut host = rig.run("state", &[]);
    host.wait_until_running();
    remake_pipeline_stream(&rig);
    host.wait_for("recovering");
    rig.publish(0, 50);
    let watcher = rig.broker.watcher();
    until("every event", || (rig.broker.committed(&watcher, "zoo")? == 50).then_some(()));
    host.signal("INT");
    host.wait().code(0);
    for state in ["state", "another", "another"] {
        rig.run(state, &["--exit-when-caught-up"]).wait().code(0);
    }
    assert_eq!(rig.count(0).kept, 50);
}

#[test]
fn a_pipeline_stream_made_again_later_is_not_begun_again_by_a_host_without_state() {
    let rig = Rig::new(1, limited(1_000), "");
    rig.publish(0, 50);
    rig.catch_up(&[]).code(0);
    remake_pipeline_stream(&rig);
    rig.run("another", &["--exit-when-caught-up"]).wait().code(3).says(&["markers-missing"]);
    assert_eq!(rig.broker.held("PELTON_zoo"), 0);
}

fn remake_pipeline_stream(rig: &Rig) {
    rig.broker.ask(async |context| context.delete_stream("PELTON_zoo").await.expect("the stream can be deleted"));
    finish(&mut rig.broker.pelton(&["up", &rig.pipeline])).code(0);
}

/// Event time goes on while the source is silent, also over restarts, and nothing is written that nobody can see.
#[test]
fn a_silent_source_closes_its_window_once_and_writes_nothing_else() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let text = format!(
        "name = \"zoo\"\n[source]\nstream = \"ZOO\"\nsubject = \"zoo\"\nkey = \"user\"\n\
         time = {{ field = \"ts\", unit = \"ms\" }}\nwatermark = {{ delay = \"0s\", idle_timeout = \"1s\" }}\n[source.create]\n\
         [[stage]]\nname = \"guest\"\nmodule = \"{}\"\nwindow = {{ kind = \"tumbling\", size = \"10s\" }}\n[output.seen]\n",
        module("count_rule").display()
    );
    let pipeline = scene.write("zoo.toml", text);
    broker.up(&pipeline);
    // An event at the beginning of its window: ten seconds of silence close it.
    broker.publish("zoo", std::iter::once(json!({"user": "u1", "ts": TS, "n": 1}).to_string()));
    let published = Instant::now();
    let state = scene.arg("state");
    let run = || {
        let args = ["run", &pipeline, "--state-dir", &state, "--listen", "off"];
        let mut host = Process::start(&mut broker.pelton(&args));
        host.wait_until_running();
        host
    };
    let watcher = broker.watcher();
    let epoch = || broker.newest(&watcher, "zoo").flatten().map_or(0, |marker| marker.epoch);
    let mut host = run();
    until("the event", || (broker.committed(&watcher, "zoo")? == 1).then_some(()));
    let before = epoch();
    // Killed in the silence; the next process must not begin to count it anew.
    until("most of the silence", || (Duration::from_secs(6) < published.elapsed()).then_some(()));
    assert_eq!(epoch(), before, "epochs while nothing is due");
    host.kill();
    broker.evict("zoo");
    let host = run();
    let restarted = Instant::now();
    until("the window", || (epoch() > before).then_some(()));
    let here = restarted.elapsed().as_millis() as i64;
    let marker = broker.newest(&watcher, "zoo").flatten().expect("a marker");
    assert_eq!(marker.epoch, before + 1);
    // More silence than this process can have heard.
    assert!(
        marker.watermark - TS > here,
        "event time went on by {} ms, {here} ms after the start",
        marker.watermark - TS
    );
    host.signal("INT");
    host.wait().code(0);
    assert_eq!(epoch(), before + 1, "one epoch for one window");
}
