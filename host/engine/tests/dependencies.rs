//! Licences, sources and duplicates of all dependencies against `deny.toml`, on every run of the tests. cargo-deny asks
//! for more (`just deny`), but takes longer to build than all that it looks at.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this test looks at the repository, not at the engine"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, LicenseReq, Licensee, ParseMode};
use toml_edit::DocumentMut;

/// One dependency, as `cargo metadata` names it.
#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn rules() -> DocumentMut {
    std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there").parse().expect("it is TOML")
}

/// Everything that is built for the first of the targets, also for tests.
fn packages(rules: &DocumentMut) -> Vec<Package> {
    let target = rules["graph"]["targets"][0].as_str().expect("a target");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a graph");
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = Vec::<Package>::deserialize(&metadata["packages"]).expect("packages");
    all.into_iter().filter(|package| used.contains(package.id.as_str())).collect()
}

#[test]
fn every_licence_asks_for_no_more_than_a_notice() {
    let rules = rules();
    let allowed: Vec<Licensee> = rules["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| Licensee::parse(name.as_str().expect("a text")).expect("an SPDX licence"))
        .collect();
    let is_allowed = |wanted: &LicenseReq| allowed.iter().any(|licence| licence.satisfies(wanted));
    for Package { name, license, .. } in packages(&rules) {
        let license = license.unwrap_or_default();
        let expression = Expression::parse_mode(&license, ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{name} has no licence that can be read: {error}"));
        assert!(expression.evaluate(is_allowed), "{name} is under {license}");
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let mut sources = BTreeSet::new();
    for Package { name, source, .. } in packages(&rules()) {
        match source {
            None => assert!(name.starts_with("pelton") || root().join("guests").join(&name).is_dir(), "{name}"),
            Some(source) => drop(sources.insert(source)),
        }
    }
    assert!(sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn a_second_version_has_its_reason() {
    let rules = rules();
    let exceptions: Vec<(String, String)> = rules["bans"]["skip"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|skip| {
            let skip = skip.as_inline_table().expect("a table");
            assert!(skip["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "every exception has a reason");
            let (name, version) = skip["crate"].as_str().and_then(|text| text.split_once('@')).expect("NAME@VERSION");
            (name.to_owned(), version.to_owned())
        })
        .collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Package { name, version, .. } in packages(&rules) {
        versions.entry(name).or_default().push(version);
    }
    let is_of = |version: &str, short: &str| version.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'));
    for (name, found) in versions.iter().filter(|(_, found)| found.len() > 1) {
        let is_excepted =
            |version: &&String| exceptions.iter().any(|(excepted, short)| excepted == name && is_of(version, short));
        let others = found.iter().filter(|version| !is_excepted(version)).count();
        assert!(others <= 1, "{name} is there as {found:?}");
    }
    for (name, short) in &exceptions {
        let is_of_use = versions
            .get(name)
            .is_some_and(|found| found.len() > 1 && found.iter().any(|version| is_of(version, short)));
        assert!(is_of_use, "the exception for {name}@{short} is of no use any more");
    }
}
