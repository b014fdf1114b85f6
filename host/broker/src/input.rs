//! The input stream, which mostly belongs to others: does it take the events, may it be read, what does it drop?

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info};
use pelton_engine::plan::Plan;
use serde_json::{Value, json};

use crate::ack_pending::{self, LEAST};
use crate::api::Fault;
use crate::connect::Broker;
use crate::consumer::consumer_state;
use crate::findings::{Checked, Drift};
use crate::names;
use crate::reasons;
use crate::target::Target;

/// What stops a host from reading the input, and what it may lose.
pub(crate) async fn check(
    broker: &Broker,
    plan: &Plan,
    info: &Info,
    account: &Value,
    checked: &mut Checked,
) -> Result<(), Fault> {
    subjects(broker, plan, info, checked).await?;
    consumers(broker, plan, info, account, checked).await?;
    unacknowledged(plan, info, account, checked);
    losses(&info.config, checked);
    Ok(())
}

/// Subjects of partitions that nothing can be stored under. A mirror or a stream with sources names no subjects, and an
/// old message may be of a subject that is not taken any more, so the stream is asked what it holds.
async fn subjects(broker: &Broker, plan: &Plan, info: &Info, checked: &mut Checked) -> Result<(), Fault> {
    let config = &info.config;
    let patterns = stored_subjects(config);
    let mut lacking = Vec::new();
    for partition in 0..plan.source.partitions {
        let subject = names::source_subject(plan, partition);
        if !patterns.iter().any(|pattern| meet(pattern, &subject)) && !holds(broker, &config.name, &subject).await? {
            lacking.push(subject);
        }
    }
    let Some(first) = lacking.first() else { return Ok(()) };
    let more = if lacking.len() > 1 { format!(" and {} more", lacking.len() - 1) } else { String::new() };
    let is_copy = config.mirror.is_some() || config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    if is_copy {
        let text = format!("it copies other streams and holds nothing under {first}{more} so far");
        checked.note(&config.name, "subjects", text, "make sure that `source.subject` is right");
        return Ok(());
    }
    checked.drift.push(Drift {
        stream: config.name.clone(),
        setting: "subjects".to_string(),
        expected: format!("{first}{more} among them"),
        found: if patterns.is_empty() { "none".to_string() } else { patterns.join(", ") },
        why: "nothing would ever be read",
        remedy: format!("correct `source.subject` in the pipeline file, or add {first} to the subjects of the stream"),
    });
    Ok(())
}

async fn holds(broker: &Broker, stream: &str, subject: &str) -> Result<bool, Fault> {
    let body = json!({ "subjects_filter": subject });
    let info: Value = broker.api(stream, &format!("STREAM.INFO.{stream}"), &body).await?;
    Ok(info["state"]["subjects"].as_object().is_some_and(|subjects| !subjects.is_empty()))
}

/// Patterns of what may be stored: the subjects, and what a transform makes of them.
fn stored_subjects(config: &Config) -> Vec<String> {
    let mut patterns = config.subjects.clone();
    if let Some(transform) = &config.subject_transform {
        let is_computed = |token: &str| token.contains("{{") || token.starts_with('$');
        let tokens = transform.destination.split('.').map(|token| if is_computed(token) { "*" } else { token });
        patterns.push(tokens.collect::<Vec<_>>().join("."));
    }
    patterns
}

