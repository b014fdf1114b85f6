//! A user who may not do all that is needed: whoever waits for an answer is told why none comes.

use std::time::{Duration, Instant};

use pelton_broker::testing::Server;
use pelton_broker::{Broker, BrokerError, ConnectOptions, Log, LogOptions, ProvisionOptions, Target, Tls, Trouble};
use pelton_engine::log::{Published, Request, Response};

use crate::rig::{FIRST, Rig, fetch, first_epoch, publish, reset};

/// A rig made by somebody who may do all, and a connection of a user with these permissions.
async fn rig(permissions: &str) -> (Rig, Broker) {
    rig_with(permissions, None).await
}

async fn rig_with(permissions: &str, inbox_prefix: Option<&str>) -> (Rig, Broker) {
    let users = format!(
        "authorization {{ users = [\n{{ user: all, password: x }}\n\
         {{ user: some, password: x, permissions: {{ {permissions} }} }}\n] }}"
    );
    let server = Server::start_with(&users);
    let broker = user(&server, "all", None).await;
    let some = user(&server, "some", inbox_prefix).await;
    (Rig::on(server, broker, 1, &ProvisionOptions::default()).await, some)
}

async fn user(server: &Server, name: &str, inbox_prefix: Option<&str>) -> Broker {
    let options = ConnectOptions {
        servers: vec![server.url()],
        user: Some(name.to_string()),
        password: Some("x".to_string()),
        inbox_prefix: inbox_prefix.map(str::to_string),
        ..ConnectOptions::default()
    };
    Broker::connect(&options).await.expect("connected")
}

fn log(rig: &Rig, broker: &Broker, options: LogOptions) -> Log {
    Log::new(broker, Target::new(&rig.plan, 0), options)
}

fn assert_unavailable(response: &Response, expected: &str) {
    assert!(matches!(response, Response::Unavailable(text) if text.contains(expected)), "{response:?}");
}

