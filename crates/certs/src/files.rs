//! Files that are replaced in one step, readable by whom they should be.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::CertsError;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner.
    Owner,
    /// Everybody.
    All,
}

/// Writes beside the file and renames: a reader finds the old content or the new one, never a part.
pub(crate) fn write(path: &Path, content: &[u8], readers: Readers) -> Result<(), CertsError> {
    let failed = |what| {
        move |source| CertsError::File {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // One left over may have been readable by all.
    let _none_is_fine = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        })
        .open(&beside)
        .map_err(failed("write"))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("write"))?;
    fs::rename(&beside, path).map_err(failed("replace"))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertsError> {
    fs::read(path).map_err(|source| CertsError::File {
        what: "read",
        path: path.to_owned(),
        source,
    })
}
