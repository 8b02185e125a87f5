//! The credentials file: TOML, or JSON of the same shape where its name ends in `.json`.
//!
//! ```toml
//! [[credential]]
//! endpoint = "boiler"
//! psk = { identity = "boiler", key = "00112233445566778899aabbccddeeff" }      # or key_file = "path of a file with the digits"
//!
//! [[credential]]
//! endpoint = "meter"
//! rpk = { public_key = "MFkwEwYH…" }                # SubjectPublicKeyInfo: base64 of DER, or PEM; or public_key_file
//!
//! [[credential]]
//! endpoint = "valve"
//! x509 = { certificate_file = "valve.pem" }        # this certificate only; or certificate = "PEM"
//!
//! [[credential]]
//! endpoint = "pump"
//! x509 = {}                                        # any certificate of the trust store that names the endpoint
//! ```
//! Paths are relative to the file's folder. An unknown key is an error, since it is a misspelt one.

use std::fs;
use std::path::{Path, PathBuf};

use openssl::pkey::PKey;
use openssl::x509::X509;
use serde::Deserialize;

use super::{Credential, MOST, SecretKey};

/// The most bytes of the file.
const MAX_FILE: u64 = 256 << 20;

/// Why a credentials file can't be used. No message quotes what is in the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsFileError {
    /// It can't be read.
    #[error("can't read the credentials file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It has not the form of one.
    #[error("the credentials file {path} has a mistake {place}: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    credential: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    endpoint: String,
    psk: Option<Psk>,
    rpk: Option<Rpk>,
    x509: Option<Certificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Psk {
    identity: String,
    key: Option<String>,
    key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rpk {
    public_key: Option<String>,
    public_key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    certificate: Option<String>,
    certificate_file: Option<PathBuf>,
}

/// Reads a credentials file.
///
/// # Errors
/// When it, or a file that it names, can't be read or has not the form.
pub(crate) fn read_file(path: &Path) -> Result<Vec<(String, Credential)>, CredentialsFileError> {
    let form = |place: String, reason: String| CredentialsFileError::Form {
        path: path.to_owned(),
        place,
        reason,
    };
    let read = |source| CredentialsFileError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(form(
            "in its size".to_owned(),
            "it is larger than 256 MiB".to_owned(),
        ));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    let document = if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        serde_json::from_str::<Document>(&text).map_err(|error| {
            let place = format!("in line {}, column {}", error.line(), error.column());
            form(place, "it is not JSON of the documented form".to_owned())
        })?
    } else {
        toml::from_str::<Document>(&text).map_err(|error| {
            // The parser's own message would quote the line, with a key in it.
            let before = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..before]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            form(
                format!("in line {line}"),
                "it is not TOML of the documented form".to_owned(),
            )
        })?
    };
    if document.credential.len() > MOST {
        return Err(form(
            "in its size".to_owned(),
            format!("it has more than {MOST} credentials"),
        ));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut all: Vec<(String, Credential)> = Vec::with_capacity(document.credential.len());
    let mut seen = std::collections::HashSet::new();
    for item in document.credential {
        let endpoint = item.endpoint.clone();
        if !seen.insert(endpoint.clone()) {
            return Err(form(
                format!("at '{endpoint}'"),
                "the endpoint stands there twice".to_owned(),
            ));
        }
        let credential =
            credential(item, folder).map_err(|reason| form(format!("at '{endpoint}'"), reason))?;
        all.push((endpoint, credential));
    }
    Ok(all)
}

fn credential(item: Item, folder: &Path) -> Result<Credential, String> {
    match (item.psk, item.rpk, item.x509) {
        (Some(psk), None, None) => {
            let digits = one_of(psk.key, psk.key_file, folder, "key")?
                .ok_or("the psk has no key: give key or key_file")?;
            Ok(Credential::PreSharedKey {
                identity: psk.identity,
                key: SecretKey::from_hex(digits.trim())?,
            })
        }
        (None, Some(rpk), None) => {
            let text = one_of(rpk.public_key, rpk.public_key_file, folder, "public_key")?
                .ok_or("the rpk has no key: give public_key or public_key_file")?;
            Ok(Credential::RawPublicKey {
                spki: public_key(&text)?,
            })
        }
        (None, None, Some(x509)) => {
            match one_of(
                x509.certificate,
                x509.certificate_file,
                folder,
                "certificate",
            )? {
                None => Ok(Credential::TrustedCertificate),
                Some(pem) => X509::from_pem(pem.as_bytes())
                    .and_then(|certificate| certificate.to_der())
                    .map(|der| Credential::PinnedCertificate { der })
                    .map_err(|_| "the certificate is not PEM".to_owned()),
            }
        }
        _ => Err("give one of psk, rpk and x509".to_owned()),
    }
}

fn one_of(
    text: Option<String>,
    file: Option<PathBuf>,
    folder: &Path,
    what: &str,
) -> Result<Option<String>, String> {
    match (text, file) {
        (Some(_), Some(_)) => Err(format!("give either {what} or {what}_file")),
        (Some(text), None) => Ok(Some(text)),
        (None, Some(file)) => {
            let path = folder.join(file);
            fs::read_to_string(&path)
                .map(Some)
                .map_err(|error| format!("can't read {}: {error}", path.display()))
        }
        (None, None) => Ok(None),
    }
}

fn public_key(text: &str) -> Result<Vec<u8>, String> {
    if text.contains("-----BEGIN") {
        return PKey::public_key_from_pem(text.as_bytes())
            .and_then(|key| key.public_key_to_der())
            .map_err(|_| "the public key is not PEM".to_owned());
    }
    let digits: String = text.split_whitespace().collect();
    openssl::base64::decode_block(&digits)
        .map_err(|_| "the public key is neither base64 nor PEM".to_owned())
}
