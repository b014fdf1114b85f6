//! What a pipeline needs of its broker is named before it runs: settings, limits, subjects.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, ConsumerLimits, DiscardPolicy, Source};
use pelton_broker::{Asked, Broker, Checked, ProvisionOptions, check, up};
use pelton_engine::plan::Plan;

use crate::rig::{Rig, fetch, plan, reset};

async fn checked(rig: &Rig) -> Checked {
    check(&rig.broker, &rig.plan, &ProvisionOptions::default()).await.expect("checked")
}

/// Streams and settings of what is wrong.
fn wrong(checked: &Checked) -> Vec<(&str, &str)> {
    checked.drift.iter().map(|drift| (drift.stream.as_str(), drift.setting.as_str())).collect()
}

/// What is noted, but for the version of the server that the tests happen to run on.
fn noted(checked: &Checked) -> Vec<(&str, &str)> {
    let notes = checked.notes.iter().filter(|note| note.setting != "version");
    notes.map(|note| (note.stream.as_str(), note.setting.as_str())).collect()
}

async fn make_again(broker: &Broker, name: &str, change: impl FnOnce(&mut Config)) {
    let context = broker.context();
    let mut config = context.get_stream(name).await.expect("the stream is there").cached_info().config.clone();
    context.delete_stream(name).await.expect("deleted");
    change(&mut config);
    context.create_stream(config).await.expect("made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_pipeline_lacks_nothing() {
    let rig = Rig::new(2).await;
    assert_eq!(wrong(&checked(&rig).await), []);
    assert_eq!(noted(&checked(&rig).await), []);
}

/// `up` draws the key once, every host reads the same, and a stream that somebody made without one is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_has_one_hash_key() {
    let rig = Rig::new(2).await;
    let key = checked(&rig).await.hash_key.expect("`up` has drawn one");
    up(&rig.broker, &rig.plan, &ProvisionOptions::default()).await.expect("twice changes nothing");
    assert_eq!(checked(&rig).await.hash_key, Some(key));
    make_again(&rig.broker, "PELTON_fraud", |config| drop(config.metadata.remove("pelton-hash-key"))).await;
    let found = checked(&rig).await;
    assert_eq!(wrong(&found), [("PELTON_fraud", "metadata `pelton-hash-key`")]);
    assert_eq!(found.hash_key, None);
    rig.broker.context().delete_stream("PELTON_fraud").await.expect("deleted");
    up(&rig.broker, &rig.plan, &ProvisionOptions::default()).await.expect("made again");
    assert_ne!(checked(&rig).await.hash_key, Some(key), "each stream has a key of its own");
}

/// Whoever bounds the pipeline stream in one of these ways deletes markers, and everything comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_delete_markers_or_refuse_batches_are_drift() {
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 10] = [
        ("max_age", |config| config.max_age = Duration::from_secs(3600)),
        ("max_msgs", |config| config.max_messages = 1_000_000),
        ("max_msgs_per_subject", |config| config.max_messages_per_subject = 1),
        ("allow_msg_ttl", |config| config.allow_message_ttl = true),
        ("deny_purge", |config| config.deny_purge = true),
        ("deny_delete", |config| config.deny_delete = true),
        ("discard", |config| config.discard = DiscardPolicy::Old),
        ("no_ack", |config| (config.no_ack, config.allow_atomic_publish) = (true, true)),
        ("allow_atomic", |config| config.allow_atomic_publish = false),
        ("max_msg_size", |config| config.max_message_size = 100_000),
    ];
    let rig = Rig::new(1).await;
    let broker = &rig.broker;
    let context = broker.context();
    let good = context.get_stream("PELTON_fraud").await.expect("stream").cached_info().config.clone();
    for (setting, change) in cases {
        let mut config = good.clone();
        change(&mut config);
        context.delete_stream("PELTON_fraud").await.expect("deleted");
        if let Err(error) = context.create_stream(config).await {
            assert_eq!(setting, "no_ack", "{error}");
            context.create_stream(good.clone()).await.expect("made again");
            continue;
        }
        let found = checked(&rig).await;
        assert_eq!(wrong(&found), [("PELTON_fraud", setting)]);
        assert!(!found.drift[0].remedy.is_empty() && !found.drift[0].why.is_empty(), "{setting}");
        let made = up(broker, &rig.plan, &ProvisionOptions::default()).await.expect("up");
        assert_eq!(made.drift, found.drift, "`up` tells the same, and changes nothing");
    }
}

