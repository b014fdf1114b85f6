//! The connection of a process: one client that all partitions share, replaced when it dies.
//!
//! The client library connects again by itself. But its task can end: it panics over some bytes of others. Then every call
//! answers "channel closed", for ever; so a new client is made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::error::{API_TIMEOUT, BrokerError, Trouble, VERSION_MIN, chain};
use crate::link::{Denials, Link, Watcher};
use crate::options::{ConnectOptions, client_options, reconnect_delay};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectErrorKind};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Messages that wait for this program in the client, per subscription.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// A connection to NATS; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    session: RwLock<Session>,
    api_prefix: String,
    inbox_prefix: String,
    watcher: Arc<Watcher>,
}

/// One client, until its task ends.
#[derive(Clone)]
struct Session {
    client: Client,
    context: Context,
    /// Counts clients: a subscription belongs to the one that it was made with.
    number: u64,
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
        let (deaths, died) = mpsc::unbounded_channel();
        let options = options.clone().take_credentials()?;
        let opener = Opener { options: options.clone(), capacity, watcher: Arc::new(Watcher::new()), deaths };
        let session = opener.open(0).await?;
        let server = session.client.server_info();
        info!(server = ?server.server_name, version = ?server.version, "connected");
        let api_prefix = match &options.domain {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_string(),
        };
        let inbox_prefix = options.inbox_prefix.clone().unwrap_or_else(|| "_INBOX".to_string());
        let watcher = Arc::clone(&opener.watcher);
        let inner = Arc::new(Inner { session: RwLock::new(session), api_prefix, inbox_prefix, watcher });
        tokio::spawn(replace_the_dead(Arc::downgrade(&inner), opener, died));
        Ok(Broker { inner })
    }

    /// The core connection as it is now: ask anew for each piece of work, it may be replaced.
    #[must_use]
    pub fn client(&self) -> Client {
        self.inner.session.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// The JetStream context: API requests time out after two seconds.
    #[must_use]
    pub fn context(&self) -> Context {
        self.inner.session.read().unwrap_or_else(PoisonError::into_inner).context.clone()
    }

    /// Whether the connection is up, as far as the client knows.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.inner.watcher.now().up
    }

    /// Version of the server last connected to.
    #[must_use]
    pub fn version(&self) -> String {
        self.client().server_info().version
    }

    /// The largest message that the server takes, header block and payload together.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.client().server_info().max_payload
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.inner.watcher.link()
    }

    pub(crate) fn drops(&self) -> u64 {
        self.inner.watcher.now().drops
    }

    pub(crate) fn losses(&self) -> u64 {
        self.inner.watcher.now().losses
    }

    pub(crate) fn denials(&self) -> &Denials {
        &self.inner.watcher.denials
    }

    /// Which client it is: another number means that subscriptions are gone.
    pub(crate) fn session(&self) -> u64 {
        self.inner.session.read().unwrap_or_else(PoisonError::into_inner).number
    }

    pub(crate) fn inbox_prefix(&self) -> &str {
        &self.inner.inbox_prefix
    }

    pub(crate) fn api_prefix(&self) -> &str {
        &self.inner.api_prefix
    }
}

/// Everything that is needed to make a client.
struct Opener {
    options: ConnectOptions,
    capacity: usize,
    watcher: Arc<Watcher>,
    deaths: mpsc::UnboundedSender<()>,
}

/// Lives in the event callback of a client, which goes when the client's task has ended, however it ends.
struct Life {
    /// The client was in use.
    is_begun: AtomicBool,
    watcher: Arc<Watcher>,
    deaths: mpsc::UnboundedSender<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if *self.is_begun.get_mut() {
            self.watcher.lose();
            // Nobody listens any more: the whole broker is gone.
            let _ = self.deaths.send(());
        }
    }
}

impl Opener {
    async fn open(&self, number: u64) -> Result<Session, BrokerError> {
        let servers = if self.options.servers.is_empty() {
            vec!["nats://127.0.0.1:4222".to_string()]
        } else {
            self.options.servers.clone()
        };
        let text = servers.join(", ");
        let life = Arc::new(Life {
            is_begun: AtomicBool::new(false),
            watcher: Arc::clone(&self.watcher),
            deaths: self.deaths.clone(),
        });
        let alive = Arc::downgrade(&life);
        let client = client_options(&self.options)?
            .event_callback(move |event| {
                life.watcher.take(&event);
                std::future::ready(())
            })
            .subscription_capacity(self.capacity)
            .connect(servers)
            .await
            .map_err(|error| connect_error(&text, &error))?;
        let server = client.server_info();
        check_version(&server.version)?;
        if !server.jetstream {
            return Err(BrokerError::NoJetStream { servers: text });
        }
        let Some(life) = alive.upgrade() else {
            let cause = "the client ended as soon as it was connected".to_string();
            return Err(BrokerError::Connect { servers: text, trouble: Trouble::Unreachable, cause });
        };
        life.is_begun.store(true, Ordering::Relaxed);
        Ok(Session { context: context(&self.options, &client), client, number })
    }
}

fn context(options: &ConnectOptions, client: &Client) -> Context {
    let builder = ContextBuilder::new();
    let Some(domain) = &options.domain else {
        return builder.timeout(API_TIMEOUT).build(client.clone());
    };
    // The builder takes only one of the two.
    let mut context = builder.domain(domain.clone()).build(client.clone());
    context.set_timeout(API_TIMEOUT);
    context
}

fn connect_error(servers: &str, error: &async_nats::ConnectError) -> BrokerError {
    let cause = chain(error);
    let trouble = match error.kind() {
        ConnectErrorKind::Tls => Trouble::Tls,
        // A certificate that is refused comes as an IO error of the handshake.
        _ if cause.contains("certificate") || cause.contains("TLS") => Trouble::Tls,
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Trouble::Credentials,
        ConnectErrorKind::ServerParse | ConnectErrorKind::Dns => Trouble::Address,
        ConnectErrorKind::TimedOut | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => Trouble::Unreachable,
    };
    BrokerError::Connect { servers: servers.to_string(), trouble, cause }
}

/// Makes a new client whenever the task of the last one has ended, until the broker is dropped.
async fn replace_the_dead(broker: Weak<Inner>, opener: Opener, mut died: mpsc::UnboundedReceiver<()>) {
    let mut number = 0;
    while died.recv().await.is_some() {
        if broker.strong_count() == 0 {
            return;
        }
        number += 1;
        warn!(
            reason = "its task ended: a panic of the library, see above",
            "the NATS client is dead, making a new one"
        );
        let Some(session) = open_again(&broker, &opener, number).await else { return };
        let Some(inner) = broker.upgrade() else { return };
        *inner.session.write().unwrap_or_else(PoisonError::into_inner) = session;
        info!(clients = number, "connected with a new client");
    }
}

/// `None` when the broker is gone.
async fn open_again(broker: &Weak<Inner>, opener: &Opener, number: u64) -> Option<Session> {
    let mut told = String::new();
    for attempt in 1.. {
        tokio::time::sleep(reconnect_delay(attempt)).await;
        if broker.strong_count() == 0 {
            return None;
        }
        match opener.open(number).await {
            Ok(session) => return Some(session),
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    warn!(error = ?text, "no new client yet");
                    told = text;
                }
            }
        }
    }
    None
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
}
