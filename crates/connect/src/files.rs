use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::Config;
use crate::config::parse_connector;

/// Reads the connectors given at the start. A file's connector replaces the stored one of its name.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<(String, Config)>> {
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> anyhow::Result<(String, Config)> {
    let text = std::fs::read(path)
        .with_context(|| format!("can't read the connector {} (--connector)", path.display()))?;
    parse_connector(&text)
        .with_context(|| format!("{} is not a connector (--connector)", path.display()))
}
