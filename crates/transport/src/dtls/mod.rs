//! DTLS over UDP: the datagrams of a socket ⇄ what is said in sessions.
//!
//! A peer's [`session`](coap::Peer::session) is the number of its identity ([`::dtls::Identity::number`]), so it is the same
//! after a new handshake and after a restart of the server: what is remembered of a device, its registration, observations
//! and tokens, goes on when the session does not.

mod client;
mod server;

pub use client::{DtlsClient, Link};
pub use server::{DtlsServer, Incoming};
