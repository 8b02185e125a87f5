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

#[cfg(test)]
mod tests {
    use super::*;

    const PUMP: &str = r#"<LWM2M><Object ObjectType="MODefinition"><Name>Pump</Name><ObjectID>33000</ObjectID>
        <ObjectURN>urn:oma:lwm2m:x:33000</ObjectURN><MultipleInstances>Multiple</MultipleInstances>
        <Mandatory>Optional</Mandatory><Resources><Item ID="1"><Name>Flow</Name><Operations>R</Operations>
        <MultipleInstances>Single</MultipleInstances><Mandatory>Mandatory</Mandatory><Type>Float</Type></Item>
        </Resources></Object></LWM2M>"#;

    #[test]
    fn models_of_a_folder_stand_beside_the_built_in_ones_and_a_bad_file_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("33000.xml"), PUMP).unwrap();
        fs::write(folder.path().join("broken.xml"), "<LWM2M><Object>").unwrap();
        fs::write(folder.path().join("notes.txt"), "no model").unwrap();
        let registry = load(&[folder.path()]).unwrap();
        assert_eq!(registry.object(33000).unwrap().name, "Pump");
        assert!(registry.object(3303).is_some());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = load(&["/nowhere/models"]).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/models (-m)"),
            "{error}"
        );
    }
}
