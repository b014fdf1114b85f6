//! The rules that the simulator's double of the log keeps, kept by a real server behind the production adapter.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{FromConsumer, pull};
use async_nats::jetstream::stream::{Config, Stream};
use pelton_broker::testing::TempDir;
use pelton_broker::{Broker, LEASE_BUCKET, Log, LogOptions, Target, consumer, log_stream, up};
use pelton_engine::log::{Request, Response};
use pelton_sim::conformance::{self, Disturbance, LogUnderTest};
use tokio::runtime::{Builder, Runtime};

use crate::rig::Rig;

/// Long enough for a busy machine, and only waited for where something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// Cases that run at the same time: most of their time is waiting.
const WORKERS: usize = 6;

/// Messages per pull, and pulls in flight: what production uses, and so few that clients run out of them.
const PULLS: [(u32, u32); 2] = [(8_192, 3), (2, 1)];

/// One server, and two clients with a connection each.
struct Real {
    runtime: Runtime,
    rig: Rig,
    clients: [(Broker, Log); 2],
    /// The server's folder as it was when it was remembered.
    remembered: Option<TempDir>,
}

impl Real {
    fn new(pulls: (u32, u32)) -> Real {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let rig = runtime.block_on(Rig::new(1));
        let clients = [0, 1].map(|_| {
            let broker = runtime.block_on(rig.server.connect()).expect("connected");
            // A status of the server may come late on a busy machine; waiting costs nothing where there are events.
            let options = LogOptions {
                fetch_wait: Duration::from_millis(200),
                pull_messages: pulls.0,
                pull_requests: pulls.1,
                ..LogOptions::default()
            };
            let log = Log::new(&broker, Target::new(&rig.plan, 0), options);
            (broker, log)
        });
        Real { runtime, rig, clients, remembered: None }
    }

    fn stream(&self, name: &str) -> Stream {
        self.runtime.block_on(self.rig.broker.context().get_stream(name)).expect("the stream is there")
    }

    fn recreate(&self, stream: &str) {
        self.runtime.block_on(self.rig.broker.context().delete_stream(stream)).expect("deleted");
        let made = self.runtime.block_on(up(&self.rig.broker, &self.rig.plan, &Default::default())).expect("made");
        assert_eq!(made.created, [stream]);
    }

    /// Changes the configuration of the input stream.
    fn configure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.stream(&self.rig.plan.source.stream).cached_info().config.clone();
        change(&mut config);
        self.runtime.block_on(self.rig.broker.context().update_stream(config)).expect("updated");
    }

    fn publish_input(&self, subject: &'static str, payload: &[u8]) -> u64 {
        let payload = payload.to_vec().into();
        let publish = async { self.rig.broker.context().publish(subject, payload).await.expect("sent").await };
        self.runtime.block_on(publish).expect("stored").sequence
    }

    /// As after a crash of the broker that cost one stream its newest writes.
    fn roll_back(&mut self, stream: &str) {
        let folder = Path::new("jetstream/$G/streams").join(stream);
        let remembered = self.remembered.as_ref().expect("a case remembers first").path().join(&folder);
        let now = self.rig.server.store().join(&folder);
        self.rig.server.kill();
        std::fs::remove_dir_all(&now).expect("the stream has a folder");
        copy(&remembered, &now);
        self.rig.server.restart();
        for client in 0..self.clients.len() {
            self.until("a client has connected again", |real| {
                let (broker, log) = &real.clients[client];
                let survey = log.perform(Request::Survey { input_sequence: None, epoch: None, history: false });
                matches!(real.runtime.block_on(survey), Response::Survey(_)) && broker.connected()
            });
        }
    }

    /// Deliveries become overdue at once, and come again.
    fn overdue(&self) {
        let stream = self.stream(&self.rig.plan.source.stream);
        let name = consumer(&self.rig.plan.name, 0);
        self.runtime.block_on(async {
            let found = stream.consumer_info(&name).await.expect("the consumer is there").config;
            let found = pull::Config::try_from_consumer_config(found).expect("a pull consumer");
            let config = pull::Config { ack_wait: Duration::from_millis(100), ..found };
            stream.update_consumer(config).await.expect("updated");
        });
        // Until then the consumer counts as the stream does.
        self.until("deliveries come again", |real| {
            let info = real.runtime.block_on(stream.consumer_info(&name)).expect("the consumer is there");
            info.num_ack_pending > 0 && info.delivered.consumer_sequence > info.delivered.stream_sequence
        });
    }

    fn until(&self, what: &str, holds: impl Fn(&Real) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::sleep(PAUSE);
        }
    }
}

