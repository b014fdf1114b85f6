//! The compiler in a child process: it answers as one in this process would, and what is hard to compile costs only it.
//!
//! `PELTON_HOSTILE=full` takes every shape as large as a module may be, and the limits of production.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use pelton_sandbox::testing::{self, Cost};
use pelton_sandbox::{Child, CompileLimits, Compiler, Limits, LoadError, Options, Refusal, Sandbox, ShapeLimits};

use crate::wasm;

fn child() -> Child {
    Child { program: env!("CARGO_BIN_EXE_compile").into(), arguments: Vec::new(), stop: Arc::default() }
}

/// Compiles in a child, without a cache.
pub(crate) fn in_child() -> Sandbox {
    Sandbox::new(&Options { compiler: Compiler::Child(child()), ..Options::default() }).unwrap()
}

fn program_child(program: &str, arguments: &[&str]) -> Child {
    let arguments = arguments.iter().map(Into::into).collect();
    Child { program: program.into(), arguments, stop: Arc::default() }
}

fn started_as(program: &str, arguments: &[&str]) -> Sandbox {
    let child = program_child(program, arguments);
    Sandbox::new(&Options { compiler: Compiler::Child(child), ..Options::default() }).unwrap()
}

fn load(sandbox: &Sandbox, bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    sandbox.load(bytes, limits).map(drop)
}

/// A module that gets as far as the compiler; what it has beside the contract's names is `parts`.
fn module(parts: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (instance $i)
            (export "pelton:guest/meta@0.1.0" (instance $i)) (export "pelton:guest/transformer@0.1.0" (instance $i))
            {parts})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn core(fields: &str) -> Vec<u8> {
    module(&format!("(core module $m {fields}) (core instance (instantiate $m))"))
}

#[test]
fn a_child_answers_as_this_process_would() {
    let here = Sandbox::new(&Options::default()).unwrap();
    let there = in_child();
    let limits = Limits::default();
    for name in ["examples/echo", "fraud"] {
        let (ours, theirs) = (here.load(wasm(name), &limits).unwrap(), there.load(wasm(name), &limits).unwrap());
        assert_eq!((ours.identity(), ours.digest()), (theirs.identity(), theirs.digest()));
    }
    let mut damaged = wasm("examples/echo");
    damaged.truncate(1000);
    let large = vec![0; limits.shape.module_bytes + 1];
    let no_function = module("(core module)");
    for bytes in [&b""[..], b"text", &damaged, &large, &no_function, &core(&"(func)".repeat(20_001))] {
        let (ours, theirs) = (load(&here, bytes, &limits).unwrap_err(), load(&there, bytes, &limits).unwrap_err());
        assert_eq!(ours, theirs);
    }
}

#[test]
fn limits_of_a_pipeline_reach_the_child() {
    let shape = ShapeLimits { functions: 3, ..ShapeLimits::default() };
    let error = load(&in_child(), &core("(func) (func) (func) (func)"), &Limits { shape, ..Limits::default() });
    assert_eq!(error.unwrap_err().message, "module has 4 functions, limit 3");
    let two_memories = module("(core module $m (memory 1)) (core module (memory 1))");
    let error = |shape| load(&in_child(), &two_memories, &Limits { shape, ..Limits::default() }).unwrap_err();
    assert_eq!(error(ShapeLimits::default()).refusal, Refusal::Shape);
    assert_eq!(error(ShapeLimits::interpreter()).refusal, Refusal::Compile, "it has no function");
}

#[test]
fn a_program_that_is_no_compiler_is_the_hosts_fault_or_says_what_it_said() {
    let limits = Limits {
        compile: CompileLimits { deadline: Duration::from_millis(300), ..CompileLimits::default() },
        ..Limits::default()
    };
    let check = |program: &str, arguments: &[&str], refusal: Refusal, message: &str| {
        let error = load(&started_as(program, arguments), &wasm("examples/echo"), &limits).unwrap_err();
        assert_eq!(error.refusal, refusal, "{error}");
        assert!(error.message.contains(message), "{error}");
    };
    let stopped = Child { stop: Arc::new(AtomicBool::new(true)), ..program_child("/bin/sleep", &["600"]) };
    let stopped = Sandbox::new(&Options { compiler: Compiler::Child(stopped), ..Options::default() }).unwrap();
    let error = load(&stopped, &wasm("examples/echo"), &Limits::default()).unwrap_err();
    assert_eq!((error.refusal, error.message.as_str()), (Refusal::Host, "the compiler was stopped"));
    check("/nonexistent/compiler", &[], Refusal::Host, "cannot start the compiler");
    let start = Instant::now();
    check("/bin/sleep", &["600"], Refusal::Host, "no answer within 0 s");
    check("/bin/sh", &["-c", "exec sleep 600 > /dev/null"], Refusal::Host, "no answer within 0 s");
    check("/bin/sh", &["-c", "exit 0"], Refusal::Compile, "the compiler failed");
    assert!(start.elapsed() < Duration::from_secs(300), "nobody waits for it");
    check("/bin/sh", &["-c", "kill -9 $$"], Refusal::Host, "killed");
    check("/bin/sh", &["-c", "exec yes"], Refusal::Host, "");
    check("/bin/sh", &["-c", "printf '\\033[2Jfoo' >&2; exit 3"], Refusal::Compile, "exit status: 3: \\u{1b}[2Jfoo");
}

