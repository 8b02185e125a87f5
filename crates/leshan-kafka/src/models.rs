//! Object models: the built-in ones, and DDF files from folders.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use lwm2m_model::Registry;

/// A DDF file that is longer is not read.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// The built-in models with those of the folders over them. A file that can't be used is warned about and skipped, a
/// folder that can't be read is an error.
pub(crate) fn load(folders: &[impl AsRef<Path>]) -> anyhow::Result<Registry> {
    let mut registry = Registry::oma();
    for folder in folders {
        let folder = folder.as_ref();
        let entries = fs::read_dir(folder)
            .with_context(|| format!("can't read the models folder {} (-m)", folder.display()))?;
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|end| end.eq_ignore_ascii_case("xml"))
            })
            .collect();
        files.sort();
        for file in files {
            match add(&mut registry, &file) {
                Ok(objects) => tracing::info!(file = %file.display(), objects, "models read"),
                Err(error) => tracing::warn!(file = %file.display(), "skipped: {error:#}"),
            }
        }
    }
    Ok(registry)
}

fn add(registry: &mut Registry, file: &Path) -> anyhow::Result<usize> {
    let length = fs::metadata(file)?.len();
    anyhow::ensure!(
        length <= LONGEST_FILE,
        "it has {length} bytes, more than {LONGEST_FILE}"
    );
    let xml = fs::read_to_string(file)?;
    Ok(registry.add_ddf(&xml)?.len())
}
