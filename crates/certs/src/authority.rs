use std::net::IpAddr;
use std::time::Duration;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameRef};

/// A certificate and its private key.
pub struct Pair {
    /// The certificate.
    pub certificate: X509,
    /// Its key.
    pub key: PKey<Private>,
}

/// What signs certificates.
pub struct Authority {
    pair: Pair,
}

/// When a certificate counts, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here on.
    pub from_s: i64,
    /// Until here.
    pub until_s: i64,
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whom it names: Kafka's principal.
    pub common_name: String,
    /// The names its holder is reached by.
    pub names: Vec<String>,
    /// The addresses its holder is reached by.
    pub addresses: Vec<IpAddr>,
    /// When it counts.
    pub validity: Validity,
}

/// What a certificate's subject says besides the common name.
const ORGANISATION: &str = "zeelos";
/// How far a holder's clock may be behind ours.
const CLOCK_SKEW_S: i64 = 3_600;

impl Validity {
    /// From now (an hour ago, for clocks that are behind) for so long.
    pub fn from_now(now_s: i64, length: Duration) -> Self {
        Self {
            from_s: now_s - CLOCK_SKEW_S,
            until_s: now_s + i64::try_from(length.as_secs()).unwrap_or(i64::MAX / 2),
        }
    }
}

impl Authority {
    /// A new one, self-signed.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn create(common_name: &str, validity: Validity) -> Result<Self, ErrorStack> {
        let key = new_key()?;
        let name = subject(common_name)?;
        let mut builder = builder(&name, &name, &key, validity)?;
        // It signs holders' certificates, never another authority's.
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(
            KeyUsage::new()
                .critical()
                .key_cert_sign()
                .crl_sign()
                .build()?,
        )?;
        let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(id)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok(Self {
            pair: Pair { certificate, key },
        })
    }

    pub(crate) fn of(pair: Pair) -> Self {
        Self { pair }
    }

    /// Its own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Makes a key and signs its certificate, for servers and clients alike.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn issue(&self, request: &Request) -> Result<Pair, ErrorStack> {
        let key = new_key()?;
        let issuer = &self.pair.certificate;
        let subject = subject(&request.common_name)?;
        let mut builder = builder(&subject, issuer.subject_name(), &key, request.validity)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(
            ExtendedKeyUsage::new()
                .server_auth()
                .client_auth()
                .build()?,
        )?;
        let context = builder.x509v3_context(Some(issuer), None);
        let own_id = SubjectKeyIdentifier::new().build(&context)?;
        let signers_id = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        let mut names = SubjectAlternativeName::new();
        for name in &request.names {
            names.dns(name);
        }
        for address in &request.addresses {
            names.ip(&address.to_string());
        }
        let names = names.build(&context);
        builder.append_extension(own_id)?;
        builder.append_extension(signers_id)?;
        if !(request.names.is_empty() && request.addresses.is_empty()) {
            builder.append_extension(names?)?;
        }
        builder.sign(&self.pair.key, MessageDigest::sha256())?;
        Ok(Pair {
            certificate: builder.build(),
            key,
        })
    }

    /// Whether it signed this certificate.
    pub fn signed(&self, certificate: &X509) -> bool {
        certificate.verify(&self.pair.key).unwrap_or(false)
    }
}

impl Pair {
    /// The certificate as PEM.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn certificate_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.certificate.to_pem()
    }

    /// The key as PEM (PKCS#8, not encrypted).
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn key_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.key.private_key_to_pem_pkcs8()
    }
}

/// A time in Unix seconds.
pub(crate) fn unix_s(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// In this order, so that Java, which prints a name from its end, says `CN=…,O=…`: the principal's rule looks for that.
fn subject(common_name: &str) -> Result<X509Name, ErrorStack> {
    let mut name = X509Name::builder()?;
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, ORGANISATION)?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

fn builder(
    subject: &X509NameRef,
    issuer: &X509NameRef,
    key: &PKey<Private>,
    validity: Validity,
) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    // Positive, 20 bytes at most (RFC 5280, 4.1.2.2).
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&*Asn1Time::from_unix(validity.from_s)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(validity.until_s)?)?;
    Ok(builder)
}
