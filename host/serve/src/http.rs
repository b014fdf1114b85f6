//! The server: two routes, bounded in everything that a client can take, for this machine or for who has the token.
//!
//! It stands beside the work: whoever connects takes at most 33 file descriptors, the memory of so
//! many requests and answers, and neither for longer than 10 s. Who asks waits for those who do not: where all places
//! are taken, a connection that is a quarter of a second old makes room for the next.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::board::{Board, Health, PartitionStatus};
use crate::token::Token;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections served at once. The next one waits for its place, further ones in the kernel's queue, where they cost
    /// us nothing.
    connections: usize,
    /// How old a connection has to be for making room. An answer takes milliseconds, so it is one that does not ask, or
    /// does not read.
    patience: Duration,
    /// How long a client may take to say what it wants.
    header_time: Duration,
    /// How long a connection may last, from the first byte to the last: an answer nobody reads is given up.
    connection_time: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: 32,
    patience: Duration::from_millis(250),
    header_time: Duration::from_secs(5),
    connection_time: Duration::from_secs(10),
};
/// Bytes of a request's line and headers; hyper reads no less.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// After a failed accept that is not the client's fault, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Without a token, only this machine may connect.
    #[error("address {0} is not a loopback address, and there is no token that clients would have to send")]
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
    access: Access,
    bounds: Bounds,
}

/// Who gets answers.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever is on this machine.
    ThisMachine,
    /// Whoever sends this token, from anywhere. It travels as it is: TLS is the affair of a proxy.
    Token(Token),
}

impl Access {
    /// Whether a server with this access may listen there.
    ///
    /// # Errors
    /// When others than this machine could ask without a token.
    pub fn check(&self, address: SocketAddr) -> Result<(), StartError> {
        match self {
            Access::ThisMachine if !address.ip().is_loopback() => Err(StartError::NotLoopback(address)),
            Access::ThisMachine | Access::Token(_) => Ok(()),
        }
    }
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound, or is not loopback and nobody would need a token.
    pub async fn bind(address: SocketAddr, access: Access) -> Result<Server, StartError> {
        access.check(address)?;
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
        Ok(Server { listener, address, access, bounds: BOUNDS })
    }

    /// The bound address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready; connections that are open then are cut.
    pub async fn run(self, board: Board, stop: impl Future<Output = ()> + Send + 'static) {
        tracing::debug!(address = %self.address, "serving metrics and health");
        tokio::select! {
            () = self.accept_all(board) => {}
            () = stop => {}
        }
    }

    async fn accept_all(self, board: Board) {
        let access = Arc::new(self.access);
        // Dropped with this future, and every connection with it.
        let mut connections = Connections::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Not before somebody has come who needs it.
                    connections.make_room(&self.bounds).await;
                    connections.spawn(serve(stream, board.clone(), access.clone(), self.bounds));
                }
                // It went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::debug!(%error, "no connection for metrics could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Those that are open.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Since when, the oldest first.
    ages: VecDeque<(Instant, AbortHandle)>,
}

impl Connections {
    fn spawn(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(serving);
        self.ages.push_back((Instant::now(), task));
    }

    /// Waits until there is a place, or the oldest one can be cut.
    async fn make_room(&mut self, bounds: &Bounds) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.ages.retain(|(_, task)| !task.is_finished());
            let (since, oldest) = match self.ages.front() {
                Some(oldest) if self.ages.len() >= bounds.connections => oldest,
                _ => return,
            };
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = tokio::time::sleep_until(*since + bounds.patience) => {
                    oldest.abort();
                    self.ages.pop_front();
                    self.tasks.join_next().await;
                }
            }
        }
    }
}

/// One request and its answer. What goes wrong is the client's affair.
async fn serve(stream: TcpStream, board: Board, access: Arc<Access>, bounds: Bounds) {
    let answer = service_fn(move |request| {
        let answer = answer(&request, &board, &access);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_time)
        .max_buf_size(HEADER_BYTES_MAX)
        // A scrape comes once in many seconds, and a connection that stays would hold one of few places.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(bounds.connection_time, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the metrics ended early"),
        Err(_) => tracing::debug!("a connection to the metrics was cut: it took too long"),
    }
}

type Reply = Response<Full<Bytes>>;

/// The answer to a request; its body is not read.
fn answer(request: &Request<Incoming>, board: &Board, access: &Access) -> Reply {
    match access {
        Access::ThisMachine if !is_for_us(request) => {
            return text(StatusCode::FORBIDDEN, "asked for under another name than localhost or a loopback address\n");
        }
        Access::Token(token) if !token.is_sent(request) => {
            let mut answer = text(StatusCode::UNAUTHORIZED, "Authorization: Bearer and the token, please\n");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
        _ => {}
    }
    // hyper leaves out the body of an answer to HEAD.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => metrics(board),
        "/healthz" => healthz(board),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
    }
}

/// Whether the client means this machine. A web page cannot connect to it under another name than its own, but it can
/// let its name point here (DNS rebinding), and then its host stands in the request.
fn is_for_us<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter().peekable();
    // Clients before HTTP/1.1 need not say it, and no browser is one.
    let is_said = hosts.peek().is_some() || request.version() <= Version::HTTP_10;
    let target_is_local = request.uri().authority().is_none_or(is_local);
    let said_is_local = |host: &HeaderValue| Authority::try_from(host.as_bytes()).is_ok_and(|host| is_local(&host));
    is_said && target_is_local && hosts.all(said_is_local)
}

/// Whether it names this machine, with any port. Names are not resolved.
fn is_local(host: &Authority) -> bool {
    if host.as_str().contains('@') {
        return false;
    }
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn text(status: StatusCode, body: &'static str) -> Reply {
    respond(status, TEXT, body)
}

fn metrics(board: &Board) -> Reply {
    let mut body = String::new();
    match prometheus_client::encoding::text::encode(&mut body, board.registry()) {
        Ok(()) => respond(StatusCode::OK, OPEN_METRICS, body),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n")
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
fn healthz(board: &Board) -> Reply {
    let partitions = board.statuses();
    let status = partitions.iter().map(|entry| entry.status.health).max().unwrap_or_default();
    let needs_help = partitions.iter().any(|entry| entry.status.needs_help());
    let code = if needs_help { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    match serde_json::to_vec(&HealthBody { status, partitions }) {
        Ok(body) => respond(code, JSON, body),
        Err(error) => {
            tracing::error!(%error, "health could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "health could not be written\n")
        }
    }
}

#[cfg(test)]
mod tests;
