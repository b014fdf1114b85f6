//! Users who lack one right each: the right is named, and trying it changes nothing.

use pelton_broker::testing::Server;
use pelton_broker::{Broker, ConnectOptions, LogOptions, ProvisionOptions, rights, up};
use pelton_engine::epoch::Records;
use pelton_engine::log::{Request, Response};

use crate::rig::{FIRST, Rig, fetch, first_epoch, plan, reset, stored};

/// What a user must not publish to, and the beginning of what is told.
const RIGHTS: &[(&str, &str)] = &[
    ("$JS.API.STREAM.INFO.>", "publish to $JS.API.STREAM.INFO.PLAYS"),
    ("$JS.API.STREAM.INFO.OBJ_PELTON_snapshots_fraud", "publish to $JS.API.STREAM.INFO.OBJ_PELTON_snapshots_fraud"),
    ("$JS.API.STREAM.MSG.GET.>", "publish to $JS.API.STREAM.MSG.GET.PLAYS"),
    ("$JS.API.STREAM.MSG.GET.KV_PELTON_leases", "publish to $JS.API.STREAM.MSG.GET.KV_PELTON_leases"),
    ("$JS.API.STREAM.PURGE.>", "publish to $JS.API.STREAM.PURGE.PELTON_fraud"),
    ("$JS.API.DIRECT.GET.>", "publish to $JS.API.DIRECT.GET.OBJ_PELTON_snapshots_fraud"),
    ("$JS.API.CONSUMER.CREATE.>", "publish to $JS.API.CONSUMER.CREATE.PLAYS.pelton-fraud-0.plays.0"),
    ("$JS.API.CONSUMER.CREATE.PELTON_fraud.>", "publish to $JS.API.CONSUMER.CREATE.PELTON_fraud.pelton-changes-none"),
    ("$JS.API.CONSUMER.INFO.>", "publish to $JS.API.CONSUMER.INFO.PLAYS.pelton-fraud-0"),
    ("$JS.API.CONSUMER.DELETE.>", "publish to $JS.API.CONSUMER.DELETE.PLAYS.pelton-fraud-0"),
    ("$JS.API.CONSUMER.MSG.NEXT.>", "publish to $JS.API.CONSUMER.MSG.NEXT.PLAYS.pelton-fraud-0"),
    ("$KV.>", "publish to $KV.PELTON_leases.fraud.0"),
    ("$O.*.C.>", "publish to $O.PELTON_snapshots_fraud.C.none"),
    ("$O.*.M.>", "publish to $O.PELTON_snapshots_fraud.M.none"),
    ("pelton.>", "publish to pelton.fraud.0.delta"),
    ("pelton.*.*.marker.>", "publish to pelton.fraud.0.marker.0.0"),
    ("$JS.ACK.>", "publish to $JS.ACK.PLAYS.pelton-fraud-0.>"),
];

fn users() -> String {
    let mut users = vec!["{ user: all, password: x }".to_string()];
    for (idx, (denied, _)) in RIGHTS.iter().enumerate() {
        let permissions = format!("{{ publish: {{ deny: [\"{denied}\"] }} }}");
        users.push(format!("{{ user: u{idx}, password: x, permissions: {permissions} }}"));
    }
    users.push("{ user: deaf, password: x, permissions: { subscribe: { deny: [\"_INBOX.>\"] } } }".to_string());
    format!("authorization {{ users: [ {} ] }}", users.join(", "))
}

async fn connect(server: &Server, user: &str) -> Broker {
    let options = ConnectOptions {
        servers: vec![server.url()],
        user: Some(user.to_string()),
        password: Some("x".to_string()),
        ..ConnectOptions::default()
    };
    Broker::connect(&options).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_named() {
    let server = Server::start_with(&users());
    let broker = connect(&server, "all").await;
    let plan = plan(1);
    up(&broker, &plan, &ProvisionOptions::default()).await.expect("made");
    assert_eq!(rights(&broker, &plan).await.expect("tried"), []);
    for (idx, (denied, told)) in RIGHTS.iter().enumerate() {
        let broker = connect(&server, &format!("u{idx}")).await;
        let missing = rights(&broker, &plan).await.expect("tried");
        let first = missing.first().unwrap_or_else(|| panic!("nothing is missing without {denied}"));
        assert_eq!((first.setting.as_str(), first.expected.as_str()), ("permissions", *told), "without {denied}");
        assert!(first.remedy.contains("allow"), "{}", first.remedy);
    }
    let missing = rights(&connect(&server, "deaf").await, &plan).await.expect("tried");
    assert!(missing.len() == 1 && missing[0].expected.starts_with("subscribe to _INBOX"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_tried_beside_a_working_host_without_a_trace() {
    let rig = Rig::new(1).await;
    let log = rig.log_with(0, LogOptions::default());
    let held = log.perform(Request::AcquireLease).await;
    assert!(matches!(held, Response::LeaseHeld { .. }), "{held:?}");
    rig.produce(0, 10).await;
    reset(&log, 1).await;
    let first = fetch(&log, 4).await;
    stored(&log, &first_epoch(Records::default(), vec![1; 100]), FIRST).await;
    let context = rig.broker.context();
    let mut before = Vec::new();
    for round in 0..2 {
        let mut after = Vec::new();
        for name in ["PLAYS", "PELTON_fraud", "KV_PELTON_leases", "OBJ_PELTON_snapshots_fraud"] {
            let state = context.get_stream(name).await.expect("stream").cached_info().state.clone();
            after.push((state.messages, state.last_sequence, state.consumer_count));
        }
        let input = context.get_stream("PLAYS").await.expect("stream");
        let consumer = input.consumer_info("pelton-fraud-0").await.expect("the consumer is there");
        after.push((consumer.ack_floor.stream_sequence, consumer.num_ack_pending as u64, 0));
        if round == 0 {
            before = after;
            assert_eq!(rights(&rig.broker, &rig.plan).await.expect("tried"), []);
        } else {
            assert_eq!(before, after);
        }
    }
    let rest = crate::rig::read(&log, 10 - first.batch.events.len(), 100).await;
    assert_eq!(rest.restarts, 0, "the consumer is the same");
}
