//! The options about who may talk to the server over CoAP, and what follows from them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dtls::TrustStore;
use service::Secret;
use transport::{BindError, DtlsServer, UdpConfig, UdpTransport};

use crate::credentials::{
    Admission, Believed, Credentials, KeySource, ServerKey, TrustedEndpoints, read_file,
};
use crate::engine::{SecureDoor, Sessions};

/// The options. Names and environment variables are the original's where it had them.
#[derive(clap::Args, Clone, Debug)]
pub struct SecurityArgs {
    /// Where devices come to over CoAPS (DTLS) [default: the host of --coap-listen, the port after its own: 5684]
    #[arg(long, env = "COAPS_LISTEN")]
    pub coaps_listen: Option<SocketAddr>,
    /// The host of --coaps-listen alone, as the original has it
    #[arg(long = "slh", hide = true, value_name = "HOST")]
    pub coaps_host: Option<IpAddr>,
    /// The port of --coaps-listen alone, as the original has it
    #[arg(long = "slp", hide = true, value_name = "PORT")]
    pub coaps_port: Option<u16>,
    /// Whether devices may come without security (CoAP, NoSec): true or false
    #[arg(long, env = "NOSEC", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub nosec: bool,
    /// Whether CoAPS is served: true or false
    #[arg(long, env = "DTLS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub dtls: bool,
    /// Whether an endpoint that has a credential may come without security all the same: true or false
    #[arg(long, env = "NOSEC_WITH_CREDENTIAL", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub nosec_with_credential: bool,
    /// Credentials of endpoints besides those that came over REST: a TOML or JSON file (docs/dtls.md)
    #[arg(long, env = "CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// The server's private key, PEM, P-256 [default: made at the first start, in the data folder]
    #[arg(
        long,
        env = "DTLS_PRIVATE_KEY",
        value_name = "FILE",
        conflicts_with = "keystore"
    )]
    pub dtls_private_key: Option<PathBuf>,
    /// The certificate for --dtls-private-key, PEM, with those above it; without one there are no suites with X.509
    #[arg(
        long,
        env = "DTLS_CERTIFICATE",
        value_name = "FILE",
        requires = "dtls_private_key"
    )]
    pub dtls_certificate: Option<PathBuf>,
    /// The authorities whose certificates devices may show, PEM
    #[arg(long, env = "DTLS_TRUST_STORE", value_name = "FILE")]
    pub dtls_trust_store: Option<PathBuf>,
    /// Which endpoints a certificate of the trust store may be: those with a credential that says so, or any it names
    #[arg(
        long,
        env = "DTLS_TRUSTED_ENDPOINTS",
        value_enum,
        default_value = "known"
    )]
    pub(crate) dtls_trusted_endpoints: TrustedEndpoints,
    /// The server's private key and certificate as a PKCS#12 key store
    #[arg(long, visible_alias = "ks", env = "KEYSTORE", value_name = "FILE")]
    pub keystore: Option<PathBuf>,
    /// The key store's password
    #[arg(
        long,
        visible_alias = "ksp",
        env = "KEYSTORE_PASSWORD",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub keystore_password: Secret,
    /// The most DTLS sessions at one time; a device beyond is refused
    #[arg(long, env = "DTLS_MAX_SESSIONS", default_value_t = 100_000)]
    pub dtls_max_sessions: usize,
    /// How many seconds a session may be silent before it is forgotten
    #[arg(long, env = "DTLS_IDLE_TIMEOUT_S", default_value_t = 90_000)]
    pub dtls_idle_timeout_s: u64,
}

/// What the options come to.
pub(crate) struct Security {
    pub(crate) credentials: Credentials,
    pub(crate) sessions: Sessions,
    pub(crate) admission: Admission,
    /// The DTLS door and where it is, if it is open.
    pub(crate) door: Option<(SecureDoor, SocketAddr)>,
    pub(crate) server_key: Option<ServerKey>,
}

