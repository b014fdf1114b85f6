//! From [`Draft`] to [`Plan`]: what can be checked only once the modules have said what they are.

use std::collections::BTreeMap;

use super::draft::{Draft, DraftOutput};
use super::raw::{list, nearest_or_list, pointer_parse, pointer_text};
use super::reads::reads;
use super::{Dedupe, Key, Output, Plan, TimeUnit};
use crate::event::{Kind, Need};
use crate::guest::{Descriptor, World};
use crate::problem::{Place, Problem, code};

/// Counters of all modules of a pipeline together: each marker has their names and values.
const COUNTERS_MAX: usize = 128;

impl Draft {
    /// Checks the pipeline against its modules and reports everything that does not fit, in the order of the text.
    ///
    /// `modules` has one descriptor per stage, taken after configuration. There is a plan exactly when there is no
    /// problem.
    ///
    /// # Panics
    /// When the number of descriptors differs from the number of stages, or one has no port.
    #[must_use]
    pub fn bind(self, modules: &[Descriptor]) -> (Option<Plan>, Vec<Problem>) {
        assert_eq!(self.stages.len(), modules.len(), "one descriptor per stage");
        assert!(modules.iter().all(|module| !module.shape.ports.is_empty()), "a descriptor has at least one port");
        let mut problems = Vec::new();
        kinds_of_module(&self, modules, &mut problems);
        field_places(&self, modules, &mut problems);
        field_kinds(&self, modules, &mut problems);
        field_conflicts(&self, modules, &mut problems);
        unread_fields(&self, modules, &mut problems);
        lanes(&self, modules, &mut problems);
        counters(&self, modules, &mut problems);
        let outputs = outputs(&self, modules, &mut problems);
        problems.sort_by_key(Problem::place);
        let plan = problems.is_empty().then(|| Plan {
            name: self.name,
            source: self.source,
            stages: self.stages.into_iter().map(|stage| stage.stage).collect(),
            outputs,
            limits: self.limits,
        });
        (plan, problems)
    }
}

impl Draft {
    /// The plan as far as the file alone decides it, for who runs no module: all but the ports of outputs, which are 0.
    #[must_use]
    pub fn outline(self) -> Plan {
        let last = self.stages.len() - 1;
        let output = |output: DraftOutput| {
            let stage = output.from.map_or(last, |from| from.stage);
            Output { name: output.name, stage, port: 0, stream: output.stream }
        };
        Plan {
            name: self.name,
            source: self.source,
            stages: self.stages.into_iter().map(|stage| stage.stage).collect(),
            outputs: self.outputs.into_iter().map(output).collect(),
            limits: self.limits,
        }
    }
}

/// Windows only where they are used, and nothing that reads a stage that keeps state.
fn kinds_of_module(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    for (idx, (stage, module)) in draft.stages.iter().zip(modules).enumerate() {
        let (name, kind) = (&stage.stage.name, module.identity.world.name());
        let windowed = matches!(module.identity.world, World::WindowRule | World::WindowFold);
        if windowed && stage.stage.window.is_none() {
            let message = format!("stage `{name}` has no window, but its module is a `{kind}`");
            let hint = "add `window = { kind = \"tumbling\", size = \"5m\" }`";
            problems.push(Problem::new(code::WINDOW_WORLD, stage.place, message).with_hint(hint));
        }
        if !windowed && stage.stage.window.is_some() {
            let message = format!("stage `{name}` has a window, but its module is a `{kind}`");
            let hint = "remove `window`; only a `window-rule` or `window-fold` takes one";
            problems.push(Problem::new(code::WINDOW_WORLD, stage.window_place, message).with_hint(hint));
        }
        if stage.stage.ttl.is_some() && module.identity.world != World::Reducer {
            let keeps = if windowed { "drops what it keeps with its windows" } else { "keeps nothing" };
            let message = format!("stage `{name}` has a `ttl`, but its module is a `{kind}`, which {keeps}");
            let hint = "remove `ttl`; only a `reducer` takes one";
            problems.push(Problem::new(code::TTL_WORLD, stage.ttl_place, message).with_hint(hint));
        }
        let reader = draft.stages.iter().find(|reader| reader.stage.from == Some(idx));
        if let Some(reader) = reader.filter(|_| module.identity.world != World::Transform) {
            let message = format!("stage `{}` reads stage `{name}`, which keeps state (`{kind}`)", reader.stage.name);
            let hint = "only transforms feed other stages: name one, or the source, with `from = \"…\"`";
            problems.push(Problem::new(code::STATE_NOT_LAST, reader.from_place, message).with_hint(hint));
        }
    }
}