/// Where fewer unacknowledged deliveries are allowed than we would like, we ask for fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_unacknowledged_deliveries_is_kept() {
    let accounts = "accounts { A { jetstream { max_ack_pending: 1000 }, users: [ { user: a, password: a } ] } }\n\
                    no_auth_user: a";
    let limits = ConsumerLimits { max_ack_pending: 1000, ..ConsumerLimits::default() };
    for (config, limits, told) in [(accounts, None, 1000), ("", Some(limits), 1000)] {
        let rig = Rig::with(1, &ProvisionOptions::default(), config).await;
        make_again(&rig.broker, "PLAYS", |config| config.consumer_limits = limits).await;
        let found = checked(&rig).await;
        assert_eq!((wrong(&found), noted(&found)), (vec![], vec![("PLAYS", "max_ack_pending")]));
        assert!(found.notes.iter().any(|note| note.text.contains(&told.to_string())), "{:?}", found.notes);
        rig.produce(0, 2500).await;
        let log = rig.log(0);
        reset(&log, 1).await;
        let mut read = 0;
        while read < 2500 {
            for event in fetch(&log, 10_000).await.batch.events {
                read += 1;
                assert_eq!(event.sequence, read);
            }
            log.perform(pelton_engine::log::Request::Ack { sequence: read }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_stop_a_host_are_named() {
    type Change = fn(&mut Config);
    let none: Change = |_| {};
    /// Configuration of the server, a change of the input, and the settings that must be named.
    type Case = (&'static str, Change, &'static [(&'static str, &'static str)]);
    let cases: [Case; 5] = [
        (
            "",
            |config| config.consumer_limits = Some(ConsumerLimits { max_ack_pending: 20, ..ConsumerLimits::default() }),
            &[("PLAYS", "max_ack_pending")],
        ),
        ("", |config| config.max_consumers = 1, &[("PLAYS", "max_consumers")]),
        ("", |config| config.max_consumers = 2, &[]),
        ("max_payload: 400000", none, &[("", "max_payload")]),
        (
            // One is taken by the copy to the output stream.
            "accounts { A { jetstream { max_consumers: 2 }, users: [ { user: a, password: a } ] } }\nno_auth_user: a",
            none,
            &[("", "max_consumers")],
        ),
    ];
    for (config, change, expected) in cases {
        let server = pelton_broker::testing::Server::start_with(config);
        let broker = server.connect().await.expect("connected");
        let plan = plan(2);
        up(&broker, &plan, &ProvisionOptions::default()).await.expect("made");
        make_again(&broker, "PLAYS", change).await;
        let found = check(&broker, &plan, &ProvisionOptions::default()).await.expect("checked");
        assert_eq!(wrong(&found), expected, "{config}");
        assert!(found.drift.iter().all(|drift| !drift.remedy.is_empty()));
    }
}

fn foreign(subject: &str) -> Plan {
    let mut plan = plan(1);
    plan.source.create = None;
    plan.source.subject = subject.to_string();
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_never_holds_the_subject_is_told() {
    let rig = Rig::new(1).await;
    let context = rig.broker.context();
    let input = |subjects: &[&str]| Config {
        name: "ORDERS".to_string(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        ..Config::default()
    };
    let check = async |plan: &mut Plan| {
        plan.source.stream = "ORDERS".to_string();
        check(&rig.broker, plan, &ProvisionOptions::default()).await.expect("checked")
    };
    context.create_stream(input(&["orders.placed", "orders.paid.*"])).await.expect("made");
    for (subject, expected) in [
        ("orders.created", vec![("ORDERS", "subjects")]),
        ("orders.placed", vec![]),
        ("orders.paid.eu", vec![]),
        ("orders.paid.>", vec![]),
    ] {
        assert_eq!(wrong(&check(&mut foreign(subject)).await), expected, "{subject}");
    }
    let mut several = foreign("orders.{partition}");
    several.source.partitions = 3;
    let found = check(&mut several).await;
    assert!(found.drift[0].expected.contains("orders.0 and 2 more"), "{:?}", found.drift);

    // What was stored before the subjects changed can still be read.
    context.publish("orders.placed", "x".into()).await.expect("sent").await.expect("stored");
    context.update_stream(input(&["orders.paid.*"])).await.expect("changed");
    assert_eq!(wrong(&check(&mut foreign("orders.placed")).await), []);

    // A copy names no subjects.
    context.create_stream(input(&[])).await.expect_err("it exists");
    let copy = Config {
        name: "COPY".to_string(),
        mirror: Some(Source { name: "ORDERS".to_string(), ..Source::default() }),
        ..Config::default()
    };
    context.create_stream(copy).await.expect("made");
    let mut plan = foreign("orders.never");
    plan.source.stream = "COPY".to_string();
    let found = pelton_broker::check(&rig.broker, &plan, &ProvisionOptions::default()).await.expect("checked");
    assert_eq!((wrong(&found), noted(&found)), (vec![], vec![("COPY", "subjects")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_input_may_lose_is_noted() {
    let rig = Rig::new(1).await;
    make_again(&rig.broker, "PLAYS", |config| {
        config.max_age = Duration::from_secs(90);
        config.duplicate_window = Duration::from_secs(60);
        config.max_messages = 1000;
        config.max_messages_per_subject = 5;
        config.allow_message_ttl = true;
        config.consumer_limits =
            Some(ConsumerLimits { inactive_threshold: Duration::from_secs(60), ..ConsumerLimits::default() });
    })
    .await;
    let found = checked(&rig).await;
    assert_eq!(wrong(&found), []);
    let settings = ["max_age", "discard", "max_msgs_per_subject", "allow_msg_ttl", "inactive_threshold"];
    assert_eq!(noted(&found), settings.map(|setting| ("PLAYS", setting)));
    assert!(found.notes.iter().any(|note| note.text.contains("older than 90 s")), "{:?}", found.notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_and_is_not_so_is_named() {
    let rig = Rig::new(1).await;
    let options = ProvisionOptions {
        lease_ttl: Duration::from_secs(20),
        stream_max_bytes: Some(1 << 30),
        asked: Asked { replicas: true, lease_ttl: true },
        ..ProvisionOptions::default()
    };
    let made = up(&rig.broker, &rig.plan, &options).await.expect("up");
    let found: Vec<_> = made.drift.iter().map(|drift| (drift.stream.as_str(), drift.setting.as_str())).collect();
    assert_eq!(found, [("PELTON_fraud", "max_bytes"), ("KV_PELTON_leases", "max_age")]);
    let three = ProvisionOptions { replicas: 3, ..options };
    let made = up(&rig.broker, &rig.plan, &three).await.expect("up");
    assert_eq!(made.drift.iter().filter(|drift| drift.setting == "num_replicas").count(), 5);
    let lease = made.drift.iter().find(|drift| drift.setting == "max_age").expect("the lease");
    assert_eq!((lease.expected.as_str(), lease.found.as_str()), ("20 s", "10 s"));

    make_again(&rig.broker, "KV_PELTON_leases", |config| config.max_age = Duration::ZERO).await;
    assert_eq!(wrong(&checked(&rig).await), [("KV_PELTON_leases", "max_age")], "a lease without an end");
}
