use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslVerifyMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::files::{common_name, name_of};
use super::{Loaded, PeerCertificate, Tls, TlsError, TlsFiles};

/// What is asked of clients (Kafka's `ssl.client.auth`).
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// One is asked for, and checked where it is given.
    Requested,
    /// Without one that the CA signed nobody comes in.
    Required,
}

/// TLS of a listener: its certificate, and what it asks of clients. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    tls: Tls,
    auth: ClientAuth,
    acceptor: Mutex<(u64, SslAcceptor)>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the client did not finish its TLS handshake within {} s", LIMIT.as_secs())]
    Slow,
    /// It failed.
    #[error("{}", reason(.0))]
    Failed(#[from] openssl::ssl::Error),
    /// OpenSSL could not begin.
    #[error("no TLS handshake: {0}")]
    Local(#[from] ErrorStack),
}

/// How long a handshake may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a refused client may go on sending before the connection is cut.
const PARTING: Duration = Duration::from_secs(1);

impl ServerTls {
    /// Loads a listener's files.
    ///
    /// # Errors
    /// When one can't be used, there is no certificate, or clients are to be checked and there is no CA.
    pub fn open(files: TlsFiles, auth: ClientAuth) -> Result<Self, TlsError> {
        if files.keystore.is_none() && files.certificate.is_none() {
            return Err(TlsError::Incomplete(
                "a TLS listener needs a certificate: --tls-certificate-location and --tls-key-location, or --tls-keystore-location",
            ));
        }
        if auth != ClientAuth::None && files.ca.is_none() {
            return Err(TlsError::Incomplete(
                "to check client certificates the listener needs the CA that signs them: --tls-ca-location",
            ));
        }
        let tls = Tls::open(files)?;
        let loaded = tls.current();
        let acceptor = acceptor(&loaded, auth).map_err(|reason| refused(&loaded, reason))?;
        let acceptor = Mutex::new((loaded.generation(), acceptor));
        Ok(Self(Arc::new(Inner {
            tls,
            auth,
            acceptor,
        })))
    }

    /// Shakes hands with a client that has connected, within 10 s; with the newest certificate.
    ///
    /// # Errors
    /// Why the client is not let in.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(SslStream<TcpStream>, Option<PeerCertificate>), HandshakeError> {
        let ssl = Ssl::new(self.0.acceptor().context())?;
        let mut stream = SslStream::new(ssl, stream)?;
        let shaken = tokio::time::timeout(LIMIT, std::pin::Pin::new(&mut stream).accept()).await;
        let shaken = match shaken {
            Ok(shaken) => shaken.map_err(HandshakeError::from),
            Err(_) => Err(HandshakeError::Slow),
        };
        if let Err(error) = shaken {
            part(stream.get_mut()).await;
            return Err(error);
        }
        let certificate = stream.ssl().peer_certificate().map(|certificate| {
            let serial = certificate.serial_number().to_bn();
            PeerCertificate {
                common_name: common_name(certificate.subject_name()),
                subject: name_of(certificate.subject_name()),
                issuer: name_of(certificate.issuer_name()),
                serial: serial
                    .and_then(|number| number.to_hex_str())
                    .map(|text| text.to_string())
                    .unwrap_or_default(),
            }
        });
        Ok((stream, certificate))
    }

    /// What it asks of clients.
    pub fn client_auth(&self) -> ClientAuth {
        self.0.auth
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("files", self.0.tls.files())
            .field("auth", &self.0.auth)
            .finish_non_exhaustive()
    }
}

/// Ends a refused connection so that the client learns why. In TLS 1.3 it has finished its part and may be sending a
/// request already; closing with that unread would be a reset, which overtakes the alert.
async fn part(stream: &mut TcpStream) {
    let parting = async {
        let mut rest = [0; 4_096];
        stream.shutdown().await?;
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends: there is nothing more to say.
    let _ended = tokio::time::timeout(PARTING, parting).await;
}

impl Inner {
    fn acceptor(&self) -> SslAcceptor {
        let loaded = self.tls.current();
        let mut kept = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != loaded.generation() {
            match acceptor(&loaded, self.auth) {
                Ok(new) => *kept = (loaded.generation(), new),
                Err(error) => {
                    tracing::error!(%error, "OpenSSL refuses the renewed certificate; the old one stays in use");
                    kept.0 = loaded.generation();
                }
            }
        }
        kept.1.clone()
    }
}

fn refused(loaded: &Loaded, reason: ErrorStack) -> TlsError {
    TlsError::Refused {
        path: loaded
            .identity()
            .map(|identity| identity.file().to_owned())
            .unwrap_or_default(),
        reason,
    }
}

fn acceptor(loaded: &Loaded, auth: ClientAuth) -> Result<SslAcceptor, ErrorStack> {
    // Mozilla's intermediate profile: TLS 1.2 with forward secrecy and authenticated encryption, and 1.3.
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    if let Some(identity) = loaded.identity() {
        let [own, between @ ..] = identity.chain() else {
            return Err(ErrorStack::get());
        };
        builder.set_certificate(own)?;
        for certificate in between {
            builder.add_extra_chain_cert(certificate.clone())?;
        }
        builder.set_private_key(identity.key())?;
    }
    let verify = match auth {
        ClientAuth::None => SslVerifyMode::NONE,
        ClientAuth::Requested => SslVerifyMode::PEER,
        ClientAuth::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
    };
    builder.set_verify(verify);
    if auth != ClientAuth::None {
        builder.set_cert_store(loaded.ca_store()?);
        // Java's clients choose their certificate by these names.
        builder.set_client_ca_list(loaded.ca_names()?);
        // Without a context of its own a session with a client certificate could not be resumed.
        builder.set_session_id_context(b"zeelos")?;
    }
    Ok(builder.build())
}

fn reason(error: &openssl::ssl::Error) -> String {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let says = |words: &str| lower.contains(words);
    if says("peer did not return a certificate") {
        "the client has no certificate, and this listener requires one".to_owned()
    } else if says("certificate has expired") {
        "the client's certificate has expired".to_owned()
    } else if says("certificate verify failed") {
        "the client's certificate is not signed by a CA of this listener (--tls-ca-location)"
            .to_owned()
    } else if says("alert unknown ca") || says("alert bad certificate") {
        "the client does not trust this listener's certificate".to_owned()
    } else if says("http request") || says("wrong version number") || says("record layer failure") {
        "the client does not speak TLS".to_owned()
    } else if error.io_error().is_some() || says("unexpected eof") {
        "the client went away during the TLS handshake".to_owned()
    } else {
        format!("the TLS handshake failed: {text}")
    }
}