/// A field that a module names by its place has one.
fn field_places(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    for (stage, module) in draft.stages.iter().zip(modules) {
        for field in module.shape.fields.iter().filter(|field| field.name.starts_with('/')) {
            if let Err(reason) = pointer_parse(&field.name) {
                let (name, field) = (&stage.stage.name, &field.name);
                let message = format!("stage `{name}` reads the field `{field}`, which is no JSON pointer: {reason}");
                let hint = "change the declaration in the module";
                problems.push(Problem::new(code::FIELD_KIND, stage.place, message).with_hint(hint));
            }
        }
    }
}

/// A field has one kind in all stages that insist on one.
fn field_kinds(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    let mut first: BTreeMap<&str, (Kind, &str)> = BTreeMap::new();
    for (stage, module) in draft.stages.iter().zip(modules) {
        let name = stage.stage.name.as_str();
        for field in module.shape.fields.iter().filter(|field| field.need != Need::Lenient) {
            let (kind, other) = *first.entry(&field.name).or_insert((field.kind, name));
            if kind != field.kind {
                let (field, here, there) = (&field.name, field.kind.name(), kind.name());
                let message = format!("stage `{name}` reads the field `{field}` as {here}, stage `{other}` as {there}");
                let hint = "change the declaration in one of the modules";
                problems.push(Problem::new(code::FIELD_KIND, stage.place, message).with_hint(hint));
            }
        }
    }
}

/// Something that the decoder takes from an event.
struct Taken {
    what: String,
    pointer: Vec<String>,
    kind: Kind,
    place: Place,
}

/// The decoder takes one value of one kind from one place of an event.
fn field_conflicts(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    let taken = taken(draft, modules);
    for (idx, one) in taken.iter().enumerate() {
        for before in &taken[..idx] {
            let inside = one.pointer.starts_with(&before.pointer) || before.pointer.starts_with(&one.pointer);
            let same = one.pointer == before.pointer;
            if !inside || same && one.kind == before.kind {
                continue;
            }
            let (here, there) = (pointer_text(&one.pointer), pointer_text(&before.pointer));
            let message = format!(
                "{} reads `{here}` as {}, but {} reads `{there}` as {}",
                one.what,
                one.kind.name(),
                before.what,
                before.kind.name()
            );
            let hint = "map one of them to another place of the event under `[source.fields]`";
            problems.push(Problem::new(code::FIELD_KIND, one.place, message).with_hint(hint));
        }
    }
}

/// The key and the time as far as they are fields, then the fields of the stages.
fn taken(draft: &Draft, modules: &[Descriptor]) -> Vec<Taken> {
    let mut taken = Vec::new();
    if let Key::Field(pointer) = &draft.source.key {
        taken.push(Taken {
            what: "the key".to_owned(),
            pointer: pointer.clone(),
            kind: Kind::String,
            place: draft.key_place,
        });
    }
    if let Some(Dedupe { id: Key::Field(pointer), .. }) = &draft.source.dedupe {
        taken.push(Taken {
            what: "the id".to_owned(),
            pointer: pointer.clone(),
            kind: Kind::String,
            place: draft.dedupe_place,
        });
    }
    let time = &draft.source.time;
    let kind = if time.unit == TimeUnit::Rfc3339 { Kind::String } else { Kind::Integer };
    taken.push(Taken { what: "the time".to_owned(), pointer: time.field.clone(), kind, place: draft.time_place });
    // A lenient read takes what there is.
    for read in reads(&draft.source, modules).into_iter().filter(|read| read.need != Need::Lenient) {
        let stage = &draft.stages[read.stage];
        let what = format!("the field `{}` of stage `{}`", read.name, stage.stage.name);
        taken.push(Taken { what, pointer: read.pointer, kind: read.kind, place: stage.place });
    }
    taken
}

/// Every entry of `[source.fields]` is read by some stage: an entry that is not is a spelling mistake.
fn unread_fields(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    let reads = reads(&draft.source, modules);
    let known: Vec<&str> = reads.iter().map(|read| read.name.as_str()).collect();
    for ((name, _), place) in draft.source.fields.iter().zip(&draft.field_places) {
        if !known.contains(&name.as_str()) {
            let message = format!("the field `{}` is read by no stage", name.escape_debug());
            let hint = match known.as_slice() {
                [] => "the modules declare no fields".to_owned(),
                known => nearest_or_list(name, "fields that are read", known),
            };
            problems.push(Problem::new(code::FIELD_SOURCE, *place, message).with_hint(hint));
        }
    }
}

/// The input has one lane, and it has no name.
fn lanes(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    for (stage, module) in draft.stages.iter().zip(modules) {
        if let Some(lane) = module.shape.lanes.first() {
            let name = &stage.stage.name;
            let message =
                format!("the module of stage `{name}` reads the lane `{lane}`, which the input does not have");
            let hint = "configure the module so that it takes every event, or take one that does";
            problems.push(Problem::new(code::LANE, stage.place, message).with_hint(hint));
        }
    }
}

