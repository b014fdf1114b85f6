//! A module: verified bytes, compiled for deadlines and for fuel.

use std::fmt;
use std::sync::{Arc, OnceLock};

use pelton_engine::guest::{Guest, Identity, World};
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, InstancePre};

use crate::bindings::exports::pelton::guest::{
    erasures, meta, migrations, reducers, transformer, window_folds, window_rules,
};
use crate::compile::Compiled;
use crate::describe::{self, Optional};
use crate::engines::Linked;
use crate::error::{LoadError, Refusal};
use crate::host::Host;
use crate::instance::{self, Instance};
use crate::limits::Limits;
use crate::log::ModuleLog;
use crate::sandbox::Shared;

/// A module that may be instantiated; cheap to clone.
#[derive(Clone)]
pub struct Module {
    loaded: Arc<Loaded>,
}

/// What all instances of a module share.
pub(crate) struct Loaded {
    pub(crate) shared: Arc<Shared>,
    pub(crate) identity: Identity,
    pub(crate) digest: [u8; 32],
    pub(crate) log: Arc<ModuleLog>,
    pub(crate) fast: Prepared,
    /// Machine code of the judge's build.
    judge_code: Vec<u8>,
    /// Linked when a call is first metered by fuel: most modules never need it.
    judge: OnceLock<Result<Prepared, String>>,
}

/// A compiled and linked module with the places of its exports.
pub(crate) struct Prepared {
    pub(crate) pre: InstancePre<Host>,
    pub(crate) meta: meta::GuestIndices,
    pub(crate) world: WorldIndices,
    pub(crate) migrations: Option<migrations::GuestIndices>,
    pub(crate) erasures: Option<erasures::GuestIndices>,
}

/// Where the functions of the module's world are.
pub(crate) enum WorldIndices {
    Transform(transformer::GuestIndices),
    WindowRule(window_rules::GuestIndices),
    Reducer(reducers::GuestIndices),
    WindowFold(window_folds::GuestIndices),
}

impl Module {
    /// Verify, compile, link, describe.
    pub(crate) fn load(shared: Arc<Shared>, bytes: &[u8], limits: &Limits) -> Result<Module, LoadError> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let Compiled { world, fast, judge: judge_code } = shared.compiled(bytes, digest, limits)?;
        let fast = Prepared::new(&shared.fast, &fast, world)
            .map_err(|error| Refusal::Compile.because(format!("module does not link: {error:#}")))?;
        shared.tick()?;
        let said = instance::identify(&fast, limits)
            .map_err(|problem| Refusal::Describe.because(format!("module does not describe itself: {problem}")))?;
        let identity = describe::identity(world, fast.optional(), said)
            .map_err(|problem| Refusal::Describe.because(format!("module describes itself wrongly: {problem}")))?;
        let log = ModuleLog::new(format!("{}@{}", identity.name, identity.version));
        let loaded = Loaded { shared, identity, digest, log, fast, judge_code, judge: OnceLock::new() };
        Ok(Module { loaded: Arc::new(loaded) })
    }

    /// What the module is, whatever its configuration.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.loaded.identity
    }

    /// sha256 of the module's bytes: its identity.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.loaded.digest
    }

    /// Makes an instance for one stage and partition and configures it with JSON text.
    ///
    /// # Errors
    /// When it does not start, or when the module refuses the configuration.
    pub fn instantiate(&self, config_json: &str, limits: &Limits) -> Result<Box<dyn Guest>, LoadError> {
        let instance = Instance::new(Arc::clone(&self.loaded), config_json, limits)?;
        Ok(Box::new(instance))
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("identity", &self.loaded.identity).finish_non_exhaustive()
    }
}

impl Loaded {
    /// The build that counts fuel.
    pub(crate) fn judge(&self) -> Result<&Prepared, String> {
        let link = || {
            Prepared::new(&self.shared.judge, &self.judge_code, self.identity.world)
                .map_err(|error| format!("module does not link for fuel: {error:#}"))
        };
        self.judge.get_or_init(link).as_ref().map_err(Clone::clone)
    }
}

impl Prepared {
    fn new(linked: &Linked, code: &[u8], world: World) -> wasmtime::Result<Prepared> {
        let component = component(linked, code)?;
        let pre = linked.linker.instantiate_pre(&component)?;
        let meta = meta::GuestIndices::new(&pre)?;
        let world = match world {
            World::Transform => WorldIndices::Transform(transformer::GuestIndices::new(&pre)?),
            World::WindowRule => WorldIndices::WindowRule(window_rules::GuestIndices::new(&pre)?),
            World::Reducer => WorldIndices::Reducer(reducers::GuestIndices::new(&pre)?),
            World::WindowFold => WorldIndices::WindowFold(window_folds::GuestIndices::new(&pre)?),
        };
        // These are optional: where one is missing, there is nothing to bind.
        let migrations = migrations::GuestIndices::new(&pre).ok();
        let erasures = erasures::GuestIndices::new(&pre).ok();
        Ok(Prepared { pre, meta, world, migrations, erasures })
    }

    fn optional(&self) -> Optional {
        Optional { migrations: self.migrations.is_some(), erasures: self.erasures.is_some() }
    }
}

/// Machine code, ready to run.
#[expect(unsafe_code, reason = "machine code from a compiler in another process cannot be run otherwise")]
fn component(linked: &Linked, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` was made by `Engine::precompile_component` of this very program: in this process, in a child whose
    // answer came through a pipe that only the two have, or earlier and kept in a cache that returns only what it was
    // given, under a keyed hash (`compile/cache.rs`). Code that somebody uploads is refused (`verify::kind`). wasmtime
    // checks version and settings. What is left is to trust the compiler, as every program that runs wasm does.
    unsafe { Component::deserialize(&linked.engine, code) }
}
