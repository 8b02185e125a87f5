//! DTLS 1.2 (RFC 6347) as a state machine: pre-shared keys, raw public keys and certificates, for LwM2M's cipher suites.
//!
//! Bytes and the time go in; datagrams, events and deadlines come out. A [`Server`] serves all clients of one socket, a
//! [`Client`] one server. The primitives (AES, SHA-2, P-256, X.509) are OpenSSL's; records, handshakes, cookies, repetition
//! and what is remembered are here, because no library has raw public keys, both kinds of CCM and a bounded memory
//! together (the figures stand in `docs/dtls.md`).
//!
//! What a client that has not shown where it is can cause: one hash and one datagram that is shorter than its own. After
//! that everything has a bound in [`ServerConfig`].
//!
//! Deliberately absent: renegotiation, compression, RSA key exchange, other curves than P-256, connection ids, DTLS 1.3.
//! A hello that comes in several records is not taken, since it would have to be kept before there is a cookie.

mod alert;
mod choice;
mod client;
mod config;
mod cookie;
mod exchange;
pub mod fuzz;
mod handshake;
mod hello;
mod message;
mod peer;
mod prf;
mod protect;
mod record;
mod resume;
mod server;
mod suite;
mod wire;

pub use alert::Alert;
pub use client::{Client, ClientClosing, ClientEvent};
pub use config::{ClientAuth, ClientConfig, Retransmission, ServerConfig, ServerTrust};
pub use handshake::Refusal;
pub use peer::{
    Authority, BadCertificates, BadKey, CertificateRefusal, Identity, OwnKey, Psk, TrustStore,
    certificate_names, check_dates,
};
pub use server::{Closing, Event, Server, Stats, Transmit};
pub use suite::CipherSuite;

/// The most bytes of one record's content (RFC 5246 section 6.2.1).
pub const LONGEST_CONTENT: usize = 1 << 14;
