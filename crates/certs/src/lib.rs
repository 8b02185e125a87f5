//! One certificate authority and a certificate for each role, in the files that the original's scripts made.
//!
//! ```text
//! Authority::open_or_create(folder) → zeelos.io-ca.crt, zeelos.io-ca.key
//!   .ensure(role) → <role>.certificate.pem, <role>.key, kafka.<role>.keystore.jks, kafka.<role>.truststore.jks (both
//!                   PKCS#12), <role>.properties
//! ```
//!
//! Keys are ECDSA P-256, files with secrets are readable by their owner only and replaced in one step.

mod authority;
mod der;
mod files;
mod folder;
mod roles;
mod truststore;

pub use authority::{Authority, Pair, Request, Validity};
pub use folder::{Entry, Folder, Outcome};
pub use roles::{Role, cloud_roles, gateway_roles, shared_gateway_roles};

use std::path::PathBuf;

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file can't be read or written.
    #[error("can't {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path} can't be used: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that is none.
    #[error(
        "'{0}' is not a role's name: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 64"
    )]
    Name(String),
    /// OpenSSL refuses.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] openssl::error::ErrorStack),
}