/// Whether some subject matches both patterns.
fn meet(left: &str, right: &str) -> bool {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

/// Room for the consumers of all partitions, in the stream and in the account.
async fn consumers(
    broker: &Broker,
    plan: &Plan,
    info: &Info,
    account: &Value,
    checked: &mut Checked,
) -> Result<(), Fault> {
    let of_stream = u64::try_from(info.config.max_consumers).ok().filter(|limit| *limit > 0);
    let tier = &account["tiers"][format!("R{}", info.config.num_replicas.max(1))];
    let scopes =
        [account, tier].map(|scope| Some((limit(&scope["limits"]["max_consumers"])?, number(&scope["consumers"]))));
    if of_stream.is_none() && scopes.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut lacking = 0;
    for partition in 0..plan.source.partitions {
        lacking += u64::from(consumer_state(broker, &Target::new(plan, partition)).await?.is_none());
    }
    let used = info.state.consumer_count as u64;
    if let Some(limit) = of_stream.filter(|limit| used + lacking > *limit) {
        checked.drift.push(Drift {
            stream: info.config.name.clone(),
            setting: "max_consumers".to_string(),
            expected: format!("{} or more", used + lacking),
            found: limit.to_string(),
            why: "each partition has a consumer",
            remedy: "delete consumers that nobody needs (`nats consumer ls`); the limit of an existing stream stays"
                .to_string(),
        });
    }
    // One more reads the pipeline stream while a state is rebuilt.
    let needed = lacking + 1;
    if let Some((limit, used)) = scopes.into_iter().flatten().find(|(limit, used)| used + needed > *limit) {
        checked.drift.push(Drift {
            stream: String::new(),
            setting: "max_consumers".to_string(),
            expected: format!("{} or more", used + needed),
            found: limit.to_string(),
            why: "each partition has a consumer, and a state that is rebuilt is read by one more",
            remedy: "raise the account's limit, or delete consumers that nobody needs".to_string(),
        });
    }
    Ok(())
}

fn limit(value: &Value) -> Option<u64> {
    value.as_u64().filter(|limit| *limit > 0)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn unacknowledged(plan: &Plan, info: &Info, account: &Value, checked: &mut Checked) {
    let Some(allowed) = ack_pending::ack_pending_max(info, account) else { return };
    let stream = &info.config.name;
    if allowed < u64::from(LEAST) {
        checked.drift.push(Drift {
            stream: stream.clone(),
            setting: "max_ack_pending".to_string(),
            expected: format!("{LEAST} or more, better {}", ack_pending::WANTED),
            found: allowed.to_string(),
            why: "no more than that is read until an epoch is stored",
            remedy: format!("raise `consumer_limits.max_ack_pending` of stream {stream}, or the account's limit"),
        });
    } else if allowed < 2 * u64::from(plan.limits.epoch_max_events) {
        let text = format!(
            "consumers may have {allowed} unacknowledged deliveries: epochs are that small, and a partition reads about \
             {} events a second",
            allowed * 20
        );
        let remedy = format!("for more, raise `consumer_limits.max_ack_pending` of stream {stream}, or the account's");
        checked.note(stream, "max_ack_pending", text, &remedy);
    }
}

/// What may be deleted before it is read.
fn losses(config: &Config, checked: &mut Checked) {
    const KEEP_UP: &str = "keep hosts running; a partition whose unread events were deleted halts with `input-gap`";
    let name = &config.name;
    if !config.max_age.is_zero() {
        let age = reasons::duration(u64::try_from(config.max_age.as_nanos()).unwrap_or(u64::MAX));
        let text = format!("events older than {age} are deleted, read or not");
        checked.note(name, "max_age", text, KEEP_UP);
    }
    let bounds = [("max_bytes", config.max_bytes, "bytes"), ("max_msgs", config.max_messages, "events")];
    for (setting, limit, unit) in bounds.into_iter().filter(|(_, limit, _)| *limit > 0) {
        if config.discard == DiscardPolicy::New {
            let text = format!("when it holds {limit} {unit}, new events are refused");
            checked.note(
                name,
                "discard",
                format!("{text} ({setting})"),
                "producers have to try again, or events are lost",
            );
        } else {
            let text = format!("when it holds {limit} {unit}, the oldest events are deleted, read or not");
            checked.note(name, "discard", format!("{text} ({setting})"), KEEP_UP);
        }
    }
    if config.max_messages_per_subject > 0 {
        let text = format!(
            "of each subject only the last {} events are kept: whoever reads slower than they come misses some",
            config.max_messages_per_subject
        );
        checked.note(name, "max_msgs_per_subject", text, KEEP_UP);
    }
    if config.allow_message_ttl {
        let text = "events with a lifetime of their own vanish at its end, read or not".to_string();
        checked.note(name, "allow_msg_ttl", text, KEEP_UP);
    }
    if let Some(limits) = config.consumer_limits.as_ref().filter(|limits| !limits.inactive_threshold.is_zero()) {
        let after = reasons::duration(u64::try_from(limits.inactive_threshold.as_nanos()).unwrap_or(u64::MAX));
        let text =
            format!("the consumer of a host that is away is deleted after {after}: it is made again, nothing is lost");
        checked.note(name, "inactive_threshold", text, "`pelton status` cannot tell the lag meanwhile");
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::SubjectTransform;

    use super::*;

    #[test]
    fn patterns_meet_where_a_subject_matches_both() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.>", "a.b.c", true),
            (">", "a", true),
            ("*.b", "a.*", true),
            ("a.>", "a", false),
            ("a.b", "a.c", false),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b.c", false),
        ];
        for (left, right, expected) in cases {
            assert_eq!((meet(left, right), meet(right, left)), (expected, expected), "{left} {right}");
        }
    }

    #[test]
    fn a_transform_counts_as_what_it_stores() {
        let transform = |destination: &str| Config {
            subjects: vec!["in.*".to_string()],
            subject_transform: Some(SubjectTransform {
                source: "in.*".to_string(),
                destination: destination.to_string(),
            }),
            ..Config::default()
        };
        assert_eq!(stored_subjects(&transform("out.{{partition(4,1)}}")), ["in.*", "out.*"]);
        assert_eq!(stored_subjects(&transform("out.$1")), ["in.*", "out.*"]);
    }
}
