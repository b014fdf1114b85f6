//! The life of an instance: started on first need, called with a budget, dropped after any fault.
//!
//! A trap closes the whole `Store`, so a faulty instance is never called again; the next call starts a fresh one and
//! runs `configure` again. Nothing is lost by that: a guest owns no state.

use std::sync::Arc;

use pelton_engine::event::Kind;
use pelton_engine::guest::{Descriptor, Fault, Metering, Shape, World};
use wasmtime::Store;

use crate::bindings::exports::pelton::guest::{
    erasures, meta, migrations, reducers, transformer, window_folds, window_rules,
};
use crate::bindings::pelton::guest::types::{Failure, Groups, Strings};
use crate::describe;
use crate::error::{LoadError, Refusal};
use crate::fault::{self, NotExported};
use crate::host::Host;
use crate::lend::{LentEvents, LentPanes, groups, no_strings};
use crate::limits::{DETAIL_BYTES, Limits, MARSHALLING_FUEL};
use crate::log::{ModuleLog, printable};
use crate::module::{Loaded, Prepared, WorldIndices};
use crate::ticker::ticks;

/// One stage's guest in one partition: a seat for running instances, and room for the vectors it borrows.
pub(crate) struct Instance {
    pub(crate) seat: Seat,
    pub(crate) events: LentEvents,
    pub(crate) panes: LentPanes,
    pub(crate) groups: Groups,
    pub(crate) left: Strings,
    pub(crate) right: Strings,
    /// Kinds of the derived fields; known once `aggregates` was called.
    pub(crate) derived: Option<Vec<Kind>>,
}

/// Where running instances of one module sit, one per way of metering.
pub(crate) struct Seat {
    pub(crate) loaded: Arc<Loaded>,
    /// With the shape that the first instance had; others must have the same.
    pub(crate) descriptor: Descriptor,
    pub(crate) limits: Limits,
    config: String,
    fast: Option<Running>,
    judge: Option<Running>,
}

/// A configured instance.
struct Running {
    store: Store<Host>,
    exports: Exports,
    calls: u32,
}

/// The functions of a module, bound to one instance.
pub(crate) struct Exports {
    world: WorldExports,
    migrations: Option<migrations::Guest>,
    erasures: Option<erasures::Guest>,
}

/// The functions of the module's world.
enum WorldExports {
    Transform(transformer::Guest),
    WindowRule(window_rules::Guest),
    Reducer(reducers::Guest),
    WindowFold(window_folds::Guest),
}

/// Why an instance could not be started.
enum Unready {
    /// The guest did not start or its `configure` did not return.
    Failed(String),
    /// `configure` returned an error.
    Refused(String),
    /// `configure` returned a shape that cannot be.
    Misshapen(String),
}

impl Instance {
    /// Starts and configures the first instance.
    pub(crate) fn new(loaded: Arc<Loaded>, config: &str, limits: &Limits) -> Result<Instance, LoadError> {
        let name = &loaded.identity.name;
        let start = Start { loaded: &loaded, limits, config, metering: Metering::Deadline };
        let (running, shape) = Running::start(&loaded.fast, &start).map_err(|unready| match unready {
            Unready::Failed(problem) => Refusal::Describe.because(format!("module `{name}` does not start: {problem}")),
            Unready::Refused(problem) => {
                Refusal::Configure.because(format!("module `{name}` refuses its configuration: {problem}"))
            }
            Unready::Misshapen(problem) => {
                Refusal::Describe.because(format!("module `{name}` has a shape that cannot be: {problem}"))
            }
        })?;
        let descriptor = Descriptor { identity: loaded.identity.clone(), shape };
        let seat = Seat {
            loaded,
            descriptor,
            limits: limits.clone(),
            config: config.to_owned(),
            fast: Some(running),
            judge: None,
        };
        Ok(Instance {
            seat,
            events: LentEvents::new(),
            panes: LentPanes::new(),
            groups: groups(),
            left: no_strings(),
            right: no_strings(),
            derived: None,
        })
    }
}

