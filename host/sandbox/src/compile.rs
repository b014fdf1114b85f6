//! From a module's bytes to machine code: verified and compiled, in this process or in a child with limits.
//!
//! A list of shapes does not bound a compiler: 27 kB within all limits of shape can hold it for minutes. So the program
//! has the work done by a child that may be killed ([`child`], [`serve`]), and keeps what it made ([`cache`]).

pub(crate) mod cache;
pub(crate) mod child;
pub(crate) mod serve;

use std::panic::resume_unwind;

use pelton_engine::guest::World;
use wasmtime::{Config, Engine};

pub(crate) use cache::{Cache, Id};
pub use child::{Child, Cost};
pub use serve::serve;

use crate::engines;
use crate::error::{LoadError, Refusal};
use crate::limits::{Limits, ShapeLimits};
use crate::verify;

/// Who compiles.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// This process, bounded by the limits of shape only: for tests, and for modules that are trusted.
    #[default]
    InProcess,
    /// A child process, within [`CompileLimits`](crate::CompileLimits).
    Child(Child),
}

/// A module that was accepted, in machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) world: World,
    /// The build that ends at a deadline.
    pub(crate) fast: Vec<u8>,
    /// The build that counts fuel. Made at the same time, so that no partition waits for a compiler, or learns from it
    /// that there is none.
    pub(crate) judge: Vec<u8>,
}

impl Compiler {
    /// Verifies and compiles `bytes`, which are of nobody that we trust.
    pub(crate) fn compile(&self, bytes: &[u8], limits: &Limits) -> Result<Compiled, LoadError> {
        match self {
            Compiler::InProcess => compile(bytes, &limits.shape),
            Compiler::Child(child) => child.compile(bytes, limits).0,
        }
    }
}

/// Verifies and compiles in this process.
fn compile(bytes: &[u8], shape: &ShapeLimits) -> Result<Compiled, LoadError> {
    let world = verify::verify(bytes, shape)?;
    let code = |config: Config| {
        let engine = Engine::new(&config);
        let engine =
            engine.map_err(|error| Refusal::Host.because(format!("cannot start the wasm engine: {error:#}")))?;
        let wrong = |error| Refusal::Compile.because(format!("module does not compile: {error:#}"));
        engine.precompile_component(bytes).map_err(wrong)
    };
    // Functions are compiled at the same time, too, but a module may consist of a single large one.
    let (fast, judge) = std::thread::scope(|scope| {
        let judge = scope.spawn(|| code(engines::judge()));
        (code(engines::fast()), judge.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    Ok(Compiled { world, fast: fast?, judge: judge? })
}
