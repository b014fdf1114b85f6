//! The sandbox of a process: its engines, its epoch ticker and its cache of compiled modules.
//!
//! Both the ticker and the judge start on first use, so that a program that only checks files starts neither.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime::Cache;

use crate::engines::{self, Linked};
use crate::error::{LoadError, Refusal};
use crate::limits::Limits;
use crate::module::Module;
use crate::ticker::Ticker;

/// How a [`Sandbox`] is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where compiled modules are kept between runs. Created with access for this user only.
    pub cache_dir: Option<PathBuf>,
    /// Take instances from a pool of prepared memories: see [`Sandbox`] for when that pays.
    pub pooling: bool,
}

/// One per process; cheap to clone.
///
/// With a pool, start + configure + drop takes 0.3 of the time without, and a call just as long: instances live long
/// here, so it pays only in storms of faults and is off unless asked for. It reserves much address space.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

/// What all modules of a sandbox share; lives as long as the last of them.
pub(crate) struct Shared {
    pub(crate) fast: Linked,
    judge: OnceLock<Result<Linked, String>>,
    ticker: Mutex<Option<Ticker>>,
    cache: Option<Cache>,
}

impl Sandbox {
    /// Sets up the fast engine and the cache.
    ///
    /// # Errors
    /// When the cache folder cannot be made or the engine does not fit this machine.
    pub fn new(options: &Options) -> Result<Sandbox, LoadError> {
        let cache = match &options.cache_dir {
            None => None,
            Some(folder) => Some(engines::cache(folder).map_err(|error| {
                Refusal::Host.because(format!("cannot use cache folder `{}`: {error:#}", folder.display()))
            })?),
        };
        let fast = Linked::fast(cache.clone(), options.pooling)
            .map_err(|error| Refusal::Host.because(format!("cannot start the wasm engine: {error:#}")))?;
        let shared = Shared { fast, judge: OnceLock::new(), ticker: Mutex::new(None), cache };
        Ok(Sandbox { shared: Arc::new(shared) })
    }

    /// Verifies and compiles a module and asks it what it is.
    ///
    /// # Errors
    /// When the module is refused; [`LoadError::refusal`] says why.
    pub fn load(&self, bytes: impl Into<Arc<[u8]>>, limits: &Limits) -> Result<Module, LoadError> {
        Module::load(Arc::clone(&self.shared), bytes.into(), limits)
    }
}

impl Shared {
    /// Starts the ticker unless it runs.
    pub(crate) fn tick(&self) -> Result<(), LoadError> {
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        if ticker.is_none() {
            let started = Ticker::start(self.fast.engine.clone())
                .map_err(|error| Refusal::Host.because(format!("cannot start the epoch ticker: {error}")))?;
            *ticker = Some(started);
        }
        Ok(())
    }

    /// The engine that counts fuel.
    pub(crate) fn judge(&self) -> Result<&Linked, String> {
        let start = || Linked::judge(self.cache.clone()).map_err(|error| format!("cannot start the judge: {error:#}"));
        self.judge.get_or_init(start).as_ref().map_err(Clone::clone)
    }
}
