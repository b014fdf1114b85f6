//! Every aggregate over hostile values, counted three times: by the host, by the native kit, and by `tests/recount.py`,
//! which shares nothing with them.

use std::fmt::Write as _;
use std::process::Command;

use pelton_sdk::testing;
use serde_json::{Value, json};

use crate::kit::{Results, all_aggregates, in_the_host, natively, seed};
use crate::scene::{Scene, root};

fn recount(arguments: &[&str]) -> std::process::Output {
    let script = root().join("tests/recount.py");
    Command::new("python3").arg(script).args(arguments).output().expect("python3 runs")
}

#[test]
fn an_independent_recount_equals_host_and_kit() {
    let seed = seed().to_string();
    let generated = recount(&["generate", &seed]);
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
    let generated = String::from_utf8(generated.stdout).expect("JSON lines");
    for (size, slide, top, distinct) in [("3600000", "300000", "3", "5"), ("0", "0", "1", "100000")] {
        let window = match size {
            "0" => r#"{"window":{"global":true}}"#.to_owned(),
            _ => format!(r#"{{"window":{{"size_ms":{size},"slide_ms":{slide}}}}}"#),
        };
        let mut input = window + "\n";
        for line in generated.lines() {
            let event: Value = serde_json::from_str(line).expect("JSON");
            writeln!(input, "{}", json!({"key": event["k"], "time": event["ts"], "event": event})).expect("text");
        }
        let config = format!(r#"{{"top":{top},"distinct":{distinct}}}"#);
        let host = in_the_host("all_aggregates", &config, &input);
        let kit = natively(testing::run_window_rule::<all_aggregates::AllAggregates>, &config, &input);
        for (who, results) in [("host", &host), ("kit", &kit)] {
            check(who, results, &[&seed, size, slide, top, distinct]);
        }
        // Also what the recount only knows to some bound: sums of numbers and estimates.
        assert_eq!(host, kit, "seed {seed}");
    }
}

fn check(who: &str, results: &Results, arguments: &[&str]) {
    let scene = Scene::new();
    let panes = results.outputs.iter().map(|pane| format!("{pane}\n")).collect::<String>();
    let path = scene.write("panes.jsonl", panes);
    let said = recount(&[&["check"], arguments, &[&path]].concat());
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{who}: {text}{}", String::from_utf8_lossy(&said.stderr));
}
