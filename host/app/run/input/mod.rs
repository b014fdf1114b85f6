//! Where the events of a file run come from: files, folders, patterns and pipes, packed or not, as one run of lines.
//!
//! [`Inputs`] is the ordered list of what `--input` names, [`Reader`] turns it into chunks of lines on a thread of its
//! own, and [`InputProgress`] is what is committed of it.

mod format;
mod lines;
mod list;
mod open;
mod places;
mod progress;
mod read;
mod silence;

pub(super) use list::Inputs;
pub(super) use places::Places;
pub(super) use progress::InputProgress;
pub(super) use read::{Read, Reader};
pub(super) use silence::Silence;
