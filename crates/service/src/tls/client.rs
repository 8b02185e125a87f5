use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use reqwest::{Certificate, Client, ClientBuilder};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::{Loaded, Tls, hint};

/// An HTTP client that is made anew when its certificates are renewed. Clones share it.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    tls: Tls,
    settings: Box<dyn Fn() -> ClientBuilder + Send + Sync>,
    kept: Mutex<(u64, Client)>,
}

/// Why an HTTP client can't be made.
#[derive(Debug, thiserror::Error)]
#[error("can't make an HTTP client: {0}")]
pub struct HttpError(#[from] reqwest::Error);

impl HttpClient {
    /// A client with these certificates; `settings` gives its limits and is asked again at each renewal.
    ///
    /// # Errors
    /// When the TLS library refuses the certificates.
    pub fn new(
        tls: Tls,
        settings: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, HttpError> {
        let loaded = tls.current();
        let client = with_tls(settings(), &loaded)?.build()?;
        Ok(Self(Arc::new(Inner {
            tls,
            settings: Box::new(settings),
            kept: Mutex::new((loaded.generation(), client)),
        })))
    }

    /// The client for the next call. Calls on their way keep the one they have.
    pub fn get(&self) -> Client {
        let loaded = self.0.tls.current();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != loaded.generation() {
            kept.0 = loaded.generation();
            let made = with_tls((self.0.settings)(), &loaded).and_then(ClientBuilder::build);
            match made {
                Ok(client) => kept.1 = client,
                Err(error) => {
                    tracing::error!(%error, "renewed certificates make no HTTP client; the old one stays in use");
                }
            }
        }
        kept.1.clone()
    }

    /// A failed call in words, with what to look at where TLS is the reason. The URL, which may hold secrets, is left
    /// out.
    pub fn explain(&self, error: reqwest::Error) -> String {
        let text = chain(&error.without_url());
        self.0.tls.explain(text)
    }
}

impl Tls {
    /// This text, followed by what to look at where it sounds like TLS.
    pub fn explain(&self, text: String) -> String {
        match hint(&text, &self.current()) {
            Some(hint) => format!("{text} — {hint}"),
            None => text,
        }
    }

    /// Adds CAs and our certificate to a client's settings.
    ///
    /// # Errors
    /// When the TLS library refuses them.
    pub fn apply(&self, builder: ClientBuilder) -> Result<ClientBuilder, HttpError> {
        Ok(with_tls(builder, &self.current())?)
    }

    /// Connects to `address` (`host:port`) and shakes hands, both within `limit`.
    ///
    /// # Errors
    /// What failed, in OpenSSL's words followed by what to look at.
    pub async fn connect(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<SslStream<TcpStream>, String> {
        let loaded = self.current();
        let connected = tokio::time::timeout(limit, handshake(&loaded, address));
        match connected.await {
            Err(_) => Err(format!("no TLS handshake within {} s", limit.as_secs())),
            Ok(Err(text)) => Err(self.explain(text)),
            Ok(Ok(stream)) => Ok(stream),
        }
    }

    /// Why the server at `address` does not let us in; `None` where TLS is not the reason.
    ///
    /// In TLS 1.3 a server checks the client's certificate after the client has finished: what it thinks of it comes
    /// with the first read.
    pub async fn refusal(&self, address: &str, limit: Duration) -> Option<String> {
        // A port that is closed has other reasons than TLS.
        let tcp = tokio::time::timeout(limit, TcpStream::connect(address)).await;
        drop(tcp.ok()?.ok()?);
        let mut stream = match self.connect(address, limit).await {
            Ok(stream) => stream,
            Err(text) => return Some(text),
        };
        let mut byte = [0; 1];
        let wait = limit.min(Duration::from_secs(1));
        match tokio::time::timeout(wait, stream.read(&mut byte)).await {
            Ok(Err(error)) => Some(self.explain(chain(&error))),
            _ => None,
        }
    }
}

async fn handshake(loaded: &Loaded, address: &str) -> Result<SslStream<TcpStream>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let made = connector(loaded).and_then(|connector| connector.configure()?.into_ssl(host));
    let ssl = made.map_err(|error| error.to_string())?;
    let mut stream = SslStream::new(ssl, tcp).map_err(|error| error.to_string())?;
    match std::pin::Pin::new(&mut stream).connect().await {
        Ok(()) => Ok(stream),
        Err(error) => {
            let verified = stream.ssl().verify_result();
            if verified == openssl::x509::X509VerifyResult::OK {
                Err(error.to_string())
            } else {
                Err(format!("{error}: {}", verified.error_string()))
            }
        }
    }
}

fn connector(loaded: &Loaded) -> Result<SslConnector, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_verify(SslVerifyMode::PEER);
    if !loaded.ca().is_empty() {
        builder.set_cert_store(loaded.ca_store()?);
    }
    if let Some(identity) = loaded.identity()
        && let [own, between @ ..] = identity.chain()
    {
        builder.set_certificate(own)?;
        for certificate in between {
            builder.add_extra_chain_cert(certificate.clone())?;
        }
        builder.set_private_key(identity.key())?;
    }
    Ok(builder.build())
}

fn with_tls(mut builder: ClientBuilder, loaded: &Loaded) -> Result<ClientBuilder, reqwest::Error> {
    if let Some(pem) = loaded.ca_pem() {
        // Those named, and no others: a public CA has no business in a site's own network.
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem.as_bytes())?);
    }
    if let Some(identity) = loaded.identity() {
        let key = identity.key_pem();
        builder = builder.identity(reqwest::Identity::from_pkcs8_pem(
            identity.certificate_pem().as_bytes(),
            key.expose().as_bytes(),
        )?);
    }
    Ok(builder)
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
