//! Makes, checks and deletes the streams and buckets of a pipeline.

use std::time::Duration;

use pelton_engine::plan::Plan;
use serde_json::{Value, json};
use tracing::info;

use crate::api::{Fault, chain};
use crate::connect::{Broker, BrokerError};
use crate::expect::{Expected, compare, streams};
use crate::fetch::delete_consumer;
use crate::log::Target;
use crate::names::{self, LEASE_BUCKET};

/// What a plan does not say.
#[derive(Clone, Debug)]
pub struct ProvisionOptions {
    /// Copies of every stream.
    pub replicas: usize,
    /// How long a lease lives without a renewal.
    pub lease_ttl: Duration,
    /// Bound of the pipeline stream; when it is full, the pipeline pauses.
    pub log_max_bytes: Option<u64>,
}

impl Default for ProvisionOptions {
    fn default() -> ProvisionOptions {
        ProvisionOptions { replicas: 1, lease_ttl: Duration::from_secs(10), log_max_bytes: None }
    }
}

/// A setting that is not as expected; values as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    pub stream: String,
    /// As the server names it; `stream` when the whole stream is not there.
    pub setting: String,
    pub expected: String,
    pub found: String,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Drift { stream, setting, expected, found } = self;
        write!(f, "stream {stream}: {setting} is {found}, expected {expected}")
    }
}

/// What [`up`] did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// Streams made, in order.
    pub created: Vec<String>,
    /// What was there and is different. It is left as it is.
    pub drift: Vec<Drift>,
}

/// What [`down`] deletes beside the pipeline stream, the snapshots, the leases and the consumers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Down {
    /// The input stream, when the plan makes it.
    pub input: bool,
    /// The public streams.
    pub public: bool,
}

/// Makes what is missing and reports what is different. Doing it twice changes nothing.
///
/// # Errors
/// When the server refuses a stream or does not answer.
pub async fn up(broker: &Broker, plan: &Plan, options: &ProvisionOptions) -> Result<Provisioned, BrokerError> {
    let mut provisioned = Provisioned::default();
    for expected in streams(plan, options) {
        let found = check(broker, &expected).await?;
        let Some(drift) = found else {
            if !expected.is_ours {
                provisioned.drift.push(missing(&expected));
                continue;
            }
            let name = expected.config.name.clone();
            broker
                .context()
                .create_stream(expected.config)
                .await
                .map_err(|error| request(format!("create stream {name}"), chain(&error)))?;
            info!(stream = %name, "stream created");
            provisioned.created.push(name);
            continue;
        };
        provisioned.drift.extend(drift);
    }
    Ok(provisioned)
}

/// What differs from the plan, missing streams included; nothing is changed. For every start.
///
/// # Errors
/// When the server does not answer.
pub async fn verify(broker: &Broker, plan: &Plan, options: &ProvisionOptions) -> Result<Vec<Drift>, BrokerError> {
    let mut drift = Vec::new();
    for expected in streams(plan, options) {
        match check(broker, &expected).await? {
            Some(found) => drift.extend(found),
            None => drift.push(missing(&expected)),
        }
    }
    Ok(drift)
}

/// Deletes what [`up`] made; the names of what was deleted. What is not there is passed over.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn down(broker: &Broker, plan: &Plan, what: Down) -> Result<Vec<String>, BrokerError> {
    let mut deleted = Vec::new();
    for partition in 0..plan.source.partitions {
        let target = Target::new(plan, partition);
        match delete_consumer(broker, &target).await {
            Ok(()) | Err(Fault::Missing(_)) => {}
            Err(fault) => return Err(request(format!("delete consumer {}", target.consumer()), fault.to_string())),
        }
    }
    let mut doomed = Vec::new();
    if what.public {
        doomed.extend(plan.outputs.iter().filter_map(|output| Some(output.publish.as_ref()?.stream.clone())));
        doomed.sort();
        doomed.dedup();
    }
    doomed.push(names::log_stream(&plan.name));
    doomed.push(names::object_stream(&names::snapshot_bucket(&plan.name)));
    if what.input && plan.source.create.is_some() {
        doomed.push(plan.source.stream.clone());
    }
    for stream in doomed {
        match broker.api::<Value>(&stream, &format!("STREAM.DELETE.{stream}"), &json!({})).await {
            Ok(_) => deleted.push(stream),
            Err(Fault::Missing(_)) => {}
            Err(fault) => return Err(request(format!("delete stream {stream}"), fault.to_string())),
        }
    }
    forget_leases(broker, plan).await?;
    Ok(deleted)
}

/// The bucket is shared by all pipelines, so only this one's keys go.
async fn forget_leases(broker: &Broker, plan: &Plan) -> Result<(), BrokerError> {
    let stream = names::kv_stream(LEASE_BUCKET);
    let body = json!({ "filter": format!("$KV.{LEASE_BUCKET}.{}.>", plan.name) });
    match broker.api::<Value>(&stream, &format!("STREAM.PURGE.{stream}"), &body).await {
        Ok(_) | Err(Fault::Missing(_)) => Ok(()),
        Err(fault) => Err(request(format!("delete leases of {}", plan.name), fault.to_string())),
    }
}

/// `None` when the stream is not there.
async fn check(broker: &Broker, expected: &Expected) -> Result<Option<Vec<Drift>>, BrokerError> {
    match broker.stream_info(&expected.config.name).await {
        Ok(info) => Ok(Some(compare(expected, &info.config))),
        Err(Fault::Missing(_)) => Ok(None),
        Err(fault) => Err(request(format!("look at stream {}", expected.config.name), fault.to_string())),
    }
}

fn missing(expected: &Expected) -> Drift {
    Drift {
        stream: expected.config.name.clone(),
        setting: "stream".to_string(),
        expected: "to be there".to_string(),
        found: "missing".to_string(),
    }
}

fn request(what: String, cause: String) -> BrokerError {
    BrokerError::Request { what, cause }
}
