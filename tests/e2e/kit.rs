//! The SDK's native kit and the host give the same: golden cases of every kind of module, and generated events.
//!
//! A case is in the format of the kit; its events carry their key as `k` and their time as `ts`, so that the host can
//! read them out of a file. The module is the one that `just guests` has built.

use std::fmt::Write as _;

use pelton_sdk::testing;
use serde_json::{Value, json};

use crate::process::{finish, pelton};
use crate::scene::{Dice, Scene, module, root};

#[path = "../guests/well-behaved/all_aggregates.rs"]
pub(crate) mod all_aggregates;
#[path = "../guests/well-behaved/cart.rs"]
mod cart;
#[path = "../guests/well-behaved/count_rule.rs"]
mod count_rule;
#[path = "../guests/well-behaved/extract_rule.rs"]
mod extract_rule;
#[path = "../guests/well-behaved/fields_check.rs"]
mod fields_check;
#[path = "../guests/well-behaved/mean_fold.rs"]
mod mean_fold;
#[path = "../guests/well-behaved/running_count.rs"]
mod running_count;

/// Runs a module natively: configuration and input lines to output lines.
pub(crate) type Kit = fn(&str, &str) -> Result<String, String>;

/// 2026-01-01, in milliseconds.
const START: i64 = 1_767_225_600_000;

/// What came of some events, without what only one of the two can know.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Results {
    /// Payloads in order.
    pub(crate) outputs: Vec<Value>,
    /// Codes in order.
    rejects: Vec<String>,
}

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"))
}

/// What the kit makes of an input in its own format.
pub(crate) fn natively(kit: Kit, config: &str, input: &str) -> Results {
    results_of(&kit(config, input).expect("the kit takes the input"))
}

fn results_of(report: &str) -> Results {
    let mut results = Results::default();
    for line in lines(report) {
        match line.get("reject") {
            Some(code) => results.rejects.push(code.as_str().expect("a code").to_owned()),
            None => results.outputs.push(line["payload"].clone()),
        }
    }
    results
}

/// What the host makes of the same input with the real module.
pub(crate) fn in_the_host(guest: &str, config: &str, input: &str) -> Results {
    let scene = Scene::new();
    let (mut window, mut delay, mut events) = (String::new(), "365d".to_owned(), String::new());
    for line in lines(input) {
        if let Some(spec) = line.get("window") {
            let ms = |name: &str| spec.get(name).map(|ms| format!("\"{ms}ms\""));
            window = match (ms("size_ms"), ms("slide_ms")) {
                (Some(size), Some(slide)) => format!("kind = \"sliding\", size = {size}, slide = {slide}"),
                (Some(size), None) => format!("kind = \"tumbling\", size = {size}"),
                (None, _) => "kind = \"global\"".to_owned(),
            };
        } else if let Some(watermark) = line.get("watermark") {
            delay = format!("{}ms", watermark["delay_ms"]);
        } else if let Some(event) = line.get("event") {
            assert_eq!((&event["k"], &event["ts"]), (&line["key"], &line["time"]), "the host reads them in the event");
            writeln!(events, "{event}").expect("text");
        }
    }
    let window = if window.is_empty() { window } else { format!("window = {{ {window} }}\n") };
    let config = if config.trim().is_empty() { String::new() } else { format!("config = {}\n", toml(config)) };
    let pipeline = format!(
        "name = \"kit\"\n[source]\nstream = \"IN\"\nsubject = \"in\"\nkey = \"k\"\ntime = {{ field = \"ts\", unit = \"ms\" }}\n\
         watermark = {{ delay = \"{delay}\" }}\n[source.create]\n\
         [[stage]]\nname = \"guest\"\nmodule = \"{}\"\n{window}{config}[output.seen]\n",
        module(guest).display()
    );
    let (pipeline, input) = (scene.write("kit.toml", pipeline), scene.write("input.jsonl", events));
    finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("out")])).code(0);
    let read = |name: &str| String::from_utf8(scene.read(name)).expect("outputs are JSON");
    assert!(read("out/late.jsonl").is_empty(), "nothing is late");
    let code = |letter: Value| letter["code"].as_str().expect("a code").to_owned();
    Results {
        outputs: lines(&read("out/seen.jsonl")).collect(),
        rejects: lines(&read("out/dlq.jsonl")).map(code).collect(),
    }
}

