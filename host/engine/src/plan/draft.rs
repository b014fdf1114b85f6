//! A pipeline file whose text is right, before its modules are known.
//!
//! The host loads the modules that [`Draft::stages`] names, gives each its configuration, and hands their
//! descriptors to [`Draft::bind`]. Places are kept, so that a problem with a module still points into the file.

use super::{Limits, OutputStream, Source, Stage};
use crate::epoch::sha256;
use crate::hex;
use crate::problem::{Place, Problem, code};

/// A pipeline file without problems in its text. Made by [`parse`](super::parse).
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) key_place: Place,
    pub(super) dedupe_place: Place,
    pub(super) time_place: Place,
    /// Where each entry of `source.fields` stands.
    pub(super) field_places: Vec<Place>,
    pub(super) stages: Vec<DraftStage>,
    pub(super) outputs: Vec<DraftOutput>,
    pub(super) limits: Limits,
    /// All that the file says, as JSON with sorted keys.
    pub(super) document: String,
}

/// A stage and its places.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftStage {
    /// What the file says: name, module path, configuration as JSON text, window.
    pub stage: Stage,
    /// The table.
    pub place: Place,
    /// The value of `from`, or the table.
    pub from_place: Place,
    /// The value of `module`.
    pub module_place: Place,
    /// The value of `config`, or the table.
    pub config_place: Place,
    /// The value of `window`, or the table.
    pub window_place: Place,
    /// The value of `ttl`, or the table.
    pub ttl_place: Place,
}

/// An output whose port is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DraftOutput {
    pub(super) name: String,
    pub(super) place: Place,
    /// Absent: the last stage.
    pub(super) from: Option<From>,
    pub(super) stream: Option<OutputStream>,
}

/// `from = "stage.port"`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct From {
    pub(super) stage: usize,
    /// Absent: the port with the name of the output, else port 0.
    pub(super) port: Option<String>,
    pub(super) place: Place,
}

impl Draft {
    /// Name of the pipeline.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stages in order: which module to load from where, and its configuration.
    #[must_use]
    pub fn stages(&self) -> &[DraftStage] {
        &self.stages
    }

    /// Names of the outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|output| output.name.as_str())
    }

    /// What identifies the pipeline: sha256 over what the file says and the sha256 of each stage's module, not over where
    /// modules lie, over comments, or over defaults, which belong to the version of Pelton.
    ///
    /// # Panics
    /// When the number of modules differs from the number of stages.
    #[must_use]
    pub fn revision(&self, modules: &[[u8; 32]]) -> [u8; 32] {
        assert_eq!(self.stages.len(), modules.len(), "one module per stage");
        let mut document: serde_json::Value = serde_json::from_str(&self.document).expect("it was written as JSON");
        for (stage, digest) in modules.iter().enumerate() {
            document["stage"][stage]["module"] = format!("sha256:{}", hex::encode(digest)).into();
        }
        sha256(document.to_string().as_bytes())
    }

    /// Bounds that guests run under.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl DraftStage {
    /// The problem to report when the module cannot be loaded; `reason` is lower case without a full stop.
    #[must_use]
    pub fn not_loaded(&self, reason: &str) -> Problem {
        let message = format!("cannot load the module `{}`: {reason}", self.stage.module.escape_debug());
        Problem::new(code::MODULE_LOAD, self.module_place, message)
            .with_hint("paths are relative to the pipeline file; build the module first")
    }

    /// The problem to report when the module's file is there and the sandbox refuses what is in it.
    #[must_use]
    pub fn not_accepted(&self, reason: &str) -> Problem {
        let message = format!("the module `{}` is refused: {reason}", self.stage.module.escape_debug());
        Problem::new(code::MODULE_LOAD, self.module_place, message)
            .with_hint("correct the module and build it again, as README says under \"Write a rule\"")
    }

    /// The problem to report when the rule reads an aggregate that it does not declare.
    #[must_use]
    pub fn undeclared_aggregate(&self, reason: &str) -> Problem {
        let message = format!("the rule of stage `{}` does not fit its own plan: {reason}", self.stage.name);
        Problem::new(code::RULE_AGGREGATE, self.module_place, message)
            .with_hint("correct the module and build it again")
    }

    /// The problem to report when the module refuses its configuration; `reason` says that it does.
    #[must_use]
    pub fn not_configured(&self, reason: &str) -> Problem {
        let message = format!("stage `{}`: {reason}", self.stage.name);
        Problem::new(code::MODULE_CONFIG, self.config_place, message).with_hint("correct `config` of this stage")
    }
}
