//! A pipeline file with its modules: loaded, configured and bound to each other, ready to run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pelton_engine::epoch::sha256;
use pelton_engine::guest::{Descriptor, Guest, World};
use pelton_engine::judge::StepError;
use pelton_engine::plan::{self, Draft, DraftStage, Plan, Shape, Stage};
use pelton_engine::problem::Problem;
use pelton_engine::step::{Trial, try_rule};
use pelton_files::{Links, ReadError};
use pelton_sandbox::{Child, CompileLimits, Compiler, LoadError, Module, Sandbox, ShapeLimits};

use crate::cli::failure::{Exit, Failure};

/// The hidden command that compiles one module.
pub(crate) const COMPILE: &str = "compile-module";
/// Most bytes of a pipeline file: a hundred times more than anybody writes.
const PIPELINE_BYTES_MAX: usize = 1 << 20;

/// A pipeline that was checked against its modules; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) plan: Arc<Plan>,
    /// One per stage, in order.
    pub(crate) modules: Vec<Module>,
    /// What the modules are, and their shapes as they are configured; one per stage.
    pub(crate) descriptors: Vec<Descriptor>,
    /// What identifies it: [`Draft::revision`].
    pub(crate) revision: [u8; 32],
    /// What may be wrong, and need not be; for `validate`.
    pub(crate) warnings: Vec<String>,
    limits: pelton_sandbox::Limits,
}

