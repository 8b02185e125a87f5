use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;

use super::Loaded;

/// Why TLS files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not readable.
    #[error("can't read the {what} {path}: {source}")]
    Read {
        /// What it was to hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A keystore in Java's own format.
    #[error(
        "{path} is a Java keystore (JKS), which only Java reads; convert it: keytool -importkeystore -srckeystore {path} -destkeystore {converted} -deststoretype PKCS12"
    )]
    Jks {
        /// The file.
        path: PathBuf,
        /// A name for what it is converted to.
        converted: PathBuf,
    },
    /// The password does not open the file.
    #[error("the password given for {path} does not open it")]
    Password {
        /// The file.
        path: PathBuf,
    },
    /// An encrypted key without a password.
    #[error("the private key in {path} is encrypted and no password for it was given")]
    NoPassword {
        /// The file.
        path: PathBuf,
    },
    /// An algorithm that OpenSSL 3 has switched off.
    #[error(
        "{path} is encrypted with an algorithm that OpenSSL no longer opens; write it anew: openssl pkcs12 -legacy -in {path} -nodes -out all.pem, and use all.pem or openssl pkcs12 -export -in all.pem"
    )]
    Legacy {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{path} holds no {what}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What was found.
        reason: String,
    },
    /// Certificate and key belong to different pairs.
    #[error("the private key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// One of two files that are of use together only.
    #[error("{given} was given without {missing}: a certificate and its key go together")]
    Half {
        /// What was given.
        given: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// A certificate twice.
    #[error(
        "both a keystore ({keystore}) and a certificate ({certificate}) were given; give one of them"
    )]
    Both {
        /// The keystore.
        keystore: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A listener without a certificate, or clients to be checked without a CA.
    #[error("{0}")]
    Incomplete(&'static str),
    /// OpenSSL refuses.
    #[error("OpenSSL does not take what {path} holds: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Its reason.
        reason: ErrorStack,
    },
}

/// What an operator should look at, for a failed TLS connection of a client that uses `own`; `None` where the text does
/// not sound like TLS. `text` is what OpenSSL, librdkafka or reqwest said.
pub fn hint(text: &str, own: &Loaded) -> Option<String> {
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let certificate = own.identity().map(|identity| identity.file().to_owned());
    let expired = own.identity().is_some_and(|identity| identity.is_expired());
    let ours = || shown(certificate.as_deref());
    let hint = if expired {
        let until = own
            .identity()
            .map(|identity| identity.not_after())
            .unwrap_or_default();
        format!("our certificate {} expired on {until}: renew it", ours())
    } else if says(&["hostname mismatch", "ip address mismatch"]) {
        "the server's certificate is for another name than the one it was called by: connect by a name in its subject alternative names, or make it a certificate with this one".to_owned()
    } else if says(&["certificate has expired"]) {
        "the server's certificate has expired: renew it there".to_owned()
    } else if says(&[
        "self-signed certificate",
        "self signed certificate",
        "unable to get local issuer",
        "unable to get issuer",
        "broker certificate could not be verified",
        "certificate signature failure",
        "certificate verify failed",
    ]) {
        match own.ca_file() {
            Some(ca) => format!(
                "the server's certificate is not signed by a CA in {}: give the CA file of its site",
                ca.display()
            ),
            None => "the server's certificate is not signed by a CA that this system trusts: give its CA file (…-ca-location, ssl.ca.location or ssl.truststore.location)".to_owned(),
        }
    } else if says(&["certificate required", "peer did not return a certificate"])
        || (certificate.is_none() && says(&["handshake failure", "bad certificate"]))
    {
        match &certificate {
            None => "the server asks for a client certificate and none is configured (…-certificate-location and …-key-location, or ssl.keystore.location)".to_owned(),
            Some(file) => format!(
                "the server did not take our certificate {}",
                file.display()
            ),
        }
    } else if says(&["certificate expired"]) {
        format!(
            "the server says that our certificate {} has expired: renew it, and compare the clocks",
            ours()
        )
    } else if says(&["unknown ca", "certificate unknown", "bad certificate"]) {
        let issuer = own
            .identity()
            .map(|identity| identity.issuer())
            .unwrap_or_default();
        format!(
            "the server does not trust the CA ({issuer}) that signed our certificate {}: use one that its own CA signed",
            ours()
        )
    } else if says(&[
        "wrong version number",
        "packet length too long",
        "unknown protocol",
        "record layer failure",
        "http request",
    ]) {
        "the server does not speak TLS at this port".to_owned()
    } else if says(&["unexpected eof"]) {
        "the server ended the connection during the TLS handshake: most likely it does not speak TLS at this port".to_owned()
    } else if says(&[
        "no shared cipher",
        "unsupported protocol",
        "protocol version",
    ]) {
        "the server and this client have no TLS version or cipher in common (TLS 1.2 is the lowest taken)".to_owned()
    } else {
        return None;
    };
    Some(hint)
}

fn shown(file: Option<&Path>) -> String {
    file.map_or_else(|| "(none)".to_owned(), |file| file.display().to_string())
}