impl Seat {
    /// Runs one call of `rows` rows on an instance; starts one when there is none.
    pub(crate) fn call<R>(
        &mut self,
        metering: Metering,
        rows: usize,
        call: impl FnOnce(&Exports, &mut Store<Host>) -> wasmtime::Result<Result<R, Failure>>,
    ) -> Result<R, Fault> {
        self.ready(metering)?;
        let (reply_bytes, fuel) = (self.limits.reply_bytes, self.fuel(rows));
        let time = ticks(self.limits.call_timeout);
        let running = self.slot(metering).as_mut().expect("`ready` has just filled the slot");
        running.calls = running.calls.saturating_add(1);
        running.store.data_mut().log.begin();
        budget(&mut running.store, metering, time, fuel).map_err(|error| Fault::Host(format!("{error:#}")))?;
        match call(&running.exports, &mut running.store) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => Err(fault::of_failure(failure)),
            Err(error) => Err(fault::of_error(&error, running.store.data().log.last_error(), reply_bytes)),
        }
    }

    /// Passes `result` on and, when it is a fault, empties the slot so that the next call gets a fresh instance.
    pub(crate) fn settle<R>(&mut self, metering: Metering, result: Result<R, Fault>) -> Result<R, Fault> {
        if result.is_err() {
            *self.slot(metering) = None;
        }
        result
    }

    fn slot(&mut self, metering: Metering) -> &mut Option<Running> {
        match metering {
            Metering::Deadline => &mut self.fast,
            Metering::Fuel => &mut self.judge,
        }
    }

    fn fuel(&self, rows: usize) -> u64 {
        let rows = u64::try_from(rows.max(1)).unwrap_or(u64::MAX);
        self.limits.fuel_per_event.saturating_mul(rows).saturating_add(MARSHALLING_FUEL)
    }

    fn ready(&mut self, metering: Metering) -> Result<(), Fault> {
        let calls_max = self.limits.calls_per_instance.unwrap_or(u32::MAX);
        if self.slot(metering).as_ref().is_some_and(|running| running.calls < calls_max) {
            return Ok(());
        }
        // The old one goes first: a pool may have no free slot for both.
        *self.slot(metering) = None;
        let prepared = match metering {
            Metering::Deadline => &self.loaded.fast,
            Metering::Fuel => self.loaded.judge().map_err(Fault::Host)?,
        };
        let name = &self.loaded.identity.name;
        let start = Start { loaded: &self.loaded, limits: &self.limits, config: &self.config, metering };
        let (running, shape) = Running::start(prepared, &start).map_err(|unready| {
            let (Unready::Failed(problem) | Unready::Refused(problem) | Unready::Misshapen(problem)) = unready;
            Fault::Host(format!("module `{name}` does not start again: {problem}"))
        })?;
        // The plan was made for the first one. A module that changes its mind cannot be trusted with anything.
        if shape != self.descriptor.shape {
            return Err(Fault::Halt(format!("module `{name}` has another shape when it is configured again")));
        }
        *self.slot(metering) = Some(running);
        Ok(())
    }
}

/// What an instance is started with.
struct Start<'a> {
    loaded: &'a Loaded,
    limits: &'a Limits,
    config: &'a str,
    metering: Metering,
}

impl Running {
    /// A configured instance, and the shape that it has by that.
    fn start(prepared: &Prepared, start: &Start<'_>) -> Result<(Running, Shape), Unready> {
        let Start { loaded, limits, config, metering } = *start;
        let mut store = store(prepared, Arc::clone(&loaded.log), limits, metering)
            .map_err(|error| Unready::Failed(format!("{error:#}")))?;
        let failed = |store: &Store<Host>, error: &wasmtime::Error| Unready::Failed(explain(store, error, limits));
        let (meta, exports) = bind(prepared, &mut store).map_err(|error| failed(&store, &error))?;
        // Configuration gets a deadline of its own; fuel is one budget for start and configuration.
        store.set_epoch_deadline(ticks(limits.time_to_configure));
        match meta.call_configure(&mut store, config) {
            Ok(Ok(said)) => {
                let shape = describe::shape(said).map_err(Unready::Misshapen)?;
                Ok((Running { store, exports, calls: 0 }, shape))
            }
            Ok(Err(problem)) => Err(Unready::Refused(printable(&problem, DETAIL_BYTES).into_owned())),
            Err(error) => Err(failed(&store, &error)),
        }
    }
}

/// Asks a module what it is, on an instance that is dropped afterwards.
pub(crate) fn identify(prepared: &Prepared, limits: &Limits) -> Result<meta::Identity, String> {
    let log = ModuleLog::new("(module being loaded)".into());
    let mut store = store(prepared, log, limits, Metering::Deadline).map_err(|error| format!("{error:#}"))?;
    let said = bind(prepared, &mut store).and_then(|(meta, _)| {
        store.set_epoch_deadline(ticks(limits.time_to_configure));
        meta.call_describe(&mut store)
    });
    said.map_err(|error| explain(&store, &error, limits))
}

