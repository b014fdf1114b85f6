//! The star of crates and the rules for source files, checked against what is there.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this test looks at the repository, not at the engine"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a crate may depend on in normal builds. A name ending in `*` stands for what begins so.
/// The first one is for both sides.
const ALLOWED: [(&str, &str); 7] = [
    ("pelton-aggregates", "siphasher"),
    (
        "pelton-engine",
        "pelton-aggregates serde serde_json toml_edit hashbrown rustc-hash siphasher thiserror sha2 base64 jiff",
    ),
    ("pelton-sandbox", "pelton-engine wasmtime wasmparser sha2 hmac rand rustix serde serde_json thiserror tracing"),
    ("pelton-store", "pelton-engine pelton-files sled crc32c rand thiserror tracing serde serde_json sha2 rustix"),
    (
        "pelton-broker",
        "pelton-engine pelton-files async-nats base64 bytes futures-util jiff rand serde serde_json thiserror tokio tracing",
    ),
    (
        "pelton-serve",
        "pelton-engine bytes http-body-util hyper hyper-util prometheus-client serde serde_json subtle thiserror tokio tracing",
    ),
    ("pelton-files", "rustix thiserror"),
];

#[test]
fn the_crates_form_a_star() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let mut crates: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("a list") {
        let normal = package["dependencies"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|dependency| dependency["kind"].is_null());
        let names = normal.filter_map(|dependency| dependency["name"].as_str()).collect();
        crates.insert(package["name"].as_str().expect("a name"), names);
    }
    // It is C++, and nothing but `just fuzz` may need a compiler for that.
    for package in metadata["packages"].as_array().expect("a list") {
        let dependencies = package["dependencies"].as_array().expect("a list").iter();
        for dependency in dependencies.filter(|dependency| dependency["name"] == "libfuzzer-sys") {
            assert!(dependency["optional"] == true, "{} needs libFuzzer in every build", package["name"]);
        }
    }
    for (name, allowed) in ALLOWED {
        let allowed: Vec<&str> = allowed.split(' ').collect();
        let extra: Vec<&&str> = crates[name].iter().filter(|dependency| !allowed.contains(dependency)).collect();
        assert!(extra.is_empty(), "{name} may not depend on {extra:?}");
    }
    // What runs inside a module knows nothing of the host.
    for (name, dependencies) in crates.iter().filter(|(name, _)| !ALLOWED.iter().any(|(host, _)| host == *name)) {
        let is_guest = dependencies.contains(&"pelton-sdk") || name.starts_with("pelton-sdk");
        let host: Vec<_> =
            dependencies.iter().filter(|dependency| ALLOWED[1..].iter().any(|(host, _)| host == *dependency)).collect();
        assert!(!is_guest || host.is_empty(), "{name} is a guest and depends on {host:?}");
    }
}

/// The modules of the engine, lowest layer first: each may use what stands in layers before its own.
const LAYERS: [&str; 11] = [
    "codec codes hex problem text time totals",
    "epoch event watermark",
    "effects guest log",
    "judge plan store",
    "decode window",
    "flow",
    "unit",
    "operator",
    "step",
    "seal",
    "partition",
];

#[test]
fn no_arrow_in_the_engine_runs_up() {
    let source = root().join("host/engine/src");
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.split(' ').any(|one| one == module));
    let mut wrong = Vec::new();
    for path in sources() {
        let Ok(name) = path.strip_prefix(&source) else { continue };
        let module = name.iter().next().expect("a name").to_string_lossy();
        let module = module.trim_end_matches(".rs");
        if module == "lib" || name.ends_with("tests.rs") {
            continue;
        }
        let Some(own) = layer(module) else {
            wrong.push(format!("`{module}` has no layer"));
            continue;
        };
        let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines();
        for line in code.filter(|line| !line.trim_start().starts_with("//")) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if used != module && layer(used).is_none_or(|used| used >= own) {
                    wrong.push(format!("{} uses `{used}`, which is not below it", name.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Our Rust files: tracked or new, without what is ignored.
fn sources() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("our file names are UTF-8");
    names.lines().map(|name| root().join(name)).filter(|path| path.exists()).collect()
}

#[test]
fn every_file_says_what_it_is_and_is_finished() {
    let sources = sources();
    assert!(sources.len() > 50, "found {} files", sources.len());
    // In two parts, so that this file does not find itself.
    let refused = [("todo", "!("), ("dbg", "!("), ("unimplemented", "!("), ("#[", "ignore")]
        .map(|(left, right)| format!("{left}{right}"));
    let mut wrong = Vec::new();
    for path in sources {
        let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not begin with what it is for"));
        }
        wrong.extend(
            refused.iter().filter(|word| text.contains(word.as_str())).map(|word| format!("{name} has `{word}`")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The engine's own lints: what `clippy.toml` names is refused, and so is printing.
#[test]
fn the_engine_is_held_to_purity() {
    let engine = std::fs::read_to_string(root().join("host/engine/src/lib.rs")).expect("readable");
    for lint in [
        "forbid(unsafe_code)",
        "clippy::disallowed_methods",
        "clippy::disallowed_types",
        "clippy::print_stdout",
        "clippy::print_stderr",
    ] {
        assert!(engine.contains(lint), "lib.rs lacks {lint}");
    }
    let config = std::fs::read_to_string(root().join("host/engine/clippy.toml")).expect("readable");
    for name in ["SystemTime::now", "Instant::now", "thread::spawn", "std::fs::", "std::net::", "HashMap", "HashSet"] {
        assert!(config.contains(name), "clippy.toml lacks {name}");
    }
    // No clippy.toml can name every function of a module: no file of the engine imports one that does IO.
    for path in sources().iter().filter(|path| path.to_string_lossy().contains("host/engine/src/")) {
        if path.ends_with("tests.rs") || path.to_string_lossy().contains("/tests/") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for module in
            ["std::fs", "std::net", "std::io", "std::process", "std::env", "std::thread", "std::os", "std::time"]
        {
            assert!(!text.contains(module), "{} uses {module}", path.display());
        }
    }
}

/// Records are bounded where they are made, so they are made in one place.
#[test]
fn records_are_made_in_one_place() {
    let engine = sources().into_iter().filter(|path| path.to_string_lossy().contains("host/engine/src/"));
    let makers = engine.filter(|path| !path.ends_with("tests.rs")).filter(|path| {
        let text = std::fs::read_to_string(path).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        ["rows.push(Record {", "records.push(Channel", "Records::push"].iter().any(|maker| text.contains(maker))
    });
    let mut names: Vec<String> = makers.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    assert_eq!(names, ["effects.rs", "records.rs"]);
}
