use std::sync::Arc;
use std::time::Duration;

use crate::exchange::Pace;
use crate::{CipherSuite, OwnKey, Psk, TrustStore};

/// Settings of a [`Server`](crate::Server) with their defaults and bounds.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The suites that are taken. Among those a client offers its own order decides, CBC last. Default: all.
    pub suites: Vec<CipherSuite>,
    /// The server's key pair: without one there are only the suites with a pre-shared key. Default none.
    pub own_key: Option<OwnKey>,
    /// Sessions at one time; a client beyond is refused at the end of its handshake, unless it had one. Default 100,000.
    pub max_sessions: usize,
    /// Handshakes at one time, each of 70 KiB at most, 3 KiB mostly; a client beyond has to try again. Default 1,024.
    pub max_handshakes: usize,
    /// Of these at one time from one address, or one IPv6 network of 64 bits; a client beyond has to try again, but the
    /// oldest gives way if it is slow. Default 128: a site behind one address has many devices.
    pub max_handshakes_per_source: usize,
    /// How long a handshake may take. Default 60 s.
    pub handshake_timeout: Duration,
    /// A session from which nothing was heard for so long is forgotten. Default 25 h: longer than a device's usual
    /// lifetime of a day.
    pub idle_timeout: Duration,
    /// How long after its full handshake a session may be resumed; 0: never. Default 24 h.
    pub resume_for: Duration,
    /// Sessions that can be resumed, of some 300 bytes each. Default 100,000.
    pub max_resumable: usize,
    /// How messages of a handshake are repeated.
    pub retransmission: Retransmission,
    /// The most bytes of a datagram of a handshake. Default 1,152, at least 256.
    pub mtu: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            suites: CipherSuite::ALL.to_vec(),
            own_key: None,
            max_sessions: 100_000,
            max_handshakes: 1_024,
            max_handshakes_per_source: 128,
            handshake_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(25 * 3_600),
            resume_for: Duration::from_secs(24 * 3_600),
            max_resumable: 100_000,
            retransmission: Retransmission::default(),
            mtu: 1_152,
        }
    }
}

/// When a flight that is not answered is sent again: after `first`, then twice as long each time (RFC 6347 section
/// 4.2.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmission {
    /// The first wait. Default 2 s: a constrained device takes that long for an elliptic curve.
    pub first: Duration,
    /// How often at most. Default 5.
    pub repetitions: u32,
}

impl Default for Retransmission {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(2),
            repetitions: 5,
        }
    }
}

impl Retransmission {
    pub(crate) fn pace(self) -> Pace {
        Pace {
            first: self.first.max(std::time::Duration::from_millis(10)),
            repetitions: self.repetitions.min(16),
        }
    }
}

/// How a client shows who it is, and knows its server.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// With a key that both have.
    Psk {
        /// What it is called.
        identity: Vec<u8>,
        /// The key.
        key: Psk,
    },
    /// With a key pair; of the server's the public half is known (SubjectPublicKeyInfo in DER).
    RawPublicKey {
        /// Ours.
        own: OwnKey,
        /// The server's.
        server: Vec<u8>,
    },
    /// With a certificate.
    Certificate {
        /// Ours, with its chain.
        own: OwnKey,
        /// Whom to believe that the server is the server.
        server: ServerTrust,
    },
}

/// How a client knows a server's certificate.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// It is this one, in DER.
    Pinned(Vec<u8>),
    /// One of these has signed it, and it has this name, if one is given.
    Store {
        /// The authorities.
        store: Arc<TrustStore>,
        /// The name that has to be the certificate's.
        name: Option<String>,
    },
}

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who it is.
    pub auth: ClientAuth,
    /// The suites to offer, the best first; those that don't fit `auth` are left out. Default: all.
    pub suites: Vec<CipherSuite>,
    /// How messages of a handshake are repeated. Default as the server's.
    pub retransmission: Retransmission,
    /// The most bytes of a datagram of a handshake. Default 1,152, at least 256.
    pub mtu: usize,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(auth: ClientAuth) -> Self {
        Self {
            auth,
            suites: CipherSuite::ALL.to_vec(),
            retransmission: Retransmission::default(),
            mtu: 1_152,
        }
    }
}

/// Below this a handshake would be all headers.
pub(crate) fn mtu(configured: usize) -> usize {
    configured.clamp(256, 16 << 10)
}
