//! Running from JetStream: one thread per partition drives the protocol, tokio carries its questions out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pelton_broker::{Broker, BrokerError, Log, LogOptions, ProvisionOptions, Target};
use pelton_engine::effects::Room;
use pelton_engine::epoch::BATCH_HEADER_BYTES;
use pelton_engine::guest::Guest;
use pelton_engine::hex;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::{Action, Config, Event, MakeEngine, Partition};
use pelton_engine::plan::Plan;
use pelton_engine::step::{Envelope, HashKey};
use pelton_engine::store::Store;
use pelton_serve::{Access, Board, Partition as Metrics, Server, Shape};
use pelton_store::SledStore;
use tokio::runtime::{Handle, Runtime};
use tracing::{error, info, warn};

use super::failpoint::{Watched, bound, pass};
use super::notices::Notices;
use super::seat::{Seat, Task};
use super::timed::{Spent, Timed};
use super::{Stop, engine, keeper, lag, open_store, session, state_folder};
use crate::cli::failure::{Exit, Failure};
use crate::cli::run::{Listen, StreamOptions, Work};
use crate::committed;
use crate::pipeline::Pipeline;

/// How long a partition's thread sleeps at most while it waits.
const TICK: Duration = Duration::from_millis(5);
/// Panics of one partition within [`PANIC_WINDOW`] after which it is given up.
const PANICS_MAX: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);
/// Partition threads run guests: wasm frames plus host frames.
const STACK_BYTES: usize = 4 << 20;
/// Between two attempts to find the broker at the start.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How long giving back the lease of a halted partition may take.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything that the threads of one pipeline share.
struct Shared {
    options: Arc<StreamOptions>,
    /// The pipeline, its partitions and where their state lies.
    work: Work,
    plan: Arc<Plan>,
    runtime: Handle,
    /// Of this pipeline alone: a message that the client cannot read must not cost another one its connection.
    broker: Broker,
    /// Of the pipeline, for state that begins here.
    hash_key: HashKey,
}

/// How a partition's thread ended.
enum Ended {
    Stopped { epochs: u64 },
    Halted { evidence: String, lease: Option<(Log, u64)> },
}

