//! What the host does before any stage: events are held until it is their turn, and repetitions have no effect, through
//! kills of the host, lost disks and another host.

use std::collections::BTreeSet;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton, until};
use crate::scene::Scene;

const START: i64 = 1_767_225_600_000;
const DELAY: i64 = 5_000;
const SOURCE: &str = "watermark = { delay = \"5s\" }\norder = \"event-time\"\ndedupe = { id = \"id\", ttl = \"1h\" }";

struct Event {
    time: i64,
    text: String,
}

/// Out of order, now and then too late, every fifth sent again, soon or too late.
fn events(count: usize) -> Vec<Event> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut below = move |bound: u64| (rng.next_u64() % bound) as i64;
    let mut events: Vec<Event> = Vec::new();
    for id in 0..count {
        let back = if below(50) == 0 { 3 * DELAY } else { below(DELAY as u64 - 500) };
        let time = START + id as i64 * 100 - back;
        let text = format!(r#"{{"user":"u{}","id":"n{id}","ts":{time}}}"#, below(7));
        events.push(Event { time, text });
        if below(5) == 0 {
            let again = events.len() - 1 - below((events.len() as u64).min(60)) as usize;
            events.push(Event { time: events[again].time, text: events[again].text.clone() });
        }
    }
    events
}

/// What must come out, worked out from the input alone: records in their order, late events, and how many are held.
fn expected(events: &[Event], is_end: bool) -> (Vec<String>, Vec<String>, usize, i128) {
    let (mut waiting, mut late, mut newest): (Vec<&Event>, Vec<String>, i64) = (Vec::new(), Vec::new(), i64::MIN);
    for event in events {
        if newest != i64::MIN && event.time < newest - DELAY {
            late.push(event.text.clone());
        } else {
            waiting.push(event);
            newest = newest.max(event.time);
        }
    }
    waiting.sort_by_key(|event| event.time);
    let turn = if is_end { waiting.len() } else { waiting.partition_point(|event| event.time <= newest - DELAY) };
    // All of it lies within the time to live.
    let mut seen = BTreeSet::new();
    let (first, again): (Vec<&Event>, Vec<&Event>) = waiting[..turn].iter().partition(|event| seen.insert(&event.text));
    let records = first.into_iter().map(|event| event.text.clone()).collect();
    (records, late, waiting.len() - turn, again.len() as i128)
}

#[test]
fn events_come_out_in_the_order_of_their_time_and_once_whatever_is_killed() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = scene.single("ordered", "echo", SOURCE);
    broker.up(&pipeline);
    let events = events(1_500);
    let context = broker.watcher();
    let mut published = 0;
    for (round, part) in events.chunks(400).enumerate() {
        // Every other host has a disk of its own, so what is held comes from the stream.
        let state = scene.arg(&format!("state{}", round % 2 * round));
        let mut host =
            Process::start(&mut broker.pelton(&["run", &pipeline, "--state-dir", &state, "--listen", "off"]));
        broker.publish("ordered", part.iter().map(|event| event.text.clone()));
        let some = published + part.len() as u64 / 2;
        until("half of the events", || broker.committed(&context, "ordered").filter(|count| *count >= some));
        host.kill();
        broker.evict("ordered");
        published += part.len() as u64;
    }
    finish(&mut broker.catch_up(&pipeline, &scene.arg("state0"))).code(0);
    let (records, late, held, again) = expected(&events, false);
    assert!(held > 20 && late.len() > 10 && again > 50, "{held} held, {} late, {again} again", late.len());
    let dump = Dump::read(&broker, "ordered");
    dump.assert_chain(events.len() as u64);
    assert_eq!(dump.payloads("out.seen"), records);
    assert_eq!(dump.payloads("late.order"), late);
    let totals = dump.markers.last().expect("a marker").totals_sum;
    assert_eq!((totals.held, totals.late), (held as u64, late.len() as u64));
    let said = finish(&mut broker.pelton(&["status", &pipeline, "--json"])).code(0);
    let status: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    let partition = &status["partitions"][0];
    assert_eq!(
        (partition["totals"]["held"].as_u64(), partition["balanced"].as_bool()),
        (Some(held as u64), Some(true))
    );
    assert_eq!(partition["counters"]["dedupe/duplicates"].as_i64(), Some(again as i64));

    // Without the order nobody would release what is held: such a pipeline does not start.
    let text = std::fs::read_to_string(&pipeline).expect("written above");
    scene.write("ordered.toml", text.replace("order = \"event-time\"\n", ""));
    let said = finish(&mut broker.catch_up(&pipeline, &scene.arg("state0"))).code(3);
    said.says(&["state-incompatible", "`order` (order) is gone", "events wait in it for their turn"]);
    finish(&mut broker.pelton(&["validate", &pipeline, "--server", broker.url()]))
        .says(&["state-incompatible", "`order` (order) is gone"]);
    scene.write("ordered.toml", text);

    // An event far ahead releases all of it.
    let last = format!(r#"{{"user":"u0","id":"last","ts":{}}}"#, START + 3_600_000);
    broker.publish("ordered", std::iter::once(last));
    finish(&mut broker.catch_up(&pipeline, &scene.arg("elsewhere"))).code(0);
    let dump = Dump::read(&broker, "ordered");
    dump.assert_chain(events.len() as u64 + 1);
    assert_eq!(dump.payloads("out.seen"), expected(&events, true).0);
    assert_eq!(dump.markers.last().expect("a marker").totals_sum.held, 1);
}

/// A run over a file releases everything at its end.
#[test]
fn a_file_run_gives_the_same_order() {
    let scene = Scene::new();
    let pipeline = scene.single("ordered", "echo", SOURCE);
    let events = events(400);
    let lines: String = events.iter().map(|event| event.text.clone() + "\n").collect();
    let input = scene.write("events.jsonl", &lines);
    let folder = scene.arg("out");
    let again = || finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output-dir", &folder]));
    let (records, late, _, repeated) = expected(&events, true);
    again().code(0).says(&[&format!("counters=\"dedupe/duplicates {repeated}\"")]);
    let written = |name: &str| {
        let text = std::fs::read_to_string(Path::new(&folder).join(name)).expect("written");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(written("seen.jsonl"), records);
    assert_eq!(written("late.jsonl").len(), late.len());
    let text = std::fs::read_to_string(&pipeline).expect("written above");
    scene.write("ordered.toml", text.replace("\"1h\"", "\"2h\""));
    again().code(2).says(&["changed: [source] dedupe"]);
}
