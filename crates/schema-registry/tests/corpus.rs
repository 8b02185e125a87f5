//! The seeds of the fuzz targets, through their entries.

// A helper of a test fails the test like the test itself.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for file in fs::read_dir(&folder).unwrap() {
        entry(&fs::read(file.unwrap().path()).unwrap());
        seeds += 1;
    }
    assert!(seeds > 3, "{target} has {seeds} seeds");
}

#[test]
fn schemas() {
    replay(
        "schema_registry_parse_schema",
        schema_registry::fuzz::parse_schema,
    );
}

#[test]
fn records() {
    replay(
        "schema_registry_parse_record",
        schema_registry::fuzz::parse_record,
    );
}
