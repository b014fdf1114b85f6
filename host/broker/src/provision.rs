//! Makes, checks and deletes the streams and buckets of a pipeline.

use pelton_engine::plan::Plan;
use serde_json::{Value, json};
use tracing::info;

use crate::api::Fault;
use crate::connect::Broker;
use crate::consumer::delete_consumer;
use crate::error::{BrokerError, PROVISION_TIMEOUT};
use crate::expect::{ProvisionOptions, asked, streams};
use crate::findings::{Drift, Note};
use crate::hash_key;
use crate::inspect;
use crate::names::{self, LEASE_BUCKET};
use crate::reasons::Role;
use crate::target::Target;

/// What [`up`] did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// Streams made, in order.
    pub created: Vec<String>,
    /// What was there and is different. It is left as it is.
    pub drift: Vec<Drift>,
    /// What works and should be known.
    pub notes: Vec<Note>,
}

/// What [`down`] deletes beside the pipeline stream, the snapshots, the leases and the consumers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Down {
    /// The input stream, when the plan makes it.
    pub input: bool,
    /// The output streams.
    pub outputs: bool,
}

/// Makes what is missing and reports what is different. Doing it twice changes nothing.
///
/// # Errors
/// When the server refuses a stream or does not answer.
pub async fn up(broker: &Broker, plan: &Plan, options: &ProvisionOptions) -> Result<Provisioned, BrokerError> {
    let mut provisioned = Provisioned::default();
    for expected in streams(plan, options) {
        let name = expected.config.name.clone();
        let fail = |fault: Fault| BrokerError::request(format!("look at stream {name}"), fault.to_string());
        match inspect::found(broker, &expected).await.map_err(fail)? {
            Some(info) => provisioned.drift.extend(asked(&expected, &info.config, options)),
            None if expected.is_ours => {
                let mut expected = expected;
                if expected.role == Role::Log {
                    let key = hash_key::text(hash_key::random());
                    expected.config.metadata.insert(hash_key::NAME.to_owned(), key);
                }
                let config = serde_json::to_value(&expected.config)
                    .map_err(|error| BrokerError::request(format!("create stream {name}"), error.to_string()))?;
                let verb = format!("STREAM.CREATE.{name}");
                let created = broker.api_within::<Value>(PROVISION_TIMEOUT, &name, &verb, &config).await;
                created.map_err(|fault| BrokerError::request(format!("create stream {name}"), fault.to_string()))?;
                info!(stream = %name, "stream created");
                provisioned.created.push(name);
            }
            None => {}
        }
    }
    let checked = inspect::check(broker, plan, options).await?;
    provisioned.drift.extend(checked.drift);
    provisioned.notes = checked.notes;
    Ok(provisioned)
}

/// What stops or spoils the work, missing streams included; nothing is changed.
///
/// # Errors
/// When the server does not answer.
pub async fn verify(broker: &Broker, plan: &Plan, options: &ProvisionOptions) -> Result<Vec<Drift>, BrokerError> {
    Ok(inspect::check(broker, plan, options).await?.drift)
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
            Err(fault) => {
                return Err(BrokerError::request(format!("delete consumer {}", target.consumer()), fault.to_string()));
            }
        }
    }
    let mut doomed = Vec::new();
    if what.outputs {
        doomed.extend(plan.outputs.iter().filter_map(|output| Some(output.stream.as_ref()?.name.clone())));
        doomed.sort();
        doomed.dedup();
    }
    doomed.push(names::log_stream(&plan.name));
    doomed.push(names::object_stream(&names::snapshot_bucket(&plan.name)));
    if what.input && plan.source.create.is_some() {
        doomed.push(plan.source.stream.clone());
    }
    for stream in doomed {
        let verb = format!("STREAM.DELETE.{stream}");
        match broker.api_within::<Value>(PROVISION_TIMEOUT, &stream, &verb, &json!({})).await {
            Ok(_) => deleted.push(stream),
            Err(Fault::Missing(_)) => {}
            Err(fault) => return Err(BrokerError::request(format!("delete stream {stream}"), fault.to_string())),
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
        Err(fault) => Err(BrokerError::request(format!("delete leases of {}", plan.name), fault.to_string())),
    }
}
