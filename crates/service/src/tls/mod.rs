//! TLS for every client and listener: one way to name the files, one loader, one stack (OpenSSL, which librdkafka,
//! reqwest's native TLS and DTLS use anyway; rustls would be a second one with its own idea of what a certificate is).
//!
//! ```text
//! TlsFiles (what the operator named) → Tls (loaded, looked at again while in use) → Loaded (one generation)
//!     client: HttpClient, Tls::connect, PEM for librdkafka        server: ServerTls → Listener
//! ```
//!
//! Certificates are renewed by replacing their files. Whoever is about to make a connection asks [`Tls::current`], which
//! looks at the files at most once a second; when they have changed and rest, they are loaded. New files that can't be
//! used change nothing: the old ones stay in use, [`warnings`] says so, and it is counted.

mod args;
mod client;
mod error;
mod files;
mod listener;
mod patience;
mod server;
mod watch;

pub use args::{ClientFiles, ListenerTlsArgs};
pub use client::{HttpClient, HttpError};
pub use error::{TlsError, hint};
pub use files::{Identity, Loaded, TlsFiles};
pub use listener::{Listener, Peer, PeerCertificate, Refusals, Stream};
pub use server::{ClientAuth, HandshakeError, ServerTls};
pub use watch::{Tls, warnings};
