//! Modules that nobody wrote: made by wasm-smith, or real ones with damage. Each is refused with a reason or runs within
//! its limits, and the host takes no harm: no panic, no hang, no memory that stays.
//!
//! `PELTON_MODULES` says how many; `PELTON_MODULE` runs a single one again. The same number is the same module.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use pelton_engine::event::{Column, Events, Kind, Values};
use pelton_engine::guest::{Fault, Folded, Groups, Guest, Metering, Output, Panes, Reduced, Samples, Timing, World};
use pelton_sandbox::{Limits, Module, Refusal, Sandbox};
use wasm_smith::Config;

use crate::{events, texts, wasm};

const MODULES: u64 = 200;
/// Compiling, starting and calling one takes a tenth of a second; a busy machine may take its time.
const TIME_MAX: Duration = Duration::from_secs(240);
/// What the process may hold more than before: one memory of each test that runs beside.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Real modules, small ones first, since each is compiled: `different_answers` and the next take 22 kB, the rest 130.
const GUESTS: [&str; 8] = [
    "different_answers",
    "bad_offsets",
    "hidden_state",
    "unknown_port",
    "echo",
    "count_rule",
    "running_count",
    "mean_fold",
];

/// SplitMix64, as everywhere in our tests: the same module on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Module `number`; the first half of eight is generated, the other half damaged.
fn module(number: u64, guests: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random(number);
    // Small ones more often.
    let pick = |random: &mut Random| random.below(4).min(random.below(guests.len()));
    let mut random_guest =
        || &guests[if random.below(3) == 0 { random.below(guests.len()) } else { pick(&mut random) }];
    let (guest, other) = (random_guest(), random_guest());
    match number % 8 {
        0 => component(&mut random),
        1 => wrapped(&core(config(&mut random, None), &mut random)),
        2 | 3 => reshaped(guest, &mut random),
        4..6 => flipped(guest.clone(), &mut random),
        6 => spliced(guest, other, &mut random),
        _ => truncated(guest, &mut random),
    }
}

fn config(random: &mut Random, module_shape: Option<Vec<u8>>) -> Config {
    // Most keep to what the host allows, so that more than the validator is reached.
    let newer = random.below(8) == 0;
    Config {
        module_shape,
        max_instructions: 1 + random.below(400),
        allow_start_export: random.below(2) == 0,
        max_memory32_bytes: 32 << 20,
        generate_custom_sections: true,
        exceptions_enabled: newer,
        gc_enabled: newer,
        memory64_enabled: newer,
        reference_types_enabled: newer,
        relaxed_simd_enabled: newer,
        tail_call_enabled: newer,
        threads_enabled: newer,
        ..Config::default()
    }
}

fn component(random: &mut Random) -> Vec<u8> {
    let bytes = random.bytes(4096);
    let config = config(random, None);
    wasm_smith::Component::new(config, &mut Unstructured::new(&bytes)).expect("bytes enough").to_bytes()
}

fn core(config: Config, random: &mut Random) -> Vec<u8> {
    let count = 256 << random.below(6);
    let bytes = random.bytes(count);
    wasm_smith::Module::new(config, &mut Unstructured::new(&bytes)).expect("bytes enough").to_bytes()
}

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const CORE_MODULE: u8 = 1;

/// One section of a module or component: its number and its content.
type Section = (u8, Range<usize>);

/// The outermost sections of a well-formed binary.
fn sections(bytes: &[u8]) -> Vec<Section> {
    let (mut sections, mut at) = (Vec::new(), 8);
    while at < bytes.len() {
        let id = bytes[at];
        let (mut size, mut shift) = (0_usize, 0);
        loop {
            at += 1;
            size |= usize::from(bytes[at] & 0x7f) << shift;
            shift += 7;
            if bytes[at] < 0x80 {
                break;
            }
        }
        sections.push((id, at + 1..at + 1 + size));
        at += 1 + size;
    }
    sections
}

