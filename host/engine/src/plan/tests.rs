//! Bad pipeline files and what is said about them; good ones and what they mean; and texts that mean nothing.
//!
//! `tests/cases/plan/NAME.toml` is a bad file, `NAME.err` what is printed for it. `UPDATE=1` rewrites the `.err` files.
//! Modules are looked up in [`module`] by their file name.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::event::{Field, Need};
use crate::guest::{self, Descriptor, Identity, World};
use crate::problem::{PAGES, Problem};

/// World, ports, and fields with kind and whether they are required.
type Says<'a> = (World, &'a [&'a str], &'a [(&'a str, Kind, bool)]);

/// A module that tests can name in a pipeline file.
#[track_caller]
fn module(path: &str) -> Descriptor {
    use Kind::{Integer, Number};
    let file = Path::new(path).file_stem().expect("modules in tests have a name");
    let (world, ports, fields): Says<'_> = match file.to_string_lossy().as_ref() {
        "transform" | "schema_check" | "lanes" | "counters" | "lenient" | "misplaced" => {
            (World::Transform, &["main"], &[])
        }
        "router" => (World::Transform, &["main", "rejected", "audit"], &[("device", Kind::String, false)]),
        "rounds" => (World::Transform, &["main"], &[("ms_played", Number, false)]),
        "dates" => (World::Transform, &["main"], &[("ts", Kind::String, true)]),
        "rule" | "fraud" => (
            World::WindowRule,
            &["alerts"],
            &[("track_id", Kind::String, true), ("device", Kind::String, true), ("ms_played", Integer, true)],
        ),
        "reducer" => (World::Reducer, &["main"], &[]),
        other => panic!("no test module is called {other}"),
    };
    let identity = Identity { state_version: 1, ..Identity::new(world, &file.to_string_lossy(), "1.0.0") };
    let (lanes, counters) = match identity.name.as_str() {
        "lanes" => (vec!["plays".to_owned()], Vec::new()),
        "counters" => (Vec::new(), (0..65).map(|idx| format!("c{idx}")).collect()),
        _ => (Vec::new(), Vec::new()),
    };
    // Fields that are named by their place, and read whatever is there.
    let lenient: &[(&str, Kind)] = match identity.name.as_str() {
        "lenient" => {
            &[("/ms_played", Number), ("/track/id", Kind::String), ("/track", Kind::Boolean), ("user", Integer)]
        }
        "misplaced" => &[("/a", Number), ("/a~2", Number)],
        _ => &[],
    };
    let lenient = lenient.iter().map(|(name, kind)| Field { name: (*name).into(), kind: *kind, need: Need::Lenient });
    let shape = guest::Shape {
        fields: fields
            .iter()
            .map(|(name, kind, required)| Field {
                name: (*name).to_owned(),
                kind: *kind,
                need: if *required { Need::Required } else { Need::Optional },
            })
            .chain(lenient)
            .collect(),
        lanes,
        ports: ports.iter().map(|port| (*port).to_owned()).collect(),
        counters,
        ..guest::Shape::default()
    };
    Descriptor { identity, shape }
}

/// Both steps, as the host takes them.
fn plan(text: &str) -> (Option<(Plan, Vec<Descriptor>)>, Vec<Problem>) {
    let (draft, problems) = parse(text);
    let Some(draft) = draft else {
        return (None, problems);
    };
    let modules: Vec<Descriptor> = draft.stages().iter().map(|stage| module(&stage.stage.module)).collect();
    let (plan, problems) = draft.bind(&modules);
    (plan.map(|plan| (plan, modules)), problems)
}

#[track_caller]
fn good(text: &str) -> (Plan, Vec<Descriptor>) {
    let (plan, problems) = plan(text);
    assert_eq!(problems, [], "in\n{text}");
    plan.expect("no problem, so a plan")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The bad files, sorted by name.
fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/cases/plan")).expect("the cases are part of the sources");
    let paths = entries.map(|entry| entry.expect("readable folder").path());
    let mut cases: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    cases.sort();
    cases
}

#[test]
fn bad_files_are_explained() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut codes_seen: Vec<&str> = Vec::new();
    let mut wrong = String::new();
    let cases = cases();
    assert!(cases.len() >= 30, "found {} cases", cases.len());
    for path in cases {
        let text = fs::read_to_string(&path).expect("a case is UTF-8");
        let (plan, problems) = plan(&text);
        assert!(plan.is_none() && !problems.is_empty(), "{} has no problem", path.display());
        let mut printed = String::new();
        for problem in &problems {
            codes_seen.push(problem.code);
            assert!(!problem.message.ends_with('.'), "{problem}");
            for line in problem.in_file("pipeline.toml") {
                writeln!(printed, "{line}").expect("writing to a string");
            }
        }
        let expected_path = path.with_extension("err");
        if update {
            fs::write(&expected_path, &printed).expect("the sources are writable");
            continue;
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if printed != expected {
            write!(wrong, "{}:\n--- expected\n{expected}--- got\n{printed}\n", path.display()).expect("string");
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 rewrites the .err files\n{wrong}");
    // The last three come from loading a module, which no text can do.
    let seen = |code: &&str| codes_seen.contains(code) || ["E0206", "E0207", "E0208"].contains(code);
    let unseen: Vec<&str> = PAGES.iter().map(|(code, _)| *code).filter(|code| !seen(code)).collect();
    assert_eq!(unseen, [""; 0], "codes without a case");
}

#[test]
fn the_fraud_pipeline() {
    let text = fs::read_to_string(root().join("pipelines/fraud.toml")).expect("part of the sources");
    let (plan, modules) = good(&text);
    assert_eq!(plan.name, "fraud");
    let source = &plan.source;
    assert_eq!((source.stream.as_str(), source.subject.as_str(), source.partitions), ("PLAYS", "plays", 1));
    assert_eq!(source.key, Key::Field(vec!["user_id".to_owned()]));
    assert_eq!(source.time, Time { field: vec!["ts".to_owned()], unit: TimeUnit::Millis });
    let create = CreateStream { ingest: None, max_age: Some(Span::from_secs(7 * 86_400)), max_bytes: None };
    assert_eq!(source.create, Some(create));
    assert_eq!(source.watermark.delay, Span::from_secs(120));
    assert_eq!(source.watermark.idle_timeout, Some(Span::from_secs(30)));
    assert_eq!(plan.stages[0].window, None);
    assert!(plan.stages[0].config.starts_with(r#"{"schema":{"properties":{"app":{"type":"string"},"country":"#));
    let kind = WindowKind::Sliding { size: Span::from_secs(3600), slide: Span::from_secs(300) };
    assert_eq!(plan.stages[1].window, Some(Window { kind, allowed_lateness: Span::from_secs(600) }));
    let stream = OutputStream { subject: "fraud.alerts.{key}".to_owned(), name: "FRAUD_ALERTS".to_owned() };
    assert_eq!(plan.outputs, [Output { name: "alerts".to_owned(), stage: 1, port: 0, stream: Some(stream) }]);
    assert_eq!(plan.limits, Limits::default());
    let reads = plan.reads(&modules);
    assert_eq!(reads.iter().map(|read| read.name.as_str()).collect::<Vec<_>>(), ["track_id", "device", "ms_played"]);
}

/// Whatever is there is taken beside what others insist on: the same field as another kind, the key, and what is on the way.
#[test]
fn lenient_fields_stand_beside_others() {
    let (plan, modules) = good(
        r#"
name = "p"
source = { stream = "S", subject = "s", key = "user", time = { field = "ts", unit = "ms" }, fields = { track_id = "/track/id", user = "/who" } }
stage = [
  { name = "check", module = "lenient.wasm" },
  { name = "again", module = "lenient.wasm" },
  { name = "rule", module = "rule.wasm", window = { kind = "tumbling", size = "1h" } },
]
output.alerts = {}
"#,
    );
    let reads = plan.reads(&modules);
    let reads: Vec<String> = reads
        .iter()
        .map(|read| {
            format!("{} /{} {} {:?} {}", read.name, read.pointer.join("/"), read.kind.name(), read.need, read.stage)
        })
        .collect();
    let expected = [
        "/ms_played /ms_played number Lenient 0",
        "/track/id /track/id string Lenient 0",
        "/track /track boolean Lenient 0",
        // A name is mapped, a place is not.
        "user /who integer Lenient 0",
        "track_id /track/id string Required 2",
        "device /device string Required 2",
        "ms_played /ms_played integer Required 2",
    ];
    assert_eq!(reads, expected);
}

/// A file that uses every key.
const FULL: &str = r#"
name = "demo-2"
source.stream = "PLAYS"
source.subject = "plays.{partition}"
source.partitions = 8
source.format = "json"
source.key = { subject_token = 1 }
source.time = { field = "/meta/at", unit = "rfc3339" }
source.watermark = { delay = "0s", max_past = "400d" }
source.create = { ingest = "plays.in.*", max_age = "1d12h", max_bytes = "10GB" }
source.fields = { track_id = "/track/id" }
stage = [
  { name = "route", module = "router.wasm", config = { on = true, since = 2026-01-01 } },
  { name = "farm", module = "a/rule.wasm", window = { kind = "tumbling", size = "1h30m" } },
]
[output]
audit = { from = "route", subject = "demo.audit", stream = "AUDIT" }
rest = { from = "route.rejected" }
found = {}
[limits]
call_timeout = "250ms"
fuel_per_event = 20_000_000
memory = "128MiB"
reply_bytes = 65536
state = "4GiB"
max_payload = "64KiB"
state_per_key = "1KiB"
epoch_max_events = 900
epoch_max_age = "1s"
shape = "interpreter"
"#;

#[test]
fn every_key_arrives() {
    let (plan, modules) = good(FULL);
    assert_eq!(plan.source.key, Key::SubjectToken(1));
    assert_eq!(plan.source.time.field, ["meta", "at"]);
    assert_eq!(plan.source.watermark.max_future, Span::from_secs(300));
    let create = CreateStream {
        ingest: Some("plays.in.*".to_owned()),
        max_age: Some(Span::from_secs(129_600)),
        max_bytes: Some(10_000_000_000),
    };
    assert_eq!(plan.source.create, Some(create));
    assert_eq!(plan.stages[0].config, r#"{"on":true,"since":"2026-01-01"}"#);
    assert_eq!(plan.stages[1].module, "a/rule.wasm");
    let ports: Vec<(&str, usize, u8)> =
        plan.outputs.iter().map(|output| (output.name.as_str(), output.stage, output.port)).collect();
    assert_eq!(ports, [("audit", 0, 2), ("rest", 0, 1), ("found", 1, 0)]);
    let limits = Limits {
        call_timeout: Span(250),
        fuel_per_event: 20_000_000,
        memory: 128 << 20,
        reply_bytes: 65_536,
        state: 4 << 30,
        max_payload: 64 << 10,
        state_per_key: 1 << 10,
        epoch_max_events: 900,
        epoch_max_age: Span(1000),
        shape: Shape::Interpreter,
    };
    assert_eq!(plan.limits, limits);
    let reads = plan.reads(&modules);
    let reads: Vec<(&str, String, bool, usize)> = reads
        .iter()
        .map(|read| (read.name.as_str(), read.pointer.join("/"), read.need == Need::Required, read.stage))
        .collect();
    // The router does not require `device`, the rule does.
    let expected =
        [("device", "device", true, 0), ("track_id", "track/id", true, 1), ("ms_played", "ms_played", true, 1)];
    assert_eq!(reads, expected.map(|(name, pointer, required, stage)| (name, pointer.to_owned(), required, stage)));
}

#[test]
fn an_outline_is_the_plan_but_for_the_ports() {
    let (plan, _) = good(FULL);
    let outline = parse(FULL).0.expect("no problem in the text").outline();
    let outputs = plan.outputs.iter().map(|output| Output { port: 0, ..output.clone() }).collect();
    assert_eq!(outline, Plan { outputs, ..plan });
}

#[test]
fn modules_that_fail_point_into_the_file() {
    let (draft, _) = parse(FULL);
    let draft = draft.expect("the file is good");
    let stage = &draft.stages()[1];
    let loaded = stage.not_loaded("no such file");
    assert_eq!(loaded.to_string(), "14:29: E0206: cannot load the module `a/rule.wasm`: no such file");
    let accepted = stage.not_accepted("it exports nothing");
    assert_eq!(accepted.to_string(), "14:29: E0206: the module `a/rule.wasm` is refused: it exports nothing");
    let configured = draft.stages()[0].not_configured("module `x` refuses its configuration: `since` is too early");
    let expected = "13:54: E0207: stage `route`: module `x` refuses its configuration: `since` is too early";
    assert_eq!(configured.to_string(), expected);
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let (draft, problems) = parse(&text);
        prop_assert_eq!(draft.is_none(), !problems.is_empty());
    }

    /// Cuts a piece out of a valid file and puts another text there.
    #[test]
    fn a_damaged_file_is_answered(start in 0..FULL.len(), len in 0..40usize, text in "[a-z0-9 =\"'{}\\[\\].,\n~/é-]{0,12}") {
        let start = FULL.floor_char_boundary(start);
        let end = FULL.floor_char_boundary((start + len).min(FULL.len()));
        let damaged = format!("{}{text}{}", &FULL[..start], &FULL[end..]);
        let (draft, problems) = parse(&damaged);
        prop_assert_eq!(draft.is_none(), !problems.is_empty());
        let lines = damaged.split('\n').count() as u32;
        prop_assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line) && problem.column >= 1));
    }

    /// Swaps the values of a valid file, so that the text stays TOML and the checks behind it are reached.
    #[test]
    fn swapped_values_are_answered(from in 0..24usize, to in 0..24usize) {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        let value = |line: &str| line.split_once(" = ").map(|(_, value)| value.to_owned());
        let with_value: Vec<usize> = (0..lines.len()).filter(|idx| value(&lines[*idx]).is_some()).collect();
        let (from, to) = (with_value[from % with_value.len()], with_value[to % with_value.len()]);
        let new = value(&lines[from]).expect("chosen for its value");
        let key = lines[to].split_once(" = ").map(|(key, _)| key.to_owned()).expect("chosen for its value");
        lines[to] = format!("{key} = {new}");
        let (draft, problems) = parse(&lines.join("\n"));
        prop_assert_eq!(draft.is_none(), !problems.is_empty());
    }
}

/// Stages read the one before them, or the one that they name; outputs of branches are those of their leaves.
#[test]
fn stages_form_a_tree() {
    let text = r#"
        name = "demo"
        [source]
        stream = "PLAYS"
        subject = "plays"
        key = "user_id"
        time = { field = "ts", unit = "ms" }
        [[stage]]
        name = "check"
        module = "router.wasm"
        [[stage]]
        name = "farm"
        module = "rule.wasm"
        window = { kind = "tumbling", size = "1h" }
        [[stage]]
        name = "cart"
        from = "check"
        module = "reducer.wasm"
        [[stage]]
        name = "raw"
        from = "source"
        module = "reducer.wasm"
        [output.alerts]
        from = "farm"
        [output.carts]
        from = "cart"
        [output.audit]
        from = "check.audit"
        [output.raw]
    "#;
    let (plan, problems) = plan(text);
    let (plan, _) = plan.unwrap_or_else(|| panic!("{problems:?}"));
    let from: Vec<Option<usize>> = plan.stages.iter().map(|stage| stage.from).collect();
    assert_eq!(from, [None, Some(0), Some(0), None]);
    assert_eq!([0, 1, 2, 3].map(|stage| plan.reader_of(stage)), [Some(1), None, None, None]);
    assert!(plan.is_behind(1, 0) && plan.is_behind(2, 0) && !plan.is_behind(3, 0) && !plan.is_behind(0, 0));
    let outputs: Vec<(&str, usize, u8)> =
        plan.outputs.iter().map(|output| (output.name.as_str(), output.stage, output.port)).collect();
    assert_eq!(outputs, [("alerts", 1, 0), ("carts", 2, 0), ("audit", 0, 2), ("raw", 3, 0)]);
}
