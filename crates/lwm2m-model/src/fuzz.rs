//! Entry points for fuzzing: each takes any bytes and must never panic.

use crate::{ObjectPath, Registry};

/// Reads bytes as a DDF file; bytes that are not UTF-8 are read with replacement characters.
pub fn decode_ddf(data: &[u8]) {
    let mut registry = Registry::new();
    if let Ok(models) = registry.add_ddf(&String::from_utf8_lossy(data)) {
        for model in models {
            assert_eq!(
                registry
                    .object_version(model.id, &model.version)
                    .map(|m| m.id),
                Some(model.id)
            );
        }
    }
}

/// Reads bytes as a path, and checks that what was accepted is written and read back alike.
pub fn parse_path(data: &[u8]) {
    if let Ok(path) = String::from_utf8_lossy(data).parse::<ObjectPath>() {
        assert_eq!(path.to_string().parse(), Ok(path));
    }
}
