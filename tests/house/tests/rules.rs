//! Reads `cargo metadata` and the documents, and compares.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PURE: [&str; 7] = [
    "coap",
    "dtls",
    "lwm2m-model",
    "lwm2m-codec",
    "lwm2m",
    "records",
    "windows",
];
const IO: [&str; 4] = ["transport", "kafka", "connect", "service"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

struct Package {
    name: String,
    folder: PathBuf,
    /// Names of its normal dependencies.
    uses: BTreeSet<String>,
}

struct Metadata {
    members: Vec<Package>,
    /// Every package's normal dependencies as resolved, by package id, with its name.
    resolved: BTreeMap<String, (String, Vec<String>)>,
}

fn metadata() -> Metadata {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let member_ids: BTreeSet<&str> = strings(&all["workspace_members"]).collect();
    let mut names = BTreeMap::new();
    let mut members = Vec::new();
    for package in all["packages"].as_array().unwrap() {
        let id = package["id"].as_str().unwrap();
        let name = package["name"].as_str().unwrap().to_owned();
        if member_ids.contains(id) {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            let uses = package["dependencies"].as_array().unwrap().iter();
            members.push(Package {
                name: name.clone(),
                folder: manifest.parent().unwrap().to_owned(),
                uses: uses
                    .filter(|dependency| dependency["kind"].is_null())
                    .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
                    .collect(),
            });
        }
        names.insert(id.to_owned(), name);
    }
    let mut resolved = BTreeMap::new();
    for node in all["resolve"]["nodes"].as_array().unwrap() {
        let id = node["id"].as_str().unwrap().to_owned();
        let normal = node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                kinds.iter().any(|kind| kind["kind"].is_null())
            });
        let uses = normal.map(|dependency| dependency["pkg"].as_str().unwrap().to_owned());
        resolved.insert(id.clone(), (names[&id].clone(), uses.collect()));
    }
    Metadata { members, resolved }
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
}

/// Everything a package reaches by normal dependencies, by name.
fn reaches(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let start = metadata
        .resolved
        .iter()
        .find(|(id, (found, _))| found == name && id.contains("path+file"))
        .map(|(id, _)| id.clone())
        .unwrap_or_else(|| panic!("there is no crate {name}"));
    let (mut open, mut seen) = (vec![start], BTreeSet::new());
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(metadata.resolved[&id].1.iter().cloned());
        }
    }
    seen.iter()
        .map(|id| metadata.resolved[id].0.clone())
        .collect()
}

#[test]
fn a_pure_crate_has_no_runtime_socket_or_io_crate() {
    let metadata = metadata();
    for name in PURE {
        let reached = reaches(&metadata, name);
        for forbidden in ["tokio", "mio", "socket2", "reqwest", "rdkafka"]
            .into_iter()
            .chain(IO)
        {
            assert!(
                !reached.contains(forbidden),
                "the pure crate {name} reaches {forbidden}"
            );
        }
    }
}

#[test]
fn a_library_uses_no_service_and_services_do_not_use_each_other() {
    let metadata = metadata();
    let in_house: BTreeSet<&str> = metadata.members.iter().map(|p| p.name.as_str()).collect();
    let is_library = |name: &str| PURE.contains(&name) || IO.contains(&name);
    for package in &metadata.members {
        // The program contains them all; tests come in through any door.
        if package.name == "zeelos" || package.folder.starts_with(root().join("tests")) {
            continue;
        }
        for used in &package.uses {
            assert!(
                !in_house.contains(used.as_str()) || is_library(used),
                "{} uses the service {used}",
                package.name
            );
        }
    }
}

#[test]
fn only_the_server_knows_both_lwm2m_and_kafka() {
    let metadata = metadata();
    let both: Vec<&str> = metadata
        .members
        .iter()
        .filter(|package| package.folder.starts_with(root().join("crates")))
        .filter(|package| package.uses.contains("lwm2m") && package.uses.contains("kafka"))
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(both, ["leshan-kafka"]);
}

#[test]
fn architecture_md_lists_exactly_the_crates_there_are() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    // The code map's lines: | `crates/coap` | … |
    let listed: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once('`'))
        .map(|(folder, _)| folder.to_owned())
        .filter(|folder| folder.starts_with("crates/") || folder.starts_with("tests/"))
        .collect();
    let there: BTreeSet<String> = metadata()
        .members
        .iter()
        .map(|package| {
            let folder = package.folder.canonicalize().unwrap();
            folder.strip_prefix(root()).unwrap().display().to_string()
        })
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn every_crate_opens_with_what_it_is_for() {
    for package in metadata().members {
        let source = ["src/lib.rs", "src/main.rs"]
            .into_iter()
            .find_map(|file| fs::read_to_string(package.folder.join(file)).ok())
            .unwrap_or_else(|| panic!("{} has no lib.rs or main.rs", package.name));
        assert!(
            source.starts_with("//! "),
            "{}: no opening sentence",
            package.name
        );
    }
}

#[test]
fn the_readme_names_its_two_commands_and_only_files_that_exist() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(text.contains("make up") && text.contains("make test"));
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !target.contains("://") {
                assert!(
                    root().join(file).exists(),
                    "{document} names {file}, which is not there"
                );
            }
        }
    }
}
