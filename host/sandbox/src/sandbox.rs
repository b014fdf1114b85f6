//! The sandbox of a process: its engines, its epoch ticker and its cache of compiled modules.
//!
//! The ticker starts on first use, so that a program that only checks files does not start it.

use std::hash::{Hash as _, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::compile::{Cache, Compiled, Compiler, Id};
use crate::engines::{self, Linked};
use crate::error::{LoadError, Refusal};
use crate::limits::Limits;
use crate::module::Module;
use crate::ticker::Ticker;

/// Modules of so many bytes take long enough to compile for a line in the log.
const TELL_BYTES: usize = 256 << 10;

/// How a [`Sandbox`] is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who compiles modules.
    pub compiler: Compiler,
    /// Where compiled modules are kept between runs. Created with access for this user only, and refused where others
    /// have written or could write.
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
    pub(crate) judge: Linked,
    ticker: Mutex<Option<Ticker>>,
    compiler: Compiler,
    cache: Option<Cache>,
}

impl Sandbox {
    /// Sets up the engines and the cache.
    ///
    /// # Errors
    /// When the cache folder cannot be made or the engine does not fit this machine.
    pub fn new(options: &Options) -> Result<Sandbox, LoadError> {
        let cache = match &options.cache_dir {
            None => None,
            Some(folder) => Some(Cache::open(folder).map_err(|error| {
                Refusal::Host.because(format!("cannot use cache folder `{}`: {error}", folder.display()))
            })?),
        };
        let linked = |config| {
            let start = |error| Refusal::Host.because(format!("cannot start the wasm engine: {error:#}"));
            Linked::new(&config).map_err(start)
        };
        let fast = linked(if options.pooling { engines::pooled(engines::fast()) } else { engines::fast() })?;
        let judge = linked(engines::judge())?;
        let compiler = options.compiler.clone();
        let shared = Shared { fast, judge, ticker: Mutex::new(None), compiler, cache };
        Ok(Sandbox { shared: Arc::new(shared) })
    }

    /// Verifies and compiles a module and asks it what it is.
    ///
    /// # Errors
    /// When the module is refused; [`LoadError::refusal`] says why.
    pub fn load(&self, bytes: impl AsRef<[u8]>, limits: &Limits) -> Result<Module, LoadError> {
        Module::load(Arc::clone(&self.shared), bytes.as_ref(), limits)
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

    /// The machine code of a module that was accepted: kept from before, or made now.
    pub(crate) fn compiled(&self, bytes: &[u8], digest: [u8; 32], limits: &Limits) -> Result<Compiled, LoadError> {
        let compile = || {
            // The others take a second or two.
            if bytes.len() >= TELL_BYTES {
                tracing::info!("compiling a module of {} KiB, once for this machine and version", bytes.len() >> 10);
            }
            self.compiler.compile(bytes, limits)
        };
        let Some(cache) = &self.cache else { return compile() };
        let id = Id { build: self.build(limits), module: digest };
        if let Some(compiled) = cache.get(id) {
            return Ok(compiled);
        }
        let compiled = compile()?;
        if let Err(error) = cache.put(id, &compiled) {
            // A full disk costs time, not the run.
            tracing::warn!(%error, "a compiled module cannot be kept");
        }
        Ok(compiled)
    }

    /// All that decides what the compiler makes, and what it was asked to refuse.
    fn build(&self, limits: &Limits) -> [u8; 32] {
        let mut all = Digested(Sha256::new());
        env!("CARGO_PKG_VERSION").hash(&mut all);
        self.fast.engine.precompile_compatibility_hash().hash(&mut all);
        self.judge.engine.precompile_compatibility_hash().hash(&mut all);
        format!("{:?}", limits.shape).hash(&mut all);
        all.0.finalize().into()
    }
}

/// sha256 of what hashes itself: 64 bits would be few for a name.
struct Digested(Sha256);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the whole digest is taken")
    }
}