impl LogUnderTest for Real {
    fn perform(&mut self, client: usize, request: Request) -> Response {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.runtime.block_on(self.clients[client].1.perform(request.clone())) {
                Response::Unavailable(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                response => return response,
            }
        }
    }

    fn produce(&mut self, payload: &[u8]) -> u64 {
        self.publish_input("plays.in.a", payload)
    }

    fn produce_other(&mut self, payload: &[u8]) -> u64 {
        const OTHER: &str = "plays.other";
        self.configure(|config| {
            if !config.subjects.iter().any(|subject| subject == OTHER) {
                config.subjects.push(OTHER.to_string());
            }
        });
        self.publish_input(OTHER, payload)
    }

    fn disturb(&mut self, what: Disturbance) {
        let input = self.rig.plan.source.stream.clone();
        let log = log_stream(&self.rig.plan.name);
        match what {
            Disturbance::ExpireInput { first } => {
                let purge = self.stream(&input).purge().sequence(first).into_future();
                self.runtime.block_on(purge).expect("purged");
            }
            Disturbance::DeleteInput { sequence } => {
                self.runtime.block_on(self.stream(&input).delete_message(sequence)).expect("deleted");
            }
            Disturbance::LimitSubject { messages } => {
                self.configure(|config| config.max_messages_per_subject = messages as i64);
            }
            Disturbance::RecreateInput => self.recreate(&input),
            Disturbance::Remember => {
                let folder = TempDir::new().expect("a temporary folder");
                copy(&self.rig.server.store(), folder.path());
                self.remembered = Some(folder);
            }
            Disturbance::RollBackInput => self.roll_back(&input),
            Disturbance::RollBackLog => self.roll_back(&log),
            Disturbance::PurgeLog => {
                self.runtime.block_on(self.stream(&log).purge().into_future()).expect("purged");
            }
            Disturbance::RecreateLog => self.recreate(&log),
            Disturbance::DeleteConsumer => {
                let name = consumer(&self.rig.plan.name, 0);
                self.runtime.block_on(self.stream(&input).delete_consumer(&name)).expect("deleted");
            }
            Disturbance::Settle => {
                let (stream, name) = (self.stream(&input), consumer(&self.rig.plan.name, 0));
                self.until("nothing is under way", |real| {
                    let info = real.runtime.block_on(stream.consumer_info(&name)).expect("the consumer is there");
                    info.num_pending == 0 || info.num_waiting == 0
                });
            }
            Disturbance::AckWait => self.overdue(),
            Disturbance::LeaseTime => {
                let leases = format!("KV_{LEASE_BUCKET}");
                self.until("the lease has expired", |real| real.stream(&leases).cached_info().state.messages == 0);
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn the_real_server_conforms() {
    let all = PULLS.iter().flat_map(|pulls| conformance::cases().iter().map(move |case| (*pulls, case)));
    let waiting = Mutex::new(all);
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some((pulls, case)) = waiting.lock().expect("no panic").next() else { return };
                    let start = Instant::now();
                    let result = conformance::run_one(&mut Real::new(pulls), case);
                    println!("{:>6} ms  pulls {pulls:?}: {}", start.elapsed().as_millis(), case.0);
                    if let Err(conformance::Broken(why)) = result {
                        broken.lock().expect("no panic").push(format!("pulls {pulls:?}: {}: {why}", case.0));
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no panic");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
