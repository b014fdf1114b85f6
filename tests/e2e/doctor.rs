//! `pelton doctor` in a folder of somebody else: it looks, and runs nothing that lies there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::process::{finish, pelton};
use crate::scene::Scene;

/// Puts a program there that leaves a trace when it runs.
fn trap(folder: &Path, name: &str, trace: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\ntouch {}\necho nats-server: v2.15.1\n", trace.display())).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn nothing_of_the_current_folder_is_run() {
    let scene = Scene::new();
    let (here, trace) = (scene.path("here"), scene.path("executed"));
    for program in ["nats-server", "rustc", "df"] {
        for folder in [".tools/bin", "bin", ".", "toolchain/bin"] {
            trap(&here.join(folder), program, &trace);
        }
    }
    std::fs::write(here.join("rust-toolchain.toml"), "[toolchain]\npath = \"toolchain\"\n").unwrap();
    let path = format!("bin:.::{}:./bin", std::env::var("PATH").unwrap());
    let args = ["doctor", "--state-dir", &scene.arg("state"), "--server", "nats://127.0.0.1:1"];
    let said = finish(pelton(&args).current_dir(&here).env("PATH", path)).code(4);
    assert!(said.stdout.contains("nats-server") && said.stdout.contains("free disk"), "{}", said.stdout);
    assert!(!trace.exists(), "{}", said.stdout);
}

#[test]
fn folders_that_others_get_at_are_named() {
    let scene = Scene::new();
    let (state, cache) = (scene.arg("state"), scene.arg("cache"));
    let args = ["doctor", "--state-dir", &state, "--cache-dir", &cache, "--server", "nats://127.0.0.1:1"];
    std::fs::create_dir(&cache).unwrap();
    let modes = |of_state: u32, of_cache: u32| {
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(of_state)).unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(of_cache)).unwrap();
    };
    let said = || finish(&mut pelton(&args)).code(4).stdout;
    let first = finish(&mut pelton(&args)).code(4);
    assert!(!first.stdout.contains(&format!("{state} can be")), "a new folder is private: {}", first.stdout);
    let (read, written) =
        (format!("{state} can be read by other users"), format!("{cache} can be written by other users"));
    modes(0o755, 0o777);
    let text = said();
    assert!(text.contains(&read) && text.contains(&written) && text.contains("chmod"), "{text}");
    modes(0o700, 0o700);
    let text = said();
    assert!(!text.contains(&read) && !text.contains(&written), "{text}");
}