/// A store with all limits set and the budget of a start.
fn store(
    prepared: &Prepared,
    log: Arc<ModuleLog>,
    limits: &Limits,
    metering: Metering,
) -> wasmtime::Result<Store<Host>> {
    let mut store = Store::new(prepared.pre.engine(), Host::new(limits, log));
    store.limiter(|host| host);
    store.set_hostcall_fuel(limits.reply_bytes);
    budget(&mut store, metering, ticks(limits.time_to_configure), limits.fuel_to_configure)?;
    Ok(store)
}

/// Time or fuel until the next budget.
fn budget(store: &mut Store<Host>, metering: Metering, ticks: u64, fuel: u64) -> wasmtime::Result<()> {
    match metering {
        Metering::Deadline => store.set_epoch_deadline(ticks),
        Metering::Fuel => store.set_fuel(fuel)?,
    }
    Ok(())
}

/// Instantiates and looks the exports up; fails when their types are not the contract's.
fn bind(prepared: &Prepared, mut store: &mut Store<Host>) -> wasmtime::Result<(meta::Guest, Exports)> {
    let instance = prepared.pre.instantiate(&mut store)?;
    let meta = prepared.meta.load(&mut store, &instance)?;
    let world = match &prepared.world {
        WorldIndices::Transform(indices) => WorldExports::Transform(indices.load(&mut store, &instance)?),
        WorldIndices::WindowRule(indices) => WorldExports::WindowRule(indices.load(&mut store, &instance)?),
        WorldIndices::Reducer(indices) => WorldExports::Reducer(indices.load(&mut store, &instance)?),
        WorldIndices::WindowFold(indices) => WorldExports::WindowFold(indices.load(&mut store, &instance)?),
    };
    let migrations = prepared.migrations.as_ref().map(|indices| indices.load(&mut store, &instance)).transpose()?;
    let erasures = prepared.erasures.as_ref().map(|indices| indices.load(&mut store, &instance)).transpose()?;
    Ok((meta, Exports { world, migrations, erasures }))
}

/// One line on why a start failed.
fn explain(store: &Store<Host>, error: &wasmtime::Error, limits: &Limits) -> String {
    match fault::of_start(error, store.data().log.last_error(), limits.reply_bytes) {
        Fault::Timeout => format!("it took longer than {} ms", limits.time_to_configure.as_millis()),
        Fault::Fuel => format!("it took more than {} units of fuel", limits.fuel_to_configure),
        Fault::Trap(text) | Fault::Limit(text) | Fault::Contract(text) => text,
        Fault::Retry(text) | Fault::Halt(text) | Fault::Host(text) => text,
    }
}

impl Exports {
    fn world(&self) -> World {
        match self.world {
            WorldExports::Transform(_) => World::Transform,
            WorldExports::WindowRule(_) => World::WindowRule,
            WorldExports::Reducer(_) => World::Reducer,
            WorldExports::WindowFold(_) => World::WindowFold,
        }
    }

    fn other(&self, wanted: World) -> wasmtime::Error {
        NotExported::OtherWorld { is: self.world(), wanted }.into()
    }

    pub(crate) fn transform(&self) -> wasmtime::Result<&transformer::Guest> {
        if let WorldExports::Transform(guest) = &self.world { Ok(guest) } else { Err(self.other(World::Transform)) }
    }

    pub(crate) fn window_rule(&self) -> wasmtime::Result<&window_rules::Guest> {
        if let WorldExports::WindowRule(guest) = &self.world { Ok(guest) } else { Err(self.other(World::WindowRule)) }
    }

    pub(crate) fn reducer(&self) -> wasmtime::Result<&reducers::Guest> {
        if let WorldExports::Reducer(guest) = &self.world { Ok(guest) } else { Err(self.other(World::Reducer)) }
    }

    pub(crate) fn window_fold(&self) -> wasmtime::Result<&window_folds::Guest> {
        if let WorldExports::WindowFold(guest) = &self.world { Ok(guest) } else { Err(self.other(World::WindowFold)) }
    }

    pub(crate) fn migrations(&self) -> wasmtime::Result<&migrations::Guest> {
        self.migrations.as_ref().ok_or_else(|| NotExported::Optional("migrations").into())
    }

    pub(crate) fn erasures(&self) -> wasmtime::Result<&erasures::Guest> {
        self.erasures.as_ref().ok_or_else(|| NotExported::Optional("erasures").into())
    }
}
