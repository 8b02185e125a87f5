//! Who the other end is, and how it is known.

use std::fmt;

use openssl::nid::Nid;
use openssl::pkey::{PKey, Private, Public};
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyParam;
use openssl::x509::{X509, X509StoreContext, X509VerifyResult};
use thiserror::Error;

use crate::Alert;

/// A pre-shared key; `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Box<[u8]>);

impl Psk {
    /// Wraps a key.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Psk {
        Psk(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who the other end has shown to be. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The holder of the key behind this identity (RFC 4279).
    Psk(Vec<u8>),
    /// The holder of this key: SubjectPublicKeyInfo in DER (RFC 7250).
    RawPublicKey(Vec<u8>),
    /// The subject of this certificate, in DER.
    Certificate(Vec<u8>),
}

impl Identity {
    /// The identity as a number, never 0: 64 bits of SHA-256. It is the same in every session of this identity, so that
    /// what is remembered of a device outlasts its session.
    pub fn number(&self) -> u64 {
        let (kind, bytes) = match self {
            Self::Psk(identity) => (0, identity),
            Self::RawPublicKey(spki) => (1, spki),
            Self::Certificate(der) => (2, der),
        };
        let mut hash = openssl::sha::Sha256::new();
        hash.update(&[kind]);
        hash.update(bytes);
        let [a, b, c, d, e, f, g, h, ..] = hash.finish();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psk(identity) => {
                let text = String::from_utf8_lossy(identity);
                write!(
                    f,
                    "PSK identity {:?}",
                    text.chars().take(64).collect::<String>()
                )
            }
            Self::RawPublicKey(_) => write!(f, "public key {:016x}", self.number()),
            Self::Certificate(der) => match certificate_names(der).first() {
                Some(name) => write!(f, "certificate of {name:?}"),
                None => write!(f, "certificate {:016x}", self.number()),
            },
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The names a certificate gives its subject: the common name, then DNS and URI names of the alternatives. Bounded: each
/// at most 255 bytes, 32 of them.
pub fn certificate_names(der: &[u8]) -> Vec<String> {
    let Ok(certificate) = X509::from_der(der) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for entry in certificate.subject_name().entries_by_nid(Nid::COMMONNAME) {
        names.extend(entry.data().to_string().ok());
    }
    for alternative in certificate.subject_alt_names().iter().flatten() {
        names.extend(
            alternative
                .dnsname()
                .or(alternative.uri())
                .map(str::to_owned),
        );
    }
    names.retain(|name| (1..=255).contains(&name.len()));
    names.truncate(32);
    names
}

/// Why a certificate is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateRefusal {
    /// It begins in the future, or is over.
    #[error("the certificate, or one above it, is expired or not valid yet")]
    Expired,
    /// Nobody who is trusted has signed it.
    #[error("the certificate's chain does not lead to one that is trusted")]
    Untrusted,
    /// It is another than the one that is pinned, or nobody knows its names.
    #[error("the certificate is none that an endpoint has")]
    Unknown,
    /// It can't be used.
    #[error(
        "the certificate can't be read, is no plain DER of {LONGEST_CERTIFICATE} bytes at most, or its key is not one of P-256"
    )]
    Unusable,
}

impl CertificateRefusal {
    pub(crate) fn alert(self) -> Alert {
        match self {
            Self::Expired => Alert::CERTIFICATE_EXPIRED,
            Self::Untrusted => Alert::UNKNOWN_CA,
            Self::Unknown => Alert::CERTIFICATE_UNKNOWN,
            Self::Unusable => Alert::BAD_CERTIFICATE,
        }
    }
}

/// Who decides whom to believe. Asked in the middle of a handshake: answer from memory.
pub trait Authority: Send + Sync {
    /// The key behind an identity.
    fn psk(&self, identity: &[u8]) -> Option<Psk>;

    /// Is this public key, a SubjectPublicKeyInfo in DER, one that is known? That its owner holds the private half is
    /// checked already, or will be.
    fn knows_public_key(&self, spki: &[u8]) -> bool;

    /// Is this chain, the subject's certificate first, in DER, good?
    ///
    /// # Errors
    /// Why not.
    fn check_chain(&self, chain: &[Vec<u8>]) -> Result<(), CertificateRefusal>;

    /// Would a full handshake of this identity still succeed? Asked when it resumes a session.
    fn still_knows(&self, identity: &Identity) -> bool;
}

/// The authorities whose certificates are believed.
pub struct TrustStore(X509Store);

