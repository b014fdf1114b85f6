//! Running from JetStream: one thread per partition drives the protocol, tokio carries its questions out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pelton_broker::{Broker, Log, LogOptions, ProvisionOptions, Target};
use pelton_engine::effects::Room;
use pelton_engine::guest::Guest;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::{Action, Config, Event, MakeEngine, Partition};
use pelton_engine::plan::Plan;
use pelton_engine::step::Envelope;
use pelton_engine::store::Store;
use pelton_serve::{Board, Server, Shape};
use tokio::runtime::{Handle, Runtime};
use tracing::{error, info};

use super::failpoint::{Watched, bound, pass};
use super::notices::Notices;
use super::timed::{Spent, Timed};
use super::{engine, guests, open_store, session};
use crate::cli::failure::{Exit, Failure};
use crate::cli::run::{Listen, StreamOptions};
use crate::pipeline::Pipeline;

/// How long a partition's thread sleeps at most while it waits.
const TICK: Duration = Duration::from_millis(5);
/// Panics of one partition within [`PANIC_WINDOW`] after which it is given up.
const PANICS_MAX: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);
/// Partition threads run guests: wasm frames plus host frames.
const STACK_BYTES: usize = 4 << 20;

/// Everything that the threads of a run share.
struct Shared {
    options: StreamOptions,
    plan: Arc<Plan>,
    runtime: Handle,
    broker: Broker,
    stop: AtomicBool,
}

/// How a partition's thread ended.
enum Ended {
    Stopped { epochs: u64 },
    Halted(String),
}

/// Runs until the input is drained, a signal comes or every partition has halted.
pub(crate) fn run(options: StreamOptions) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let plan = Arc::new(options.pipeline.plan.clone());
    let broker = runtime.block_on(connect(&options, &plan))?;
    let board = Board::new();
    let stop_serving = serve(&runtime, options.listen, &board)?;
    let shared =
        Arc::new(Shared { options, plan, runtime: runtime.handle().clone(), broker, stop: AtomicBool::new(false) });
    watch_signals(&shared);
    let threads: Vec<_> = shared
        .options
        .partitions
        .iter()
        .map(|&partition| {
            let (shared, board) = (shared.clone(), board.clone());
            std::thread::Builder::new()
                .name(format!("partition-{partition}"))
                .stack_size(STACK_BYTES)
                .spawn(move || supervise(&shared, partition, &board))
        })
        .collect::<Result<_, _>>()?;
    let mut epochs = 0;
    let mut halted = Vec::new();
    for (thread, partition) in threads.into_iter().zip(&shared.options.partitions) {
        match thread.join() {
            Ok(Ok(Ended::Stopped { epochs: count })) => epochs += count,
            Ok(Ok(Ended::Halted(evidence))) => halted.push(format!("partition {partition}: {evidence}")),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => halted.push(format!("partition {partition}: its thread panicked")),
        }
    }
    drop(stop_serving);
    runtime.shutdown_timeout(Duration::from_millis(200));
    if !halted.is_empty() {
        let hint =
            "what was committed is safe; README says for each code what to do, `pelton status` shows the last epoch";
        return Err(Failure::halted(halted.join("; ")).hint(hint));
    }
    info!(pipeline = shared.plan.name, epochs, "stopped");
    Ok(())
}

/// Waits for the broker, and compares what exists with what the plan expects.
async fn connect(options: &StreamOptions, plan: &Plan) -> Result<Broker, Failure> {
    let broker = Broker::connect(&options.connect).await?;
    let drifts = pelton_broker::verify(&broker, plan, &ProvisionOptions::default()).await?;
    if !drifts.is_empty() {
        let list: Vec<String> = drifts.iter().map(ToString::to_string).collect();
        return Err(Failure::new(
            Exit::Environment,
            anyhow::anyhow!("the broker is not as the pipeline expects: {}", list.join("; ")),
        )
        .hint("`pelton up PIPELINE` creates what is missing and says what differs"));
    }
    Ok(broker)
}

/// Serves metrics and health until the returned sender is dropped.
fn serve(
    runtime: &Runtime,
    listen: Listen,
    board: &Board,
) -> Result<Option<tokio::sync::oneshot::Sender<()>>, Failure> {
    let bound = match listen {
        Listen::Off => return Ok(None),
        Listen::At(address) => runtime.block_on(Server::bind(address)),
        Listen::Prefer(address) => runtime.block_on(async {
            match Server::bind(address).await {
                Ok(server) => Ok(server),
                Err(_) => Server::bind(std::net::SocketAddr::new(address.ip(), 0)).await,
            }
        }),
    };
    let server = bound.map_err(|error| Failure::new(Exit::Environment, error))?;
    info!("metrics on http://{}/metrics, health on /healthz", server.address());
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let board = board.clone();
    runtime.spawn(async move {
        if let Err(error) = server.run(board, async { drop(receiver.await) }).await {
            error!(%error, "metrics are no longer served");
        }
    });
    Ok(Some(sender))
}