fn push_section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    let mut size = content.len();
    while size >= 0x80 {
        out.push(size as u8 | 0x80);
        size >>= 7;
    }
    out.push(size as u8);
    out.extend_from_slice(content);
}

/// A component that is nothing but a core module.
fn wrapped(core: &[u8]) -> Vec<u8> {
    let mut bytes = COMPONENT.to_vec();
    push_section(&mut bytes, CORE_MODULE, core);
    bytes
}

/// A real component around a generated core module with the imports and exports of the real one: past every check of
/// types, with code that means nothing.
fn reshaped(guest: &[u8], random: &mut Random) -> Vec<u8> {
    let sections = sections(guest);
    let is_largest = |range: &Range<usize>| {
        sections.iter().filter(|(id, _)| *id == CORE_MODULE).all(|(_, other)| other.len() <= range.len())
    };
    let mut bytes = COMPONENT.to_vec();
    for (id, range) in &sections {
        let content = &guest[range.clone()];
        if *id == CORE_MODULE && is_largest(range) {
            let config = config(random, Some(content.to_vec()));
            push_section(&mut bytes, *id, &core(config, random));
        } else {
            push_section(&mut bytes, *id, content);
        }
    }
    bytes
}

/// A few changed bits: in the constants of the code, in the data, or anywhere.
fn flipped(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    const CODE: u8 = 10;
    const DATA: u8 = 11;
    let core = sections(&bytes).into_iter().filter(|(id, _)| *id == CORE_MODULE).max_by_key(|(_, range)| range.len());
    let core = core.expect("a guest has a core module").1;
    let within = |wanted: u8| {
        let section =
            sections(&bytes[core.clone()]).into_iter().find(|(id, _)| *id == wanted).expect("real modules have it");
        core.start + section.1.start..core.start + section.1.end
    };
    let (code, data) = (within(CODE), within(DATA));
    for _ in 0..=random.below(4) {
        match random.below(8) {
            0..4 => flip_constant(&mut bytes[code.clone()], random),
            4..7 => bytes[data.start + random.below(data.len())] ^= 1 << random.below(8),
            _ => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
    }
    bytes
}

/// Changes the number behind an `i32.const` and not its length: offsets, sizes and tags become others, and the code
/// stays valid.
fn flip_constant(code: &mut [u8], random: &mut Random) {
    const I32_CONST: u8 = 0x41;
    let from = random.below(code.len());
    if let Some(at) = (from..code.len() - 1).find(|&at| code[at] == I32_CONST) {
        code[at + 1] ^= 1 << random.below(7);
    }
}

/// A section of one module in another one: instead of one, in front of one, or one left out.
fn spliced(guest: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let (ours, theirs) = (sections(guest), sections(other));
    let (at, how) = (random.below(ours.len()), random.below(3));
    let same: Vec<&Section> = theirs.iter().filter(|(id, _)| *id == ours[at].0).collect();
    let piece = if same.is_empty() { &theirs[random.below(theirs.len())] } else { same[random.below(same.len())] };
    let mut bytes = COMPONENT.to_vec();
    for (idx, (id, range)) in ours.iter().enumerate() {
        if idx == at && how < 2 {
            push_section(&mut bytes, piece.0, &other[piece.1.clone()]);
        }
        if idx != at || how == 1 {
            push_section(&mut bytes, *id, &guest[range.clone()]);
        }
    }
    bytes
}

fn truncated(guest: &[u8], random: &mut Random) -> Vec<u8> {
    let sections = sections(guest);
    let end = match random.below(3) {
        // Between two sections nothing looks wrong.
        0 => sections[random.below(sections.len())].1.end,
        _ => random.below(guest.len()),
    };
    guest[..end].to_vec()
}

/// Tight, so that a loop costs little time.
fn limits() -> Limits {
    Limits {
        call_timeout: Duration::from_millis(50),
        time_to_configure: Duration::from_millis(200),
        fuel_per_event: 1_000_000,
        fuel_to_configure: 20_000_000,
        memory_bytes: 32 << 20,
        reply_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// How far a module came, in few words.
fn outcome(sandbox: &Sandbox, bytes: &[u8], metering: Metering) -> String {
    let module = match sandbox.load(bytes, &limits()) {
        Ok(module) => module,
        Err(error) => return refused(&error),
    };
    let mut guest = match module.instantiate("null", &limits()) {
        Ok(guest) => guest,
        Err(error) => return refused(&error),
    };
    match call(&mut *guest, metering) {
        Ok(()) => "called".to_owned(),
        Err(fault) => {
            same_verdict(&module, metering, &fault);
            format!("called, {}", name(&fault))
        }
    }
}

/// A person can act on what is said.
fn refused(error: &pelton_sandbox::LoadError) -> String {
    assert!(!error.message.trim().is_empty() && !error.message.contains(char::is_control), "{error:?}");
    assert_ne!(error.refusal, Refusal::Host, "the module is at fault: {error}");
    assert!(error.message.len() < 2000, "{} bytes of message: {error}", error.message.len());
    format!("refused, {}", error.refusal.name())
}

fn name(fault: &Fault) -> &'static str {
    match fault {
        Fault::Trap(_) => "trap",
        Fault::Timeout => "timeout",
        Fault::Fuel => "fuel",
        Fault::Limit(_) => "limit",
        Fault::Contract(_) => "contract",
        Fault::Retry(_) => "retry",
        Fault::Halt(_) => "halt",
        Fault::Host(_) => "host",
    }
}

/// Under fuel the verdict is the same on a fresh instance.
fn same_verdict(module: &Module, metering: Metering, fault: &Fault) {
    if metering == Metering::Fuel
        && let Ok(mut again) = module.instantiate("null", &limits())
    {
        assert_eq!(call(&mut *again, metering).as_ref().map_err(name), Err(name(fault)));
    }
}

/// One call of the module's world with two rows.
fn call(guest: &mut dyn Guest, metering: Metering) -> Result<(), Fault> {
    let mut batch = with_columns(&*guest, events(&["a", "b"]));
    let before = batch.clone();
    let mut output = Output::default();
    let mut groups = Groups {
        keys: texts(&[b"k0", b"k1"]),
        states: texts(&[b"", b"1"]),
        member_ends: vec![1, 2],
        members: vec![0, 1],
        ..Groups::default()
    };
    let result = match guest.descriptor().identity.world {
        World::Transform => guest.process(metering, &mut batch, &mut output),
        World::WindowRule => guest.aggregates().and_then(|plan| {
            if plan.extracts() {
                guest.extract(metering, &mut batch, &mut Samples::default())?;
            }
            guest.evaluate(metering, &mut panes(), &mut output)
        }),
        World::Reducer => {
            groups.timer_ends = vec![0, 0];
            guest.reduce(metering, &mut batch, &mut groups, &mut Reduced::default())
        }
        World::WindowFold => {
            let mut folded = Folded::default();
            guest.fold(metering, &mut batch, &mut groups, &mut folded)?;
            guest.finish(metering, &mut panes(), &mut folded.states, &mut output)
        }
    };
    assert_eq!(batch, before, "the events come back");
    result
}

/// Values for whatever fields the module declares.
fn with_columns(guest: &dyn Guest, mut batch: Events) -> Events {
    for field in &guest.descriptor().shape.fields {
        let values = match field.kind {
            Kind::String => Values::Strings(texts(&[b"x", b"y"])),
            Kind::Integer => Values::Integers(vec![31_000, -1]),
            Kind::Number => Values::Numbers(vec![0.5, 1e300]),
            Kind::Boolean => Values::Booleans(vec![true, false]),
            Kind::Decimal => Values::Decimals(texts(&[b"-0.10", b"1e300"])),
            Kind::Json => Values::Jsons(texts(&[b"{}", b"null"])),
            Kind::Bytes => Values::Blobs(texts(&[b"\xff", b""])),
        };
        batch.columns.push(Column { missing: Vec::new(), unlike: Vec::new(), values });
    }
    batch
}

/// Two panes without aggregates: a damaged module may not have the plan that values would fit.
fn panes() -> Panes {
    Panes {
        keys: texts(&[b"k0", b"k1"]),
        starts: vec![0, 0],
        ends: vec![60_000, 60_000],
        timings: vec![Timing::OnTime, Timing::Late],
        indexes: vec![0, 1],
        lasts: vec![true, false],
        watermarks: vec![60_000, 60_000],
        values: Vec::new(),
    }
}

/// Resident memory of this process, bytes.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} is `{text}`: {error}")))
}

fn keep(number: u64, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("module-{number}.wasm"));
    std::fs::write(&path, bytes).expect("the target folder is writable");
    path
}

