use std::fs;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::{X509NameRef, X509Ref};

use super::TlsError;
use crate::Secret;

/// The files of one end of TLS, as they were named. What they hold decides, not what they are called: PEM, or PKCS#12
/// (also under the name `.jks`, as the original's scripts write it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that the other end's certificate must come from: PEM, or a PKCS#12 truststore.
    pub ca: Option<PathBuf>,
    /// The truststore's password.
    pub ca_password: Option<Secret>,
    /// Our certificate, PEM, followed by those between it and its CA.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM; where it is missing the certificate's file holds it.
    pub key: Option<PathBuf>,
    /// Our certificate and key in one file, PKCS#12 or PEM, in place of the two.
    pub keystore: Option<PathBuf>,
    /// The password of the private key or of the keystore.
    pub password: Option<Secret>,
}

impl TlsFiles {
    /// Whether nothing was named.
    pub fn is_empty(&self) -> bool {
        self.paths().next().is_none()
    }

    /// All files named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.ca, &self.certificate, &self.key, &self.keystore]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let ca = match &self.ca {
            None => Vec::new(),
            Some(path) => load_ca(path, self.ca_password.as_ref())?,
        };
        Ok(Loaded {
            generation: 0,
            ca,
            ca_file: self.ca.clone(),
            identity: self.load_identity()?,
        })
    }

    fn load_identity(&self) -> Result<Option<Identity>, TlsError> {
        let password = self.password.as_ref();
        match (&self.keystore, &self.certificate, &self.key) {
            (None, None, None) => Ok(None),
            (Some(keystore), Some(certificate), _) => Err(TlsError::Both {
                keystore: keystore.clone(),
                certificate: certificate.clone(),
            }),
            (Some(file), None, _) => match read("keystore", file)? {
                Form::Pem(pem) => {
                    let key = load_key(file, &pem, password)?;
                    identity(file, chain_of(file, &pem)?, file, key).map(Some)
                }
                Form::Pkcs12(der) => load_keystore(file, &der, password).map(Some),
            },
            (None, None, Some(_)) => Err(TlsError::Half {
                given: "a key",
                missing: "its certificate",
            }),
            (None, Some(file), key_file) => match read("certificate", file)? {
                Form::Pkcs12(der) if key_file.is_none() => {
                    load_keystore(file, &der, password).map(Some)
                }
                Form::Pkcs12(_) => Err(TlsError::Content {
                    path: file.clone(),
                    what: "PEM certificate",
                    reason: "it is PKCS#12; name it as the keystore".to_owned(),
                }),
                Form::Pem(pem) => {
                    let chain = chain_of(file, &pem)?;
                    let (key_file, key) = match key_file {
                        None => (file, load_key(file, &pem, password)?),
                        Some(key_file) => match read("private key", key_file)? {
                            Form::Pem(pem) => (key_file, load_key(key_file, &pem, password)?),
                            Form::Pkcs12(_) => {
                                return Err(TlsError::Content {
                                    path: key_file.clone(),
                                    what: "PEM private key",
                                    reason: "it is binary; name a PKCS#12 file as the keystore"
                                        .to_owned(),
                                });
                            }
                        },
                    };
                    identity(file, chain, key_file, key).map(Some)
                }
            },
        }
    }
}

/// What [`TlsFiles`] held at one time.
#[derive(Debug, Default)]
pub struct Loaded {
    pub(super) generation: u64,
    ca: Vec<X509>,
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
}

impl Loaded {
    /// Counts the times the files were loaded; another number means other files.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether there is anything at all.
    pub fn is_empty(&self) -> bool {
        self.ca.is_empty() && self.identity.is_none()
    }

    /// The CAs the other end's certificate must come from; none: those of the system.
    pub fn ca(&self) -> &[X509] {
        &self.ca
    }

    /// Where the CAs came from.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The CAs as PEM; `None` where none were named.
    pub fn ca_pem(&self) -> Option<String> {
        (!self.ca.is_empty()).then(|| pem_of(&self.ca))
    }

