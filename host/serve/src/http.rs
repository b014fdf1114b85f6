//! The server: two routes, loopback only.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::board::{Board, Health, PartitionStatus};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no authentication, so only this machine may connect.
    #[error("address {0} is not a loopback address; use 127.0.0.1 and a proxy that authenticates")]
    NotLoopback(SocketAddr),
    /// The address is taken, or may not be used.
    #[error("could not listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A bound listener that serves once [`Server::run`] is called.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not loopback or cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Server, StartError> {
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
        Ok(Server { listener, address })
    }

    /// The bound address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready.
    ///
    /// # Errors
    /// When accepting connections fails for good.
    pub async fn run(self, board: Board, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(board);
        tracing::debug!(address = %self.address, "serving metrics and health");
        axum::serve(self.listener, routes).with_graceful_shutdown(stop).await
    }
}

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn metrics(State(board): State<Board>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, board.registry()) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Serialize)]
struct HealthBody {
    status: Health,
    partitions: Vec<PartitionStatus>,
}

/// 503 as soon as one partition has halted or is stuck, so that a supervisor notices; others that are degraded heal by
/// themselves.
async fn healthz(State(board): State<Board>) -> Response {
    let partitions = board.statuses();
    let status = partitions.iter().map(|entry| entry.status.health).max().unwrap_or_default();
    let needs_help = partitions.iter().any(|entry| entry.status.needs_help());
    let code = if needs_help { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(HealthBody { status, partitions })).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pelton_engine::totals::Totals;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{Answer, Partition, Shape};

    const SHAPE: Shape<'static> = Shape { pipeline: "fraud", partition: 3, stages: &["farm"], outputs: &["alerts"] };

    async fn start(board: &Board) -> SocketAddr {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        tokio::spawn(server.run(board.clone(), std::future::pending()));
        address
    }

    /// Status line and headers, body.
    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: pelton\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn work(partition: &Partition) {
        let totals = Totals { received: 10, processed: 6, filtered: 1, late: 1, dead: 1, gaps: 1 };
        partition.events.add(&totals);
        partition.add_records(0, 4);
        partition.add_records(9, 4);
        partition.add_dead_letters("json-syntax", 1);
        partition.late_rows.inc();
        partition.observe_guest(0, Duration::from_millis(3));
        partition.add_traps(0, 2);
        partition.add_publish(Answer::Stored);
        partition.add_publish(Answer::Unknown);
        partition.add_recovery("start");
        partition.set_lag(Some(17), 1.5);
        partition.set_working(true);
        partition.set_watermark(1_767_225_600_000);
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
            format!("pelton_events_total{{{labels},fate=\"gap\"}} 1"),
            format!("pelton_records_total{{{labels},output=\"alerts\"}} 4"),
            format!("pelton_dead_letters_total{{{labels},code=\"json-syntax\"}} 1"),
            format!("pelton_late_rows_total{{{labels}}} 1"),
            format!("pelton_guest_traps_total{{{labels},stage=\"farm\"}} 2"),
            format!("pelton_publishes_total{{{labels},answer=\"unknown\"}} 1"),
            format!("pelton_publishes_total{{{labels},answer=\"rejected\"}} 0"),
            format!("pelton_recoveries_total{{{labels},cause=\"start\"}} 1"),
            format!("pelton_lag_events{{{labels}}} 17"),
            format!("pelton_lag_seconds{{{labels}}} 1.5"),
            format!("pelton_partition_working{{{labels}}} 1"),
            format!("pelton_watermark_milliseconds{{{labels}}} 1767225600000"),
            format!("pelton_epoch{{{labels}}} 42"),
            format!("pelton_epoch_duration_seconds_count{{{labels}}} 1"),
            format!("pelton_commit_duration_seconds_count{{{labels}}} 1"),
            format!("pelton_guest_duration_seconds_count{{{labels},stage=\"farm\"}} 1"),
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
    async fn only_loopback_is_served() {
        let error = Server::bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, StartError::NotLoopback(_)), "{error}");
    }
}
