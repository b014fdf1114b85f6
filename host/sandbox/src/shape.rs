//! The shape of a module: counts of what makes a compiler slow, taken in one walk over the bytes, and their bounds.
//!
//! A first filter that costs little and says what is too much. What it misses costs a child process (`compile`).

use wasmparser::{
    BlockType, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    ElementItems, ElementKind, Encoding, FunctionBody, Instance, Operator, Parser, Payload, TypeRef,
};

use crate::error::{LoadError, Refusal};
use crate::limits::{DETAIL_BYTES, ShapeLimits};
use crate::log::printable;

/// What a walk finds.
#[derive(Default)]
pub(crate) struct Shape<'a> {
    /// Names of the outermost component.
    pub(crate) imports: Vec<&'a str>,
    pub(crate) exports: Vec<&'a str>,
    functions: u32,
    jump_targets: u32,
    imported_elements: u64,
    custom_bytes: usize,
    core_modules: u32,
    memories: u32,
}

/// The module or component that is being walked.
#[derive(Default)]
struct Frame {
    /// Components: how many instances one instance of each component in the index space consists of, itself counted.
    components: Vec<u64>,
    /// Components: how many instances one instance of this one consists of, without itself.
    instances: u64,
    /// Modules: parameters and results of each type.
    types: Vec<(u32, u32)>,
    /// Modules: the type of each function that has a body.
    functions: Vec<u32>,
    bodies: usize,
    imported_tables: u32,
    is_component: bool,
}

/// Walks all nested modules and components once; an error as soon as something is beyond its limit.
pub(crate) fn measure<'a>(bytes: &'a [u8], limits: &ShapeLimits) -> Result<Shape<'a>, LoadError> {
    let mut shape = Shape::default();
    let mut frames: Vec<Frame> = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match payload {
            Payload::Version { encoding, .. } => {
                let is_component = encoding == Encoding::Component;
                if !is_component {
                    shape.core_modules += 1;
                    bound("core modules", shape.core_modules, limits.core_modules)?;
                }
                frames.push(Frame { is_component, ..Frame::default() });
                bound("components in components", frames.len() as u64, limits.depth)?;
            }
            Payload::End(_) => {
                let ended = frames.pop().filter(|frame| frame.is_component);
                if let (Some(ended), Some(outer)) = (ended, frames.last_mut()) {
                    outer.components.push(ended.instances.saturating_add(1));
                }
            }
            Payload::CustomSection(section) => {
                shape.custom_bytes += section.data().len();
                bound("bytes of custom sections", shape.custom_bytes as u64, limits.custom_bytes as u64)?;
            }
            payload => match frames.last().map(|frame| frame.is_component) {
                Some(true) => shape.component_section(payload, &mut frames, limits)?,
                Some(false) => shape.module_section(payload, frames.last_mut().expect("there is one"), limits)?,
                None => {}
            },
        }
    }
    Ok(shape)
}

/// An error unless `count` is within `limit`.
fn bound(what: &str, count: impl Into<u64>, limit: impl Into<u64>) -> Result<(), LoadError> {
    let (count, limit) = (count.into(), limit.into());
    if count <= limit {
        return Ok(());
    }
    Err(Refusal::Shape.because(format!("module has {count} {what}, limit {limit}")))
}

