//! What the connection says between answers: up and down, messages dropped in the client, permissions denied.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Event, ServerError};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

/// The connection as the event callback last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// Connections lost so far.
    pub(crate) losses: u64,
    /// Messages dropped in the client because a subscription was full.
    pub(crate) drops: u64,
}

/// Takes the events of one client after the other.
pub(crate) struct Watcher {
    link: watch::Sender<Link>,
    pub(crate) denials: Denials,
    /// The client's last complaint, so that a broker that stays away is one line and not one per attempt.
    complaint: Mutex<String>,
}

impl Watcher {
    pub(crate) fn new() -> Watcher {
        let (link, _) = watch::channel(Link { up: true, losses: 0, drops: 0 });
        Watcher { link, denials: Denials::default(), complaint: Mutex::default() }
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(crate) fn now(&self) -> Link {
        *self.link.borrow()
    }

    pub(crate) fn take(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.denials.forget_subscriptions();
                self.set_complaint(String::new());
                self.link.send_modify(|link| link.up = true);
                info!("connection is up");
            }
            Event::Disconnected => {
                self.lose();
                warn!("connection is down");
            }
            // By us: of itself the client gives up never.
            Event::Closed => {
                self.lose();
                debug!("connection is closed");
            }
            // One event per message: too many for a line each. Who misses messages says so.
            Event::SlowConsumer(_) => self.link.send_modify(|link| link.drops += 1),
            Event::ServerError(ServerError::Other(text)) => match Denial::parse(text) {
                Some(denial) => self.denials.add(denial),
                None => warn!(error = ?text, "the server says"),
            },
            Event::ServerError(error) => warn!(error = ?error.to_string(), "the server says"),
            Event::LameDuckMode => warn!(%event, "the server is about to stop"),
            Event::ClientError(error) => {
                let text = error.to_string();
                if self.set_complaint(text.clone()) {
                    warn!(error = ?text, "cannot connect again yet");
                }
            }
            Event::Draining => debug!(%event, "client event"),
        }
    }

    /// A connection is lost.
    pub(crate) fn lose(&self) {
        self.link.send_modify(|link| {
            link.up = false;
            link.losses += 1;
        });
    }

    /// Whether it is another one than before.
    fn set_complaint(&self, text: String) -> bool {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *complaint != text;
        *complaint = text;
        is_new
    }
}

/// What a connection may be forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    Subscribe,
}

/// One "permissions violation" of the server.
#[derive(Clone, Debug)]
struct Denial {
    action: Action,
    subject: String,
    at: Instant,
}

impl Denial {
    fn parse(text: &str) -> Option<Denial> {
        let rest = text.strip_prefix("Permissions Violation for ")?;
        let (action, rest) = match rest.strip_prefix("Publish to \"") {
            Some(rest) => (Action::Publish, rest),
            None => (Action::Subscribe, rest.strip_prefix("Subscription to \"")?),
        };
        let (subject, _) = rest.split_once('"')?;
        Some(Denial { action, subject: subject.to_string(), at: Instant::now() })
    }

    /// Denials with the same key are one line in the log: the subject of every acknowledgement is another one.
    fn key(&self) -> (Action, &str) {
        if self.subject.starts_with("$JS.ACK.") {
            let mut dots = self.subject.match_indices('.').map(|(at, _)| at);
            return (self.action, dots.nth(2).map_or(&self.subject, |end| &self.subject[..end]));
        }
        (self.action, &self.subject)
    }

    fn text(&self) -> String {
        let verb = match self.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        };
        format!("not permitted: {verb} to {}", self.subject)
    }
}

/// What the server did not permit lately. A forbidden request gets no answer: it is told by a line of its own, which
/// names nothing but the subject, so whoever waits for an answer looks here.
#[derive(Default)]
pub(crate) struct Denials {
    list: Mutex<Vec<Denial>>,
    changed: Notify,
}

/// Denials of publishing are kept this long; those of a subscription as long as the connection, for they are said once.
const KEPT: Duration = Duration::from_secs(30);
/// Denials kept at most.
const KEPT_MAX: usize = 256;

impl Denials {
    fn add(&self, denial: Denial) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|old| old.action == Action::Subscribe || old.at.elapsed() < KEPT);
        if list.iter().all(|old| old.key() != denial.key()) {
            warn!(reason = ?denial.text(), "the server forbids what is needed");
        }
        if list.len() >= KEPT_MAX {
            list.remove(0);
        }
        list.push(denial);
        drop(list);
        self.changed.notify_waiters();
    }

    /// The connection is another one; what it may subscribe to is said again.
    fn forget_subscriptions(&self) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).retain(|denial| denial.action == Action::Publish);
    }

    /// The newest denial that `concerns` the caller, in words. `since` is for publishing: when the caller began.
    pub(crate) fn find(&self, since: Instant, concerns: impl Fn(Action, &str) -> bool) -> Option<String> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |denial: &&Denial| denial.action == Action::Subscribe || denial.at >= since;
        let mut found = list.iter().rev().filter(is_new);
        found.find(|denial| concerns(denial.action, &denial.subject)).map(Denial::text)
    }

    /// Waits until there is one.
    pub(crate) async fn wait(&self, since: Instant, concerns: impl Fn(Action, &str) -> bool) -> String {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(text) = self.find(since, &concerns) {
                return text;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_found_by_subject_and_time() {
        let watcher = Watcher::new();
        let started = Instant::now();
        let say = |text: &str| watcher.take(&Event::ServerError(ServerError::Other(text.to_string())));
        say("Permissions Violation for Publish to \"$JS.API.STREAM.INFO.IN\"");
        say("Permissions Violation for Subscription to \"_INBOX.a.*\" using queue \"q\"");
        say("something else");
        let publish =
            |subject: &'static str| move |action: Action, denied: &str| action == Action::Publish && denied == subject;
        let find = |subject| watcher.denials.find(started, publish(subject));
        assert_eq!(find("$JS.API.STREAM.INFO.IN").as_deref(), Some("not permitted: publish to $JS.API.STREAM.INFO.IN"));
        assert_eq!(find("something"), None);
        assert_eq!(watcher.denials.find(Instant::now() + KEPT, publish("$JS.API.STREAM.INFO.IN")), None);
        let subscribe = |action, subject: &str| action == Action::Subscribe && subject.starts_with("_INBOX.a.");
        let later = Instant::now() + KEPT;
        assert_eq!(watcher.denials.find(later, subscribe).as_deref(), Some("not permitted: subscribe to _INBOX.a.*"));
        watcher.take(&Event::Connected);
        assert_eq!(watcher.denials.find(later, subscribe), None);
    }

    #[test]
    fn acknowledgements_are_one_line_per_consumer() {
        let denial = |subject: &str| Denial::parse(&format!("Permissions Violation for Publish to \"{subject}\""));
        let (one, other) =
            (denial("$JS.ACK.S.C.1.7.5.0.0").expect("one"), denial("$JS.ACK.S.C.1.9.6.0.0").expect("one"));
        assert_eq!(one.key(), other.key());
        assert_ne!(one.key(), denial("a.b").expect("one").key());
    }

    #[test]
    fn the_same_complaint_is_said_once() {
        let watcher = Watcher::new();
        assert!(watcher.set_complaint("refused".to_string()));
        assert!(!watcher.set_complaint("refused".to_string()));
        assert!(watcher.set_complaint("no route".to_string()));
    }
}
