//! Everything that a pipeline needs of its broker, compared with what is there. Nothing is changed.

use std::time::Duration;

use pelton_engine::epoch::{BATCH_HEADER_BYTES, CHANGE_BYTES_MAX};
use pelton_engine::plan::Plan;
use serde_json::{Value, json};

use crate::api::{Fault, StreamInfo};
use crate::connect::Broker;
use crate::error::BrokerError;
use crate::expect::{Expected, ProvisionOptions, compare, missing, streams};
use crate::findings::{Checked, Drift};
use crate::reasons::Role;
use crate::{hash_key, input, patch};

/// Compares streams, limits and server with what the plan needs.
///
/// # Errors
/// When the server does not answer.
pub async fn check(broker: &Broker, plan: &Plan, options: &ProvisionOptions) -> Result<Checked, BrokerError> {
    let mut checked = Checked::default();
    server(broker, plan, &mut checked);
    let account: Value = match broker.api("", "INFO", &json!({})).await {
        Ok(account) => account,
        // Hosts do not need this right, and a limit that is in the way is told by whatever it refuses.
        Err(fault) => {
            checked.note("", "limits", format!("those of the account are not known: {fault}"), "allow `$JS.API.INFO`");
            Value::Null
        }
    };
    storage(&account, &mut checked);
    for expected in streams(plan, options) {
        let name = expected.config.name.clone();
        let fail = |fault: Fault| BrokerError::request(format!("look at stream {name}"), fault.to_string());
        let Some(info) = found(broker, &expected).await.map_err(fail)? else {
            checked.drift.push(missing(&expected));
            continue;
        };
        checked.drift.extend(compare(&expected, &info.config));
        match expected.role {
            Role::Input => input::check(broker, plan, &info, &account, &mut checked).await.map_err(fail)?,
            Role::Log => log(&info, &mut checked),
            Role::Leases => leases(&info, &mut checked),
            Role::Snapshots | Role::Output => {}
        }
    }
    Ok(checked)
}

/// `None` when the stream is not there.
pub(crate) async fn found(broker: &Broker, expected: &Expected) -> Result<Option<StreamInfo>, Fault> {
    match broker.stream_info(&expected.config.name).await {
        Ok(info) => Ok(Some(info)),
        Err(Fault::Missing(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Bytes of the largest message that cannot be made smaller.
const MESSAGE_NEEDED: usize = CHANGE_BYTES_MAX + BATCH_HEADER_BYTES;

fn server(broker: &Broker, plan: &Plan, checked: &mut Checked) {
    let max_payload = broker.max_payload();
    if max_payload < MESSAGE_NEEDED {
        checked.drift.push(Drift {
            stream: String::new(),
            setting: "max_payload".to_string(),
            expected: format!("{MESSAGE_NEEDED} or more"),
            found: max_payload.to_string(),
            why: "state is stored in messages of half a megabyte",
            remedy: "set `max_payload: 1MB` in the configuration of the server".to_string(),
        });
    } else if plan.limits.max_payload > max_payload as u64 {
        let text = format!(
            "the server takes messages of {max_payload} bytes, `limits.max_payload` allows events of {}",
            plan.limits.max_payload
        );
        checked.note(
            "",
            "max_payload",
            text,
            "a larger event cannot be published, and a larger result is a dead letter",
        );
    }
    let version = broker.version();
    for text in patch::weaknesses(&version) {
        let remedy = "update nats-server to 2.14.6, 2.15.0 or later";
        checked.note("", "version", format!("nats-server {version}: {text}"), remedy);
    }
}

/// Parts of an account's storage of which nine are used.
const STORAGE_PARTS: u64 = 10;

fn storage(account: &Value, checked: &mut Checked) {
    let tiers = account["tiers"].as_object().into_iter().flatten().map(|(_, tier)| tier);
    for scope in std::iter::once(account).chain(tiers) {
        let limit = scope["limits"]["max_storage"].as_u64().filter(|limit| *limit > 0);
        let used = scope["storage"].as_u64().unwrap_or(0);
        if let Some(limit) = limit
            && used >= limit - limit / STORAGE_PARTS
        {
            let text = format!("{used} of the account's {limit} bytes are used: when it is full, the pipeline pauses");
            checked.note("", "max_storage", text, "raise the limit, or delete what nobody needs");
        }
    }
}

/// A host renews every three seconds.
const LEASE_MIN: Duration = Duration::from_secs(4);

/// How long a lease lasts is up to the operator who made the bucket, within reason. Tests of expiry stay possible: what
/// is refused is what cannot work.
pub(crate) fn leases(info: &StreamInfo, checked: &mut Checked) {
    let max_age = info.config.max_age;
    if max_age.is_zero() {
        checked.drift.push(Drift {
            stream: info.config.name.clone(),
            setting: "max_age".to_string(),
            expected: "10 s, for example".to_string(),
            found: "none".to_string(),
            why: "the lease of a host that is gone would never end",
            remedy: format!("`nats stream edit {} --max-age=10s`", info.config.name),
        });
    } else if max_age < LEASE_MIN {
        let text = format!("leases last {} ms, and hosts renew them every 3 s", max_age.as_millis());
        checked.note(
            &info.config.name,
            "max_age",
            text,
            "make it 4 s or more, or partitions change hosts all the time",
        );
    }
}

/// The pipeline stream: limits that are an operator's to set, when they are too low.
pub(crate) fn log(info: &StreamInfo, checked: &mut Checked) {
    let config = &info.config;
    checked.hash_key = hash_key::of(config);
    if checked.hash_key.is_none() {
        checked.drift.push(Drift {
            stream: config.name.clone(),
            setting: format!("metadata `{}`", hash_key::NAME),
            expected: "32 hex digits".to_string(),
            found: config.metadata.get(hash_key::NAME).map_or("missing".to_string(), |found| format!("`{found}`")),
            why: "partitions would count with keys of their own",
            remedy: format!(
                "`nats stream edit {} --metadata={}:$(openssl rand -hex 16)` as long as the pipeline has no state",
                config.name,
                hash_key::NAME
            ),
        });
    }
    let largest = usize::try_from(config.max_message_size).unwrap_or(0);
    if largest > 0 && largest < MESSAGE_NEEDED {
        checked.drift.push(Drift {
            stream: config.name.clone(),
            setting: "max_msg_size".to_string(),
            expected: format!("none, or {MESSAGE_NEEDED} and more"),
            found: largest.to_string(),
            why: "state is stored in messages of half a megabyte",
            remedy: format!("take the limit away with `nats stream edit {}`", config.name),
        });
    }
    let room = u64::try_from(config.max_bytes).unwrap_or(0);
    if room > 0 && info.state.bytes >= room - room / STORAGE_PARTS {
        let text = format!("{} of {room} bytes are used: when it is full, the pipeline pauses", info.state.bytes);
        let remedy = format!("raise the limit, or purge old outputs (`nats stream purge {} --subject=…`)", config.name);
        checked.note(&config.name, "max_bytes", text, &remedy);
    }
}
