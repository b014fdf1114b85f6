//! Every bound of a module: of its bytes, of its calls and of its replies.
//!
//! The defaults are what a pipeline gets that says nothing. Each doc says what happens when the bound is hit.

use std::time::Duration;

/// Bounds of one module and of each call into it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Deadline of one call under `Metering::Deadline`; beyond it the call ends with `Fault::Timeout`.
    pub time_per_batch: Duration,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            time_per_batch: Duration::from_millis(100),
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
        }
    }
}

/// Bounds of a module's bytes. Size alone is none: 300 kB of calls in one function hold the compiler for over 25 s.
#[derive(Clone, Debug)]
pub struct ShapeLimits {
    /// Size of the whole file.
    pub module_bytes: usize,
    /// Functions of all core modules together. 300,000 tiny ones take 1.6 GB to compile.
    pub functions: u32,
    /// Size of one function's code. The largest of our guests is 48 KiB (`schema-check`).
    pub body_bytes: usize,
    /// `call` and `call_indirect` instructions in one function: the compiler is superlinear in them.
    pub calls_per_function: u32,
    /// Local variables of one function.
    pub locals_per_function: u32,
    /// Nested blocks in one function.
    pub nesting: u32,
    /// Targets of all jump tables together.
    pub jump_targets: u32,
    /// Bytes of all custom sections together.
    pub custom_bytes: usize,
    /// Core modules inside the component. A Rust module has up to four, Python ones a few dozen.
    pub core_modules: u32,
}

impl Default for ShapeLimits {
    fn default() -> ShapeLimits {
        ShapeLimits {
            module_bytes: 8 << 20,
            functions: 20_000,
            body_bytes: 128 << 10,
            calls_per_function: 8_000,
            locals_per_function: 2_000,
            nesting: 512,
            jump_targets: 64 << 10,
            custom_bytes: 1 << 20,
            core_modules: 64,
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
/// Core memories of one module instance.
pub(crate) const MEMORIES_MAX: usize = 1;
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
/// Bytes of a declared name.
pub(crate) const NAME_BYTES: usize = 128;
