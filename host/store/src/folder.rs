//! Whether a folder may be used for a store: it is ours, nobody else may write to it, and nothing in it leads elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pelton_files::FolderError;

/// Why a folder is not used for a store. Waiting does not help, somebody has to correct it.
#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    /// Others could exchange what lies in it, or it cannot be looked at.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is written there would go elsewhere; the store makes no links.
    #[error("{} is a link, and in a state folder links are not followed", .0.display())]
    Link(PathBuf),
}

impl Unsafe {
    /// What to do about it; `None` where the system's own words say it.
    #[must_use]
    pub fn way_out(&self) -> Option<String> {
        match self {
            Unsafe::Folder(error) => error.way_out(),
            Unsafe::Link(_) => Some("remove the link, or name another folder".to_owned()),
        }
    }
}

/// Looks at the folder of a store before it is opened; one that is not there is well. The folders above it may be links,
/// itself and what lies in it may not.
///
/// # Errors
/// With the reason.
pub fn check_folder(dir: &Path) -> Result<(), Unsafe> {
    match fs::symlink_metadata(dir) {
        Ok(found) if found.is_symlink() => return Err(Unsafe::Link(dir.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    pelton_files::check_private(dir)?;
    refuse_links(dir)
}

/// Refuses a folder with a link in it or in its generations. What was set aside is only moved and deleted.
fn refuse_links(dir: &Path) -> Result<(), Unsafe> {
    let failed = |error: io::Error| Unsafe::Folder(FolderError::Io { folder: dir.to_path_buf(), error });
    let entries = match fs::read_dir(dir) {
        // Whoever has it open deletes old generations.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let kind = match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind.map_err(failed)?,
        };
        if kind.is_symlink() {
            return Err(Unsafe::Link(entry.path()));
        }
        if kind.is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b"bad.") {
            refuse_links(&entry.path())?;
        }
    }
    Ok(())
}