/// Runs until every pipeline has caught up, if it exits then, until a signal comes or every partition has halted.
/// Pipelines share nothing but the process: what ends one leaves the others at work.
pub(crate) fn run(mut options: StreamOptions) -> Result<(), Failure> {
    let mut all = std::mem::take(&mut options.work);
    for work in &mut all {
        work.state = state_folder(&work.state)?;
    }
    let options = Arc::new(options);
    let is_one = all.len() == 1;
    let (mut halted, mut failed) = (Vec::new(), None);
    // What keeps one pipeline from starting does not keep the others.
    let board = Board::new();
    let mut refuse = |work: &Work, failure: Failure| {
        if is_one {
            return Err(failure);
        }
        let pipeline = &work.pipeline.plan.name;
        error!(pipeline, %failure, "not started; the others are");
        for &partition in &work.partitions {
            metrics(&board, &work.pipeline, partition).halted(failure.to_string());
        }
        failed.get_or_insert(failure);
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut pipelines = Vec::new();
    for work in all {
        let plan = work.pipeline.plan.clone();
        let (broker, hash_key) = match runtime.block_on(connect(&options, &plan)) {
            Ok(Some(found)) => found,
            Ok(None) => {
                info!(pipeline = plan.name, "stopped before the broker was found");
                return Ok(());
            }
            Err(failure) => {
                refuse(&work, failure)?;
                continue;
            }
        };
        let (options, runtime) = (options.clone(), runtime.handle().clone());
        pipelines.push(Arc::new(Shared { options, work, plan, runtime, broker, hash_key }));
    }
    let stop_serving = serve(&runtime, options.listen, &options.access, &board)?;
    let mut fit = Vec::new();
    for shared in pipelines {
        let check = committed::check(&shared.broker, &shared.work.pipeline, &shared.work.partitions);
        match runtime.block_on(check) {
            Ok(()) => fit.push(shared),
            Err(failure) => refuse(&shared.work, failure)?,
        }
    }
    let pipelines = fit;
    say_when_stopping(&runtime, &options.stop);
    let mut threads = Vec::new();
    for shared in &pipelines {
        for &partition in &shared.work.partitions {
            let (name, work, board) = (format!("partition-{partition}"), shared.clone(), board.clone());
            let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
            threads.push((shared, partition, thread.spawn(move || supervise(&work, partition, &board))?));
        }
    }
    let (mut epochs, mut leases) = (BTreeMap::new(), Vec::new());
    for (shared, partition, thread) in threads {
        let name = &shared.plan.name;
        let of = if is_one { format!("partition {partition}") } else { format!("{name}, partition {partition}") };
        match thread.join() {
            Ok(Ok(Ended::Stopped { epochs: count })) => *epochs.entry(name).or_insert(0) += count,
            Ok(Ok(Ended::Halted { evidence, lease })) => {
                halted.push(format!("{of}: {evidence}"));
                leases.extend(lease);
            }
            Ok(Err(failure)) => drop(failed.get_or_insert(failure)),
            Err(_) => halted.push(format!("{of}: its thread panicked")),
        }
    }
    runtime.block_on(release(leases));
    drop(stop_serving);
    runtime.shutdown_timeout(Duration::from_millis(200));
    for (pipeline, epochs) in epochs {
        info!(pipeline, epochs, "stopped");
    }
    if let Some(failure) = failed {
        return Err(failure);
    }
    if !halted.is_empty() {
        let hint = "nothing more is committed; README says for each code what happened and what to do";
        return Err(Failure::halted(halted.join("; ")).hint(hint));
    }
    Ok(())
}

/// A process that ends leaves no lease behind: whoever starts next need not wait for it to expire.
async fn release(leases: Vec<(Log, u64)>) {
    for (log, revision) in leases {
        let released = log.perform(Request::ReleaseLease { revision });
        if tokio::time::timeout(RELEASE_PATIENCE, released).await.is_err() {
            warn!(partition = log.target().partition, "the lease was not given back, it expires by itself");
        }
    }
}

/// Finds the broker, for as long as `--wait` says, and compares what exists with what the plan expects. `None` when a
/// signal came first.
async fn connect(options: &StreamOptions, plan: &Plan) -> Result<Option<(Broker, HashKey)>, Failure> {
    let give_up = Instant::now() + options.wait;
    let mut told = false;
    loop {
        let failure = tokio::select! {
            tried = try_connect(options, plan) => match tried {
                Ok(found) => return Ok(Some(found)),
                Err(Unreachable::Now(failure)) if Instant::now() < give_up => failure,
                Err(Unreachable::Now(failure) | Unreachable::Wrong(failure)) => return Err(failure),
            },
            () = options.stop.asked() => return Ok(None),
        };
        if !told {
            let seconds = options.wait.as_secs();
            warn!(reason = %failure, "the broker is not ready, trying again for up to {seconds} s");
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(CONNECT_PAUSE) => {}
            () = options.stop.asked() => return Ok(None),
        }
    }
}

/// Why there is no broker to work with.
enum Unreachable {
    /// It may be on its way.
    Now(Failure),
    /// Waiting does not help.
    Wrong(Failure),
}

impl From<BrokerError> for Unreachable {
    fn from(error: BrokerError) -> Unreachable {
        match error {
            BrokerError::Connect { .. } | BrokerError::Request { .. } => Unreachable::Now(error.into()),
            error => Unreachable::Wrong(error.into()),
        }
    }
}

async fn try_connect(options: &StreamOptions, plan: &Plan) -> Result<(Broker, HashKey), Unreachable> {
    let broker = Broker::connect(&options.connect).await?;
    let checked = pelton_broker::check(&broker, plan, &ProvisionOptions::default()).await?;
    for note in &checked.notes {
        warn!(note = %note, remedy = note.remedy);
    }
    match Failure::drift(&checked.drift) {
        None => Ok((broker, checked.hash_key.expect("a stream without one is drift"))),
        Some(failure) => Err(Unreachable::Wrong(failure)),
    }
}

/// Serves metrics and health until the returned sender is dropped.
fn serve(
    runtime: &Runtime,
    listen: Listen,
    access: &Access,
    board: &Board,
) -> Result<Option<tokio::sync::oneshot::Sender<()>>, Failure> {
    let bind = |address| Server::bind(address, access.clone());
    let bound = match listen {
        Listen::Off => return Ok(None),
        Listen::At(address) => runtime.block_on(bind(address)),
        Listen::Prefer(address) => runtime.block_on(async {
            match bind(address).await {
                Ok(server) => Ok(server),
                Err(_) => bind(SocketAddr::new(address.ip(), 0)).await,
            }
        }),
    };
    let server = bound.map_err(|error| Failure::new(Exit::Environment, error))?;
    info!("metrics on http://{}/metrics, health on /healthz", server.address());
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let board = board.clone();
    runtime.spawn(async move {
        server.run(board, async { drop(receiver.await) }).await;
    });
    Ok(Some(sender))
}

fn say_when_stopping(runtime: &Runtime, stop: &Stop) {
    let stop = stop.clone();
    runtime.spawn(async move {
        stop.asked().await;
        info!("stopping");
    });
}

/// The place of a partition on the board.
fn metrics(board: &Board, pipeline: &Pipeline, partition: u32) -> Metrics {
    let plan = &pipeline.plan;
    let stages: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    let outputs: Vec<&str> = plan.outputs.iter().map(|output| output.name.as_str()).collect();
    let revision = hex::encode(&pipeline.revision);
    board.partition(&Shape { pipeline: &plan.name, partition, revision: &revision, stages: &stages, outputs: &outputs })
}

/// Starts a partition again when it panics; one that keeps panicking is given up, others go on.
fn supervise(shared: &Shared, partition: u32, board: &Board) -> Result<Ended, Failure> {
    let pipeline = &shared.plan.name;
    let metrics = metrics(board, &shared.work.pipeline, partition);
    let seat = Arc::new(Seat::new());
    let target = Target::new(&shared.plan, partition);
    let _measured =
        Task::spawn(&shared.runtime, lag::watch(shared.broker.clone(), target, seat.clone(), metrics.clone()));
    let mut panics: Vec<Instant> = Vec::new();
    loop {
        let spent = Spent::new(shared.plan.stages.len());
        let revision = hex::encode(&shared.work.pipeline.revision);
        let notices = Notices::new(pipeline, partition, revision, metrics.clone(), spent.clone());
        match catch_unwind(AssertUnwindSafe(|| drive(shared, partition, notices, &spent, &seat))) {
            Ok(ended) => {
                return ended.inspect_err(|failure| error!(pipeline, partition, %failure, "a partition has ended"));
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default();
                error!(partition, text, "partition panicked");
                panics.retain(|at| at.elapsed() < PANIC_WINDOW);
                panics.push(Instant::now());
                if panics.len() >= PANICS_MAX {
                    metrics.halted(format!("panic: {text}"));
                    let evidence = format!("panicked {PANICS_MAX} times within {PANIC_WINDOW:?}: {text}");
                    return Ok(Ended::Halted { evidence, lease: None });
                }
            }
        }
    }
}

/// Drives one partition until it stops or halts.
fn drive(
    shared: &Shared,
    partition: u32,
    mut notices: Notices,
    spent: &Spent,
    seat: &Arc<Seat>,
) -> Result<Ended, Failure> {
    let dir = shared.work.state.join(format!("p{partition}"));
    pass("open.before");
    let store = open_store(&dir, true)?;
    pass("open.after");
    let (log, mut store) = make_log(shared, partition, store);
    let config = config(shared, partition);
    let renew = Duration::from_millis(config.renew_ms);
    let mut machine = Partition::new(shared.plan.clone(), config, make_engine(shared, partition, spent));
    let _kept = Task::spawn(&shared.runtime, keeper::keep(log.clone(), seat.clone(), renew));
    let (sender, receiver) = channel();
    let start = Instant::now();
    let now = || start.elapsed().as_millis() as u64;
    let mut actions = Vec::new();
    let mut ticked = Instant::now();
    let mut stopping = false;
    machine.handle(Event::Tick, now(), &mut store, &mut actions);
    loop {
        seat.beat(machine.lease_revision());
        for action in actions.drain(..) {
            match action {
                Action::Ask { ticket, request } => ask(shared, &log, ticket, request, &sender),
                Action::Tell(notice) => notices.take(notice),
                Action::Stopped => return Ok(Ended::Stopped { epochs: notices.epochs }),
            }
        }
        if let Some(evidence) = notices.halted.take() {
            // The store is closed. The lease runs out by itself, or is given back when the process ends.
            let lease = machine.lease_revision().map(|revision| (log.clone(), revision));
            return Ok(Ended::Halted { evidence, lease });
        }
        notices.show(machine.committed(), seat);
        if shared.options.stop.is_asked() && !stopping {
            stopping = true;
            machine.handle(Event::Stop, now(), &mut store, &mut actions);
        }
        let wait = if machine.has_work() { Duration::ZERO } else { TICK };
        take_answers(&receiver, wait, &mut machine, &mut store, &mut notices, &now, &mut actions);
        if machine.has_work() {
            machine.work(now(), &mut actions);
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            machine.handle(Event::Tick, now(), &mut store, &mut actions);
        }
    }
}

/// The log of a partition, whose lease names the working store: a host that comes back after a crash is known by it.
fn make_log(shared: &Shared, partition: u32, mut store: SledStore) -> (Log, Watched<SledStore>) {
    let id = store.id().inspect_err(|error| {
        warn!(partition, %error, "the working store has no id: after a crash this host waits for its own lease to expire");
    });
    let options = LogOptions { holder: shared.options.holder.clone(), store: id.ok(), ..LogOptions::default() };
    (Log::new(&shared.broker, Target::new(&shared.plan, partition), options), Watched(store))
}

fn config(shared: &Shared, partition: u32) -> Config {
    let defaults = Config::new(partition, session());
    Config {
        exit_when_caught_up: shared.options.exit_when_caught_up,
        accept_loss: shared.options.accept_loss,
        snapshot_epochs: bound("PELTON_TEST_SNAPSHOT_EPOCHS", defaults.snapshot_epochs),
        ..defaults
    }
}

fn make_engine(shared: &Shared, partition: u32, spent: &Spent) -> MakeEngine {
    let pipeline: Pipeline = shared.work.pipeline.clone();
    let spent = spent.clone();
    let (broker, hash_key) = (shared.broker.clone(), shared.hash_key);
    Box::new(move || {
        let timed = |(stage, guest)| Box::new(Timed { guest, stage, spent: spent.clone() }) as Box<dyn Guest>;
        let guests = pipeline.guests()?.into_iter().enumerate().map(timed).collect();
        engine(&pipeline, guests, partition, &pipeline.plan.source.stream, room(&broker), Envelope::Headers, hash_key)
    })
}

/// What one record may hold: what the broker takes, less what the batch adds.
fn room(broker: &Broker) -> Room {
    let payload_max = broker.client().server_info().max_payload;
    Room { record_bytes: payload_max.saturating_sub(BATCH_HEADER_BYTES), ..Room::default() }
}

/// Hands arrived answers to the machine; waits for the first one for at most `wait`.
fn take_answers(
    receiver: &Receiver<Event>,
    wait: Duration,
    machine: &mut Partition,
    store: &mut dyn Store,
    notices: &mut Notices,
    now: &dyn Fn() -> u64,
    actions: &mut Vec<Action>,
) {
    let mut next = if wait.is_zero() { receiver.try_recv().ok() } else { receiver.recv_timeout(wait).ok() };
    while let Some(event) = next {
        if let Event::Answer { response, .. } = &event {
            pass(match response {
                Response::Published(_) => "publish.after",
                Response::Survey(_) => "survey.after",
                Response::Changes(_) => "changes.after",
                Response::SnapshotFound(_) | Response::PartRead(_) => "rebuild.after",
                Response::SnapshotSaved => "snapshot.after",
                _ => "ask.after",
            });
        }
        if let Event::Answer { response: Response::Published(published), .. } = &event {
            notices.published(published);
        }
        machine.handle(event, now(), store, actions);
        next = receiver.try_recv().ok();
    }
}

/// Carries one question out on the runtime.
fn ask(shared: &Shared, log: &Log, ticket: u64, request: Request, sender: &Sender<Event>) {
    pass(match &request {
        Request::Publish { .. } => "publish.before",
        Request::Ack { .. } => "ack.before",
        Request::Reset { .. } => "reset.before",
        Request::Survey { .. } => "survey.before",
        Request::SaveSnapshot { .. } => "snapshot.before",
        Request::FindSnapshot { .. } | Request::ReadPart { .. } => "rebuild.before",
        Request::Changes { .. } => "changes.before",
        Request::AcquireLease => "lease.before",
        _ => "ask.before",
    });
    let during = match &request {
        Request::Publish { .. } => "publish.during",
        Request::SaveSnapshot { .. } => "snapshot.during",
        _ => "ask.during",
    };
    let (log, sender) = (log.clone(), sender.clone());
    shared.runtime.spawn(async move {
        let response = log.perform(request).await;
        // The thread may have ended: then nobody waits for the answer.
        drop(sender.send(Event::Answer { ticket, response }));
    });
    pass(during);
}
