//! Streams as a plan wants them, and how a found one differs.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source, StorageType, SubjectTransform};
use pelton_engine::plan::{CreateStream, Output, Plan};
use serde_json::Value;

use crate::findings::{Drift, WHOLE_STREAM};
use crate::names::{self, LEASE_BUCKET};
use crate::reasons::{self, Role};

/// What a plan does not say.
#[derive(Clone, Debug)]
pub struct ProvisionOptions {
    /// Copies of every stream.
    pub replicas: usize,
    /// How long a lease lives without a renewal.
    pub lease_ttl: Duration,
    /// Bound of the pipeline stream; when it is full, the pipeline pauses.
    pub stream_max_bytes: Option<u64>,
    /// Which of these somebody asked for, so that [`up`](crate::up) tells where streams that exist have another value.
    pub asked: Asked,
}

/// Options that were given, not defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub replicas: bool,
    pub lease_ttl: bool,
}

impl Default for ProvisionOptions {
    fn default() -> ProvisionOptions {
        ProvisionOptions {
            replicas: 1,
            lease_ttl: Duration::from_secs(10),
            stream_max_bytes: None,
            asked: Asked::default(),
        }
    }
}

/// Shortest duplicate window that the server takes. Batches carry no message ids; the fence is what refuses repeats.
const DUPLICATE_WINDOW_MIN: Duration = Duration::from_millis(100);

/// One stream of a pipeline.
pub(crate) struct Expected {
    pub(crate) role: Role,
    pub(crate) config: Config,
    /// Settings (as the server names them) that must be as in `config`.
    pub(crate) settings: &'static [&'static str],
    /// Whether `up` makes it.
    pub(crate) is_ours: bool,
}

/// Every stream behind a pipeline, in the order of creation.
pub(crate) fn streams(plan: &Plan, options: &ProvisionOptions) -> Vec<Expected> {
    let mut expected = vec![input(plan, options), log(plan, options), leases(options), snapshots(plan, options)];
    expected.extend(outputs(plan, options));
    expected
}

fn base(name: String, options: &ProvisionOptions) -> Config {
    Config {
        name,
        num_replicas: options.replicas.max(1),
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..Config::default()
    }
}

fn input(plan: &Plan, options: &ProvisionOptions) -> Expected {
    let mut config = base(plan.source.stream.clone(), options);
    let Some(create) = &plan.source.create else {
        return Expected { role: Role::Input, config, settings: &["retention", "sealed"], is_ours: false };
    };
    config.description = Some(format!("pelton: input of pipeline {}", plan.name));
    config.max_age = create.max_age.map_or(Duration::ZERO, |age| Duration::from_millis(age.0.unsigned_abs()));
    config.max_bytes = create.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    (config.subjects, config.subject_transform) = ingest(plan, create);
    // Producers that want every write on disk are many times faster with atomic batches.
    config.allow_atomic_publish = true;
    let settings = &["subjects", "subject_transform", "retention", "storage", "sealed"];
    Expected { role: Role::Input, config, settings, is_ours: true }
}

/// What producers publish to, and how it becomes the literal subject of a partition.
fn ingest(plan: &Plan, create: &CreateStream) -> (Vec<String>, Option<SubjectTransform>) {
    let source = &plan.source;
    let Some(ingest) = &create.ingest else {
        return ((0..source.partitions).map(|partition| names::source_subject(plan, partition)).collect(), None);
    };
    let destination = if source.partitions > 1 {
        // The key is the last token; `partition` counts wildcards from 1.
        let wildcard = ingest.split('.').filter(|token| *token == "*").count();
        source.subject.replace("{partition}", &format!("{{{{partition({},{wildcard})}}}}", source.partitions))
    } else {
        names::source_subject(plan, 0)
    };
    let is_literal = !destination.split('.').any(|token| token == "*" || token == ">");
    let transform =
        (is_literal && destination != *ingest).then(|| SubjectTransform { source: ingest.clone(), destination });
    (vec![ingest.clone()], transform)
}

/// What would delete, refuse or change messages of the pipeline stream. Its bound in bytes is the operator's: a full
/// stream refuses batches, and loses nothing.
const LOG_SETTINGS: &[&str] = &[
    "subjects",
    "retention",
    "discard",
    "discard_new_per_subject",
    "storage",
    "allow_atomic",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_msg_ttl",
    "deny_delete",
    "deny_purge",
    "max_age",
    "max_msgs",
    "max_msgs_per_subject",
    "mirror",
    "no_ack",
    "persist_mode",
    "sealed",
    "sources",
    "subject_transform",
];

fn log(plan: &Plan, options: &ProvisionOptions) -> Expected {
    let mut config = base(names::log_stream(&plan.name), options);
    config.description = Some(format!("pelton: outputs, dead letters, changes and markers of pipeline {}", plan.name));
    config.subjects = vec![format!("pelton.{}.>", plan.name)];
    config.discard = DiscardPolicy::New;
    config.allow_atomic_publish = true;
    config.duplicate_window = DUPLICATE_WINDOW_MIN;
    config.max_bytes = options.stream_max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    Expected { role: Role::Log, config, settings: LOG_SETTINGS, is_ours: true }
}

