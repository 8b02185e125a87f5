//! Why a handshake comes to nothing.

use crate::{Alert, CertificateRefusal};

/// Why a client got no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key is known under its identity.
    #[error("no endpoint has this PSK identity")]
    UnknownIdentity,
    /// Its last message does not open, or is not what it should be: its key is another.
    #[error("the pre-shared key is not the one that is known here")]
    WrongKey,
    /// Nobody has this public key.
    #[error("no endpoint has this public key")]
    UnknownPublicKey,
    /// Its certificate is not taken.
    #[error("{0}")]
    Certificate(#[from] CertificateRefusal),
    /// It sent none.
    #[error("it has no certificate and no public key")]
    NoCertificate,
    /// It does not hold the private key.
    #[error("it does not hold the private key")]
    BadSignature,
    /// There is nothing that both can.
    #[error("it offers no cipher suite that is possible here")]
    NoCommonSuite,
    /// It is older than DTLS 1.2.
    #[error("it does not speak DTLS 1.2")]
    Version,
    /// There are as many sessions as there may be.
    #[error(
        "there are as many sessions as there may be (raise the maximum, or shorten the idle timeout)"
    )]
    Full,
    /// It did not go on in time.
    #[error("it did not finish its handshake in time")]
    Timeout,
    /// It gave up.
    #[error("it ended the handshake: {0}")]
    ByPeer(Alert),
    /// What it sent makes no sense.
    #[error("its handshake is malformed: {0}")]
    Malformed(Alert),
}

impl From<Alert> for Refusal {
    fn from(alert: Alert) -> Refusal {
        Refusal::Malformed(alert)
    }
}

impl Refusal {
    /// What the client is told; `None` where it is told nothing.
    pub(crate) fn alert(self) -> Option<Alert> {
        Some(match self {
            // Who guesses identities is not told which of them exist (RFC 4279 section 2).
            Self::UnknownIdentity | Self::WrongKey | Self::BadSignature => Alert::DECRYPT_ERROR,
            Self::UnknownPublicKey => Alert::CERTIFICATE_UNKNOWN,
            Self::Certificate(refusal) => refusal.alert(),
            Self::NoCertificate | Self::NoCommonSuite => Alert::HANDSHAKE_FAILURE,
            Self::Version => Alert::PROTOCOL_VERSION,
            Self::Full => Alert::INTERNAL_ERROR,
            Self::Malformed(alert) => alert,
            Self::Timeout | Self::ByPeer(_) => return None,
        })
    }
}