/// A flat JSON object as an inline table.
fn toml(config: &str) -> String {
    let config: Value = serde_json::from_str(config).expect("JSON");
    let entries = config.as_object().expect("an object").iter().map(|(name, value)| format!("{name} = {value}"));
    format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
}

#[test]
fn a_golden_case_of_each_kind_comes_out_of_kit_and_host() {
    let kinds: [(&str, &str, Kit); 5] = [
        ("transform", "fields_check", testing::run_transform::<fields_check::FieldsCheck>),
        ("window-rule", "count_rule", testing::run_window_rule::<count_rule::Count>),
        ("extract-rule", "extract_rule", testing::run_extract_rule::<extract_rule::LongPlays>),
        ("reducer", "cart", testing::run_reducer::<cart::Cart>),
        ("window-fold", "mean_fold", testing::run_window_fold::<mean_fold::Mean>),
    ];
    let folder = root().join("tests/cases/kit");
    let cases = std::fs::read_dir(&folder).expect("the cases are there").count();
    assert_eq!(cases, kinds.len(), "one case per kind");
    for (kind, guest, kit) in kinds {
        let path = |name: &str| folder.join(kind).join(name);
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
        let (config, input) = (read("config.json"), read("input.jsonl"));
        let said = kit(&config, &input).expect("the kit takes the case");
        if std::env::var_os("PELTON_UPDATE_CASES").is_some() {
            std::fs::write(path("expected.jsonl"), &said).expect("the case can be written");
        }
        let expected = read("expected.jsonl");
        assert!(!expected.is_empty(), "{kind}");
        assert_eq!(lines(&said).collect::<Vec<_>>(), lines(&expected).collect::<Vec<_>>(), "{kind}: the kit");
        assert_eq!(in_the_host(guest, &config, &input), results_of(&expected), "{kind}: the host");
    }
}

/// A seed of its own for each run; `PELTON_SEED` repeats one.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = std::env::var("PELTON_SEED").map_or(now.as_nanos() as u64 % 1_000_000_000, |text| text.parse().unwrap());
    println!("PELTON_SEED={seed} repeats this");
    seed
}

/// Lines of the kit for events of a few keys, within some minutes of each other, a few of them at one instant.
fn generated(dice: &mut Dice, count: u64, mut values: impl FnMut(&mut Dice) -> Value) -> String {
    let mut text = String::new();
    let mut base = START;
    for _ in 0..count {
        base += [0, 1, 999, 20_000, 61_000, 400_000][dice.below(6) as usize];
        let at = base - [0, 0, 1, 5000, 45_000][dice.below(5) as usize];
        let key = format!("k{}", dice.below(6));
        let mut event = values(dice);
        (event["k"], event["ts"]) = (json!(key), json!(at));
        writeln!(text, "{}", json!({"key": key, "time": at, "event": event})).expect("text");
    }
    text
}

#[test]
fn generated_events_come_out_of_kit_and_host_the_same() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let mut compare = |guest: &str, kit: Kit, head: &str, tail: &str, values: fn(&mut Dice) -> Value| {
        let input = format!("{head}\n{}{tail}", generated(&mut dice, 300, values));
        let native = natively(kit, "", &input);
        assert!(native.outputs.len() > 20, "{guest}: {} outputs", native.outputs.len());
        assert_eq!(in_the_host(guest, "", &input), native, "{guest}, seed {seed}");
    };
    let act = |dice: &mut Dice| {
        let acts = ["add", "add", "order", "refund"];
        json!({"act": acts[dice.below(4) as usize]})
    };
    let length = |dice: &mut Dice| {
        let lengths = [i64::MIN, -1, 0, 29_999, 30_000, 30_001, i64::MAX - 1, i64::MAX];
        json!({"ms_played": lengths[dice.below(8) as usize]})
    };
    let sliding = r#"{"window":{"size_ms":720000,"slide_ms":60000}}"#;
    let end = r#"{"end":true}"#;
    let late = r#"{"watermark":{"delay_ms":0}}"#;
    compare("cart", testing::run_reducer::<cart::Cart>, late, end, act);
    compare("cart", testing::run_reducer::<cart::Cart>, r#"{"watermark":{"delay_ms":600000}}"#, end, act);
    compare("running_count", testing::run_reducer::<running_count::RunningCount>, late, end, |_| json!({}));
    compare("mean_fold", testing::run_window_fold::<mean_fold::Mean>, sliding, "", length);
    compare("extract_rule", testing::run_extract_rule::<extract_rule::LongPlays>, sliding, "", length);
}
