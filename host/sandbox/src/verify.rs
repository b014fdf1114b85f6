//! Checks of a module's bytes before anything is compiled: what it is, what it imports and exports.
//!
//! Order: cheap checks first, then wasmparser's validation with our features, then imports and exports by their types.

use pelton_engine::guest::World;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Parser, Validator, WasmFeatures, types::Types};

use crate::error::{LoadError, Refusal};
use crate::limits::ShapeLimits;
use crate::shape::{invalid, measure};

/// The package and the version of the contract that this host speaks. Patch versions are compatible.
const PACKAGE: &str = "pelton:guest/";
const VERSION: &str = "0.1.";

/// Refuses `bytes` or says which world they implement.
pub(crate) fn verify(bytes: &[u8], limits: &ShapeLimits) -> Result<World, LoadError> {
    size(bytes, limits)?;
    kind(bytes)?;
    let shape = measure(bytes, limits)?;
    let types = Validator::new_with_features(features()).validate_all(bytes).map_err(invalid)?;
    imports(&shape.imports, &types)?;
    world(&shape.exports)
}

/// The proposals that modules may use: what rustc, clang and the interpreters emit, and nothing newer.
fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

/// An error when the whole is too large to be looked at.
pub(crate) fn size(bytes: &[u8], limits: &ShapeLimits) -> Result<(), LoadError> {
    if bytes.len() <= limits.module_bytes {
        return Ok(());
    }
    let (size, limit) = (mebibytes(bytes.len()), mebibytes(limits.module_bytes));
    Err(Refusal::Size.because(format!("module is {size}, limit {limit}")))
}

/// The outermost format.
fn kind(bytes: &[u8]) -> Result<(), LoadError> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Refusal::Precompiled.because("this is precompiled machine code; upload the .wasm it was made from"));
    }
    if bytes.is_empty() {
        return Err(Refusal::NotWasm.because("the file is empty"));
    }
    if !bytes.starts_with(b"\0asm") {
        let hint = if bytes.iter().take(64).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
            "this is text, not wasm"
        } else {
            "this is not wasm: the first bytes are not `\\0asm`"
        };
        return Err(Refusal::NotWasm.because(hint));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(
            Refusal::CoreModule.because("this is a core wasm module, not a component; link it with wasm-component-ld")
        );
    }
    Ok(())
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Only `log`, and instances that hold nothing but types.
fn imports(names: &[&str], types: &Types) -> Result<(), LoadError> {
    let foreign: Vec<&str> = names.iter().copied().filter(|name| !allowed(name, types)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let mut list = foreign.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if foreign.len() > 8 {
        list.push_str(&format!(" and {} more", foreign.len() - 8));
    }
    let hint = if foreign.iter().any(|name| name.starts_with("wasi:")) {
        "; build for wasm32-unknown-unknown, or stub WASI, to have no WASI imports"
    } else {
        ""
    };
    Err(Refusal::Import.because(format!("module imports {list}; only `pelton:guest/log@0.1` is allowed{hint}")))
}

fn allowed(name: &str, types: &Types) -> bool {
    let Some(interface) = interface(name) else { return false };
    let types = types.as_ref();
    let Some(item) = types.component_item_for_import(name) else { return false };
    let ComponentEntityType::Instance(id) = item.ty else { return false };
    types[id].exports.iter().all(|(item_name, item)| match item.ty {
        ComponentEntityType::Type { .. } => true,
        ComponentEntityType::Func(_) => interface == "log" && item_name == "log",
        _ => false,
    })
}

/// `log` of `pelton:guest/log@0.1.3`; nothing for other packages and versions.
fn interface(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    version.starts_with(VERSION).then_some(interface)
}

/// `meta` and exactly one of the four interfaces.
fn world(exports: &[&str]) -> Result<World, LoadError> {
    const WORLDS: [(&str, World); 4] = [
        ("transformer", World::Transform),
        ("window-rules", World::WindowRule),
        ("reducers", World::Reducer),
        ("window-folds", World::WindowFold),
    ];
    let has = |wanted: &str| exports.iter().any(|name| interface(name) == Some(wanted));
    let found: Vec<_> = WORLDS.iter().filter(|(name, _)| has(name)).collect();
    let other = exports.iter().find(|name| name.starts_with(PACKAGE) && interface(name).is_none());
    match (found.as_slice(), other) {
        ([(_, world)], _) if has("meta") => Ok(*world),
        ([], Some(name)) => {
            Err(Refusal::World
                .because(format!("module exports `{name}`; this host speaks version 0.1 of the contract")))
        }
        ([], None) => Err(Refusal::World.because(
            "module exports none of `transformer`, `window-rules`, `reducers`, `window-folds` of `pelton:guest@0.1`",
        )),
        ([_], _) => Err(Refusal::World.because("module does not export `pelton:guest/meta@0.1`")),
        (several, _) => {
            let names = several.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(Refusal::World.because(format!("module exports {names}; one is allowed")))
        }
    }
}
