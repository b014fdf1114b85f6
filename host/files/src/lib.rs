//! Files that somebody else may have written, read by kind and with a bound, and the question whose a folder is.
//!
//! The host reads files that are named on the command line or in a pipeline file, and keeps state and results in folders.
//! Neither may hang it, fill its memory, or lead it to a file that it was not given: [`read`] is the one way to read a
//! whole file, [`check_owner`] and [`check_private`] the one answer to whom a folder must belong.
#![forbid(unsafe_code)]

mod folder;
mod read;

pub use folder::{FolderError, check_owner, check_private, is_ours};
pub use read::{Links, ReadError, kind, open, read, read_trusted};
