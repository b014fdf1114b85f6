//! What clients get, and what they can take.

use pelton_engine::totals::{Faults, Totals};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{CommitResult, Partition, Shape};

const SHAPE: Shape<'static> =
    Shape { pipeline: "fraud", partition: 3, revision: "ab12", stages: &["farm"], outputs: &["alerts"] };

async fn start(board: &Board) -> SocketAddr {
    start_with(board, BOUNDS).await
}

async fn start_with(board: &Board, bounds: Bounds) -> SocketAddr {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Access::ThisMachine).await.unwrap();
    run(Server { bounds, ..server }, board)
}

fn run(server: Server, board: &Board) -> SocketAddr {
    let address = server.address();
    tokio::spawn(server.run(board.clone(), std::future::pending()));
    address
}

/// Status line and headers, body.
async fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")).await
}

async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn work(partition: &Partition) {
    let totals = Totals { received: 10, processed: 6, filtered: 1, late: 1, dead: 1, lost: 1, held: 0 };
    partition.events.add(&totals);
    partition.add_records(0, 4);
    partition.add_records(9, 4);
    partition.add_dead_letters("json-syntax", 1);
    partition.observe_module(0, Duration::from_millis(3));
    let mut faults = Faults::default();
    ["trap", "timeout", "trap"].into_iter().for_each(|kind| faults.count(kind));
    partition.add_faults(0, &faults);
    partition.add_commit_attempt(CommitResult::Stored);
    partition.add_commit_attempt(CommitResult::Unknown);
    partition.add_recovery("start");
    partition.set_lag(Some(17), 1.5);
    partition.set_working(true);
    partition.set_watermark(1_767_225_600_250);
    partition.set_epoch(42);
    partition.observe_epoch(Duration::from_millis(50), Duration::from_millis(5));
    partition.set_state_bytes(4096);
}

