//! What the store keeps of a file run besides the engine's state: committed with each epoch.

use serde::{Deserialize, Serialize};

use super::input::InputProgress;
use super::made_by::MadeBy;
use super::output::Lengths;
use super::summary::Summary;

/// How far a file run is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) input: InputProgress,
    /// With what the results were made.
    pub(super) made_by: MadeBy,
    /// The output folder, as an absolute path without links.
    pub(super) folder: String,
    /// What is committed of each file.
    pub(super) lengths: Lengths,
    /// What was brought about since the beginning.
    pub(super) summary: Summary,
    pub(super) done: bool,
}