impl SecurityArgs {
    /// Reads what the options name, and opens the port.
    ///
    /// # Errors
    /// When a file can't be used, or a port that was asked for can't be had.
    pub(crate) fn open(&self, data_dir: &Path, coap: SocketAddr) -> anyhow::Result<Security> {
        anyhow::ensure!(
            self.nosec || self.dtls,
            "--nosec false and --dtls false leave no way for a device to come"
        );
        let from_file = match &self.credentials_file {
            Some(path) => read_file(path)?,
            None => Vec::new(),
        };
        let credentials = Credentials::open(&data_dir.join("credentials.db"), from_file)?;
        let sessions = Sessions::default();
        let admission = Admission::new(
            credentials.clone(),
            self.dtls_trusted_endpoints,
            self.nosec_with_credential,
        );
        let mut security = Security {
            credentials,
            sessions,
            admission,
            door: None,
            server_key: None,
        };
        if self.dtls
            && let Some(udp) = self.bind(coap)?
        {
            self.open_door(data_dir, udp, &mut security)?;
        }
        Ok(security)
    }

    fn open_door(
        &self,
        data_dir: &Path,
        udp: UdpTransport,
        security: &mut Security,
    ) -> anyhow::Result<()> {
        let at = udp.local_addr()?;
        let own = self
            .key_source(data_dir)
            .load()
            .context("the server's key for DTLS")?;
        let trust = match &self.dtls_trust_store {
            Some(path) => {
                let pem = std::fs::read(path)
                    .with_context(|| format!("can't read the trust store {}", path.display()))?;
                let store = TrustStore::from_pem(&pem);
                Some(store.with_context(|| format!("the trust store {}", path.display()))?)
            }
            None => None,
        };
        if self.nosec && trust.is_some() && self.dtls_trusted_endpoints == TrustedEndpoints::Any {
            tracing::warn!(
                "with --dtls-trusted-endpoints any an endpoint needs no credential here, so anybody may come without security \
                 under its name while it is not registered: set --nosec false, or give each endpoint a credential"
            );
        }
        let credentials = security.credentials.clone();
        let believed = Believed::new(credentials, trust, self.dtls_trusted_endpoints);
        security.server_key = Some(ServerKey::from(&own));
        let config = dtls::ServerConfig {
            own_key: Some(own),
            max_sessions: self.dtls_max_sessions,
            max_resumable: self.dtls_max_sessions,
            idle_timeout: Duration::from_secs(self.dtls_idle_timeout_s),
            ..dtls::ServerConfig::default()
        };
        let server = dtls::Server::new(config, Arc::new(believed), rand::random())
            .context("OpenSSL lacks a cipher that DTLS needs")?;
        let door = SecureDoor {
            server: DtlsServer::new(udp, server),
            sessions: security.sessions.clone(),
        };
        security.door = Some((door, at));
        Ok(())
    }

    fn key_source(&self, data_dir: &Path) -> KeySource {
        match (&self.keystore, &self.dtls_private_key) {
            (Some(file), _) => KeySource::KeyStore {
                file: file.clone(),
                password: self.keystore_password.clone(),
            },
            (None, Some(key)) => KeySource::Pem {
                key: key.clone(),
                certificate: self.dtls_certificate.clone(),
            },
            (None, None) => KeySource::Own(data_dir.to_owned()),
        }
    }

    /// The port, or `None` where nobody asked for one and the usual one is taken: a second server on a machine starts.
    fn bind(&self, coap: SocketAddr) -> anyhow::Result<Option<UdpTransport>> {
        let config = UdpConfig {
            port_setting: "--coaps-listen".to_owned(),
            ..UdpConfig::default()
        };
        let next = coap.port().checked_add(1).filter(|_| coap.port() != 0);
        let mut address = SocketAddr::new(coap.ip(), next.unwrap_or(0));
        let mut asked_for = !self.nosec;
        if let Some(given) = self.coaps_listen {
            (address, asked_for) = (given, true);
        }
        if let Some(host) = self.coaps_host {
            address.set_ip(host);
        }
        if let Some(port) = self.coaps_port {
            address.set_port(port);
            asked_for = true;
        }
        match UdpTransport::bind(address, &config) {
            Ok(transport) => Ok(Some(transport)),
            Err(BindError::InUse { .. }) if !asked_for => {
                tracing::warn!(%address, "CoAPS is off, since its usual port is taken: choose another with --coaps-listen");
                Ok(None)
            }
            Err(error) => Err(error).context("CoAPS"),
        }
    }
}
