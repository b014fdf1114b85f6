//! Leases, provisioning, output streams and the tools around them.

use std::time::{Duration, Instant};

use pelton_broker::{
    Down, Log, LogOptions, Producer, ProducerError, ProvisionOptions, down, lease_holder, tail, up, verify,
};
use pelton_engine::epoch::{Channel, Records};
use pelton_engine::log::{Request, Response};

use crate::rig::{FIRST, Rig, first_epoch, stored};

async fn held(log: &Log, request: Request) -> u64 {
    match log.perform(request).await {
        Response::LeaseHeld { revision } => revision,
        other => panic!("{other:?}"),
    }
}

async fn taken(log: &Log, request: Request) -> String {
    match log.perform(request).await {
        Response::LeaseTaken { holder } => holder,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_passes_on_when_it_is_not_renewed() {
    let options = ProvisionOptions { lease_ttl: Duration::from_secs(1), ..ProvisionOptions::default() };
    let rig = Rig::with(2, &options, "").await;
    let (left, right) = (rig.log(0), rig.log(0));
    let first = held(&left, Request::AcquireLease).await;
    assert!(first > 0);
    assert_eq!(held(&left, Request::AcquireLease).await, first, "held already");
    let holder = taken(&right, Request::AcquireLease).await;
    assert!(holder.contains("unnamed"), "{holder}");
    held(&rig.log(1), Request::AcquireLease).await;

    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(held(&left, Request::RenewLease { revision: first }).await, first, "renewals keep the identity");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let second = loop {
        match right.perform(Request::AcquireLease).await {
            Response::LeaseHeld { revision } => break revision,
            Response::LeaseTaken { .. } => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "the lease does not expire");
    };
    assert!(second > first);
    taken(&left, Request::RenewLease { revision: first }).await;
    taken(&left, Request::RenewLease { revision: second }).await;

    let response = right.perform(Request::ReleaseLease { revision: second }).await;
    assert!(matches!(response, Response::LeaseReleased), "{response:?}");
    assert!(held(&left, Request::AcquireLease).await > second, "free at once after a release");
}

/// A process with this store locked.
fn on_store(rig: &Rig, store: &str) -> Log {
    // The clock of a lease has milliseconds: two processes on one store never start in the same one.
    let now = Instant::now();
    while now.elapsed() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    rig.log_with(0, LogOptions { store: Some(store.to_string()), ..LogOptions::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_takes_the_lease_of_its_dead_predecessor_at_once_and_no_other() {
    let rig = Rig::new(1).await;
    let dead = on_store(&rig, "a");
    let first = held(&dead, Request::AcquireLease).await;
    assert_eq!(held(&dead, Request::RenewLease { revision: first }).await, first);
    taken(&on_store(&rig, "b"), Request::AcquireLease).await;
    taken(&rig.log(0), Request::AcquireLease).await;

    let next = on_store(&rig, "a");
    let second = held(&next, Request::AcquireLease).await;
    assert!(second > first);
    assert_eq!(held(&next, Request::RenewLease { revision: second }).await, second);
    // A copy of the store on another machine may still run: it gives way, and does not take the lease back.
    taken(&dead, Request::RenewLease { revision: first }).await;
    taken(&dead, Request::AcquireLease).await;
    assert_eq!(held(&next, Request::AcquireLease).await, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lease_that_nobody_took_is_renewed() {
    let options = ProvisionOptions { lease_ttl: Duration::from_secs(1), ..ProvisionOptions::default() };
    let rig = Rig::with(1, &options, "").await;
    let log = rig.log(0);
    let revision = held(&log, Request::AcquireLease).await;
    let holder = lease_holder(&rig.broker, "fraud", 0).await.expect("read").expect("held");
    assert_eq!((holder.host.as_str(), holder.pid), ("unnamed", u64::from(std::process::id())));
    let deadline = Instant::now() + Duration::from_secs(60);
    while lease_holder(&rig.broker, "fraud", 0).await.expect("read").is_some() {
        assert!(Instant::now() < deadline, "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(held(&log, Request::RenewLease { revision }).await, revision);
    taken(&rig.log(0), Request::AcquireLease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioning_twice_changes_nothing_and_drift_is_named() {
    let rig = Rig::new(2).await;
    let options = ProvisionOptions::default();
    assert_eq!(up(&rig.broker, &rig.plan, &options).await.expect("up"), Default::default());
    assert_eq!(verify(&rig.broker, &rig.plan, &options).await.expect("verified"), []);

    let context = rig.broker.context();
    let mut config = context.get_stream("PELTON_fraud").await.expect("stream").cached_info().config.clone();
    config.max_messages_per_subject = 5;
    config.discard = async_nats::jetstream::stream::DiscardPolicy::Old;
    context.update_stream(config).await.expect("changed");
    context.delete_stream("ALERTS").await.expect("deleted");
    let mut drift = verify(&rig.broker, &rig.plan, &options).await.expect("verified");
    drift.sort_by(|left, right| (&left.stream, &left.setting).cmp(&(&right.stream, &right.setting)));
    let found: Vec<_> = drift
        .iter()
        .map(|drift| (drift.stream.as_str(), drift.setting.as_str(), drift.expected.as_str(), drift.found.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("ALERTS", "stream", "to be there", "missing"),
            ("PELTON_fraud", "discard", "new", "old"),
            ("PELTON_fraud", "max_msgs_per_subject", "none", "5"),
        ]
    );
    assert_eq!(up(&rig.broker, &rig.plan, &options).await.expect("up").created, ["ALERTS"]);

    let deleted = down(&rig.broker, &rig.plan, Down::default()).await.expect("down");
    assert_eq!(deleted, ["PELTON_fraud", "OBJ_PELTON_snapshots_fraud"]);
    let all = Down { input: true, outputs: true };
    assert_eq!(down(&rig.broker, &rig.plan, all).await.expect("down"), ["ALERTS", "PLAYS"]);
    assert_eq!(down(&rig.broker, &rig.plan, all).await.expect("down again"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_reach_their_stream_and_nothing_else_does() {
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let mut output = tail(&rig.broker, "ALERTS", ">", Some(1)).await.expect("tail");
    let mut records = Records::default();
    records.push(Channel::Output(0), b"out.alerts.u1", b"Pelton-Id: 9\r\n", b"first");
    records.push(Channel::DeadLetter, b"dlq.source.json-syntax", b"", b"bad");
    records.push(Channel::Output(0), b"out.alerts", b"", b"second");
    stored(&log, &first_epoch(records, b"state".to_vec()), FIRST).await;
    for (subject, payload) in [("fraud.alerts.u1", "first"), ("fraud.alerts._", "second")] {
        let next = tokio::time::timeout(Duration::from_secs(10), output.next()).await.expect("in time");
        let message = next.expect("open").expect("a message");
        assert_eq!((message.subject.as_str(), &message.payload[..]), (subject, payload.as_bytes()));
        if subject.ends_with("u1") {
            assert_eq!(message.headers.get("Pelton-Id").map(|value| value.as_str()), Some("9"));
        }
    }
    let mut dead = tail(&rig.broker, "PELTON_fraud", "pelton.fraud.*.dlq.>", Some(1)).await.expect("tail");
    let message = dead.next().await.expect("open").expect("a message");
    assert_eq!((message.subject.as_str(), message.sequence), ("pelton.fraud.0.dlq.source.json-syntax", 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_says_when_nothing_stores_its_events() {
    let rig = Rig::new(1).await;
    let mut producer = Producer::new(&rig.broker).await.expect("producer");
    producer.publish("plays.in.a".to_string(), "x".into()).await.expect("sent");
    assert_eq!(producer.flush().await.expect("stored"), 1);
    producer.publish("nobody.listens".to_string(), "x".into()).await.expect("sent");
    assert!(matches!(producer.flush().await, Err(ProducerError::Refused(_))));
}