impl<'a> Shape<'a> {
    fn component_section(
        &mut self,
        payload: Payload<'a>,
        frames: &mut [Frame],
        limits: &ShapeLimits,
    ) -> Result<(), LoadError> {
        let is_outermost = frames.len() == 1;
        let (outer, frame) = match frames {
            [outer @ .., frame] => (outer, frame),
            [] => return Ok(()),
        };
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    if is_outermost {
                        self.imports.push(import.name.name);
                    }
                    // What cannot be seen here cannot be counted, and no tool makes it.
                    if matches!(import.ty, ComponentTypeRef::Component(_)) {
                        return Err(Refusal::Shape.because("module has a component that imports a component"));
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if is_outermost {
                        self.exports.push(export.name.name);
                    }
                    // An export is a further name for it, with an index of its own.
                    if export.kind == ComponentExternalKind::Component {
                        frame.components.push(frame.instances_of(export.index));
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias.map_err(invalid)? {
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            return Err(Refusal::Shape.because("module takes a component out of an instance"));
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            let level = outer.len().checked_sub(count as usize);
                            let instances =
                                level.and_then(|level| outer.get(level)).map_or(1, |frame| frame.instances_of(index));
                            frame.components.push(instances);
                        }
                        _ => {}
                    }
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance.map_err(invalid)? {
                        frame.instances = frame.instances.saturating_add(1);
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance.map_err(invalid)? {
                        frame.instances = frame.instances.saturating_add(frame.instances_of(component_index));
                    }
                }
            }
            _ => {}
        }
        bound("instances in one instance", frame.instances, limits.instances)
    }

    fn module_section(
        &mut self,
        payload: Payload<'a>,
        module: &mut Frame,
        limits: &ShapeLimits,
    ) -> Result<(), LoadError> {
        match payload {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    let ty = ty.map_err(invalid)?;
                    module.types.push((ty.params().len() as u32, ty.results().len() as u32));
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Table(_) = import.map_err(invalid)?.ty {
                        module.imported_tables += 1;
                    }
                }
            }
            Payload::FunctionSection(section) => {
                self.functions = self.functions.saturating_add(section.count());
                bound("functions", self.functions, limits.functions)?;
                for ty in section {
                    module.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::MemorySection(section) => {
                self.memories = self.memories.saturating_add(section.count());
                bound("memories", self.memories, limits.memories as u64)?;
            }
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element.map_err(invalid)?;
                    let ElementKind::Active { table_index, .. } = element.kind else { continue };
                    if table_index.unwrap_or(0) < module.imported_tables {
                        let count = match element.items {
                            ElementItems::Functions(items) => items.count(),
                            ElementItems::Expressions(_, items) => items.count(),
                        };
                        self.imported_elements = self.imported_elements.saturating_add(u64::from(count));
                    }
                }
                bound("elements for imported tables", self.imported_elements, limits.imported_elements)?;
            }
            Payload::CodeSectionEntry(body) => {
                let ty = module.functions.get(module.bodies).copied();
                module.bodies += 1;
                self.function(&body, ty, module, limits)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Bounds of one function.
    fn function(
        &mut self,
        body: &FunctionBody<'_>,
        ty: Option<u32>,
        module: &Frame,
        limits: &ShapeLimits,
    ) -> Result<(), LoadError> {
        let size = body.range().len();
        if size > limits.body_bytes {
            let limit = limits.body_bytes;
            return Err(Refusal::Shape.because(format!("module has a function of {size} bytes, limit {limit} bytes")));
        }
        // Parameters are local variables as well.
        let mut locals = ty.map_or(0, |ty| module.arity(ty).0);
        for group in body.get_locals_reader().map_err(invalid)? {
            locals = locals.saturating_add(group.map_err(invalid)?.0);
        }
        bound("local variables in one function", locals, limits.locals_per_function)?;
        let (mut calls, mut nesting, mut block_locals) = (0_u32, 0_u32, 0_u64);
        let mut operators = body.get_operators_reader().map_err(invalid)?;
        while !operators.eof() {
            let operator = operators.read().map_err(invalid)?;
            match operator {
                Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                    nesting += 1;
                    bound("nested blocks in one function", nesting, limits.nesting)?;
                    let values = match blockty {
                        BlockType::FuncType(ty) => module.arity(ty),
                        BlockType::Empty | BlockType::Type(_) => (0, 1),
                    };
                    block_locals += u64::from(locals) + u64::from(values.0) + u64::from(values.1);
                    bound("blocks times local variables in one function", block_locals, limits.block_locals)?;
                }
                Operator::End => nesting = nesting.saturating_sub(1),
                Operator::BrTable { targets } => {
                    self.jump_targets = self.jump_targets.saturating_add(targets.len());
                    bound("jump table targets", self.jump_targets, limits.jump_targets)?;
                }
                operator if is_call(&operator) => calls += 1,
                _ => {}
            }
        }
        bound("calls in one function", calls, limits.calls_per_function)
    }
}

impl Frame {
    /// How many instances an instance of this component consists of. The validator has not been here yet, so there may be
    /// none of that number.
    fn instances_of(&self, component: u32) -> u64 {
        self.components.get(component as usize).copied().unwrap_or(1)
    }

    /// Parameters and results of a type.
    fn arity(&self, ty: u32) -> (u32, u32) {
        self.types.get(ty as usize).copied().unwrap_or_default()
    }
}

/// Whether the compiler makes a call of it, to a function of the module or to one of its own.
fn is_call(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::MemoryGrow { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. }
            | Operator::TableGrow { .. }
            | Operator::TableCopy { .. }
            | Operator::TableFill { .. }
            | Operator::TableInit { .. }
            | Operator::TableGet { .. }
            | Operator::TableSet { .. }
            | Operator::ElemDrop { .. }
            | Operator::RefFunc { .. }
    )
}

/// On one line and without control characters: the message may hold lists over many lines, and names out of the module.
pub(crate) fn invalid(error: wasmparser::Error) -> LoadError {
    let words: Vec<&str> = error.message().split_whitespace().collect();
    let message = words.join(" ");
    let message = printable(&message, DETAIL_BYTES);
    Refusal::Invalid.because(format!("not valid wasm: {message} at byte {}", error.offset()))
}
