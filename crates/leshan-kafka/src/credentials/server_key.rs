//! The server's own key pair and certificate.

use std::fs;
use std::path::{Path, PathBuf};

use dtls::{BadKey, OwnKey};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameBuilder};
use service::Secret;

use crate::private_file::private_file;

/// What the server shows of its key pair, for those who set up devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerKey {
    /// SubjectPublicKeyInfo.
    pub(crate) public_key_der: Vec<u8>,
    /// The certificate that devices with X.509 see.
    pub(crate) certificate_der: Option<Vec<u8>>,
}

impl From<&OwnKey> for ServerKey {
    fn from(own: &OwnKey) -> Self {
        Self {
            public_key_der: own.public_key().to_vec(),
            certificate_der: own.certificate().map(<[u8]>::to_vec),
        }
    }
}

/// Where the key pair comes from.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    /// PEM files; without a certificate there is none.
    Pem {
        key: PathBuf,
        certificate: Option<PathBuf>,
    },
    /// A PKCS#12 file.
    KeyStore { file: PathBuf, password: Secret },
    /// Made at the first start and kept in this folder.
    Own(PathBuf),
}

/// Why there is no key pair.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerKeyError {
    /// A file can't be read or written.
    #[error("can't use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The key pair can't be used.
    #[error("{path}: {source}")]
    Key {
        /// The file of the private key.
        path: PathBuf,
        /// Why not.
        source: BadKey,
    },
    /// The key store can't be opened.
    #[error(
        "the key store {path} can't be opened: it has to be PKCS#12 with a key and a certificate, and the password its own"
    )]
    KeyStore {
        /// The file.
        path: PathBuf,
    },
    /// OpenSSL failed.
    #[error("can't make a key pair: {0}")]
    Make(#[from] ErrorStack),
}

const KEY_FILE: &str = "dtls-key.pem";
const CERTIFICATE_FILE: &str = "dtls-certificate.pem";
/// A self-signed certificate is for devices that pin it: it should outlast them.
const YEARS: u32 = 30;

impl KeySource {
    pub(crate) fn load(&self) -> Result<OwnKey, ServerKeyError> {
        match self {
            Self::Pem { key, certificate } => {
                let chain = certificate.as_deref().map(read).transpose()?;
                own_key(key, &read(key)?, chain.as_deref())
            }
            Self::KeyStore { file, password } => {
                let bad = |_| ServerKeyError::KeyStore { path: file.clone() };
                let bytes = read(file)?;
                let store = Pkcs12::from_der(&bytes)
                    .and_then(|store| store.parse2(password.expose()))
                    .map_err(bad)?;
                let (Some(key), Some(certificate)) = (store.pkey, store.cert) else {
                    return Err(ServerKeyError::KeyStore { path: file.clone() });
                };
                let mut chain = certificate.to_pem().map_err(bad)?;
                for above in store.ca.iter().flatten() {
                    chain.extend(above.to_pem().map_err(bad)?);
                }
                let key = key.private_key_to_pem_pkcs8().map_err(bad)?;
                own_key(file, &key, Some(&chain))
            }
            Self::Own(folder) => made_once(folder),
        }
    }
}

fn own_key(path: &Path, key: &[u8], chain: Option<&[u8]>) -> Result<OwnKey, ServerKeyError> {
    OwnKey::from_pem(key, chain).map_err(|source| ServerKeyError::Key {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ServerKeyError> {
    fs::read(path).map_err(|source| ServerKeyError::File {
        path: path.to_owned(),
        source,
    })
}

/// The certificate is written last: when it is there, the key is, whole.
fn made_once(folder: &Path) -> Result<OwnKey, ServerKeyError> {
    let (key_at, certificate_at) = (folder.join(KEY_FILE), folder.join(CERTIFICATE_FILE));
    if !certificate_at.exists() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let certificate = self_signed(&key)?;
        write(&key_at, &key.private_key_to_pem_pkcs8()?, true)?;
        write(&certificate_at, &certificate.to_pem()?, false)?;
        tracing::info!(certificate = %certificate_at.display(), "made a key pair for DTLS");
    }
    own_key(&key_at, &read(&key_at)?, Some(&read(&certificate_at)?))
}

fn write(path: &Path, bytes: &[u8], private: bool) -> Result<(), ServerKeyError> {
    let file = |source| ServerKeyError::File {
        path: path.to_owned(),
        source,
    };
    let part = path.with_extension("part");
    if private {
        private_file(&part).map_err(file)?;
    }
    fs::write(&part, bytes).map_err(file)?;
    fs::rename(&part, path).map_err(file)
}

fn self_signed(key: &PKey<Private>) -> Result<X509, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "zeelos LwM2M server")?;
    let name = name.build();
    let mut serial = [0; 16];
    openssl::rand::rand_bytes(&mut serial)?;
    serial[0] &= 0x7f;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_slice(&serial)?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    let (from, to) = (
        Asn1Time::days_from_now(0)?,
        Asn1Time::days_from_now(YEARS * 365)?,
    );
    builder.set_not_before(&from)?;
    builder.set_not_after(&to)?;
    builder.set_pubkey(key)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}
