//! Where a test plays: a folder of its own, pipeline files in it, generated events with their truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{finish, pelton};

/// A folder that goes away with its value.
pub(crate) struct Scene {
    folder: TempDir,
}

/// What the generator says must come out.
#[derive(Deserialize)]
pub(crate) struct Truth {
    alerts: Vec<ExpectedAlert>,
    pub(crate) late_events: u64,
    bad: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct ExpectedAlert {
    pane_timing: String,
    #[serde(flatten)]
    alert: Alert,
}

/// An alert as the rule writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Alert {
    user: String,
    window_start: i64,
    window_end: i64,
    pane_index: u32,
    plays: i64,
    distinct_tracks: i64,
    average_ms: i64,
    rule: String,
    severity: String,
}

impl Truth {
    pub(crate) fn bad_records(&self) -> u64 {
        self.bad.values().sum()
    }

    /// Sorted; those of the end of the input only when there is one.
    pub(crate) fn alerts(&self, with_end: bool) -> Vec<Alert> {
        let shown = self.alerts.iter().filter(|alert| with_end || alert.pane_timing != "end-of-input");
        let mut alerts: Vec<Alert> = shown.map(|alert| alert.alert.clone()).collect();
        alerts.sort();
        alerts
    }
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene { folder: TempDir::new().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as text, for arguments.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).expect("a temporary folder is writable");
        self.arg(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// `pipelines/fraud.toml`, with its modules where they are.
    pub(crate) fn fraud(&self) -> String {
        let text = std::fs::read_to_string(root().join("pipelines/fraud.toml")).expect("the pipeline file is there");
        let modules = module("fraud");
        let modules = modules.parent().expect("a module lies in a folder").display().to_string();
        self.write("fraud.toml", text.replace("../target/modules", &modules))
    }

    /// A pipeline whose only stage forwards events, or so it seems; `more` are further lines of the source.
    pub(crate) fn single(&self, name: &str, guest: &str, more: &str) -> String {
        let text = format!(
            "name = \"{name}\"\n[source]\nstream = \"{upper}\"\nsubject = \"{name}\"\nkey = \"user\"\n\
             time = {{ field = \"ts\", unit = \"ms\" }}\n{more}\n[source.create]\n\
             [[stage]]\nname = \"guest\"\nmodule = \"{module}\"\n[output.seen]\n",
            upper = name.to_uppercase(),
            module = module(guest).display(),
        );
        self.write(&format!("{name}.toml"), text)
    }

    /// Generates plays into `plays.jsonl`, farms and bad and late ones among them.
    pub(crate) fn plays(&self, pipeline: &str, events: u64, seed: u64) -> Truth {
        let (count, seed) = (events.to_string(), seed.to_string());
        let (output, truth) = (self.arg("plays.jsonl"), self.arg("truth.json"));
        let mut args = vec!["generate", "plays", "--pipeline", pipeline, "--events", &count, "--seed", &seed];
        args.extend(["--farms", "5", "--bad", "0.001", "--late", "0.002", "--output", &output, "--truth", &truth]);
        finish(&mut pelton(&args)).code(0);
        serde_json::from_slice(&self.read("truth.json")).expect("the truth reads back")
    }
}

/// Alerts as they lie in lines or messages, sorted.
pub(crate) fn alerts<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Vec<Alert> {
    let mut alerts: Vec<Alert> =
        payloads.map(|bytes| serde_json::from_slice(bytes).expect("an output is an alert")).collect();
    alerts.sort();
    alerts
}

/// A built module.
pub(crate) fn module(name: &str) -> PathBuf {
    let path = root().join("target/modules").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `just guests` first", path.display());
    path
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Random numbers from a seed.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound.max(1)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for idx in (1..items.len()).rev() {
            items.swap(idx, self.below(idx as u64 + 1) as usize);
        }
    }
}