/// A marker has room for the counters of all stages.
fn counters(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) {
    let mut count = 0;
    for (stage, module) in draft.stages.iter().zip(modules) {
        count += module.shape.counters.len();
        if count > COUNTERS_MAX {
            let name = &stage.stage.name;
            let message = format!("up to stage `{name}` the modules have {count} counters, limit {COUNTERS_MAX}");
            let hint = "configure a module to count less, or make two pipelines of this one";
            problems.push(Problem::new(code::COUNTERS, stage.place, message).with_hint(hint));
            return;
        }
    }
}

/// Resolves the ports of all outputs. The result counts only when nothing was reported.
fn outputs(draft: &Draft, modules: &[Descriptor], problems: &mut Vec<Problem>) -> Vec<Output> {
    let last = modules.len() - 1;
    let mut outputs: Vec<Output> = Vec::new();
    for output in &draft.outputs {
        let stage = output.from.as_ref().map_or(last, |from| from.stage);
        let place = output.from.as_ref().map_or(output.place, |from| from.place);
        let port = match port(output, stage, draft, modules) {
            Ok(port) => port,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        if let Some(other) = outputs.iter().find(|other| (other.stage, other.port) == (stage, port)) {
            let (port, other) = (&modules[stage].shape.ports[usize::from(port)], &other.name);
            let message = format!("the output `{}` takes port `{port}`, as does the output `{other}`", output.name);
            let hint = format!("ports of this stage: {}", port_list(&modules[stage]));
            problems.push(Problem::new(code::BAD_PORT, place, message).with_hint(hint));
            continue;
        }
        outputs.push(Output { name: output.name.clone(), stage, port, stream: output.stream.clone() });
    }
    for (idx, stage) in draft.stages.iter().enumerate().filter(|(idx, _)| reader_of(draft, *idx).is_none()) {
        let takes = |output: &DraftOutput| output.from.as_ref().map_or(last, |from| from.stage) == idx;
        if !draft.outputs.iter().any(takes) {
            let name = &stage.stage.name;
            let message = format!("no output and no stage takes anything from stage `{name}`");
            let hint = if idx == last {
                format!("add an output for one of its ports: {}", port_list(&modules[idx]))
            } else {
                format!("add an output with `from = \"{name}\"`, or let a stage read it")
            };
            problems.push(Problem::new(code::BAD_PORT, stage.place, message).with_hint(hint));
        }
    }
    outputs
}

/// The first stage that reads another one.
fn reader_of(draft: &Draft, stage: usize) -> Option<&str> {
    let reader = draft.stages.iter().find(|other| other.stage.from == Some(stage))?;
    Some(&reader.stage.name)
}

/// The port that an output takes: the named one, else the one with the output's name, else port 0.
fn port(output: &DraftOutput, stage: usize, draft: &Draft, modules: &[Descriptor]) -> Result<u8, Problem> {
    let module = &modules[stage];
    let position = |name: &str| module.shape.ports.iter().position(|port| port == name);
    let (place, named) = match &output.from {
        Some(from) => (from.place, from.port.as_deref()),
        None => (output.place, None),
    };
    let stage_name = &draft.stages[stage].stage.name;
    let port = match named {
        Some(name) => position(name).ok_or_else(|| {
            let message = format!("stage `{stage_name}` has no port `{}`", name.escape_debug());
            let ports: Vec<&str> = module.shape.ports.iter().map(String::as_str).collect();
            Problem::new(code::BAD_PORT, place, message).with_hint(nearest_or_list(name, "ports", &ports))
        })?,
        None => position(&output.name).unwrap_or(0),
    };
    if let Some(next) = reader_of(draft, stage).filter(|_| port == 0) {
        let name = &module.shape.ports[0];
        let message = format!("port `{name}` of stage `{stage_name}` feeds stage `{next}`");
        let hint = match &module.shape.ports[1..] {
            [] => "it is the only port of this stage; take the output from a stage that no other one reads".to_owned(),
            free => format!("take another port: `from = \"{stage_name}.{}\"`", free[0]),
        };
        return Err(Problem::new(code::BAD_PORT, place, message).with_hint(hint));
    }
    u8::try_from(port).map_err(|_| {
        let message = format!("stage `{stage_name}` has more than 256 ports");
        Problem::new(code::BAD_PORT, place, message)
    })
}

fn port_list(module: &Descriptor) -> String {
    list(&module.shape.ports.iter().map(String::as_str).collect::<Vec<_>>())
}