/// Certificates that can't be used.
#[derive(Clone, Debug, Error)]
#[error("there is no certificate in it that can be read: PEM is needed")]
pub struct BadCertificates;

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustStore").finish_non_exhaustive()
    }
}

impl TrustStore {
    /// Those of a PEM text, one or more.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn from_pem(pem: &[u8]) -> Result<TrustStore, BadCertificates> {
        let bad = |_| BadCertificates;
        let certificates = X509::stack_from_pem(pem).map_err(bad)?;
        if certificates.is_empty() {
            return Err(BadCertificates);
        }
        let mut builder = X509StoreBuilder::new().map_err(bad)?;
        for certificate in certificates {
            builder.add_cert(certificate).map_err(bad)?;
        }
        // Neither SHA-1 nor RSA below 1,024 bits in a chain: without a level OpenSSL's own checks take anything.
        let mut parameters = X509VerifyParam::new().map_err(bad)?;
        parameters.set_auth_level(1);
        builder.set_param(&parameters).map_err(bad)?;
        Ok(TrustStore(builder.build()))
    }

    /// Does the chain lead to one of them, and is it valid today?
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, chain: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
        let unusable = |_| CertificateRefusal::Unusable;
        let (leaf, above) = chain.split_first().ok_or(CertificateRefusal::Unusable)?;
        let leaf = X509::from_der(leaf).map_err(unusable)?;
        let mut stack = Stack::new().map_err(unusable)?;
        for der in above {
            stack
                .push(X509::from_der(der).map_err(unusable)?)
                .map_err(unusable)?;
        }
        let mut context = X509StoreContext::new().map_err(unusable)?;
        let (good, error) = context
            .init(&self.0, &leaf, &stack, |context| {
                Ok((context.verify_cert()?, context.error()))
            })
            .map_err(unusable)?;
        if good {
            return Ok(());
        }
        // X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
        if error != X509VerifyResult::OK && matches!(error.as_raw(), 9 | 10) {
            return Err(CertificateRefusal::Expired);
        }
        Err(CertificateRefusal::Untrusted)
    }
}

/// Is the certificate valid today?
///
/// # Errors
/// When it is not, or can't be read.
pub fn check_dates(der: &[u8]) -> Result<(), CertificateRefusal> {
    let unusable = |_| CertificateRefusal::Unusable;
    let certificate = X509::from_der(der).map_err(unusable)?;
    let now = openssl::asn1::Asn1Time::days_from_now(0).map_err(unusable)?;
    if certificate.not_before() <= &*now && &*now <= certificate.not_after() {
        Ok(())
    } else {
        Err(CertificateRefusal::Expired)
    }
}

/// The most bytes of a client's certificate.
const LONGEST_CERTIFICATE: usize = 4_096;

/// Is it DER, with nothing after it, and not too long? The bytes are what names its subject's session: one certificate
/// written in many ways would be many names.
pub(crate) fn check_encoding(der: &[u8]) -> Result<(), CertificateRefusal> {
    let unusable = |_| CertificateRefusal::Unusable;
    if der.len() > LONGEST_CERTIFICATE {
        return Err(CertificateRefusal::Unusable);
    }
    let certificate = X509::from_der(der).map_err(unusable)?;
    match certificate.to_der().map_err(unusable)? == der {
        true => Ok(()),
        false => Err(CertificateRefusal::Unusable),
    }
}

/// This end's key pair, and the certificate for it if it has one.
#[derive(Clone)]
pub struct OwnKey {
    pub(crate) key: PKey<Private>,
    pub(crate) spki: Vec<u8>,
    /// Its own certificate first.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Why a key pair can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    /// It is not PEM, or needs a password.
    #[error("the private key can't be read: it has to be PEM without a password")]
    Key,
    /// LwM2M's suites need P-256.
    #[error("the private key is not one of the curve P-256 (secp256r1)")]
    Curve,
    /// The certificate is not PEM.
    #[error(
        "the certificate can't be read: it has to be PEM, the server's own first, then those above it"
    )]
    Certificate,
    /// They don't belong together.
    #[error("the certificate is for another key than the private key that was given")]
    NotAPair,
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl OwnKey {
    /// From PEM: the private key, and the certificate with those above it, if there is one.
    ///
    /// # Errors
    /// When they can't be used, or don't belong together.
    pub fn from_pem(key: &[u8], chain: Option<&[u8]>) -> Result<OwnKey, BadKey> {
        let key = PKey::private_key_from_pem_callback(key, |_| Ok(0)).map_err(|_| BadKey::Key)?;
        let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
        if curve != Some(Nid::X9_62_PRIME256V1) {
            return Err(BadKey::Curve);
        }
        let mut ders = Vec::new();
        if let Some(chain) = chain {
            let certificates = X509::stack_from_pem(chain).map_err(|_| BadKey::Certificate)?;
            let first = certificates.first().ok_or(BadKey::Certificate)?;
            let public = first.public_key().map_err(|_| BadKey::Certificate)?;
            if !public.public_eq(&key) {
                return Err(BadKey::NotAPair);
            }
            for certificate in &certificates {
                ders.push(certificate.to_der().map_err(|_| BadKey::Certificate)?);
            }
        }
        Ok(OwnKey {
            spki: key.public_key_to_der().map_err(|_| BadKey::Key)?,
            chain: ders,
            key,
        })
    }

    /// The public half: SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.spki
    }

    /// The certificate, in DER, if there is one.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.chain.first().map(Vec::as_slice)
    }
}

