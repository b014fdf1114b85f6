//! Tries the rights that a host needs, one by one, and names those that are missing. Nothing is changed by it: each
//! request is one that the server refuses for its content, or that concerns nothing that exists.
//!
//! A forbidden request gets no answer, and a line of the server that names the subject; any answer, a refusal for
//! instance, proves the right. Partition 0 is tried for all.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, RequestErrorKind};
use futures_util::future::join_all;
use pelton_engine::plan::Plan;
use serde_json::{Value, json};

use crate::api::within;
use crate::connect::Broker;
use crate::error::{API_TIMEOUT, BrokerError};
use crate::findings::Drift;
use crate::link::Action;
use crate::names::{self, LEASE_BUCKET};
use crate::target::Target;

const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// One right, and how to try it.
struct Probe {
    subject: String,
    body: Value,
    /// Refused by every stream.
    is_message: bool,
    why: &'static str,
}

/// Rights that this connection lacks for the plan.
///
/// # Errors
/// When the server does not answer.
pub async fn rights(broker: &Broker, plan: &Plan) -> Result<Vec<Drift>, BrokerError> {
    let since = Instant::now();
    let target = Target::new(plan, 0);
    // No answer comes to an acknowledgement: what is wrong with it is said before the answers to what is sent after it.
    let ack = format!("$JS.ACK.{}.{}.1.0.0.0.0", target.stream, target.consumer());
    let client = broker.client();
    let sent = client.publish(ack.clone(), "+WPI".into());
    within(API_TIMEOUT, "publish", sent)
        .await
        .map_err(|fault| BrokerError::request("try rights".to_string(), fault.to_string()))?;
    let mut missing = Vec::new();
    let probes = probes(broker, &target);
    let outcomes = join_all(probes.iter().map(|probe| attempt(broker, probe, since))).await;
    for (probe, outcome) in probes.iter().zip(outcomes) {
        match outcome {
            Outcome::Granted => {}
            Outcome::Denied(Action::Publish) => missing.push(denied(&probe.subject, probe.why)),
            // Without an inbox there is no answer to anything.
            Outcome::Denied(Action::Subscribe) => {
                let inbox = format!("{}.>", broker.inbox_prefix());
                return Ok(vec![Drift {
                    expected: format!("subscribe to {inbox}"),
                    remedy: format!(
                        "allow this user to subscribe to `{inbox}`, or name another prefix for its inboxes"
                    ),
                    ..denied("", "answers come there")
                }]);
            }
            Outcome::Unanswered(cause) => return Err(BrokerError::request(format!("try {}", probe.subject), cause)),
        }
    }
    if broker.denials().find(since, |action, subject| action == Action::Publish && subject == ack).is_some() {
        let subject = format!("$JS.ACK.{}.{}.>", target.stream, target.consumer());
        missing.push(denied(&subject, "without acknowledgements no more events come after a while"));
    }
    Ok(missing)
}

enum Outcome {
    Granted,
    Denied(Action),
    Unanswered(String),
}

async fn attempt(broker: &Broker, probe: &Probe, since: Instant) -> Outcome {
    let mut request = async_nats::Request::new().timeout(Some(PROBE_TIMEOUT));
    if probe.is_message {
        let mut headers = HeaderMap::new();
        // No stream has this name, so none takes the message.
        headers.insert("Nats-Expected-Stream", "-");
        request = request.headers(headers);
    } else {
        request = request.payload(probe.body.to_string().into());
    }
    let inboxes = format!("{}.", broker.inbox_prefix());
    let is_denied = |wanted| {
        let (subject, inboxes) = (&probe.subject, &inboxes);
        move |action: Action, denied: &str| match action {
            Action::Publish => wanted == action && denied == subject,
            Action::Subscribe => wanted == action && denied.starts_with(inboxes),
        }
    };
    let client = broker.client();
    tokio::select! {
        answer = client.send_request(probe.subject.clone(), request) => match answer {
            Ok(_) => Outcome::Granted,
            // Nobody there, but the question was allowed.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Outcome::Granted,
            Err(error) => Outcome::Unanswered(error.to_string()),
        },
        _ = broker.denials().wait(since, is_denied(Action::Publish)) => Outcome::Denied(Action::Publish),
        _ = broker.denials().wait(since, is_denied(Action::Subscribe)) => Outcome::Denied(Action::Subscribe),
    }
}

fn denied(subject: &str, why: &'static str) -> Drift {
    Drift {
        stream: String::new(),
        setting: "permissions".to_string(),
        expected: format!("publish to {subject}"),
        found: "not permitted".to_string(),
        why,
        remedy: format!("allow this user to publish to `{subject}`"),
    }
}

fn probes(broker: &Broker, target: &Target) -> Vec<Probe> {
    let (api, input, consumer) = (broker.api_prefix(), &target.stream, target.consumer());
    let (log, leases) = (target.log_stream(), names::kv_stream(LEASE_BUCKET));
    let bucket = names::snapshot_bucket(&target.pipeline);
    let (objects, prefix) = (names::object_stream(&bucket), target.prefix());
    let mut probes = Vec::new();
    let mut ask = |subject: String, body: Value, why| {
        probes.push(Probe { subject: format!("{api}.{subject}"), body, is_message: false, why });
    };
    // A name of another stream in the body is refused, and so is a body where none belongs.
    let refused = json!({ "stream_name": "-", "config": {} });
    let nothing = json!({ "last_by_subj": "pelton.none" });
    for stream in [input, &log, &objects] {
        ask(format!("STREAM.INFO.{stream}"), json!({}), "to know what the stream holds");
    }
    for stream in [input, &log, &leases, &objects] {
        ask(format!("STREAM.MSG.GET.{stream}"), nothing.clone(), "to read single messages");
    }
    ask(format!("CONSUMER.INFO.{input}.{consumer}"), json!({}), "to know how far deliveries went");
    ask(format!("CONSUMER.CREATE.{input}.{consumer}.{}", target.subject), refused.clone(), "to read events");
    ask(format!("CONSUMER.MSG.NEXT.{input}.{consumer}"), json!({ "expires": "-" }), "to read events");
    ask(format!("CONSUMER.DELETE.{input}.{consumer}"), refused.clone(), "to read events from another position");
    ask(format!("CONSUMER.CREATE.{log}.pelton-changes-none"), refused, "to rebuild the state");
    ask(format!("CONSUMER.MSG.NEXT.{log}.pelton-changes-none"), json!({ "expires": "-" }), "to rebuild the state");
    ask(format!("CONSUMER.DELETE.{log}.pelton-changes-none"), json!({}), "to rebuild the state");
    ask(format!("STREAM.PURGE.{log}"), json!({ "filter": format!("{prefix}.none") }), "to drop what is in snapshots");
    let chunks = format!("$O.{bucket}.C.none");
    ask(format!("STREAM.PURGE.{objects}"), json!({ "filter": chunks }), "to drop old snapshots");
    ask(format!("DIRECT.GET.{objects}"), json!({ "last_by_subj": chunks }), "to read snapshots");
    let lease = names::in_domain(api, &names::lease_subject(&target.pipeline, target.partition));
    for (subject, why) in [
        (names::delta_subject(&prefix), "to commit"),
        (names::marker_subject(&prefix, "0.0"), "to commit"),
        (format!("{prefix}.dlq.none"), "to keep dead letters"),
        (lease, "to lease the partition"),
        (chunks, "to store snapshots"),
        (format!("$O.{bucket}.M.none"), "to store snapshots"),
    ] {
        probes.push(Probe { subject, body: Value::Null, is_message: true, why });
    }
    probes
}
