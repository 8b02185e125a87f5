//! Why a broker does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

/// Why a broker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory can't be made or opened.
    #[error("the data directory {path} can't be used: {error}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another broker has the data directory.
    #[error(
        "the data directory {0} is in use by another broker: stop that one, or give this one its own directory"
    )]
    Locked(PathBuf),
    /// Something in the data directory can't be read.
    #[error(
        "{path} can't be read: {error}. Restore it from a backup, or move it away to start without it"
    )]
    Data {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The data directory belongs to a cluster of another id.
    #[error(
        "the data directory belongs to cluster {stored}, but cluster id {asked} was asked for: leave the id out, or use another directory"
    )]
    ClusterId {
        /// The id on the disk.
        stored: String,
        /// The id in the settings.
        asked: String,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {error}; free that port or choose another with {option}")]
    Listen {
        /// The option to change.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}