#[test]
fn modules_that_nobody_wrote() {
    let numbers = match number("PELTON_MODULE") {
        Some(number) => number..number + 1,
        None => 0..number("PELTON_MODULES").unwrap_or(MODULES),
    };
    let guests: Vec<Vec<u8>> = GUESTS.iter().map(|name| wasm(&format!("examples/{name}"))).collect();
    // Without a cache: 2,000 modules that are never seen again would stay in it.
    let sandbox = crate::compiler::in_child();
    let witness = sandbox.load(wasm("examples/echo"), &Limits::default()).expect("a good module");
    let mut witness = witness.instantiate("null", &Limits::default()).expect("a good module");
    let (before, start) = (memory_bytes(), Instant::now());
    let (results, result) = mpsc::channel();
    let worker = std::thread::spawn({
        let numbers = numbers.clone();
        move || {
            for number in numbers {
                let bytes = module(number, &guests);
                // Fuel means compiling once more.
                let metering = if number % 5 == 4 { Metering::Fuel } else { Metering::Deadline };
                let outcome = outcome(&sandbox, &bytes, metering);
                if results.send(outcome).is_err() {
                    return;
                }
            }
        }
    });
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for number in numbers.clone() {
        let outcome = result.recv_timeout(TIME_MAX).unwrap_or_else(|error| {
            let guests: Vec<Vec<u8>> = GUESTS.iter().map(|name| wasm(&format!("examples/{name}"))).collect();
            let path = keep(number, &module(number, &guests));
            let what = if error == mpsc::RecvTimeoutError::Timeout { "hangs" } else { "panics" };
            panic!(
                "module {number} {what}; it is in {}\n  again: PELTON_MODULE={number} cargo test -p pelton-sandbox nobody",
                path.display()
            )
        });
        let grown = memory_bytes().saturating_sub(before);
        assert!(grown < MEMORY_BYTES_MAX, "module {number} left {grown} bytes behind");
        if outcome.starts_with("called") {
            let mut output = Output::default();
            witness.process(Metering::Deadline, &mut events(&["a"]), &mut output).expect("other modules go on");
            assert_eq!(output.rows, [0]);
        }
        *outcomes.entry(outcome).or_default() += 1;
    }
    worker.join().expect("it has sent all its results");
    let grown = memory_bytes().saturating_sub(before) >> 20;
    println!("{} modules in {:.1?}, {grown} MiB more than before", numbers.end - numbers.start, start.elapsed());
    outcomes.iter().for_each(|(outcome, count)| println!("{count:6} {outcome}"));
    // Damage that is always refused, or never, would test nothing.
    if numbers.end - numbers.start >= MODULES {
        for wanted in ["called", "called, trap", "refused, invalid", "refused, world", "refused, describe"] {
            assert!(outcomes.contains_key(wanted), "no module was {wanted}");
        }
    }
}