    /// Our certificate and key.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    pub(super) fn ca_store(&self) -> Result<X509Store, openssl::error::ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &self.ca {
            store.add_cert(certificate.clone())?;
        }
        Ok(store.build())
    }

    pub(super) fn ca_names(
        &self,
    ) -> Result<Stack<openssl::x509::X509Name>, openssl::error::ErrorStack> {
        let mut names = Stack::new()?;
        for certificate in &self.ca {
            names.push(certificate.subject_name().to_owned()?)?;
        }
        Ok(names)
    }
}

/// A certificate, those between it and its CA, and its private key.
pub struct Identity {
    file: PathBuf,
    /// Ours first.
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("file", &self.file)
            .field("subject", &self.subject())
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The file of the certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Our certificate first, then those between it and its CA.
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    pub(super) fn key(&self) -> &PKey<Private> {
        &self.key
    }

    /// The chain as PEM.
    pub fn certificate_pem(&self) -> String {
        pem_of(&self.chain)
    }

    /// The key as PEM (PKCS#8, not encrypted).
    pub fn key_pem(&self) -> Secret {
        let pem = self.key.private_key_to_pem_pkcs8().unwrap_or_default();
        Secret::new(String::from_utf8_lossy(&pem))
    }

    /// Whom the certificate names, as `CN=…`.
    pub fn subject(&self) -> String {
        name_of(self.chain[0].subject_name())
    }

    /// Who signed it.
    pub fn issuer(&self) -> String {
        name_of(self.chain[0].issuer_name())
    }

    /// When it ends, in OpenSSL's form.
    pub fn not_after(&self) -> String {
        self.chain[0].not_after().to_string()
    }

    /// Seconds until it ends; negative once it has.
    pub fn seconds_left(&self) -> i64 {
        seconds_left(&self.chain[0])
    }

    /// Whether it has ended.
    pub fn is_expired(&self) -> bool {
        self.seconds_left() < 0
    }
}

fn seconds_left(certificate: &X509Ref) -> i64 {
    let left = Asn1Time::days_from_now(0).and_then(|now| now.diff(certificate.not_after()));
    left.map_or(0, |left| {
        i64::from(left.days) * 86_400 + i64::from(left.secs)
    })
}

pub(super) fn name_of(name: &X509NameRef) -> String {
    let entries = name.entries().map(|entry| {
        let kind = entry.object().nid();
        let kind = kind.short_name().unwrap_or("?").to_owned();
        let text = entry.data().to_string().unwrap_or_default();
        format!("{kind}={text}")
    });
    entries.collect::<Vec<_>>().join(",")
}

pub(super) fn common_name(name: &X509NameRef) -> Option<String> {
    let entry = name.entries_by_nid(Nid::COMMONNAME).next()?;
    entry.data().to_string().ok()
}

fn pem_of(certificates: &[X509]) -> String {
    let all = certificates.iter().filter_map(|one| one.to_pem().ok());
    all.map(|pem| String::from_utf8_lossy(&pem).into_owned())
        .collect()
}

enum Form {
    Pem(Vec<u8>),
    Pkcs12(Vec<u8>),
}

/// The largest file that is taken for keys and certificates: the bundle of a system's CAs has 220 KB.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

