//! Keys, and what can be said of one without using it.

use std::fmt;
use std::sync::Arc;

use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::x509::X509;

use super::MAX_DER;

/// A key's bytes; `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretKey(Arc<[u8]>);

impl SecretKey {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// From hexadecimal digits, as REST and files have it.
    pub(crate) fn from_hex(text: &str) -> Result<Self, String> {
        hex::decode(text).map(Self::new).map_err(|_| {
            "the key is not written in hexadecimal digits, two for each byte".to_owned()
        })
    }

    /// The bytes, for the handshake and the answer to an administrator.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Takes a SubjectPublicKeyInfo of a P-256 key, the curve of all of LwM2M's suites (RFC 7252 section 9.1.3.2).
pub(crate) fn check_public_key(spki: &[u8]) -> Result<(), String> {
    if spki.len() > MAX_DER {
        return Err(format!("a public key has at most {MAX_DER} bytes"));
    }
    let key = PKey::public_key_from_der(spki).map_err(|_| {
        "this is no public key: give a SubjectPublicKeyInfo in DER (openssl pkey -pubout -outform DER)"
            .to_owned()
    })?;
    check_curve(&key)
}

/// Takes a certificate of a P-256 key.
pub(crate) fn check_certificate(der: &[u8]) -> Result<(), String> {
    if der.len() > MAX_DER {
        return Err(format!("a certificate has at most {MAX_DER} bytes"));
    }
    let certificate =
        X509::from_der(der).map_err(|_| "this is no certificate in DER".to_owned())?;
    let key = certificate
        .public_key()
        .map_err(|_| "the certificate's key can't be read".to_owned())?;
    check_curve(&key)
}

fn check_curve(key: &PKey<Public>) -> Result<(), String> {
    let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
    if curve == Some(Nid::X9_62_PRIME256V1) {
        Ok(())
    } else {
        Err(
            "the key is not one of the curve P-256 (secp256r1), which LwM2M's cipher suites need"
                .to_owned(),
        )
    }
}
