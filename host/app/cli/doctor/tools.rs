//! Programs that are asked for their version: from absolute folders of PATH or beside this one, never what happens to lie in
//! the current folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pelton_broker::VERSION_MIN;

use super::Finding;

pub(super) fn rustc() -> Finding {
    match find("rustc").and_then(|rustc| first_line(&rustc, &["--version"])) {
        Some(version) => Finding::ok("rustc", version),
        None => Finding::note("rustc", "not found", "only needed to build modules: install it with rustup"),
    }
}

pub(super) fn wasm_target() -> Finding {
    const TARGET: &str = "wasm32-unknown-unknown";
    let root = find("rustc").and_then(|rustc| first_line(&rustc, &["--print", "sysroot"]));
    match root.map(|root| Path::new(&root).join("lib/rustlib").join(TARGET).join("lib")) {
        Some(folder) if folder.is_dir() => Finding::ok("wasm target", TARGET),
        _ => Finding::note("wasm target", "not installed", "only needed to build modules: `just setup`"),
    }
}

/// The server that could be started here.
pub(super) fn nats_server() -> Finding {
    const NAME: &str = "nats-server";
    const REMEDY: &str =
        "only needed to run a broker here: put one into PATH; the recipes of Pelton's repository use `.tools/bin`";
    let Some(program) = beside(NAME).or_else(|| find(NAME)) else {
        return Finding::note(NAME, "not found", REMEDY);
    };
    let Some(text) = first_line(&program, &["--version"]) else {
        return Finding::note(NAME, format!("{} does not run", program.display()), REMEDY);
    };
    let (major, minor) = VERSION_MIN;
    if version(&text) < Some(VERSION_MIN) {
        return Finding::note(NAME, format!("{text}: older than {major}.{minor}"), REMEDY);
    }
    Finding::ok(NAME, format!("{text} ({})", program.display()))
}

/// A program in the folder of this one.
fn beside(name: &str) -> Option<PathBuf> {
    find_in(name, std::env::current_exe().ok()?.parent().map(Path::to_path_buf))
}

/// A program in PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    find_in(name, std::env::split_paths(&path))
}

/// The first of the folders that has the program. Relative ones are in the current folder, where anything may lie.
fn find_in(name: &str, folders: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    folders.into_iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(is_program)
}

/// First line that a program prints, if it runs.
fn first_line(program: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    // rustup runs the toolchain that a file in the current folder names.
    command.args(args).current_dir("/").stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// Major and minor number out of `nats-server: v2.15.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.rsplit([' ', 'v']).find(|part| !part.is_empty())?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        assert_eq!(version("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(version("nats-server: v2.9.25"), Some((2, 9)));
        assert_eq!(version("nonsense"), None);
        assert!(version("nonsense") < Some(VERSION_MIN));
    }

    #[test]
    fn programs_of_relative_folders_are_passed_over() {
        let folders = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(find_in("sh", folders(&["", ".", "../../bin", "no/bin", "/bin"])), Some(PathBuf::from("/bin/sh")));
        let up: PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
        assert!(up.join("bin/sh").exists());
        assert_eq!(find_in("sh", [up.join("bin")]), None);
        assert_eq!(find_in("passwd", folders(&["/etc"])), None, "it cannot be executed");
    }
}
