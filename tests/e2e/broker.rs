//! The broker of a test, and the few questions that tests ask it directly.

use std::sync::Mutex;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context, Message};
use futures_util::StreamExt as _;
use pelton_broker::LEASE_BUCKET;
use pelton_broker::testing::Server;
use pelton_engine::epoch::Marker;
use tokio::runtime::Runtime;

use crate::process::{Said, finish, pelton, until};

/// One question; a broker that was just killed does not answer.
const ANSWER: Duration = Duration::from_secs(2);

/// One real nats-server, or a cluster of them, that syncs every write.
pub(crate) struct Broker {
    servers: Mutex<Vec<Server>>,
    urls: Vec<String>,
    runtime: Runtime,
}

impl Broker {
    pub(crate) fn start() -> Broker {
        Broker::of(vec![Server::start()])
    }

    /// Three nodes that have found each other; every stream has a copy on each.
    pub(crate) fn cluster() -> Broker {
        let broker = Broker::of(Server::start_cluster(3));
        until("a leader of the cluster", || {
            let asked = async |context: Context| tokio::time::timeout(ANSWER, context.query_account()).await.ok()?.ok();
            broker.ask(asked).map(drop)
        });
        broker
    }

    fn of(servers: Vec<Server>) -> Broker {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let urls = servers.iter().map(Server::url).collect();
        Broker { urls, servers: Mutex::new(servers), runtime: runtime.expect("a runtime") }
    }

    /// Where the first server is.
    pub(crate) fn url(&self) -> &str {
        &self.urls[0]
    }

    /// `kill -9`, then nothing for so many milliseconds, then a start from the same files.
    pub(crate) fn kill_and_restart(&self, millis: u64) {
        self.kill_node(0);
        std::thread::sleep(Duration::from_millis(millis));
        self.restart_node(0);
    }

    pub(crate) fn kill_node(&self, node: usize) {
        self.servers.lock().expect("no test panics in here")[node].kill();
    }

    pub(crate) fn restart_node(&self, node: usize) {
        self.servers.lock().expect("no test panics in here")[node].restart();
    }

    /// Waits until every stream has a leader and all its copies are there and current.
    pub(crate) fn wait_for_copies(&self, context: &Context) {
        until("every copy of every stream", || {
            let question = async {
                let mut streams = context.streams();
                while let Some(info) = streams.next().await {
                    let cluster = info.ok()?.cluster?;
                    let all = cluster.replicas.iter().filter(|copy| copy.current && !copy.offline).count();
                    (cluster.leader.is_some() && all + 1 == self.urls.len()).then_some(())?;
                }
                Some(())
            };
            self.runtime.block_on(async { tokio::time::timeout(ANSWER, question).await.ok().flatten() })
        });
    }

    /// Publishes events one after the other, and waits until they are stored.
    pub(crate) fn publish(&self, subject: &str, events: impl Iterator<Item = String>) {
        self.ask(async |context| {
            for event in events {
                let stored = context.publish(subject.to_owned(), event.into()).await.expect("sent");
                stored.await.expect("stored");
            }
        });
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.urls.len() > 1
    }

    /// A command that talks to this broker.
    pub(crate) fn pelton(&self, args: &[&str]) -> std::process::Command {
        let mut command = pelton(args);
        command.env("NATS_URL", self.urls.join(","));
        command
    }

    /// A host that works off what the stream holds now, with its state in this folder, and exits.
    pub(crate) fn catch_up(&self, pipeline: &str, state: &str) -> std::process::Command {
        self.pelton(&["run", pipeline, "--state-dir", state, "--listen", "off", "--exit-when-caught-up"])
    }

    /// Makes the streams of a pipeline, with leases of four seconds; hosts renew them every three.
    #[track_caller]
    pub(crate) fn up(&self, pipeline: &str) -> Said {
        let replicas = self.urls.len().to_string();
        self.until_answered(&["up", pipeline, "--lease", "4s", "--replicas", &replicas])
    }

    /// Deletes what `up` has made, but for the input.
    #[track_caller]
    pub(crate) fn down(&self, pipeline: &str) -> Said {
        self.until_answered(&["down", pipeline, "--yes", "--outputs"])
    }

    /// A cluster that has just lost a node may not answer in time, which a command tells by its exit code: then it is asked
    /// again.
    #[track_caller]
    fn until_answered(&self, args: &[&str]) -> Said {
        const AGAIN: i32 = 4;
        let said = || Some(finish(&mut self.pelton(args))).filter(|said| said.status.code() != Some(AGAIN));
        until("the command is answered", said).code(0)
    }

    /// Runs what is asked of a connection of its own.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(Context) -> T) -> T {
        self.runtime.block_on(async {
            let client = async_nats::connect(&self.urls).await.expect("the broker runs");
            question(jetstream::new(client)).await
        })
    }

    /// The newest marker of a pipeline's first partition, if there is one; `None` when the broker does not answer.
    pub(crate) fn newest(&self, context: &Context, pipeline: &str) -> Option<Option<Marker>> {
        self.runtime.block_on(async {
            let question = async {
                let stream = context.get_stream_no_info(pelton_broker::log_stream(pipeline)).await.ok()?;
                let filter = format!("pelton.{pipeline}.0.marker.>");
                match stream.get_last_raw_message_by_subject(&filter).await {
                    Ok(message) => Some(Some(Marker::decode(&message.payload).expect("a marker"))),
                    Err(error) if error.to_string().contains("no message found") => Some(None),
                    Err(_) => None,
                }
            };
            tokio::time::timeout(ANSWER, question).await.ok().flatten()
        })
    }

    /// Events that a pipeline has committed, over one partition; `None` when the broker does not answer.
    pub(crate) fn committed(&self, context: &Context, pipeline: &str) -> Option<u64> {
        self.newest(context, pipeline).map(|marker| marker.map_or(0, |marker| marker.totals_sum.received))
    }

    /// A connection that comes back as soon as a killed broker does.
    pub(crate) fn watcher(&self) -> Context {
        let options = async_nats::ConnectOptions::new()
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(|_| Duration::from_millis(20));
        self.runtime.block_on(async { jetstream::new(options.connect(&self.urls).await.expect("the broker runs")) })
    }

    /// What an operator does who knows that a host is dead: nobody waits for its lease to expire.
    pub(crate) fn evict(&self, pipeline: &str) {
        self.ask(async |context| {
            let bucket = context.get_key_value(LEASE_BUCKET).await.expect("the bucket of leases");
            bucket.delete(format!("{pipeline}.0")).await.expect("a lease can be deleted");
        });
    }

    /// How many messages a stream holds now.
    pub(crate) fn held(&self, stream: &str) -> u64 {
        self.ask(async |context| {
            context.get_stream(stream).await.expect("the stream is there").cached_info().state.messages
        })
    }

    /// All messages that a stream holds now, in order.
    pub(crate) fn messages(&self, stream: &str) -> Vec<Message> {
        self.ask(async |context| {
            let mut stream = context.get_stream(stream).await.expect("the stream is there");
            read_all(&mut stream).await
        })
    }
}

async fn read_all(stream: &mut Stream) -> Vec<Message> {
    let mut all = Vec::new();
    if stream.info().await.expect("the stream's state").state.messages == 0 {
        return all;
    }
    let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
        let message = next.expect("the broker goes on").expect("there is more").expect("a message");
        let pending = message.info().expect("a position").pending;
        all.push(message);
        if pending == 0 {
            return all;
        }
    }
}