/// Ctrl-C and SIGTERM finish or abandon the epoch; a second one ends at once.
fn watch_signals(shared: &Arc<Shared>) {
    let shared = shared.clone();
    let runtime = shared.runtime.clone();
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("stopping");
        shared.stop.store(true, Ordering::SeqCst);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(130);
    });
}

/// Starts a partition again when it panics; one that keeps panicking is given up, others go on.
fn supervise(shared: &Shared, partition: u32, board: &Board) -> Result<Ended, Failure> {
    let stages: Vec<&str> = shared.plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    let outputs: Vec<&str> = shared.plan.outputs.iter().map(|output| output.name.as_str()).collect();
    let shape = Shape { pipeline: &shared.plan.name, partition, stages: &stages, outputs: &outputs };
    let metrics = board.partition(&shape);
    let mut panics: Vec<Instant> = Vec::new();
    loop {
        let spent = Spent::new(shared.plan.stages.len());
        let notices = Notices::new(&shared.plan.name, partition, metrics.clone(), spent.clone());
        match catch_unwind(AssertUnwindSafe(|| drive(shared, partition, notices, &spent))) {
            Ok(ended) => return ended,
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
                    return Ok(Ended::Halted(format!("panicked {PANICS_MAX} times within {PANIC_WINDOW:?}: {text}")));
                }
            }
        }
    }
}

/// Drives one partition until it stops or halts.
fn drive(shared: &Shared, partition: u32, mut notices: Notices, spent: &Spent) -> Result<Ended, Failure> {
    let dir = shared.options.state.join(format!("p{partition}"));
    pass("open.before");
    let mut store = Watched(open_store(&dir)?);
    pass("open.after");
    let log = Log::new(
        &shared.broker,
        Target::new(&shared.plan, partition),
        LogOptions { holder: shared.options.holder.clone(), ..LogOptions::default() },
    );
    let defaults = Config::new(partition, session());
    let config = Config {
        drain: shared.options.drain,
        accept_gaps: shared.options.accept_loss,
        snapshot_epochs: bound("PELTON_TEST_SNAPSHOT_EPOCHS", defaults.snapshot_epochs),
        ..defaults
    };
    let mut machine = Partition::new(shared.plan.clone(), config, make_engine(shared, partition, spent));
    let (sender, receiver) = channel();
    let start = Instant::now();
    let now = || start.elapsed().as_millis() as u64;
    let mut actions = Vec::new();
    let mut ticked = Instant::now();
    let mut stopping = false;
    machine.handle(Event::Tick, now(), &mut store, &mut actions);
    loop {
        for action in actions.drain(..) {
            match action {
                Action::Ask { ticket, request } => ask(shared, &log, ticket, request, &sender),
                Action::Tell(notice) => notices.take(notice),
                Action::Stopped => return Ok(Ended::Stopped { epochs: notices.epochs }),
            }
        }
        if let Some(evidence) = notices.halted.take() {
            // The store is closed; the lease runs out by itself, and whoever takes it will find the same.
            return Ok(Ended::Halted(evidence));
        }
        if shared.stop.load(Ordering::Relaxed) && !stopping {
            stopping = true;
            machine.handle(Event::Stop, now(), &mut store, &mut actions);
        }
        let wait = if machine.has_work() { Duration::ZERO } else { TICK };
        take_answers(&receiver, wait, &mut machine, &mut store, &mut notices, &now, &mut actions);
        if machine.has_work() {
            machine.work(now(), &mut store, &mut actions);
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            machine.handle(Event::Tick, now(), &mut store, &mut actions);
        }
    }
}

fn make_engine(shared: &Shared, partition: u32, spent: &Spent) -> MakeEngine {
    let pipeline: Pipeline = shared.options.pipeline.clone();
    let plan = shared.plan.clone();
    let spent = spent.clone();
    Box::new(move || {
        let timed = |(stage, guest)| Box::new(Timed { guest, stage, spent: spent.clone() }) as Box<dyn Guest>;
        let guests = guests(&pipeline)?.into_iter().enumerate().map(timed).collect();
        engine(&plan, guests, partition, &plan.source.stream, Room::default(), Envelope::Headers)
    })
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
                Response::Snapshot(_) => "rebuild.after",
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
        Request::LoadSnapshot { .. } => "rebuild.before",
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
