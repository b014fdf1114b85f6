//! What a run makes is its owner's alone, and what it reads and writes is nothing else than what was named.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::broker::Broker;
use crate::process::{finish, pelton, shell};
use crate::scene::{Scene, module};

const OTHERS: u32 = 0o077;
/// The user that nobody is.
const NOBODY: u32 = 65_534;

/// Everything below `path`, itself included, that anybody else may read, write or enter.
fn open_to_others(path: &Path) -> Vec<String> {
    let found = std::fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mode = found.permissions().mode();
    let mut open: Vec<String> =
        (mode & OTHERS != 0).then(|| format!("{} {mode:o}", path.display())).into_iter().collect();
    if found.is_dir() {
        let entries = std::fs::read_dir(path).expect("readable");
        open.extend(entries.flat_map(|entry| open_to_others(&entry.expect("readable").path())));
    }
    open
}

fn events(count: u64) -> String {
    let event = |number| json!({ "user": "someone@example.com", "ts": 1_767_225_600_000_u64 + number });
    (0..count).map(|number| event(number).to_string() + "\n").collect()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// The command under a permissive umask.
fn under(umask: &str, command: &Command) -> Command {
    shell(&format!("umask {umask}"), command)
}

#[test]
fn what_a_file_run_and_the_generator_make_is_closed() {
    for umask in ["022", "000"] {
        let scene = Scene::new();
        let pipeline = scene.single("echo", "echo", "");
        let input = scene.write("input.jsonl", events(9) + "no JSON\n");
        let mut run = pelton(&["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("made/out")]);
        run.env("PELTON_CACHE_DIR", scene.path("cache"));
        finish(&mut under(umask, &run)).code(0);
        let (plays, truth) = (scene.arg("plays.jsonl"), scene.arg("truth.json"));
        let generate = ["generate", "plays", "--events", "1000", "--farms", "1", "--output", &plays, "--truth", &truth];
        finish(&mut under(umask, &pelton(&generate))).code(0);
        for made in ["made", "cache", "plays.jsonl", "truth.json"] {
            assert_eq!(open_to_others(&scene.path(made)), [""; 0], "umask {umask}");
        }
        for made in ["made/out/seen.jsonl", "made/out/dlq.jsonl", "made/out/.state/CURRENT"] {
            assert!(scene.path(made).is_file(), "{made}");
        }
    }
}

/// Of an earlier version, or changed since.
#[test]
fn what_is_there_keeps_its_modes_and_is_gone_on_with() {
    if !cfg!(debug_assertions) {
        return;
    }
    let scene = Scene::new();
    let pipeline = scene.single("echo", "echo", "");
    let input = scene.write("input.jsonl", events(9));
    let mut run = pelton(&["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("out")]);
    let died = finish(run.env("PELTON_FAILPOINT", "files.after:2"));
    assert_eq!(died.status.code(), None, "{died:?}");
    for (path, mode) in [("out", 0o755), ("out/seen.jsonl", 0o644), ("out/.state", 0o755)] {
        set_mode(&scene.path(path), mode);
    }
    finish(run.env_remove("PELTON_FAILPOINT")).code(0);
    assert_eq!(scene.read("out/seen.jsonl"), events(9).as_bytes());
    let open = open_to_others(&scene.path("out"));
    assert_eq!(open.len(), 3, "{open:?}");
}

#[test]
fn what_a_run_from_the_broker_makes_is_closed() {
    let (scene, broker) = (Scene::new(), Broker::start());
    let pipeline = scene.single("zoo", "echo", "");
    broker.up(&pipeline);
    broker.publish("zoo", events(9).lines().map(str::to_owned));
    let mut run = broker.pelton(&["run", &pipeline, "--listen", "off", "--exit-when-caught-up"]);
    run.env("XDG_STATE_HOME", scene.path("home")).env("PELTON_CACHE_DIR", scene.path("cache"));
    finish(&mut under("000", &run)).code(0);
    assert!(scene.path("home/pelton/zoo/p0/CURRENT").is_file());
    for made in ["home", "cache"] {
        assert_eq!(open_to_others(&scene.path(made)), [""; 0]);
    }
}

#[test]
fn links_in_a_state_folder_lead_nowhere() {
    let scene = Scene::new();
    let pipeline = scene.single("echo", "echo", "");
    let input = scene.write("input.jsonl", events(9));
    for name in ["lock", "id", "making", "CURRENT", "CURRENT.new", "id.new", "gen-000001", "gen-000001/db"] {
        let (out, state) = (scene.arg(&format!("out {name}")), scene.path(&format!("state {name}")));
        let link = state.join(name);
        std::fs::create_dir_all(link.parent().expect("a folder")).expect("writable");
        let victim = scene.write("victim", "precious");
        symlink(&victim, &link).expect("writable");
        let state = state.to_str().expect("plain names");
        let args = ["run", &pipeline, "--input", &input, "--output-dir", &out, "--state-dir", state];
        finish(&mut pelton(&args)).code(2).says(&[name, "is a link", "hint:"]);
        assert_eq!(scene.read("victim"), b"precious", "{name}");
        // The way out is one.
        std::fs::remove_file(&link).expect("writable");
        if !name.starts_with("gen") {
            finish(&mut pelton(&args)).code(0).says(&["events=9"]);
        }
    }
    // A state folder may be named by a link; one that lies where nobody named it is not followed.
    std::fs::create_dir(scene.path("elsewhere")).expect("writable");
    symlink(scene.path("elsewhere"), scene.path("link")).expect("writable");
    let args =
        ["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("a"), "--state-dir", &scene.arg("link")];
    finish(&mut pelton(&args)).code(0);
    assert!(scene.path("elsewhere/CURRENT").is_file());
    std::fs::create_dir(scene.path("b")).expect("writable");
    symlink(scene.path("elsewhere"), scene.path("b/.state")).expect("writable");
    finish(&mut pelton(&["run", &pipeline, "--input", &input, "--output-dir", &scene.arg("b")]))
        .code(2)
        .says(&[".state is a link"]);
}

#[test]
fn folders_that_others_may_write_to_are_refused() {
    let scene = Scene::new();
    let pipeline = scene.single("echo", "echo", "");
    let input = scene.write("input.jsonl", events(9));
    let (out, state) = (scene.path("out"), scene.path("state"));
    let mut run = pelton(&["run", &pipeline, "--input", &input]);
    run.args(["--output-dir", &scene.arg("out"), "--state-dir", &scene.arg("state")]);
    // Which folder, its mode, whether a run takes it.
    for (folder, mode, good) in [
        (&state, 0o770, false),
        (&state, 0o777, false),
        (&state, 0o1777, false),
        (&state, 0o755, true),
        (&out, 0o777, false),
        (&out, 0o775, true),
        (&out, 0o1777, true),
    ] {
        for made in [&out, &state] {
            // Not there in the first round.
            drop(std::fs::remove_dir_all(made));
            std::fs::create_dir(made).expect("writable");
        }
        set_mode(folder, mode);
        if good {
            finish(&mut run).code(0);
            continue;
        }
        let says = format!("{} may be written to by others (mode {mode:04o})", folder.display());
        finish(&mut run).code(2).says(&[&says, "hint: `chmod go-w"]);
        assert_eq!(std::fs::read_dir(folder).expect("readable").count(), 0, "nothing was made");
        set_mode(folder, mode & 0o755);
        finish(&mut run).code(0);
    }
    // Only root can give something away.
    for path in ["state", "out", "out/seen.jsonl"] {
        if chown(scene.path(path), Some(NOBODY), None).is_err() {
            return;
        }
        finish(&mut run).code(2).says(&["belongs to the user with id 65534", "hint:"]);
        chown(scene.path(path), Some(0), None).expect("we are root");
    }
    finish(&mut run).code(0).says(&["all of this input is done"]);
}

/// The folder of the pipeline is looked at before a broker is asked for.
#[test]
fn a_pipelines_state_folder_that_others_may_write_to_is_refused() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    std::fs::create_dir(scene.path("state")).expect("writable");
    set_mode(&scene.path("state"), 0o777);
    let mut run = pelton(&["run", &pipeline, "--state-dir", &scene.arg("state"), "--listen", "off", "--wait", "0s"]);
    run.env("NATS_URL", "nats://127.0.0.1:1");
    finish(&mut run).code(2).says(&["may be written to by others (mode 0777)", "hint: `chmod go-w"]);
}

#[test]
fn only_files_are_read_and_none_without_end() {
    let scene = Scene::new();
    let pipe = scene.arg("pipe.wasm");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    symlink("/dev/zero", scene.path("endless.wasm")).expect("writable");
    std::fs::create_dir(scene.path("folder.wasm")).expect("writable");
    let huge = std::fs::File::create(scene.path("huge.wasm")).expect("writable");
    huge.set_len(1 << 40).expect("a file with a hole");
    let odd = [
        (pipe, "it is a named pipe"),
        (scene.arg("endless.wasm"), "it is a device"),
        (scene.arg("folder.wasm"), "it is a folder"),
        (scene.arg("huge.wasm"), "it is larger than"),
    ];
    for (path, says) in odd {
        finish(&mut pelton(&["validate", &path])).code(2).says(&["cannot read the pipeline file", says]);
        let text = String::from_utf8(std::fs::read(scene.single("zoo", "echo", "")).expect("readable")).expect("text");
        let text = text.replace(module("echo").to_str().expect("plain names"), &path);
        let pipeline = scene.write("odd.toml", text);
        finish(&mut pelton(&["validate", &pipeline])).code(2).says(&["cannot load the module", says]);
        let up = ["up", &scene.single("zoo", "echo", ""), "--server", "nats://127.0.0.1:1", "--creds", &path];
        finish(&mut pelton(&up)).code(2).says(&["credentials", says]);
    }
    // A link to a file is one.
    let (text, wasm) = (scene.single("zoo", "echo", ""), scene.path("linked.wasm"));
    symlink(module("echo"), &wasm).expect("writable");
    let text = String::from_utf8(std::fs::read(text).expect("readable")).expect("text");
    scene.write("real.toml", text.replace(module("echo").to_str().expect("plain names"), "linked.wasm"));
    symlink("real.toml", scene.path("linked.toml")).expect("writable");
    finish(&mut pelton(&["validate", &scene.arg("linked.toml")])).code(0);
}
