//! Files that nobody but the server's user may read: keys, and what was asked of devices.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes the file if it is not there, so that only its owner can read it. SQLite gives a database's journal the mode of
/// the database.
pub(crate) fn private_file(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}
