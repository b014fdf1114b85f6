//! Misbehaving modules: each costs the guilty event and nothing else, with the right code; others pass in order.

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, finish, pelton};
use crate::scene::{Scene, root};

const EVENTS: u64 = 400;
/// Sequences of the events that set modules off: inside a batch, beside each other, at the very end.
const GUILTY: [u64; 4] = [3, 200, 201, EVENTS];

/// What a module must come to.
#[derive(Clone, Copy)]
enum Must {
    /// The guilty events, and no others, become dead letters with this code; `*` stands for any end.
    LoseGuilty(&'static str),
    /// Whatever the event, it is a dead letter with this code.
    LoseAll(&'static str),
    /// No event is lost, and each is forwarded as it came.
    LoseNone,
    /// No event is lost; what comes out is the module's own affair.
    AnswerAll,
    /// The run halts with this evidence.
    Halt(&'static str),
    /// The run ends as one that can be tried again, and says this; no event is judged.
    Retry(&'static str),
    /// The pipeline is refused with this text.
    Refuse(&'static str),
}

/// One line per module of `tests/guests/misbehaving`.
const ZOO: [(&str, Must); 21] = [
    // Each event is fine when it is alone.
    ("answers_out_of_order", Must::LoseNone),
    ("bad_offsets", Must::LoseAll("contract-violation")),
    ("counts_elsewhere", Must::LoseAll("contract-violation")),
    ("different_answers", Must::AnswerAll),
    // Which limit comes first, memory or fuel, depends on how fast the machine writes memory.
    ("eats_memory", Must::LoseGuilty("limit*")),
    ("giant_list", Must::LoseGuilty("limit*")),
    ("halts", Must::Halt("the books do not balance")),
    ("hidden_state", Must::AnswerAll),
    ("huge_state", Must::LoseAll("limit*")),
    ("invalid_utf8", Must::LoseGuilty("contract-violation")),
    ("invalid_utf8_log", Must::LoseGuilty("contract-violation")),
    ("log_flood", Must::LoseNone),
    ("recurses", Must::LoseGuilty("trap")),
    ("refuses_config", Must::Refuse("no configuration is good enough")),
    ("retry_always", Must::Retry("the environment is not ready")),
    ("row_out_of_range", Must::LoseAll("contract-violation")),
    ("speaks_for_the_server", Must::LoseAll("contract-violation")),
    ("spins_forever", Must::LoseGuilty("limit-fuel")),
    ("traps", Must::LoseGuilty("trap")),
    ("traps_on_third", Must::LoseNone),
    ("unknown_port", Must::LoseAll("contract-violation")),
];
/// Longest log of a run, whatever a module writes into it.
const LOG_BYTES_MAX: usize = 256 << 10;

fn event(number: u64) -> String {
    let act = if GUILTY.contains(&number) { "misbehave" } else { "behave" };
    json!({ "user": format!("u{}", number % 7), "ts": 1_767_225_600_000_u64 + number, "act": act }).to_string()
}

fn is(code: &str, expected: &str) -> bool {
    expected.strip_suffix('*').map_or(code == expected, |start| code.starts_with(start))
}

#[test]
fn each_misbehaving_module_costs_what_it_must() {
    for (guest, must) in ZOO {
        check(guest, must);
    }
}

#[test]
fn every_misbehaving_module_has_its_line() {
    let files = std::fs::read_dir(root().join("tests/guests/misbehaving")).unwrap();
    let mut names: Vec<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ZOO.map(|(guest, _)| guest));
}

fn check(guest: &str, must: Must) {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", guest, "");
    let input = scene.write("input.jsonl", (1..=EVENTS).map(|number| event(number) + "\n").collect::<String>());
    let out = scene.arg("out");
    let mut run = pelton(&["run", &pipeline, "--input", &input, "--output-dir", &out]);
    let (lost, code): (Vec<u64>, _) = match must {
        Must::LoseGuilty(code) => (GUILTY.to_vec(), code),
        Must::LoseAll(code) => ((1..=EVENTS).collect(), code),
        Must::LoseNone | Must::AnswerAll => (Vec::new(), ""),
        Must::Halt(evidence) => return drop(finish(&mut run).code(3).says(&[evidence])),
        Must::Refuse(text) => return drop(finish(&mut run).code(2).says(&[text])),
        Must::Retry(text) => {
            finish(&mut run).code(4).says(&[text]);
            assert!(scene.read("out/dlq.jsonl").is_empty(), "{guest}: no verdict on an event");
            return;
        }
    };
    // Nothing but refusals has a code of its own.
    let said = finish(&mut run).code(if lost.len() as u64 == EVENTS { 5 } else { 0 });
    assert!(said.stderr.len() < LOG_BYTES_MAX, "{guest} made the host write {} bytes of log", said.stderr.len());
    let seen = String::from_utf8(scene.read("out/seen.jsonl")).unwrap();
    let innocent: Vec<u64> = (1..=EVENTS).filter(|number| !lost.contains(number)).collect();
    if matches!(must, Must::AnswerAll) {
        assert_eq!(seen.lines().count(), innocent.len(), "{guest}: one answer to each event");
    } else {
        assert_eq!(
            seen,
            innocent.iter().map(|n| event(*n) + "\n").collect::<String>(),
            "{guest}: the others, in order"
        );
    }
    let dead = String::from_utf8(scene.read("out/dlq.jsonl")).unwrap();
    let dead: Vec<Value> = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(dead.len(), lost.len(), "{guest}: {dead:?}");
    for (letter, number) in dead.iter().zip(&lost) {
        assert!(is(letter["code"].as_str().expect("a code"), code), "{guest}: not {code}: {letter}");
        assert_eq!(letter["sequence"], *number, "{guest}: {letter}");
        assert_eq!(letter["stage"], "guest", "{guest}: {letter}");
        assert_eq!(letter["payload"].as_str(), Some(event(*number).as_str()), "{guest}: the original bytes");
    }
}

#[test]
fn pipelines_beside_a_misbehaving_one_come_out_exactly() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let all = [
        ("calm", "echo", ""),
        ("spin", "spins_forever", "limit-fuel"),
        ("trap", "traps", "trap"),
        ("eat", "eats_memory", "limit*"),
    ];
    let hosts = all.map(|(name, guest, _)| {
        let pipeline = scene.single(name, guest, "");
        broker.up(&pipeline);
        broker.publish(name, (1..=EVENTS).map(event));
        let state = scene.arg(&format!("{name}-state"));
        broker.catch_up(&pipeline, &state)
    });
    let hosts = hosts.map(|mut host| Process::start(&mut host));
    for host in hosts {
        host.wait().code(0);
    }
    for (name, _, code) in all {
        let lost: &[u64] = if name == "calm" { &[] } else { &GUILTY };
        let dump = Dump::read(&broker, name);
        dump.assert_chain(EVENTS);
        let innocent: Vec<String> = (1..=EVENTS).filter(|number| !lost.contains(number)).map(event).collect();
        assert_eq!(dump.payloads("out."), innocent, "{name}: the others, in order");
        assert_eq!(dump.payloads("dlq."), lost.iter().copied().map(event).collect::<Vec<_>>(), "{name}: the guilty");
        assert!(dump.dead().keys().all(|found| is(found, code)), "{name}: {:?}", dump.dead());
    }
}
