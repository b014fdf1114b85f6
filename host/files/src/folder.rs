//! Whose a folder is, and who else may write to it.
//!
//! The rules are those that ssh has for its keys (`StrictModes`): what lies in a folder of somebody else, or in one that
//! others may write to, can be exchanged by them at any moment.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const GROUP_WRITE: u32 = 0o020;
const OTHER_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be looked at.
    #[error("folder {}: {error}", folder.display())]
    Io { folder: PathBuf, error: io::Error },
    /// Its owner may exchange what lies in it.
    #[error("folder {} belongs to the user with id {owner}, and this process runs as {us}", folder.display())]
    Owner { folder: PathBuf, owner: u32, us: u32 },
    /// Others may exchange what lies in it.
    #[error("folder {} may be written to by others (mode {mode:04o})", folder.display())]
    Writable { folder: PathBuf, mode: u32 },
    /// Something else has its name.
    #[error("{} is {kind}, not a folder", folder.display())]
    Kind { folder: PathBuf, kind: &'static str },
}

impl FolderError {
    /// What to do about it; `None` where the system's own words say it.
    #[must_use]
    pub fn way_out(&self) -> Option<String> {
        match self {
            FolderError::Io { .. } => None,
            FolderError::Owner { folder, .. } => {
                let folder = folder.display();
                Some(format!("run as its owner, name another folder, or one inside of it: `{folder}/pelton`"))
            }
            FolderError::Writable { folder, .. } => {
                let folder = folder.display();
                Some(format!("`chmod go-w {folder}`, or name a folder inside of it: `{folder}/pelton`"))
            }
            FolderError::Kind { .. } => Some("name another folder".to_owned()),
        }
    }
}

/// Refuses a folder for results: one of another user, or one that everybody may write to and rename in.
///
/// A group may: whoever made the folder chose it, and what is written there is closed to it all the same. A folder that
/// is not there is well; `folder` may be a link to one.
///
/// # Errors
/// With the reason.
pub fn check_owner(folder: &Path) -> Result<(), FolderError> {
    let Some(found) = look(folder)? else { return Ok(()) };
    owned(folder, &found)?;
    let is_open = found.mode() & OTHER_WRITE != 0 && found.mode() & STICKY == 0;
    if is_open { Err(writable(folder, &found)) } else { Ok(()) }
}

/// Refuses a folder for state: one of another user, or one that anybody else may write to.
///
/// A folder that is not there is well; `folder` may be a link to one.
///
/// # Errors
/// With the reason.
pub fn check_private(folder: &Path) -> Result<(), FolderError> {
    let Some(found) = look(folder)? else { return Ok(()) };
    owned(folder, &found)?;
    if is_writable_by_others(&found) { Err(writable(folder, &found)) } else { Ok(()) }
}

pub(crate) fn is_writable_by_others(found: &Metadata) -> bool {
    found.mode() & (GROUP_WRITE | OTHER_WRITE) != 0
}

/// Whether a file is ours, or that of root, who needs no file to get at what we write.
#[must_use]
pub fn is_ours(found: &Metadata) -> bool {
    [ROOT, us()].contains(&found.uid())
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn look(folder: &Path) -> Result<Option<Metadata>, FolderError> {
    let folder = folder.to_path_buf();
    match fs::metadata(&folder) {
        Ok(found) if found.is_dir() => Ok(Some(found)),
        Ok(found) => Err(FolderError::Kind { folder, kind: crate::kind(found.file_type()) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FolderError::Io { folder, error }),
    }
}

fn owned(folder: &Path, found: &Metadata) -> Result<(), FolderError> {
    if is_ours(found) {
        return Ok(());
    }
    Err(FolderError::Owner { folder: folder.to_path_buf(), owner: found.uid(), us: us() })
}

fn writable(folder: &Path, found: &Metadata) -> FolderError {
    FolderError::Writable { folder: folder.to_path_buf(), mode: found.mode() & 0o7777 }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn who_else_may_write_decides() {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("folder");
        assert!(check_private(&folder).is_ok() && check_owner(&folder).is_ok(), "it is not there yet");
        fs::create_dir(&folder).unwrap();
        let link = dir.path().join("link");
        symlink(&folder, &link).unwrap();
        for (mode, private, owner) in [
            (0o700, true, true),
            (0o755, true, true),
            (0o775, false, true),
            (0o2770, false, true),
            (0o757, false, false),
            (0o777, false, false),
            (0o1777, false, true),
        ] {
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            for folder in [&folder, &link] {
                assert_eq!(check_private(folder).is_ok(), private, "{mode:o}");
                assert_eq!(check_owner(folder).is_ok(), owner, "{mode:o}");
            }
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        let error = check_private(&folder).unwrap_err();
        assert!(error.to_string().ends_with("may be written to by others (mode 1777)"), "{error}");
        assert!(error.way_out().unwrap().contains("chmod go-w"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        // Only root can give a folder away; whoever else runs this has one of root's at hand, which is well.
        if us() != ROOT {
            assert!(check_owner(Path::new("/")).is_ok());
            return;
        }
        chown(&folder, Some(65_534), None).unwrap();
        for checked in [check_private(&folder), check_owner(&folder)] {
            let error = checked.unwrap_err();
            assert!(error.to_string().contains("belongs to the user with id 65534"), "{error}");
            assert!(error.way_out().is_some());
        }
    }

    #[test]
    fn a_file_is_no_folder() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = check_private(&file).unwrap_err().to_string();
        assert!(error.ends_with("file is a regular file, not a folder"), "{error}");
    }
}
