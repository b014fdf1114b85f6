//! What the host keeps beside one instance: its memory limit and its log. The only import is answered here.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::bindings::pelton::guest::{log, types};
use crate::limits::{
    INSTANCES_MAX, LOG_BYTES_PER_CALL_MAX, LOG_LINES_PER_CALL_MAX, Limits, TABLE_ELEMENTS_MAX, TABLES_MAX,
};
use crate::log::{CallLog, ModuleLog};

/// The data of one `Store`.
pub(crate) struct Host {
    /// Of all memories together.
    memory_bytes_max: usize,
    memory_bytes: usize,
    memories_max: usize,
    pub(crate) log: CallLog,
}

/// A limit of the host was hit; ends the call like a trap.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Exceeded(pub(crate) String);

impl Host {
    pub(crate) fn new(limits: &Limits, log: Arc<ModuleLog>) -> Host {
        let (memory_bytes_max, memories_max) = (limits.memory_bytes, limits.shape.memories);
        Host { memory_bytes_max, memory_bytes: 0, memories_max, log: CallLog::new(log) }
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.memory_bytes_max;
        // Growing ends the call where it fails, so what is counted here is there.
        let all = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if all > limit || desired > maximum.unwrap_or(usize::MAX) {
            return Err(Exceeded(format!("memory of {all} bytes, limit {limit} bytes")).into());
        }
        self.memory_bytes = all;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error.context("memory cannot grow"))
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = TABLE_ELEMENTS_MAX.min(maximum.unwrap_or(usize::MAX));
        if desired > limit {
            return Err(Exceeded(format!("table of {desired} elements, limit {limit}")).into());
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error.context("table cannot grow"))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        self.memories_max
    }
}

impl log::Host for Host {
    fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.log.line(level, &message);
        // A guest that only logs burns host time that neither fuel nor epochs see.
        if self.log.lines > LOG_LINES_PER_CALL_MAX {
            return Err(Exceeded(format!("more than {LOG_LINES_PER_CALL_MAX} log lines in one call")).into());
        }
        if self.log.bytes > LOG_BYTES_PER_CALL_MAX {
            return Err(Exceeded(format!("more than {LOG_BYTES_PER_CALL_MAX} bytes of log lines in one call")).into());
        }
        Ok(())
    }
}

impl types::Host for Host {}
