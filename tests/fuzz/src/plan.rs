//! Any text as a pipeline file: an answer with places inside the text, or a plan that holds what plans promise.

use std::path::Path;
use std::sync::Arc;

use pelton_engine::effects::{Effects, Origin, Room};
use pelton_engine::event::{Kind, RawBatch};
use pelton_engine::guest::{Aggregate, Descriptor, Function, Guest, World};
use pelton_engine::plan::{Plan, WindowKind, parse};
use pelton_engine::problem::{Problem, page};
use pelton_engine::step::{Engine, Envelope, HashKey, Input, Options, Progress};
use pelton_engine::time::WallTime;

use crate::kit::{NOW, Native};

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (plan, problems, guests) = plan(text);
    assert_eq!(plan.is_some(), problems.is_empty(), "a plan exactly when there is no problem");
    problems.iter().for_each(|problem| check_place(problem, text));
    let Some(accepted) = plan else { return };
    check_promises(&accepted, &guests);
    assert_eq!(self::plan(text).0.as_ref(), Some(&accepted), "the same text is the same plan");
    check_works(accepted, guests);
}

/// Both steps, as the host takes them.
fn plan(text: &str) -> (Option<Plan>, Vec<Problem>, Vec<Native>) {
    let (draft, problems) = parse(text);
    assert_eq!(draft.is_none(), !problems.is_empty(), "a draft exactly when there is no problem");
    let Some(draft) = draft else { return (None, problems, Vec::new()) };
    let guests: Vec<Native> = draft.stages().iter().map(|stage| module(&stage.stage.module)).collect();
    for stage in draft.stages() {
        check_place(&stage.not_loaded("reason"), text);
        check_place(&stage.not_configured("reason"), text);
    }
    let descriptors: Vec<Descriptor> = guests.iter().map(|guest| guest.descriptor.clone()).collect();
    let (plan, problems) = draft.bind(&descriptors);
    (plan, problems, guests)
}

/// The modules that files can name, by file name; any other name is a transform without fields.
fn module(path: &str) -> Native {
    let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (world, fields): (World, &[(&str, Kind, bool)]) = match name.as_str() {
        "router" => (World::Transform, &[("device", Kind::String, false)]),
        "rounds" => (World::Transform, &[("ms_played", Kind::Number, false)]),
        "rule" | "fraud" => (World::WindowRule, &[("device", Kind::String, true), ("ms_played", Kind::Integer, true)]),
        "fold" => (World::WindowFold, &[("ms_played", Kind::Integer, false)]),
        "reducer" => (World::Reducer, &[]),
        _ => (World::Transform, &[]),
    };
    let mut guest = Native::new(world, fields);
    guest.process = Some(Arc::new(|_, _, _| Ok(())));
    guest.evaluate = Some(Arc::new(|_, _, _| Ok(())));
    guest.fold = Some(Arc::new(|_, groups, folded| {
        groups.member_ends.iter().for_each(|_| folded.states.push(b"state"));
        Ok(())
    }));
    guest.reduce = Some(Arc::new(|_, groups, reduced| {
        groups.member_ends.iter().for_each(|_| reduced.states.push(b""));
        reduced.changes.resize(groups.member_ends.len(), pelton_engine::guest::Change::Keep);
        Ok(())
    }));
    guest.plan.aggregates = vec![Aggregate { name: "count".into(), function: Function::Count, field: None, limit: 0 }];
    guest
}

/// Line and column lie inside the text, or right behind its end or the end of a line.
fn check_place(problem: &Problem, text: &str) {
    let line = text.split('\n').nth((problem.line as usize).wrapping_sub(1));
    let line = line.unwrap_or_else(|| panic!("{problem}: the text has no such line"));
    let columns = line.chars().count() + 1;
    assert!((1..=columns).contains(&(problem.column as usize)), "{problem}: the line has {columns} columns");
    assert!(page(problem.code).is_some(), "{problem}: the code has no page");
    assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem:?}");
}

fn check_promises(plan: &Plan, guests: &[Native]) {
    assert_eq!(plan.source.partitions > 1, plan.source.subject.contains("{partition}"), "{:?}", plan.source);
    for (stage, guest) in plan.stages.iter().zip(guests) {
        assert!(is_json_object(&stage.config), "config {:?}", stage.config);
        let windowed = matches!(guest.descriptor.identity.world, World::WindowRule | World::WindowFold);
        assert_eq!(stage.window.is_some(), windowed);
        match stage.window.map(|window| window.kind) {
            Some(WindowKind::Sliding { size, slide }) => assert!(0 < slide.0 && size.0 % slide.0 == 0),
            Some(WindowKind::Tumbling { size }) => assert!(0 < size.0),
            Some(WindowKind::Global) | None => {}
        }
        assert!(stage.window.is_none_or(|window| 0 <= window.allowed_lateness.0));
    }
    let mut ports: Vec<_> = plan.outputs.iter().map(|output| (output.stage, output.port)).collect();
    ports.sort_unstable();
    assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "two outputs take one port: {ports:?}");
    for (stage, port) in ports {
        assert!(usize::from(port) < guests[stage].descriptor.shape.ports.len());
        assert!(port > 0 || stage == plan.stages.len() - 1, "port 0 feeds the next stage");
    }
}

/// Modules take `{}` for no configuration, so it has to be an object, with its braces in place.
fn is_json_object(config: &str) -> bool {
    config.starts_with('{') && config.ends_with('}')
}

/// The engine takes the plan and works off an event with it.
fn check_works(plan: Plan, guests: Vec<Native>) {
    let guests = guests.into_iter().map(|guest| Box::new(guest) as Box<dyn Guest>).collect();
    let origin =
        Origin { pipeline: plan.name.clone(), partition: 0, source: plan.source.stream.clone(), revision: [0; 32] };
    let options = Options { origin, room: Room::default(), envelope: Envelope::Headers, hash_key: HashKey::default() };
    let mut engine = Engine::new(Arc::new(plan), guests, options).expect("an accepted plan makes an engine");
    let mut effects = Effects::default();
    let mut batch = RawBatch::default();
    let payload = format!(r#"{{"user_id":"ann","ts":{NOW},"device":"d","ms_played":31000}}"#);
    batch.push(1, WallTime(NOW), b"plays.0", b"Key: ann\r\n", payload.as_bytes());
    for input in [Input::Batch(batch), Input::End] {
        let mut progress = engine.step(input, &mut effects).expect("these guests have no faults");
        while progress != Progress::NeedInput {
            progress = engine.step(Input::Continue, &mut effects).expect("these guests have no faults");
        }
        effects.totals.held = engine.held();
        assert!(effects.totals.balanced(0), "{:?}", effects.totals);
    }
    assert_eq!((effects.totals.received, effects.totals.held), (1, 0), "{:?}", effects.totals);
}
