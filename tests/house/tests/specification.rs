//! docs/lwm2m.md names, for each feature of the specifications, the tests that show it, and docs/interop.md for each peer
//! and enabler test case: they have to be there.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tests of a member crate: functions under `#[test]`, `#[tokio::test]` or in a property test's macro.
fn tests_of(member: &str) -> BTreeSet<String> {
    let folders = ["crates", "tests"].map(|kind| root().join(kind).join(member));
    let folder = folders.into_iter().find(|folder| folder.is_dir());
    let mut files = vec![folder.unwrap_or_else(|| panic!("no crate is named {member}"))];
    let mut tests = BTreeSet::new();
    while let Some(file) = files.pop() {
        if file.is_dir() {
            let inside = fs::read_dir(&file).unwrap();
            files.extend(inside.map(|entry| entry.unwrap().path()));
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&file).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(rest) = after_fn(line) {
                    let name = rest.split(['(', '<']).next().unwrap();
                    if is_test {
                        tests.insert(name.to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
    tests
}

fn after_fn(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")
}

/// The tests that a page names, as `crate::test` between backticks.
fn named(page: &str) -> Vec<(String, String)> {
    let code = page.split('`').skip(1).step_by(2);
    let pairs = code.filter_map(|code| {
        let (member, test) = code.split_once("::")?;
        let is_word = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        (is_word(member) && is_word(test)).then(|| (member.to_owned(), test.to_owned()))
    });
    pairs.collect()
}

#[test]
fn every_test_the_specification_table_names_is_in_the_tree() {
    all_there("docs/lwm2m.md", 100);
}

#[test]
fn every_test_the_interoperability_tables_name_is_in_the_tree() {
    all_there("docs/interop.md", 50);
}

fn all_there(page: &str, least: usize) {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let named = named(&text);
    assert!(named.len() > least, "only {} tests are named", named.len());
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut missing = Vec::new();
    for (member, test) in named {
        let tests = known
            .entry(member.clone())
            .or_insert_with(|| tests_of(&member));
        if !tests.contains(&test) {
            missing.push(format!("{member}::{test}"));
        }
    }
    assert!(missing.is_empty(), "{page} names {missing:?}");
}

#[test]
fn every_feature_of_the_specification_table_names_a_test() {
    let page = fs::read_to_string(root().join("docs/lwm2m.md")).unwrap();
    let (features, _) = page.split_once("## Left out").unwrap();
    let rows: Vec<&str> = features
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| feature"))
        .collect();
    assert!(rows.len() > 60, "{} rows", rows.len());
    for row in rows {
        assert!(!named(row).is_empty(), "no test in {row}");
    }
}