impl Pipeline {
    /// Reads the file, loads and configures its modules, and reports every problem at once.
    pub(crate) fn load(path: &Path, sandbox: &Sandbox) -> Result<Pipeline, Failure> {
        let draft = read(path)?;
        let limits = sandbox_limits(draft.limits());
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut problems = Vec::new();
        let mut modules = Vec::new();
        let mut descriptors = Vec::new();
        for stage in draft.stages() {
            match load_stage(stage, folder, sandbox, &limits)? {
                Ok((module, descriptor)) => {
                    modules.push(module);
                    descriptors.push(descriptor);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(Failure::problems(path, &problems));
        }
        let stages = draft.stages().to_vec();
        let revision = draft.revision(&modules.iter().map(Module::digest).collect::<Vec<_>>());
        let (plan, problems) = draft.bind(&descriptors);
        let mut pipeline = match plan {
            Some(plan) => {
                Pipeline { plan: Arc::new(plan), modules, descriptors, revision, warnings: Vec::new(), limits }
            }
            None => return Err(Failure::problems(path, &problems)),
        };
        let tried = stages.iter().enumerate().filter_map(|(idx, stage)| pipeline.try_rule(idx, stage).err());
        let problems: Vec<Problem> = tried.collect();
        if problems.is_empty() { Ok(pipeline) } else { Err(Failure::problems(path, &problems)) }
    }

    /// Lets the rule of a stage, when it is one, judge a window in which nothing was seen.
    fn try_rule(&mut self, idx: usize, stage: &DraftStage) -> Result<(), Problem> {
        let module = &self.modules[idx];
        if module.identity().world != World::WindowRule {
            return Ok(());
        }
        // It was configured a moment ago; what it says now it will say again in the run.
        let Ok(mut guest) = module.instantiate(&stage.stage.config, &self.limits) else { return Ok(()) };
        match try_rule(guest.as_mut(), &self.plan.reads(&self.descriptors)) {
            Ok(()) => {}
            Err(Trial::Wrong(reason)) => return Err(stage.undeclared_aggregate(&reason)),
            Err(Trial::Doubtful(reason)) => self.warnings.push(format!(
                "the rule of stage `{}` fails with a window in which nothing happened: {reason}",
                stage.stage.name
            )),
        }
        Ok(())
    }

    /// Fresh guests of one partition, one per stage.
    ///
    /// # Errors
    /// They were started before, when the pipeline was loaded: what is in the way now may go.
    pub(crate) fn guests(&self) -> Result<Vec<Box<dyn Guest>>, StepError> {
        let start = |(stage, module): (&Stage, &Module)| {
            let failed = |error: LoadError| StepError::Retry { stage: stage.name.clone(), reason: error.to_string() };
            module.instantiate(&stage.config, &self.limits).map_err(failed)
        };
        self.plan.stages.iter().zip(&self.modules).map(start).collect()
    }
}

/// Reads the text of a pipeline file without loading its modules.
pub(crate) fn read(path: &Path) -> Result<Draft, Failure> {
    let text = pelton_files::read(path, PIPELINE_BYTES_MAX, Links::Follow).map_err(|error| {
        Failure::new(Exit::Usage, error).context(format!("cannot read the pipeline file {}", path.display()))
    })?;
    let text = String::from_utf8(text)
        .map_err(|error| Failure::new(Exit::Usage, error).context(format!("{} is not text", path.display())))?;
    let (draft, problems) = plan::parse(&text);
    draft.ok_or_else(|| Failure::problems(path, &problems))
}

/// The plan as far as the file alone says it, for commands that run no module: none is read or compiled.
pub(crate) fn outline(path: &Path) -> Result<Plan, Failure> {
    Ok(read(path)?.outline())
}

/// The plan as far as the file alone says it, and the revision of file and modules as they are now; `None` where a module
/// cannot be read.
pub(crate) fn outline_with_revision(path: &Path) -> Result<(Plan, Option<[u8; 32]>), Failure> {
    let draft = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let limit = sandbox_limits(draft.limits()).shape.module_bytes;
    let read = |stage: &DraftStage| pelton_files::read(&folder.join(&stage.stage.module), limit, Links::Follow).ok();
    let digests: Option<Vec<[u8; 32]>> =
        draft.stages().iter().map(|stage| read(stage).map(|bytes| sha256(&bytes))).collect();
    let revision = digests.map(|digests| draft.revision(&digests));
    Ok((draft.outline(), revision))
}

/// The file and those of its modules, as far as it can be read.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let modules = read(path).map(|draft| draft.stages().iter().map(|stage| folder.join(&stage.stage.module)).collect());
    std::iter::once(path.to_path_buf()).chain(modules.unwrap_or_else(|_| Vec::new())).collect()
}

/// Loads one module and configures an instance. The outer error is the host's, the inner one the file's.
fn load_stage(
    stage: &DraftStage,
    folder: &Path,
    sandbox: &Sandbox,
    limits: &pelton_sandbox::Limits,
) -> Result<Result<(Module, Descriptor), Problem>, Failure> {
    let path = folder.join(&stage.stage.module);
    let bytes = match pelton_files::read(&path, limits.shape.module_bytes, Links::Follow) {
        Ok(bytes) => bytes,
        Err(error @ ReadError::Io(_)) => return Ok(Err(stage.not_loaded(&error.to_string().to_lowercase()))),
        Err(error) => return Ok(Err(stage.not_loaded(&error.to_string()))),
    };
    let refused = |error: LoadError, problem: Problem| match error.refusal {
        pelton_sandbox::Refusal::Host => Err(Failure::new(Exit::Environment, error)),
        _ => Ok(Err(problem)),
    };
    let module = match sandbox.load(bytes, limits) {
        Ok(module) => module,
        Err(error) => {
            let problem = stage.not_accepted(&error.message);
            return refused(error, problem);
        }
    };
    match module.instantiate(&stage.stage.config, limits) {
        Ok(guest) => Ok(Ok((module, guest.descriptor().clone()))),
        Err(error) => {
            let problem = stage.not_configured(&error.message);
            refused(error, problem)
        }
    }
}

/// The sandbox's bounds for a pipeline.
pub(crate) fn sandbox_limits(limits: &plan::Limits) -> pelton_sandbox::Limits {
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (shape, compile) = match limits.shape {
        Shape::Compiled => (ShapeLimits::default(), CompileLimits::default()),
        Shape::Interpreter => (ShapeLimits::interpreter(), CompileLimits::interpreter()),
    };
    pelton_sandbox::Limits {
        call_timeout: Duration::from_millis(limits.call_timeout.0.unsigned_abs()),
        fuel_per_event: limits.fuel_per_event,
        memory_bytes: bytes(limits.memory),
        reply_bytes: bytes(limits.reply_bytes),
        state_bytes: u32::try_from(limits.state_per_key).unwrap_or(u32::MAX),
        shape,
        compile,
        ..pelton_sandbox::Limits::default()
    }
}

/// A sandbox whose compiler is this program, started anew for each module, and that keeps what it made in `cache`, or in
/// the user's cache folder, so that a warm start is quick. A compiler that works when `stop` is set is given up.
pub(crate) fn sandbox(cache: Option<PathBuf>, stop: Arc<AtomicBool>) -> Result<Sandbox, Failure> {
    let compiler = Compiler::Child(Child { program: this_program()?, arguments: vec![COMPILE.into()], stop });
    let open =
        |cache_dir| Sandbox::new(&pelton_sandbox::Options { compiler: compiler.clone(), cache_dir, pooling: false });
    let opened = match (cache, default_cache()) {
        // What was asked for by name has to work.
        (Some(cache), _) => return open(Some(cache)).map_err(|error| Failure::new(Exit::Usage, error)),
        (None, cache) => open(cache),
    };
    opened
        .or_else(|error| {
            tracing::warn!(%error, "compiled modules are not kept: each start compiles them again");
            open(None)
        })
        .map_err(|error| Failure::new(Exit::Environment, error))
}

/// The very program that runs, also where another one has taken its place in the meantime.
fn this_program() -> Result<PathBuf, Failure> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe().map_err(|error| {
        Failure::new(Exit::Environment, error).context("cannot find the program that compiles modules")
    })
}

/// Where compiled modules are kept without `--cache-dir`.
pub(crate) fn default_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("pelton"))
}