#[tokio::test]
async fn metrics_are_open_metrics_with_labels_from_the_pipeline() {
    let board = Board::new();
    let partition = board.partition(&SHAPE);
    work(&partition);
    let (head, body) = get(start(&board).await, "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    let labels = r#"pipeline="fraud",partition="3""#;
    for line in [
        format!("pelton_events_received_total{{{labels}}} 10"),
        format!("pelton_events_total{{{labels},fate=\"processed\"}} 6"),
        format!("pelton_events_total{{{labels},fate=\"lost\"}} 1"),
        format!("pelton_output_records_total{{{labels},output=\"alerts\"}} 4"),
        format!("pelton_dead_letters_total{{{labels},code=\"json-syntax\"}} 1"),
        format!("pelton_module_faults_total{{{labels},stage=\"farm\",kind=\"trap\"}} 2"),
        format!("pelton_module_faults_total{{{labels},stage=\"farm\",kind=\"limit\"}} 0"),
        format!("pelton_commit_attempts_total{{{labels},result=\"unknown\"}} 1"),
        format!("pelton_commit_attempts_total{{{labels},result=\"conflict\"}} 0"),
        format!("pelton_recoveries_total{{{labels},cause=\"start\"}} 1"),
        format!("pelton_lag_events{{{labels}}} 17"),
        format!("pelton_lag_seconds{{{labels}}} 1.5"),
        format!("pelton_partition_working{{{labels}}} 1"),
        format!("pelton_watermark_timestamp_seconds{{{labels}}} 1767225600.25"),
        format!("pelton_last_committed_epoch{{{labels}}} 42"),
        format!("pelton_epoch_duration_seconds_count{{{labels}}} 1"),
        format!("pelton_commit_duration_seconds_count{{{labels}}} 1"),
        format!("pelton_module_duration_seconds_count{{{labels},stage=\"farm\"}} 1"),
        format!("pelton_state_bytes{{{labels}}} 4096"),
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn health_is_the_worst_of_the_partitions_and_halted_is_503() {
    let board = Board::new();
    let address = start(&board).await;
    let (head, body) = get(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, r#"{"status":"ok","partitions":[]}"#);

    let first = board.partition(&SHAPE);
    let second = board.partition(&Shape { partition: 4, ..SHAPE });
    first.ok("running");
    second.degraded("waiting for the broker", "no connection for 3 s");
    let (head, body) = get(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "degraded");
    assert_eq!(body["partitions"][0]["phase"], "running");
    assert_eq!(body["partitions"][1]["evidence"], "no connection for 3 s");

    first.halted("stream PLAYS ends at 10, position is 20");
    let (head, body) = get(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["partitions"][0]["partition"]), (&"halted".into(), &3.into()));
    assert_eq!(board.health(), Health::Halted);
}

#[tokio::test]
async fn a_partition_that_is_stuck_is_503_until_it_gets_on() {
    let board = Board::new();
    let partition = board.partition(&SHAPE);
    let address = start(&board).await;
    partition.stuck("no progress after input sequence 7");
    let (head, body) = get(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["partitions"][0]["phase"]), (&"degraded".into(), &"stuck".into()));
    partition.ok("running");
    assert!(get(address, "/healthz").await.0.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn health_tells_how_far_a_partition_is() {
    let board = Board::new();
    let partition = board.partition(&SHAPE);
    let address = start(&board).await;
    partition.ok("standby");
    let shown = async || {
        let (_, body) = get(address, "/healthz").await;
        let mut body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["partitions"][0].take()
    };
    let first = shown().await;
    assert_eq!((&first["lag_events"], &first["seconds_since_commit"]), (&().into(), &().into()), "{first}");
    partition.reached(100, None);
    assert_eq!(shown().await["seconds_since_commit"], serde_json::Value::Null, "found, not seen to move");
    partition.reached(120, Some(3));
    partition.set_lag(Some(17), 1.5);
    let later = shown().await;
    assert_eq!((&later["position"], &later["epoch"]), (&120.into(), &3.into()), "{later}");
    assert_eq!((&later["lag_events"], &later["lag_seconds"]), (&17.into(), &1.5.into()), "{later}");
    assert!(later["seconds_since_commit"].as_f64().unwrap() < 30.0, "{later}");
    assert_eq!(later["status"], "ok");

    let soon = std::time::Instant::now() + Duration::from_secs(31);
    let late = board.statuses_at(soon).remove(0).status;
    assert_eq!((late.health, late.phase.as_str()), (Health::Degraded, "standby"));
    assert!(late.evidence.unwrap().starts_with("17 events wait, and nothing was committed for 31 s"));
    partition.set_lag(Some(0), 0.0);
    assert_eq!(board.statuses_at(soon).remove(0).status.health, Health::Ok, "nothing waits");
}

#[tokio::test]
async fn codes_beyond_the_bound_are_counted_as_other() {
    let board = Board::new();
    let partition = board.partition(&SHAPE);
    for idx in 0..100 {
        partition.add_dead_letters(&format!("code-{idx}"), 1);
    }
    let (_, body) = get(start(&board).await, "/metrics").await;
    let lines: Vec<&str> = body.lines().filter(|line| line.starts_with("pelton_dead_letters_total")).collect();
    assert_eq!(lines.len(), 65);
    assert!(lines.iter().any(|line| line.contains("code=\"other\"} 36")), "{lines:?}");
}

#[tokio::test]
async fn only_this_machine_is_asked_for() {
    let address = start(&Board::new()).await;
    let port = address.port();
    let lines = |host: &str| format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for good in [
        lines("localhost"),
        lines(&format!("LocalHost:{port}")),
        lines("127.0.0.1"),
        lines(&format!("127.0.0.1:{port}")),
        lines(&format!("[::1]:{port}")),
        format!("GET http://localhost:{port}/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        "GET /healthz HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let (head, body) = ask(address, &good).await;
        assert!(head.contains(" 200 ") && body.contains("ok"), "{good}: {head}");
    }
    for bad in [
        lines("evil.example"),
        lines(&format!("evil.example:{port}")),
        lines("localhost.evil.example"),
        lines("127.0.0.1.evil.example"),
        lines("evil.example@localhost"),
        lines("192.168.1.1"),
        lines("[::2]"),
        lines(""),
        lines("localhost\r\nhost: evil.example"),
        "GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.0\r\nhost: evil.example\r\n\r\n".to_owned(),
    ] {
        let (head, body) = ask(address, &bad).await;
        assert!(!head.contains(" 200 ") && !body.contains("partitions"), "{bad}: {head}");
    }
}

#[tokio::test]
async fn two_pages_are_read_and_nothing_is_taken() {
    let address = start(&Board::new()).await;
    let length = get(address, "/healthz").await.1.len();
    let (head, body) = ask(address, "HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(head.contains(" 200 ") && head.contains(&format!("content-length: {length}")), "{head}");
    assert_eq!(body, "");
    assert!(get(address, "/").await.0.contains(" 404 "));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "BREW"] {
        let target = if method == "CONNECT" { "localhost:80" } else { "/metrics" };
        let (head, _) = ask(address, &format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert!(head.contains(" 405 ") && head.contains("allow: GET, HEAD"), "{method}: {head}");
    }
    // One answer per connection.
    let twice = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2);
    let (head, body) = ask(address, &twice).await;
    assert!(head.contains("connection: close") && !body.contains("HTTP/1.1"), "{head}\n{body}");
}

#[tokio::test]
async fn a_header_without_end_is_refused() {
    let address = start(&Board::new()).await;
    let long = "x".repeat(HEADER_BYTES_MAX + 1);
    for request in [format!("GET /{long}"), format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: {long}")] {
        let (head, _) = ask(address, &request).await;
        assert!(head.contains(" 431 ") || head.contains(" 414 "), "{head}");
    }
}

#[tokio::test]
async fn clients_that_do_not_ask_make_room_for_those_that_do() {
    let bounds = Bounds {
        connections: 4,
        patience: Duration::from_millis(100),
        header_time: Duration::from_secs(3600),
        connection_time: Duration::from_secs(3600),
    };
    let address = start_with(&Board::new(), bounds).await;
    let began = Instant::now();
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: ").await.unwrap();
        held.push(stream);
    }
    let (head, _) = get(address, "/healthz").await;
    assert!(head.contains(" 200 "), "{head}");
    // Twenty before it, four at a time.
    assert!(began.elapsed() >= bounds.patience * 5, "more than four were held at once: {:?}", began.elapsed());
    // One place was made for each of these.
    for mut stream in held.drain(..17) {
        let mut answer = Vec::new();
        // The end, or a reset.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let long = Duration::from_secs(3600);
    let bounds = Bounds { connections: 1, patience: long, connection_time: Duration::from_millis(300), ..BOUNDS };
    let board = Board::new();
    // More than the buffers of a connection hold.
    let evidence = "x".repeat(16 << 20);
    board.partition(&SHAPE).halted(evidence);
    let address = start_with(&board, bounds).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(5), get(address, "/metrics")).await.expect("its turn comes");
    assert!(next.0.contains(" 200 "), "{}", next.0);
    drop(idle);
}

#[tokio::test]
async fn without_a_token_only_loopback_is_served() {
    let error = Server::bind("0.0.0.0:0".parse().unwrap(), Access::ThisMachine).await.unwrap_err();
    assert!(matches!(error, StartError::NotLoopback(_)), "{error}");
}

#[tokio::test]
async fn with_a_token_everybody_needs_it() {
    let token: Token = "correct-horse-battery".parse().unwrap();
    let server = Server::bind("0.0.0.0:0".parse().unwrap(), Access::Token(token)).await.unwrap();
    let address = SocketAddr::new([127, 0, 0, 1].into(), run(server, &Board::new()).port());
    let ask = async |path: &str, more: &str| {
        ask(address, &format!("GET {path} HTTP/1.1\r\nhost: elsewhere.example\r\n{more}\r\n")).await
    };
    for good in ["Authorization: Bearer correct-horse-battery\r\n", "authorization: bearer  correct-horse-battery\r\n"]
    {
        assert!(ask("/healthz", good).await.0.contains(" 200 "), "{good}");
    }
    for bad in [
        "",
        "authorization: correct-horse-battery\r\n",
        "authorization: Bearer\r\n",
        "authorization: Bearer correct-horse-batter\r\n",
        "authorization: Bearer correct-horse-batterx\r\n",
        "authorization: Bearer correct-horse-battery x\r\n",
        "authorization: Basic correct-horse-battery\r\n",
        "authorization: Bearer x\r\nauthorization: Bearer correct-horse-battery\r\n",
    ] {
        for path in ["/healthz", "/metrics", "/"] {
            let (head, body) = ask(path, bad).await;
            assert!(head.contains(" 401 ") && head.contains("www-authenticate: Bearer"), "{bad}: {head}");
            assert!(!body.contains("battery") && !body.contains("partitions"), "{body}");
        }
    }
}
