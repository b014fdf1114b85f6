//! The two wasmtime engines: a fast one with deadlines, and a judge that counts fuel.
//!
//! Both compile without the features that caused most advisories of 2026, and both canonicalize NaNs, so that the same
//! call gives the same bytes on every machine.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Result,
    WasmBacktraceDetails,
};

use crate::bindings::pelton::guest::{log, types};
use crate::host::Host;

/// Largest memory that a slot of the pool can hold; the limit of a module is checked separately.
const POOL_MEMORY_BYTES: usize = 1 << 30;
/// Instances that exist at one time when pooling.
const POOL_INSTANCES: u32 = 256;

/// Stack of a call.
const FAST_STACK_BYTES: usize = 512 << 10;
/// Counting fuel makes frames larger, and a row that the fast build could answer must not fail before the judge: what
/// becomes of it would depend on the rows beside it.
const JUDGE_STACK_BYTES: usize = 2 * FAST_STACK_BYTES;

/// An engine with everything that every module links to.
pub(crate) struct Linked {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
}

/// Settings of the build whose calls end at a deadline.
pub(crate) fn fast() -> Config {
    let mut config = restricted();
    config.epoch_interruption(true).max_wasm_stack(FAST_STACK_BYTES);
    config
}

/// Settings of the build whose calls end when their fuel is spent. Bulk operations cost one unit per byte, growing memory
/// 100 per page.
pub(crate) fn judge() -> Config {
    let mut config = restricted();
    config.consume_fuel(true).max_wasm_stack(JUDGE_STACK_BYTES);
    let mut cost = wasmtime::OperatorCost::new();
    cost.variable.memory_grow_per_page = 100;
    config.operator_cost(cost);
    config
}

/// The same settings, with a pool of memories for instances. It does not change what the compiler makes.
pub(crate) fn pooled(mut config: Config) -> Config {
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    config
}

impl Linked {
    pub(crate) fn new(config: &Config) -> Result<Linked> {
        let engine = Engine::new(config)?;
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host)?;
        types::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host)?;
        Ok(Linked { engine, linker })
    }
}

/// What both engines share. Threads, garbage collection, exceptions, stack switching and component async are left out
/// at build time (cargo features).
fn restricted() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .cranelift_nan_canonicalization(true)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .concurrency_support(false);
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOL_INSTANCES)
        .total_core_instances(POOL_INSTANCES * 8)
        .total_memories(POOL_INSTANCES)
        .total_tables(POOL_INSTANCES * 4)
        .max_memory_size(POOL_MEMORY_BYTES)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(16 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

#[cfg(test)]
mod tests {
    use wasmtime::{Instance, Module, Store};

    use super::*;

    /// The smallest frames and large ones.
    const SHALLOW: &str = "(local.get 0)";
    const WIDE: &str =
        "(i64.add (local.get 0) (i64.add (i64.mul (local.get 0) (i64.const 3)) (i64.xor (local.get 0) (i64.const 5))))";

    /// How many calls deep this build gets.
    fn depth(config: &Config, value: &str) -> i64 {
        let text = format!(
            "(module (func $f (export \"f\") (param i64) (result i64) (if (result i64) (i64.eqz (local.get 0)) \
             (then (i64.const 0)) (else (i64.add {value} (call $f (i64.sub (local.get 0) (i64.const 1))))))))"
        );
        let engine = Engine::new(config).unwrap();
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let passes = |depth: i64| {
            let mut store = Store::new(&engine, ());
            // One of them does nothing for each build.
            drop(store.set_fuel(u64::MAX));
            store.set_epoch_deadline(1);
            let instance = Instance::new(&mut store, &module, &[]).unwrap();
            instance.get_typed_func::<i64, i64>(&mut store, "f").unwrap().call(&mut store, depth).is_ok()
        };
        let (mut good, mut bad) = (1, 1 << 20);
        assert!(passes(good) && !passes(bad));
        while bad - good > 1 {
            let middle = i64::midpoint(good, bad);
            *(if passes(middle) { &mut good } else { &mut bad }) = middle;
        }
        good
    }

    #[test]
    fn the_judge_gets_as_deep_as_the_fast_build() {
        for value in [SHALLOW, WIDE] {
            let (fast, judge) = (depth(&fast(), value), depth(&judge(), value));
            assert!(fast > 1000 && judge >= fast, "{judge} calls, {fast} in the fast build");
        }
    }
}
