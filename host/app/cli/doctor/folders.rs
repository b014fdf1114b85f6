//! Folders: can they be written, is there room, and who else gets at them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Finding;

/// Free disk below which a run may stop soon.
const DISK_MIN_MIB: u64 = 1 << 10;
/// Names of a probe that are tried: somebody may have left one.
const PROBES: u32 = 16;

/// Tries what the store does first: make the folder, write a file, remove it.
pub(super) fn state(folder: &Path) -> Finding {
    match probe(folder) {
        Ok(()) => Finding::ok("state folder", folder.display().to_string()),
        Err(error) => {
            let found = format!("{} is not writable: {error}", folder.display());
            Finding::fail("state folder", found, "name another one with --state-dir")
        }
    }
}

fn probe(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut tries = (0..PROBES).map(|idx| folder.join(format!(".doctor-{}-{idx}", std::process::id())));
    // Only a new file, never what somebody has put there under the name, nor where a link of the name leads.
    let open = |path: PathBuf| match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
        opened => Some(opened.map(|file| (file, path))),
    };
    let opened = tries.find_map(open).unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
    let (mut file, path): (File, PathBuf) = opened?;
    let written = file.write_all(b"pelton");
    std::fs::remove_file(path)?;
    written
}

pub(super) fn disk(folder: &Path) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(folder) else {
        return Finding::note("free disk", "unknown", "the system does not tell");
    };
    let mib = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
    if mib < DISK_MIN_MIB {
        return Finding::fail("free disk", format!("{mib} MiB"), "state and cache need room: at least 1 GiB");
    }
    Finding::ok("free disk", format!("{} GiB", mib >> 10))
}

/// A folder that others can read holds keys and events for them; one that they can write is as good as theirs.
pub(super) fn private(check: &'static str, folder: &Path) -> Option<Finding> {
    let mode = folder.metadata().ok()?.permissions().mode() & 0o7777;
    let found = |what: &str| format!("{} can be {what} by other users (mode {mode:04o})", folder.display());
    let remedy = format!("`chmod -R go= {}`", folder.display());
    match (mode & 0o022, mode & 0o077) {
        (0, 0) => None,
        (0, _) => Some(Finding::note(check, found("read"), &remedy)),
        _ => Some(Finding::fail(check, found("written"), &remedy)),
    }
}

/// Files that decide what is run, and their folders: those that every user can write.
pub(super) fn open_to_all(files: &[PathBuf]) -> Option<Finding> {
    let parent = |file: &PathBuf| file.parent().map(|parent| parent.join("."));
    let mut paths: Vec<PathBuf> = files.iter().cloned().chain(files.iter().filter_map(parent)).collect();
    paths.sort();
    paths.dedup();
    // In a folder with the sticky bit nobody replaces the files of others.
    let is_open = |path: &PathBuf| path.metadata().is_ok_and(|found| found.permissions().mode() & 0o1002 == 0o002);
    let open: Vec<String> = paths.iter().filter(|path| is_open(path)).map(|path| path.display().to_string()).collect();
    (!open.is_empty()).then(|| {
        let found = format!("every user can write {}, and so decide what is run", open.join(", "));
        Finding::fail("permissions", found, &format!("`chmod o-w {}`", open.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_that_others_get_at_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for (bits, grade) in
            [(0o700, None), (0o755, Some(Grade::Note)), (0o770, Some(Grade::Fail)), (0o1777, Some(Grade::Fail))]
        {
            mode(folder.path(), bits);
            let finding = private("state folder", folder.path());
            assert_eq!(finding.as_ref().map(|finding| finding.grade), grade, "{bits:o}");
            let path = folder.path().to_string_lossy().into_owned();
            assert!(
                finding
                    .is_none_or(|finding| finding.found.contains(&path) && finding.remedy.unwrap().contains("chmod"))
            );
        }
        assert!(private("cache", &folder.path().join("none")).is_none());
    }

    #[test]
    fn files_that_everybody_can_write_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.wasm");
        std::fs::write(&file, "x").unwrap();
        for (of_folder, of_file, is_open) in
            [(0o755, 0o664, false), (0o775, 0o666, true), (0o777, 0o644, true), (0o1777, 0o644, false)]
        {
            mode(folder.path(), of_folder);
            mode(&file, of_file);
            assert_eq!(open_to_all(std::slice::from_ref(&file)).is_some(), is_open, "{of_folder:o} {of_file:o}");
        }
    }

    #[test]
    fn the_probe_writes_through_no_link_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, state) = (folder.path().join("victim"), folder.path().join("a/state"));
        std::fs::write(&victim, "kept").unwrap();
        probe(&state).unwrap();
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for idx in 0..PROBES {
            assert!(std::fs::read_dir(&state).unwrap().count() == idx as usize, "nothing is left");
            probe(&state).unwrap();
            std::os::unix::fs::symlink(&victim, state.join(format!(".doctor-{}-{idx}", std::process::id()))).unwrap();
        }
        assert!(probe(&state).is_err());
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "kept");
    }
}