/// The key of a SubjectPublicKeyInfo; it has to be one of P-256.
pub(crate) fn public_key_of_spki(spki: &[u8]) -> Result<PKey<Public>, Alert> {
    let key = PKey::public_key_from_der(spki).map_err(|_| Alert::BAD_CERTIFICATE)?;
    on_p256(key)
}

/// The same of a certificate.
pub(crate) fn public_key_of_certificate(der: &[u8]) -> Result<PKey<Public>, Alert> {
    let certificate = X509::from_der(der).map_err(|_| Alert::BAD_CERTIFICATE)?;
    on_p256(
        certificate
            .public_key()
            .map_err(|_| Alert::BAD_CERTIFICATE)?,
    )
}

fn on_p256(key: PKey<Public>) -> Result<PKey<Public>, Alert> {
    let ec = key.ec_key().map_err(|_| Alert::BAD_CERTIFICATE)?;
    if ec.group().curve_name() != Some(Nid::X9_62_PRIME256V1) {
        return Err(Alert::BAD_CERTIFICATE);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Instant;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;

    use super::*;
    use crate::{
        Client, ClientAuth, ClientConfig, Event, Refusal, Server, ServerConfig, ServerTrust,
    };

    /// Takes every certificate.
    struct Trusting;

    impl Authority for Trusting {
        fn psk(&self, _: &[u8]) -> Option<Psk> {
            None
        }

        fn knows_public_key(&self, _: &[u8]) -> bool {
            false
        }

        fn check_chain(&self, _: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
            Ok(())
        }

        fn still_knows(&self, _: &Identity) -> bool {
            true
        }
    }

    fn own() -> OwnKey {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let day = |n| Asn1Time::days_from_now(n).unwrap();
        builder.set_not_before(&day(0)).unwrap();
        builder.set_not_after(&day(2)).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let chain = builder.build().to_pem().unwrap();
        OwnKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap(), Some(&chain)).unwrap()
    }

    /// The bytes are the identity: with something after it the same certificate would be another one, without end.
    #[test]
    fn a_certificate_has_one_form_only() {
        for (junk, is_taken) in [(0, true), (1, false), (LONGEST_CERTIFICATE, false)] {
            let (server_key, mut device) = (own(), own());
            device.chain[0].extend(vec![0; junk]);
            let config = ServerConfig {
                own_key: Some(server_key.clone()),
                ..ServerConfig::default()
            };
            let mut server = Server::new(config, Arc::new(Trusting), [1; 32]).unwrap();
            let auth = ClientAuth::Certificate {
                own: device,
                server: ServerTrust::Pinned(server_key.chain[0].clone()),
            };
            let mut client = Client::new(ClientConfig::new(auth), [2; 32]).unwrap();
            let (now, at) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 5684)));
            client.connect(now);
            while let Some(datagram) = client.poll_transmit() {
                server.handle_datagram(now, at, &datagram);
                while let Some(transmit) = server.poll_transmit() {
                    client.handle_datagram(now, &transmit.payload);
                }
            }
            assert_eq!(client.is_connected(), is_taken, "{junk}");
            let unusable = Refusal::Certificate(CertificateRefusal::Unusable);
            match server.poll_event().unwrap() {
                Event::Established { .. } => assert!(is_taken),
                Event::Refused { why, claimed, .. } => assert_eq!((why, claimed), (unusable, None)),
                other => panic!("{other:?}"),
            }
        }
    }
}
