//! The connection: options, time limits, server version, and a count of lost connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, Event};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::api::chain;

/// Oldest server with atomic batches.
pub const VERSION_MIN: (u32, u32) = (2, 12);

/// How long one request to the JetStream API may take.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(5);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Where the servers are and who we are. Empty `servers` means `nats://127.0.0.1:4222`.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    pub servers: Vec<String>,
    /// Credentials file (JWT and seed).
    pub creds: Option<PathBuf>,
    /// Seed of an nkey, or a file that holds one.
    pub nkey: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub tls: Tls,
    /// JetStream domain.
    pub domain: Option<String>,
    /// Name of this connection, shown by the server.
    pub name: Option<String>,
}

/// Files of a TLS connection; any of them makes TLS required.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What went wrong outside the protocol: connecting and provisioning.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("cannot connect to {servers}: {cause}")]
    Connect { servers: String, cause: String },
    #[error("nats-server {found} is too old: atomic batches need {major}.{minor} or newer", major = VERSION_MIN.0, minor = VERSION_MIN.1)]
    Version { found: String },
    #[error("nats-server at {servers} runs without JetStream")]
    NoJetStream { servers: String },
    #[error("{0}")]
    Options(String),
    /// The server refused, or did not answer.
    #[error("{what}: {cause}")]
    Request { what: String, cause: String },
}

/// A connection to NATS; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    context: async_nats::jetstream::Context,
    api_prefix: String,
    /// Set by the event callback, read by everything that waits for an answer.
    link: watch::Receiver<Link>,
}

/// The connection as the event callback last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// Connections lost so far.
    pub(crate) losses: u64,
    /// Messages dropped in the client because a subscription was full.
    pub(crate) drops: u64,
}

impl Broker {
    /// Connects and checks the version of the server.
    ///
    /// # Errors
    /// When no server answers, credentials are not readable or refused, or the server is older than 2.12.
    pub async fn connect(options: &ConnectOptions) -> Result<Broker, BrokerError> {
        Broker::connect_with_capacity(options, SUBSCRIPTION_CAPACITY).await
    }

    /// For tests of what happens when the client drops messages.
    #[doc(hidden)]
    pub async fn connect_with_capacity(options: &ConnectOptions, capacity: usize) -> Result<Broker, BrokerError> {
        let servers = if options.servers.is_empty() {
            vec!["nats://127.0.0.1:4222".to_string()]
        } else {
            options.servers.clone()
        };
        let text = servers.join(", ");
        let (sender, link) = watch::channel(Link { up: true, losses: 0, drops: 0 });
        let client = client_options(options, sender)
            .await?
            .subscription_capacity(capacity)
            .connect(servers)
            .await
            .map_err(|error| BrokerError::Connect { servers: text.clone(), cause: chain(&error) })?;
        let server = client.server_info();
        check_version(&server.version)?;
        if !server.jetstream {
            return Err(BrokerError::NoJetStream { servers: text });
        }
        info!(server = %server.server_name, version = %server.version, "connected");
        let builder = ContextBuilder::new();
        let (context, api_prefix) = match &options.domain {
            Some(domain) => (builder.domain(domain.clone()).timeout_after(client.clone()), format!("$JS.{domain}.API")),
            None => (builder.timeout(API_TIMEOUT).build(client.clone()), "$JS.API".to_string()),
        };
        Ok(Broker { inner: Arc::new(Inner { client, context, api_prefix, link }) })
    }

    /// The core connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The JetStream context: API requests time out after two seconds.
    #[must_use]
    pub fn context(&self) -> &async_nats::jetstream::Context {
        &self.inner.context
    }

    /// Whether the connection is up, as far as the client knows.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.inner.link.borrow().up
    }

    /// Version of the server last connected to.
    #[must_use]
    pub fn version(&self) -> String {
        self.inner.client.server_info().version
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.clone()
    }

    pub(crate) fn drops(&self) -> u64 {
        self.inner.link.borrow().drops
    }

    pub(crate) fn losses(&self) -> u64 {
        self.inner.link.borrow().losses
    }

    pub(crate) fn api_prefix(&self) -> &str {
        &self.inner.api_prefix
    }
}

/// A context with a domain, with the same time limit: the builder takes only one of the two.
trait TimeoutAfter {
    fn timeout_after(self, client: Client) -> async_nats::jetstream::Context;
}