fn read(what: &'static str, path: &Path) -> Result<Form, TlsError> {
    let unreadable = |source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    let content = |reason: &str| TlsError::Content {
        path: path.to_owned(),
        what,
        reason: reason.to_owned(),
    };
    if length > MOST_BYTES {
        return Err(content("it is far too large"));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    match bytes.as_slice() {
        // JKS and JCEKS begin with these.
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => Err(TlsError::Jks {
            path: path.to_owned(),
            converted: path.with_extension("p12"),
        }),
        [] => Err(content("it is empty")),
        // A DER sequence.
        [0x30, ..] => Ok(Form::Pkcs12(bytes)),
        _ if bytes.windows(11).any(|part| part == b"-----BEGIN ") => Ok(Form::Pem(bytes)),
        _ => Err(content("it is neither PEM nor PKCS#12")),
    }
}

fn load_ca(path: &Path, password: Option<&Secret>) -> Result<Vec<X509>, TlsError> {
    let all = match read("CA certificates", path)? {
        Form::Pem(pem) => X509::stack_from_pem(&pem).map_err(|reason| TlsError::Refused {
            path: path.to_owned(),
            reason,
        })?,
        Form::Pkcs12(der) => {
            let opened = open_pkcs12(path, &der, password)?;
            let others = opened.ca.into_iter().flatten();
            opened.cert.into_iter().chain(others).collect()
        }
    };
    if all.is_empty() {
        return Err(TlsError::Content {
            path: path.to_owned(),
            what: "CA certificates",
            reason: "no certificate is in it".to_owned(),
        });
    }
    Ok(all)
}

fn chain_of(path: &Path, pem: &[u8]) -> Result<Vec<X509>, TlsError> {
    let chain = X509::stack_from_pem(pem).map_err(|reason| TlsError::Refused {
        path: path.to_owned(),
        reason,
    })?;
    if chain.is_empty() {
        return Err(TlsError::Content {
            path: path.to_owned(),
            what: "certificate",
            reason: "no PEM block CERTIFICATE is in it".to_owned(),
        });
    }
    Ok(chain)
}

fn load_key(path: &Path, pem: &[u8], password: Option<&Secret>) -> Result<PKey<Private>, TlsError> {
    let text = String::from_utf8_lossy(pem);
    if !text.contains("PRIVATE KEY-----") {
        return Err(TlsError::Content {
            path: path.to_owned(),
            what: "private key",
            reason: "no PEM block PRIVATE KEY is in it".to_owned(),
        });
    }
    // With a password in any case: without one OpenSSL would ask for it at the terminal.
    let given = password.map_or("", Secret::expose);
    PKey::private_key_from_pem_passphrase(pem, given.as_bytes()).map_err(|reason| {
        let encrypted = text.contains("ENCRYPTED");
        match password {
            None if encrypted => TlsError::NoPassword {
                path: path.to_owned(),
            },
            Some(_) if encrypted => TlsError::Password {
                path: path.to_owned(),
            },
            _ => TlsError::Refused {
                path: path.to_owned(),
                reason,
            },
        }
    })
}

fn open_pkcs12(
    path: &Path,
    der: &[u8],
    password: Option<&Secret>,
) -> Result<openssl::pkcs12::ParsedPkcs12_2, TlsError> {
    let refused = |reason| TlsError::Refused {
        path: path.to_owned(),
        reason,
    };
    let file = Pkcs12::from_der(der).map_err(refused)?;
    file.parse2(password.map_or("", Secret::expose))
        .map_err(|reason| {
            let said = reason.to_string().to_lowercase();
            if said.contains("mac verify") || said.contains("mac absent") {
                TlsError::Password {
                    path: path.to_owned(),
                }
            } else if said.contains("unsupported") {
                TlsError::Legacy {
                    path: path.to_owned(),
                }
            } else {
                refused(reason)
            }
        })
}

fn load_keystore(path: &Path, der: &[u8], password: Option<&Secret>) -> Result<Identity, TlsError> {
    let opened = open_pkcs12(path, der, password)?;
    let missing = |what, reason: &str| TlsError::Content {
        path: path.to_owned(),
        what,
        reason: reason.to_owned(),
    };
    let key = opened
        .pkey
        .ok_or_else(|| missing("private key", "it is a truststore, it seems"))?;
    let certificate = opened
        .cert
        .ok_or_else(|| missing("certificate", "only a key is in it"))?;
    let mut chain = vec![certificate];
    chain.extend(opened.ca.into_iter().flatten());
    identity(path, chain, path, key)
}

fn identity(
    file: &Path,
    mut chain: Vec<X509>,
    key_file: &Path,
    key: PKey<Private>,
) -> Result<Identity, TlsError> {
    let own = chain.iter().position(|certificate| {
        certificate
            .public_key()
            .is_ok_and(|public| public.public_eq(&key))
    });
    let Some(own) = own else {
        return Err(TlsError::Mismatch {
            certificate: file.to_owned(),
            key: key_file.to_owned(),
        });
    };
    // Ours goes first, whatever the file's order.
    chain.swap(0, own);
    Ok(Identity {
        file: file.to_owned(),
        chain,
        key,
    })
}
