//! Every bound of a module: of its bytes, of its calls and of its replies.
//!
//! The defaults are what a pipeline gets that says nothing. Each doc says what happens when the bound is hit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of one module and of each call into it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Deadline of one call under `Metering::Deadline`; beyond it the call ends with `Fault::Timeout`.
    pub call_timeout: Duration,
    /// Deadline of instantiation, `describe` and `configure`, each; beyond it loading or instantiating fails.
    pub time_to_configure: Duration,
    /// Fuel of one row under `Metering::Fuel`; beyond it the call ends with `Fault::Fuel`.
    pub fuel_per_event: u64,
    /// Fuel of instantiation and `configure` together on the judge's build.
    pub fuel_to_configure: u64,
    /// Largest linear memory; growing beyond it ends the call with `Fault::Limit`.
    pub memory_bytes: usize,
    /// Most bytes that one reply (or one log line) may hand to the host; beyond it `Fault::Limit`.
    pub reply_bytes: usize,
    /// Most records, samples or timers per row; beyond it `Fault::Limit`.
    pub records_per_event: u32,
    /// Most bytes of keys and payloads per row; beyond it `Fault::Limit`.
    pub bytes_per_event: u64,
    /// Most bytes of one key's state or accumulator; beyond it `Fault::Limit`.
    pub state_bytes: u32,
    /// Calls after which an instance is replaced by a fresh one. `None` keeps it. Tests use 1 to show hidden state.
    pub calls_per_instance: Option<u32>,
    /// Bounds of the module's bytes, checked before anything is compiled.
    pub shape: ShapeLimits,
    /// Bounds of the child that compiles it.
    pub compile: CompileLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            call_timeout: Duration::from_millis(100),
            time_to_configure: Duration::from_secs(2),
            fuel_per_event: 10_000_000,
            fuel_to_configure: 1_000_000_000,
            memory_bytes: 64 << 20,
            reply_bytes: 16 << 20,
            records_per_event: 256,
            bytes_per_event: 1 << 20,
            state_bytes: 1 << 20,
            calls_per_instance: None,
            shape: ShapeLimits::default(),
            compile: CompileLimits::default(),
        }
    }
}

/// Bounds of a child process that verifies a module and compiles both of its builds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Whole seconds of all its threads together; beyond them the module is refused.
    pub processor_time: Duration,
    /// Address space, bytes; beyond it the module is refused. A child takes some 200 MiB before it has read anything.
    pub memory_bytes: u64,
    /// Time of the clock; beyond it loading fails as it does on a machine without room, since the processor time was not
    /// used up.
    pub deadline: Duration,
}

impl Default for CompileLimits {
    /// For modules in machine code of their own: [`ShapeLimits::default`].
    fn default() -> CompileLimits {
        // The largest of our guests takes 10 to 20 s for both builds, and 380 MiB of address space. A compiler without
        // optimisation, as tests may have it, takes longer.
        let seconds = if cfg!(debug_assertions) { 240 } else { 60 };
        CompileLimits {
            processor_time: Duration::from_secs(seconds),
            memory_bytes: 576 << 20,
            deadline: Duration::from_secs(600),
        }
    }
}

impl CompileLimits {
    /// For modules that hold an interpreter: [`ShapeLimits::interpreter`].
    #[must_use]
    pub fn interpreter() -> CompileLimits {
        CompileLimits {
            processor_time: Duration::from_secs(240),
            memory_bytes: 3 << 30,
            deadline: Duration::from_secs(1200),
        }
    }
}

