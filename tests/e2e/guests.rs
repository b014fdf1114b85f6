//! Misbehaving modules: only the guilty event becomes a dead letter, with the right code; the others pass in order.

use serde_json::{Value, json};

use crate::process::{finish, pelton};
use crate::scene::Scene;

const EVENTS: usize = 400;
/// Sequences of the guilty, from 1: inside a batch, beside each other, at the very end.
const GUILTY: [usize; 4] = [3, 200, 201, EVENTS];

#[test]
fn a_guest_that_spins_loses_one_event() {
    check("spins_forever", "limit-fuel", &GUILTY[..2]);
}

#[test]
fn a_guest_that_traps_loses_one_event() {
    check("traps", "trap", &GUILTY);
}

#[test]
fn a_guest_that_eats_memory_loses_one_event() {
    // Which limit comes first, memory or fuel, depends on how fast the machine writes memory.
    check("eats_memory", "limit*", &GUILTY[..3]);
}

#[test]
fn a_guest_that_recurses_loses_one_event() {
    check("recurses", "trap", &GUILTY);
}

#[track_caller]
fn check(guest: &str, code: &str, guilty: &[usize]) {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", guest, "");
    let event = |number: usize| {
        let act = if guilty.contains(&number) { "misbehave" } else { "behave" };
        json!({ "user": format!("u{}", number % 7), "ts": 1_767_225_600_000_u64 + number as u64, "act": act })
            .to_string()
    };
    let lines = |numbers: &mut dyn Iterator<Item = usize>| numbers.map(|n| event(n) + "\n").collect::<String>();
    let input = scene.write("input.jsonl", lines(&mut (1..=EVENTS)));
    finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output", &scene.arg("out")])).code(0);
    let innocent = lines(&mut (1..=EVENTS).filter(|number| !guilty.contains(number)));
    assert_eq!(String::from_utf8(scene.read("out/seen.jsonl")).unwrap(), innocent, "the others, in order");
    let dead = String::from_utf8(scene.read("out/dlq.jsonl")).unwrap();
    let dead: Vec<Value> = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(dead.len(), guilty.len(), "{dead:?}");
    for (letter, number) in dead.iter().zip(guilty) {
        let found = letter["code"].as_str().expect("a code");
        let right = code.strip_suffix('*').map_or(found == code, |prefix| found.starts_with(prefix));
        assert!(right, "not {code}: {letter}");
        assert_eq!(letter["sequence"], number.to_string(), "{letter}");
        assert_eq!(letter["stage"], "guest", "{letter}");
        assert_eq!(letter["payload"].as_str(), Some(event(*number).as_str()), "the original bytes");
    }
}