/// What is hard to compile, each as small as it hurts and as large as the other limits allow.
fn hostile(full: bool) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    let times = |small: usize, large: usize| if full { vec![small, (small + large) / 2, large] } else { vec![small] };
    let repeat = |count: usize, part: &dyn Fn(usize) -> String| (0..count).map(part).collect::<String>();
    for count in times(10_000, 1_000_000) {
        let table =
            format!("(core module $t (table (export \"t\") {count} funcref)) (core instance $t (instantiate $t))");
        let elements = format!(
            "(core module $m (import \"t\" \"t\" (table 0 funcref)) (func $f) (elem (i32.const 0) {}))",
            "$f ".repeat(count)
        );
        add(
            &format!("{count} elements for an imported table"),
            module(&format!("{table} {elements} (core instance (instantiate $m (with \"t\" (instance $t))))")),
        );
    }
    for count in times(2, 60) {
        let loops = |depth: usize, locals: usize| {
            let mut text = format!("(func (param i32) (local {})", "i32 ".repeat(locals));
            text.push_str(&"(loop ".repeat(depth));
            for local in 1..=locals {
                let _ = write!(text, "(local.set {local} (i32.add (local.get {local}) (i32.const 1)))");
            }
            for label in 0..depth {
                let _ = write!(text, "(br_if {label} (local.get 0))");
            }
            text + &")".repeat(depth) + ")"
        };
        add(&format!("{count} functions of loops in loops"), core(&loops(490, 1990).repeat(count)));
        add(&format!("{count} functions of fewer loops"), core(&loops(490, 1990 / 2).repeat(count)));
        let row = |count: usize, locals: usize, part: &str| {
            let mut text = format!("(func (param i32) (result i32) (local {})", "i32 ".repeat(locals));
            for local in 1..=locals {
                let _ = write!(text, "(local.set {local} (i32.load (local.get 0)))");
            }
            text.push_str(&part.repeat(count));
            text.push_str("(i32.const 0)");
            for local in 1..=locals {
                let _ = write!(text, "(local.get {local}) (i32.add)");
            }
            text + ")"
        };
        for (name, part) in [
            ("ifs", "(if (local.get 0) (then))"),
            ("loops", "(loop (br_if 0 (local.get 0)))"),
            ("calls", "(call $nop)"),
        ] {
            for locals in [1990, 60] {
                let body = row(if name == "calls" { 7_990 } else { 14_000 }, locals, part).repeat(count);
                add(
                    &format!("{count} functions with {name} in a row over {locals} locals"),
                    core(&format!("(memory 1) (func $nop) {body}")),
                );
            }
        }
        let diamond = "(if (local.get 0) (then (local.set 1 (i32.add (local.get 1) (i32.const 3)))) \
                       (else (local.set 1 (i32.mul (local.get 1) (local.get 0)))))";
        let function = format!("(func (param i32) (result i32) (local i32) {} (local.get 1))", diamond.repeat(6_000));
        add(&format!("{count} functions of diamonds"), core(&function.repeat(count)));
        for (name, part, width) in [
            ("memory.grow", "(drop (memory.grow (local.get 0)))", 5),
            ("memory.copy", "(memory.copy (local.get 0) (local.get 0) (local.get 0))", 10),
            ("table.get", "(drop (table.get 0 (local.get 0)))", 5),
            ("table.grow", "(drop (table.grow 0 (ref.null func) (local.get 0)))", 8),
            ("ref.func", "(drop (ref.func $e))", 4),
            ("traps", "(drop (i64.div_s (i64.load (local.get 0)) (i64.load (local.get 0))))", 9),
            ("a line", "(local.set 0 (i32.mul (local.get 0) (local.get 0)))", 7),
            ("selects", "(local.set 0 (select (local.get 0) (i32.popcnt (local.get 0)) (local.get 0)))", 9),
        ] {
            let function = format!("(func (param i32) {})", part.repeat(120_000 / width));
            let fields =
                format!("(memory 1) (table 10 funcref) (func $e) (elem declare func $e) {}", function.repeat(count));
            add(&format!("{count} functions full of {name}"), core(&fields));
        }
        let nest = format!("(func (param i32) {}{})", "(block (br_if 0 (local.get 0)) ".repeat(511), ")".repeat(511));
        add(&format!("{count} × 20 functions of nested blocks"), core(&nest.repeat(20 * count)));
        let wide = format!("(type $w (func (param {0}) (result {0})))", "i32 ".repeat(900));
        let function = format!(
            "(func (param i32) {} {} {})",
            repeat(900, &|_| "(local.get 0)".into()),
            "(loop (type $w) (br_if 0 (local.get 0)))".repeat(2_000),
            "(drop)".repeat(900)
        );
        add(&format!("{count} functions of wide loops"), core(&format!("{wide} {}", function.repeat(count))));
    }
    for depth in times(12, 30) {
        let mut text = "(component $c)".to_owned();
        for _ in 0..depth.min(14) {
            text = format!("(component $c {text} (instance (instantiate $c)) (instance (instantiate $c)))");
        }
        add(&format!("instances that double {depth} times"), module(&format!("{text} (instance (instantiate $c))")));
        let mut text = "(component $c (core module $m) (core instance (instantiate $m)))".to_owned();
        for _ in 0..depth.min(14) {
            text = format!(
                "(component $c {text} (export $d \"c\" (component $c)) (instance (instantiate $d)) (instance (instantiate $c)))"
            );
        }
        add(&format!("exports that double {depth} times"), module(&format!("{text} (instance (instantiate $c))")));
    }
    for count in times(1_200, 20_000) {
        let text = format!("(core module $m) {}", "(core instance (instantiate $m))".repeat(count));
        add(&format!("{count} instances of a core module"), module(&text));
        let text = format!("(component $c) {}", "(instance (instantiate $c))".repeat(count));
        add(&format!("{count} instances of a component"), module(&text));
        let types = format!("(component {})", "(type (tuple string string string string))".repeat(count));
        add(&format!("{count} types"), module(&types));
        let exports = repeat(count, &|number| format!("(export \"e{number}\" (func $e))"));
        add(&format!("{count} exports"), core(&format!("(func $e) {exports}")));
    }
    for depth in times(17, 80) {
        let text = "(component ".repeat(depth) + &")".repeat(depth);
        add(&format!("{depth} components in components"), module(&text));
    }
    for depth in times(8, 18) {
        let types = repeat(depth, &|level| format!("(type $t{} (tuple $t{level} $t{level}))", level + 1));
        let text = format!(
            r#"(component $callee
                (core module $m (memory (export "m") 1) (func (export "f") (param i32 i32))
                    (func (export "r") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (type $t0 (tuple (list string) (list string))) {types}
                (func (export "f") (param "x" (list $t{depth}))
                    (canon lift (core func $i "f") (memory (core memory $i "m")) (realloc (core func $i "r")))))
            (component $caller
                (type $t0 (tuple (list string) (list string))) {types}
                (import "f" (func $f (param "x" (list $t{depth}))))
                (core module $m (memory (export "m") 1)
                    (func (export "r") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (core func $g (canon lower (func $f) (memory (core memory $i "m")) (realloc (core func $i "r"))))
                (core module $n (import "" "g" (func (param i32 i32)))
                    (func (export "h") (call 0 (i32.const 0) (i32.const 0))))
                (core instance (instantiate $n (with "" (instance (export "g" (func $g)))))))
            (instance $a (instantiate $callee))
            (instance (instantiate $caller (with "f" (func $a "f"))))"#
        );
        let shape = module(&text);
        add(&format!("adapters of types that double {depth} times"), shape);
    }
    all
}

#[test]
fn what_is_hard_to_compile_costs_a_child() {
    let full = std::env::var("PELTON_HOSTILE").is_ok_and(|form| form == "full");
    let compile = match full {
        true => CompileLimits::default(),
        false => CompileLimits { processor_time: Duration::from_secs(1), ..CompileLimits::default() },
    };
    // Two memories: the adapters need them, and get as far as the compiler so.
    let shape = ShapeLimits { memories: 2, ..ShapeLimits::default() };
    let limits =
        Limits { compile: CompileLimits { deadline: Duration::from_secs(600), ..compile }, shape, ..Limits::default() };
    let (mut refused, mut most) = (0, Cost::default());
    let all = hostile(full);
    println!("{} modules", all.len());
    for (name, bytes) in all {
        let (result, cost) = testing::compile(&child(), &bytes, &limits);
        if let Some(cost) = cost {
            most.milliseconds = most.milliseconds.max(cost.milliseconds);
            most.address_kib = most.address_kib.max(cost.address_kib);
            most.resident_kib = most.resident_kib.max(cost.resident_kib);
        }
        let said = match result {
            Ok(_) => "compiled".to_owned(),
            Err(error) => {
                // Not the host's: it would be tried again and again.
                assert_ne!(error.refusal, Refusal::Host, "{name}: {error}");
                refused += usize::from(matches!(error.refusal, Refusal::Shape | Refusal::Compile));
                error.to_string()
            }
        };
        println!("{name}, {} kB: {cost:?}: {:.150}", bytes.len() / 1000, said);
    }
    println!("most of those that were not killed: {most:?}");
    assert!(most.address_kib << 10 <= limits.compile.memory_bytes, "{most:?}");
    assert!(refused > 10, "{refused} refused: these modules no longer hurt");
    // And what is good goes on.
    load(&in_child(), &wasm("examples/echo"), &Limits::default()).unwrap();
}