fn leases(options: &ProvisionOptions) -> Expected {
    let mut config = base(names::kv_stream(LEASE_BUCKET), options);
    config.description = Some("pelton: who works on which partition".to_string());
    config.subjects = vec![format!("$KV.{LEASE_BUCKET}.>")];
    config.max_messages_per_subject = 1;
    config.max_age = options.lease_ttl;
    config.discard = DiscardPolicy::New;
    config.allow_rollup = true;
    config.deny_delete = true;
    config.allow_direct = true;
    config.duplicate_window = options.lease_ttl.min(Duration::from_secs(120));
    // How long a lease lasts is up to the operator who made the bucket.
    Expected { role: Role::Leases, config, settings: &["subjects", "max_msgs_per_subject", "sealed"], is_ours: true }
}

fn snapshots(plan: &Plan, options: &ProvisionOptions) -> Expected {
    let bucket = names::snapshot_bucket(&plan.name);
    let mut config = base(names::object_stream(&bucket), options);
    config.description = Some(format!("pelton: snapshots of pipeline {}", plan.name));
    config.subjects = vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")];
    config.discard = DiscardPolicy::New;
    config.allow_rollup = true;
    config.allow_direct = true;
    let settings = &[
        "subjects",
        "retention",
        "allow_direct",
        "allow_msg_ttl",
        "allow_rollup_hdrs",
        "deny_purge",
        "max_age",
        "max_msgs",
        "max_msgs_per_subject",
        "sealed",
    ];
    Expected { role: Role::Snapshots, config, settings, is_ours: true }
}

/// One stream per name; several outputs may share it.
fn outputs(plan: &Plan, options: &ProvisionOptions) -> Vec<Expected> {
    let mut outputs: BTreeMap<&str, Vec<Vec<SubjectTransform>>> = BTreeMap::new();
    for output in &plan.outputs {
        if let Some(stream) = &output.stream {
            let transforms = output_transforms(plan, output, &stream.subject);
            outputs.entry(&stream.name).or_default().push(transforms.into());
        }
    }
    let make = |(stream, transforms): (&str, Vec<Vec<SubjectTransform>>)| {
        let mut config = base(stream.to_string(), options);
        config.description = Some(format!("pelton: outputs of pipeline {}", plan.name));
        // One entry per output: with a changed list in a shared one, the server would send every old record again.
        let source = |subject_transforms| Source {
            name: names::log_stream(&plan.name),
            subject_transforms,
            ..Source::default()
        };
        config.sources = Some(transforms.into_iter().map(source).collect());
        Expected { role: Role::Output, config, settings: &["sources", "sealed"], is_ours: true }
    };
    outputs.into_iter().map(make).collect()
}

/// Records with and without a key token; `{key}` of a record without one is `_`.
fn output_transforms(plan: &Plan, output: &Output, subject: &str) -> [SubjectTransform; 2] {
    let source = format!("pelton.{}.*.out.{}", plan.name, output.name);
    [
        SubjectTransform { source: source.clone(), destination: subject.replace("{key}", "_") },
        SubjectTransform { source: format!("{source}.*"), destination: subject.replace("{key}", "{{wildcard(2)}}") },
    ]
}

/// Settings in which `found` is not as expected.
pub(crate) fn compare(expected: &Expected, found: &Config) -> Vec<Drift> {
    differing(expected, found, expected.settings)
}

/// The same for what somebody asked for, in streams that exist and keep what they have.
pub(crate) fn asked(expected: &Expected, found: &Config, options: &ProvisionOptions) -> Vec<Drift> {
    let mut settings = Vec::new();
    if options.asked.replicas && expected.is_ours {
        settings.push("num_replicas");
    }
    if options.asked.lease_ttl && expected.role == Role::Leases {
        settings.push("max_age");
    }
    if options.stream_max_bytes.is_some() && expected.role == Role::Log {
        settings.push("max_bytes");
    }
    differing(expected, found, &settings)
}

fn differing(expected: &Expected, found: &Config, settings: &[&str]) -> Vec<Drift> {
    let (wanted, found) = (as_json(&expected.config), as_json(found));
    let stream = &expected.config.name;
    let drift = |setting: &&str| {
        let (wanted, found) = (normal(&wanted[*setting]), normal(&found[*setting]));
        let shown = |value| reasons::shown(setting, value);
        (wanted != found).then(|| Drift {
            stream: stream.clone(),
            setting: (*setting).to_string(),
            expected: shown(&wanted),
            found: shown(&found),
            why: reasons::why(expected.role, setting),
            remedy: reasons::remedy(stream, setting, &shown(&wanted)),
        })
    };
    settings.iter().filter_map(drift).collect()
}

fn as_json(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// Defaults that the server and the client spell in several ways become null; lists are in one order.
fn normal(value: &Value) -> Value {
    match value {
        Value::Bool(false) => Value::Null,
        Value::Number(number) if matches!(number.as_i64(), Some(0 | -1)) => Value::Null,
        Value::String(text) if text.is_empty() || text == "default" => Value::Null,
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(normal).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), normal(value)))
            .filter(|(_, value)| !value.is_null())
            .collect(),
        other => other.clone(),
    }
}

/// About a stream that is not there.
pub(crate) fn missing(expected: &Expected) -> Drift {
    Drift {
        stream: expected.config.name.clone(),
        setting: WHOLE_STREAM.to_string(),
        expected: "to be there".to_string(),
        found: "missing".to_string(),
        why: "",
        remedy: if expected.is_ours {
            "`pelton up PIPELINE` creates what is missing".to_string()
        } else {
            "make it, or let `pelton up` make it by a table `[source.create]` in the pipeline file".to_string()
        },
    }
}