const SURVEY: Request = Request::Survey { input_sequence: None, epoch: None, history: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_forbidden_says_so_at_once() {
    let (rig, broker) =
        rig("publish: { deny: [\"$JS.API.STREAM.INFO.>\", \"$JS.API.CONSUMER.DELETE.>\", \"$KV.>\"] }").await;
    let log = log(&rig, &broker, LogOptions::default());
    let started = Instant::now();
    assert_unavailable(&log.perform(SURVEY).await, "not permitted: publish to $JS.API.STREAM.INFO.PLAYS");
    let lease = log.perform(Request::AcquireLease).await;
    assert_unavailable(&lease, "not permitted: publish to $KV.PELTON_leases.fraud.0");
    // The limit of a request is 2 s each; nothing else is measured.
    assert!(started.elapsed() < Duration::from_secs(4), "it waited for answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_forbidden_is_refused() {
    let (rig, broker) = rig("publish: { deny: [\"pelton.>\"] }").await;
    let log = log(&rig, &broker, LogOptions::default());
    let published = publish(&log, &first_epoch(Default::default(), vec![1]), FIRST).await;
    assert!(
        matches!(&published, Published::Refused(text) if text.contains("not permitted: publish to pelton.fraud.0.")),
        "{published:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_forbidden_says_so() {
    let (rig, broker) = rig("publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"] }").await;
    rig.produce(0, 10).await;
    let log = log(&rig, &broker, LogOptions::default());
    reset(&log, 1).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match log.perform(Request::Fetch { events: 10, bytes: 1 << 20 }).await {
            Response::Fetched(fetched) => assert!(fetched.batch.events.is_empty()),
            response => {
                assert_unavailable(
                    &response,
                    "not permitted: publish to $JS.API.CONSUMER.MSG.NEXT.PLAYS.pelton-fraud-0",
                );
                break;
            }
        }
        assert!(Instant::now() < deadline, "it is not said");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_stop_for_want_of_acks_are_told() {
    let (rig, broker) = rig("publish: { deny: [\"$JS.ACK.>\"] }").await;
    rig.produce(0, 100).await;
    let log = log(&rig, &broker, LogOptions { ack_pending: 20, ..LogOptions::default() });
    reset(&log, 1).await;
    let mut last = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match log.perform(Request::Fetch { events: 10, bytes: 1 << 20 }).await {
            Response::Fetched(fetched) => {
                last = fetched.batch.events.last().map_or(last, |event| event.sequence);
                log.perform(Request::Ack { sequence: last }).await;
            }
            response => {
                let reason = "at 20 unacknowledged messages: not permitted: publish to $JS.ACK.PLAYS.pelton-fraud-0.";
                assert_unavailable(&response, reason);
                break;
            }
        }
        assert!(Instant::now() < deadline, "it is not said");
    }
    assert_eq!(last, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_of_its_own_is_used_for_everything() {
    let permissions = "subscribe: \"_INBOX_b.>\"";
    let (rig, broker) = rig_with(permissions, Some("_INBOX_b")).await;
    rig.produce(0, 10).await;
    let log = log(&rig, &broker, LogOptions::default());
    assert!(matches!(log.perform(SURVEY).await, Response::Survey(_)));
    reset(&log, 1).await;
    crate::rig::read_exactly(&log, 10).await.assert_whole(1, 10);
    let published = publish(&log, &first_epoch(Default::default(), vec![1]), FIRST).await;
    assert!(matches!(published, Published::Stored { .. }), "{published:?}");
    assert!(matches!(log.perform(Request::AcquireLease).await, Response::LeaseHeld { .. }));
    assert!(fetch(&log, 10).await.caught_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_forbidden_is_named() {
    let (rig, broker) = rig("subscribe: \"_INBOX_b.>\"").await;
    let log = log(&rig, &broker, LogOptions::default());
    for _ in 0..2 {
        assert_unavailable(&log.perform(SURVEY).await, "not permitted: subscribe to _INBOX.");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_stream_is_kept() {
    let rig = Rig::new(1).await;
    let stream = rig.broker.context().get_stream("PLAYS").await.expect("stream");
    let mut config = stream.cached_info().config.clone();
    config.consumer_limits = Some(async_nats::jetstream::stream::ConsumerLimits {
        max_ack_pending: 1000,
        inactive_threshold: Duration::ZERO,
    });
    rig.broker.context().update_stream(config).await.expect("updated");
    rig.produce(0, 10).await;
    let log = rig.log(0);
    reset(&log, 1).await;
    crate::rig::read_exactly(&log, 10).await.assert_whole(1, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_connection_fails_is_told_apart() {
    let server = Server::start_with("authorization { user: a, password: b }");
    let connect = async |url: String, user: Option<&str>| {
        let user = user.map(str::to_string);
        let options = ConnectOptions { servers: vec![url], user, ..ConnectOptions::default() };
        match Broker::connect(&options).await.err() {
            Some(BrokerError::Connect { trouble, .. }) => trouble,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(connect(server.url(), Some("x")).await, Trouble::Credentials);
    assert_eq!(connect("nats://127.0.0.1:1".to_string(), None).await, Trouble::Unreachable);
    assert_eq!(connect("nats://no-such-host.invalid:4222".to_string(), None).await, Trouble::Address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_in_an_address_are_used_and_not_shown() {
    let by_password = Server::start_with("authorization { user: \"a@b\", password: \"S3C/RET\" }");
    let by_token = Server::start_with("authorization { token: \"S3C:RET\" }");
    let connect = async |servers: Vec<String>| {
        let user = Some("other".to_string());
        Broker::connect(&ConnectOptions { servers, user, ..ConnectOptions::default() }).await
    };
    let host = |server: &Server| server.url().trim_start_matches("nats://").to_string();
    for (server, login) in [(&by_password, "a%40b:S3C/RET"), (&by_password, "a@b:S3C%2FRET"), (&by_token, "S3C%3ARET")]
    {
        let urls = [format!("nats://{login}@{}", host(server)), "nats://127.0.0.1:1".to_string()];
        assert!(connect(urls.to_vec()).await.expect(login).connected());
        assert!(connect(vec![urls.join(",")]).await.expect(login).connected());
    }
    for login in ["a%40b:S3CRET", "S3CRET"] {
        let error = connect(vec![format!("nats://{login}@{}", host(&by_password))]).await.err().expect("wrong");
        assert!(matches!(error, BrokerError::Connect { trouble: Trouble::Credentials, .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("S3CRET"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_has_to_be_named() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jetstream/tls");
    let file = |name: &str| folder.join(name);
    let server = Server::start_with(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        file("server.pem").display(),
        file("server.key").display()
    ));
    let connect = async |ca: Option<&str>| {
        let tls = Tls { ca: ca.map(file), ..Tls::default() };
        let options = ConnectOptions { servers: vec![server.url()], tls, ..ConnectOptions::default() };
        Broker::connect(&options).await.map(|broker| broker.connected())
    };
    let error = connect(None).await.expect_err("nobody known signed it");
    assert!(matches!(error, BrokerError::Connect { trouble: Trouble::Tls, .. }), "{error:?}");
    assert!(connect(Some("ca.pem")).await.expect("connected"));
    let error = connect(Some("none.pem")).await.expect_err("no such file").to_string();
    assert!(error.contains("none.pem"), "{error}");
}