/// Bounds of a module's bytes: a quick first answer that says what is too much. They do not bound the compiler, which
/// [`CompileLimits`] does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShapeLimits {
    /// Size of the whole file. Compiling takes 2 to 5 s of the processor for each MiB, and the largest of our guests has
    /// 4.3 MiB (`schema-check`).
    pub module_bytes: usize,
    /// Functions of all core modules together. 300,000 tiny ones take 1.6 GB to compile.
    pub functions: u32,
    /// Size of one function's code. The largest of our guests is 48 KiB (`schema-check`).
    pub body_bytes: usize,
    /// Calls in one function, also of what the compiler calls by itself, as for `memory.grow`: it is superlinear in them.
    pub calls_per_function: u32,
    /// Local variables of one function.
    pub locals_per_function: u32,
    /// Blocks of one function, times its local variables: each block may have a value of its own for each of them.
    pub block_locals: u64,
    /// Nested blocks in one function.
    pub nesting: u32,
    /// Targets of all jump tables together.
    pub jump_targets: u32,
    /// Elements that all core modules together put into tables which they import: each takes 6 KiB to compile.
    pub imported_elements: u64,
    /// Bytes of all custom sections together.
    pub custom_bytes: usize,
    /// Core modules inside the component. A Rust module has up to four, Python ones a few dozen.
    pub core_modules: u32,
    /// Memories of all core modules together.
    pub memories: usize,
    /// Components in components, the outermost one counted.
    pub depth: u32,
    /// Instances, of core modules and of components, that one instance of the whole consists of.
    pub instances: u64,
}

impl Default for ShapeLimits {
    /// For modules in machine code of their own, as compilers of Rust, C and Go make them.
    fn default() -> ShapeLimits {
        ShapeLimits {
            module_bytes: 5 << 20,
            functions: 20_000,
            body_bytes: 128 << 10,
            calls_per_function: 8_000,
            locals_per_function: 2_000,
            block_locals: 1_000_000,
            nesting: 512,
            jump_targets: 64 << 10,
            imported_elements: 10_000,
            custom_bytes: 1 << 20,
            core_modules: 64,
            memories: 1,
            depth: 16,
            instances: 1_000,
        }
    }
}

impl ShapeLimits {
    /// For modules that hold an interpreter and what it runs, as tools for Python and JavaScript make them.
    #[must_use]
    pub fn interpreter() -> ShapeLimits {
        ShapeLimits {
            module_bytes: 24 << 20,
            functions: 60_000,
            body_bytes: 512 << 10,
            block_locals: 10_000_000,
            nesting: 1_024,
            memories: 4,
            ..ShapeLimits::default()
        }
    }
}

/// Fuel on top of `fuel_per_event` for moving one call's arguments in and its reply out.
pub(crate) const MARSHALLING_FUEL: u64 = 100_000;
/// Elements of one core table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Core instances of one module instance.
pub(crate) const INSTANCES_MAX: usize = 256;
/// Core tables of one module instance.
pub(crate) const TABLES_MAX: usize = 64;
/// Log lines of one call that are written; the rest is counted.
pub(crate) const LOG_LINES_PER_CALL: u32 = 64;
/// Log lines of one call after which the call ends with `Fault::Limit`.
pub(crate) const LOG_LINES_PER_CALL_MAX: u32 = 1_000_000;
/// Bytes of log lines of one call after which the call ends with `Fault::Limit`.
pub(crate) const LOG_BYTES_PER_CALL_MAX: usize = 256 << 20;
/// Bytes of one log line that are written.
pub(crate) const LOG_LINE_BYTES: usize = 1024;
/// Log lines per second of one module that are all written.
pub(crate) const LOG_LINES_PER_SECOND: u32 = 100;
/// Beyond that rate, one line in this many is written.
pub(crate) const LOG_SAMPLE: u32 = 100;
/// Bytes of a reject's detail that are kept.
pub(crate) const DETAIL_BYTES: usize = 1024;
/// Bytes of a reject's code.
pub(crate) const CODE_BYTES: usize = 64;
/// Fields, ports, attributes or aggregates of one module.
pub(crate) const DECLARATIONS_MAX: usize = 256;
/// Lanes of one module.
pub(crate) const LANES_MAX: usize = 32;
/// Counters of one module.
pub(crate) const COUNTERS_MAX: usize = 32;
/// Bytes of a reject's place.
pub(crate) const PLACE_BYTES: usize = 1024;
/// Bytes of the headers that a module gives one record.
pub(crate) const RECORD_HEADER_BYTES: usize = 16 << 10;
/// Bytes of a declared name.
pub(crate) const NAME_BYTES: usize = 128;
