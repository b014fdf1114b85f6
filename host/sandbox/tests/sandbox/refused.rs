//! Bytes that must never get as far as the compiler, each with its reason.

use pelton_sandbox::{Limits, LoadError, Refusal, ShapeLimits};

use crate::{sandbox, wasm};

fn load(bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    sandbox().load(bytes, limits).map(drop)
}

#[track_caller]
fn check(bytes: &[u8], refusal: Refusal, message: &str) {
    check_within(bytes, ShapeLimits::default(), refusal, message);
}

#[track_caller]
fn check_within(bytes: &[u8], shape: ShapeLimits, refusal: Refusal, message: &str) {
    let error = load(bytes, &Limits { shape, ..Limits::default() }).unwrap_err();
    assert_eq!(error.refusal, refusal, "{error}");
    assert!(error.message.contains(message), "{error}");
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn files_that_are_not_components() {
    check(b"", Refusal::NotWasm, "the file is empty");
    check(b"fn main() {}\n", Refusal::NotWasm, "this is text, not wasm");
    check(b"(component)", Refusal::NotWasm, "this is text, not wasm");
    check(b"\x7fELF\x02\x01\x01\0\0\0", Refusal::NotWasm, "the first bytes are not");
    check(b"\0asm", Refusal::Invalid, "");
    check(&wat("(module)"), Refusal::CoreModule, "not a component");
    check(&wat("(component)"), Refusal::World, "exports none of");
}

#[test]
fn precompiled_code_is_never_run() {
    let engine = wasmtime::Engine::default();
    let code = engine.precompile_component(&wat("(component)")).unwrap();
    check(&code, Refusal::Precompiled, "upload the .wasm");
    check(&engine.precompile_module(&wat("(module)")).unwrap(), Refusal::Precompiled, "upload the .wasm");
}

#[test]
fn foreign_imports_are_named() {
    let wasi = wat(r#"(component
        (import "wasi:cli/environment@0.2.3" (instance (export "get-arguments" (func (result (list string))))))
        (import "wasi:clocks/wall-clock@0.2.3" (instance)))"#);
    check(&wasi, Refusal::Import, "`wasi:cli/environment@0.2.3`, `wasi:clocks/wall-clock@0.2.3`");
    check(&wasi, Refusal::Import, "wasm32-unknown-unknown");
    check(&wat(r#"(component (import "run" (func)))"#), Refusal::Import, "`run`");
    let more = r#"(component (import "pelton:guest/log@0.1.0" (instance (export "exfiltrate" (func)))))"#;
    check(&wat(more), Refusal::Import, "`pelton:guest/log@0.1.0`");
    let function = r#"(component (import "pelton:guest/types@0.1.0" (instance (export "log" (func)))))"#;
    check(&wat(function), Refusal::Import, "`pelton:guest/types@0.1.0`");
    check(&wat(r#"(component (import "pelton:guest/types@0.2.0" (instance)))"#), Refusal::Import, "types@0.2.0");
    check(&wat(r#"(component (import "pelton:guest/tables@0.1.4" (instance)))"#), Refusal::World, "exports none");
}

#[test]
fn worlds_are_found_by_their_exports() {
    let exporting = |names: &[&str]| {
        let exports: String = names.iter().map(|name| format!("(export \"{name}\" (instance $i))")).collect();
        wat(&format!("(component (instance $i) {exports})"))
    };
    let meta = "pelton:guest/meta@0.1.0";
    check(&exporting(&["pelton:guest/transformer@0.1.7"]), Refusal::World, "does not export `pelton:guest/meta@0.1`");
    check(&exporting(&[meta]), Refusal::World, "exports none of");
    check(&exporting(&[meta, "pelton:guest/transformer@0.2.0"]), Refusal::World, "this host speaks version 0.1");
    let two = [meta, "pelton:guest/transformer@0.1.0", "pelton:guest/reducers@0.1.0"];
    check(&exporting(&two), Refusal::World, "`transformer`, `reducers`; one is allowed");
    check(&exporting(&[meta, "pelton:guest/transformer@0.1.0"]), Refusal::Compile, "does not have export");
}

#[test]
fn a_function_of_another_type_is_refused() {
    let module = wat(r#"(component
        (core module $m (func (export "f") (result i32) i32.const 0))
        (core instance $c (instantiate $m))
        (func $f (result u32) (canon lift (core func $c "f")))
        (instance $t (export "process" (func $f)))
        (instance $d (export "describe" (func $f)) (export "configure" (func $f)))
        (export "pelton:guest/meta@0.1.0" (instance $d))
        (export "pelton:guest/transformer@0.1.0" (instance $t)))"#);
    check(&module, Refusal::Describe, "type mismatch");
}

#[test]
fn shapes_that_hurt_the_compiler() {
    let functions = |count: usize, body: &str| {
        let function = format!("(func $f{{}} {body})");
        let all: String = (0..count).map(|index| function.replace("{}", &index.to_string())).collect();
        wat(&format!("(component (core module {all}))"))
    };
    check(&functions(20_001, ""), Refusal::Shape, "20001 functions, limit 20000");
    check(&functions(1, &"(call $f0)".repeat(8_001)), Refusal::Shape, "8001 calls in one function, limit 8000");
    check(&functions(1, &"(drop (i64.const 1))".repeat(100_000)), Refusal::Shape, "a function of 3");
    check(&functions(1, &format!("(local {})", "i32 ".repeat(2_001))), Refusal::Shape, "2001 local variables");
    let nested = format!("{}{}", "block ".repeat(513), "end ".repeat(513));
    check(&functions(1, &nested), Refusal::Shape, "513 nested blocks");
    let table = format!("block (br_table {} (i32.const 0)) end", "0 ".repeat(40_000));
    check(&functions(2, &table), Refusal::Shape, "jump table targets");
    let memories = "(component (core module (memory 1)) (core module (memory 1)))";
    check(&wat(memories), Refusal::Shape, "2 memories, limit 1");
    let custom = format!("(component (core module (@custom \"name\" \"{}\")))", "x".repeat((1 << 20) + 1));
    check(&wat(&custom), Refusal::Shape, "bytes of custom sections");
    check(&wat(&format!("(component {})", "(core module)".repeat(65))), Refusal::Shape, "65 core modules, limit 64");
    let small = ShapeLimits { module_bytes: 100 << 10, ..ShapeLimits::default() };
    check_within(&wasm("examples/echo"), small, Refusal::Size, "MiB, limit 0.1 MiB");
}

#[test]
fn proposals_that_are_off() {
    for module in [
        "(module (memory i64 1))",
        "(module (memory 1) (memory 1))",
        "(module (memory 1 1 shared))",
        "(module (type (struct)))",
        "(module (tag))",
        "(module (func (drop (i32x4.relaxed_trunc_f32x4_s (v128.const i64x2 0 0)))))",
        "(module (func $f (return_call $f)))",
    ] {
        let component = wat(&format!("(component (core {})", &module[1..]));
        let error = load(&component, &Limits::default()).unwrap_err();
        assert!(matches!(error.refusal, Refusal::Invalid | Refusal::Shape), "{module}: {error:?}");
    }
}

#[test]
fn truncated_files_are_refused_at_every_offset() {
    let whole = wasm("examples/echo");
    // Beyond this only sections are missing that have no meaning, so the file may be good.
    let meaningful = whole.len() - trailing_custom_bytes(&whole);
    for end in (0..meaningful).step_by(997).chain(0..100).chain(meaningful - 100..meaningful) {
        let error = load(&whole[..end], &Limits::default()).unwrap_err();
        let early = !matches!(error.refusal, Refusal::Compile | Refusal::Describe);
        assert!(early, "the first {end} bytes reached the compiler: {error}");
    }
}

/// How many bytes at the end are custom sections of the outermost component.
fn trailing_custom_bytes(bytes: &[u8]) -> usize {
    let mut end = 0;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        let payload = payload.unwrap();
        if let Some((id, range)) = payload.as_section()
            && id != 0
        {
            end = range.end;
        }
    }
    bytes.len() - end
}

#[test]
fn flipped_bits_never_panic() {
    let whole = wasm("examples/echo");
    let strict = Limits::default();
    for index in (8..whole.len()).step_by(9_973) {
        let mut bytes = whole.clone();
        bytes[index] ^= 1 << (index % 8);
        // Most are refused; a changed constant is a valid module that says or does something else.
        let _ = sandbox().load(bytes, &strict);
    }
}
