//! Where things are: the repository, its programs, and scratch folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The repository's root, from where this crate lies.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in tests/bench").to_path_buf()
}

/// A program that the same build has made, beside the one that runs.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path is not known")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("`{}` is missing; build it with `cargo build --release --bin {name}`", path.display());
    }
    Ok(path)
}

/// A file of the repository that must exist.
///
/// # Errors
/// When it is not there.
pub fn file(relative: &str) -> Result<PathBuf> {
    let path = root().join(relative);
    if !path.is_file() {
        bail!("`{}` is missing", path.display());
    }
    Ok(path)
}

/// Empties a folder, making it if needed.
///
/// # Errors
/// When the file system refuses.
pub fn fresh(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("emptying `{}`", path.display()));
        }
        _ => {}
    }
    std::fs::create_dir_all(path).with_context(|| format!("making `{}`", path.display()))
}