impl TimeoutAfter for ContextBuilder<async_nats::jetstream::context::No> {
    fn timeout_after(self, client: Client) -> async_nats::jetstream::Context {
        let mut context = self.build(client);
        context.set_timeout(API_TIMEOUT);
        context
    }
}

async fn client_options(
    options: &ConnectOptions,
    link: watch::Sender<Link>,
) -> Result<async_nats::ConnectOptions, BrokerError> {
    let mut client = async_nats::ConnectOptions::new()
        .name(options.name.as_deref().unwrap_or("pelton"))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(API_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            watch_event(&link, &event);
            std::future::ready(())
        });
    if let Some(path) = &options.creds {
        client = client
            .credentials_file(path)
            .await
            .map_err(|error| BrokerError::Options(format!("credentials {}: {error}", path.display())))?;
    }
    if let Some(nkey) = &options.nkey {
        client = client.nkey(read_seed(nkey)?);
    }
    match (&options.user, &options.password) {
        (Some(user), password) => {
            client = client.user_and_password(user.clone(), password.clone().unwrap_or_default());
        }
        (None, Some(_)) => return Err(BrokerError::Options("a password needs a user".to_string())),
        (None, None) => {}
    }
    if let Some(token) = &options.token {
        client = client.token(token.clone());
    }
    match (&options.tls.cert, &options.tls.key) {
        (Some(cert), Some(key)) => client = client.add_client_certificate(cert.clone(), key.clone()).require_tls(true),
        (None, None) => {}
        _ => return Err(BrokerError::Options("a client certificate needs both cert and key".to_string())),
    }
    if let Some(ca) = &options.tls.ca {
        client = client.add_root_certificates(ca.clone()).require_tls(true);
    }
    Ok(client)
}

/// A seed starts with `S`; anything that names a file is read.
fn read_seed(nkey: &str) -> Result<String, BrokerError> {
    if nkey.starts_with('S') && !nkey.contains(['/', '.']) {
        return Ok(nkey.to_string());
    }
    let text = std::fs::read_to_string(nkey).map_err(|error| BrokerError::Options(format!("nkey {nkey}: {error}")))?;
    text.lines()
        .map(str::trim)
        .find(|line| line.starts_with('S'))
        .map(str::to_string)
        .ok_or_else(|| BrokerError::Options(format!("nkey {nkey}: no line holds a seed")))
}

fn watch_event(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => {
            link.send_modify(|link| link.up = true);
            info!("connection is up");
        }
        Event::Disconnected | Event::Closed => {
            link.send_modify(|link| {
                link.up = false;
                link.losses += 1;
            });
            warn!(%event, "connection is down");
        }
        // One event per message: too many for a line each. Who misses messages says so.
        Event::SlowConsumer(_) => link.send_modify(|link| link.drops += 1),
        Event::ServerError(_) | Event::LameDuckMode => warn!(%event, "server event"),
        Event::ClientError(_) | Event::Draining => debug!(%event, "client event"),
    }
}

/// Doubles from 100 ms to 5 s, each with up to half of it left off at random.
fn reconnect_delay(attempt: usize) -> Duration {
    let doubled = RECONNECT_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(10));
    let full = doubled.min(RECONNECT_MAX);
    // Jitter needs no quality: the keys of a fresh hasher are random enough.
    let random = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt);
    let half = full / 2;
    RECONNECT_MIN.max(half + half.mul_f64((random % 1000) as f64 / 1000.0))
}

fn check_version(found: &str) -> Result<(), BrokerError> {
    let mut parts = found.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < VERSION_MIN {
        return Err(BrokerError::Version { found: found.to_string() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for version in ["2.15.1", "2.14.0-beta.1", "2.12.3"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        let error = check_version("2.11.9").expect_err("too old").to_string();
        assert!(error.contains("2.11.9") && error.contains("2.12"), "{error}");
        assert!(check_version("garbage").is_err());
    }

    #[test]
    fn reconnect_delays_stay_in_bounds() {
        for attempt in 0..64 {
            let delay = reconnect_delay(attempt);
            assert!((RECONNECT_MIN..=RECONNECT_MAX).contains(&delay), "{attempt}: {delay:?}");
        }
    }
}
