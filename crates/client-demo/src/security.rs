//! How the device shows who it is: nothing, a pre-shared key, a raw public key or a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use dtls::{ClientAuth, ClientConfig, OwnKey, Psk, ServerTrust, TrustStore};
use openssl::pkey::PKey;
use openssl::x509::X509;
use service::Secret;

/// The options. Without any of them the device comes without security.
#[derive(clap::Args, Clone, Debug)]
pub struct SecurityArgs {
    /// The identity of the pre-shared key
    #[arg(
        short = 'i',
        long = "psk-identity",
        env = "LWM2M_PSK_IDENTITY",
        value_name = "TEXT",
        requires = "psk_key"
    )]
    pub psk_identity: Option<String>,
    /// The pre-shared key in hexadecimal digits
    #[arg(
        short = 'p',
        long = "psk-key",
        env = "LWM2M_PSK_KEY",
        hide_env_values = true,
        value_name = "HEX",
        requires = "psk_identity",
        conflicts_with = "private_key"
    )]
    pub psk_key: Option<Secret>,
    /// The device's private key (PEM, P-256), for raw public keys or a certificate
    #[arg(long, env = "LWM2M_PRIVATE_KEY", value_name = "FILE")]
    pub private_key: Option<PathBuf>,
    /// The server's public key (PEM): the device comes with its raw public key
    #[arg(
        long,
        env = "LWM2M_SERVER_PUBLIC_KEY",
        value_name = "FILE",
        requires = "private_key",
        conflicts_with = "certificate"
    )]
    pub server_public_key: Option<PathBuf>,
    /// The device's certificate (PEM), with those above it
    #[arg(
        long,
        env = "LWM2M_CERTIFICATE",
        value_name = "FILE",
        requires = "private_key"
    )]
    pub certificate: Option<PathBuf>,
    /// The server's certificate (PEM): it has to be this one
    #[arg(
        long,
        env = "LWM2M_SERVER_CERTIFICATE",
        value_name = "FILE",
        requires = "certificate",
        conflicts_with = "trust_store"
    )]
    pub server_certificate: Option<PathBuf>,
    /// The authorities one of which has to have signed the server's certificate (PEM)
    #[arg(
        long,
        env = "LWM2M_TRUST_STORE",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub trust_store: Option<PathBuf>,
    /// The name that has to be in the server's certificate; the host of -u where none is given
    #[arg(
        long,
        env = "LWM2M_SERVER_NAME",
        value_name = "NAME",
        requires = "trust_store"
    )]
    pub server_name: Option<String>,
}

impl SecurityArgs {
    pub(crate) fn is_secure(&self) -> bool {
        self.psk_key.is_some() || self.private_key.is_some()
    }

    /// What DTLS needs to know; `None` without security.
    pub(crate) fn config(&self, host: &str) -> anyhow::Result<Option<ClientConfig>> {
        let auth = match (&self.psk_identity, &self.psk_key, &self.private_key) {
            (Some(identity), Some(key), _) => ClientAuth::Psk {
                identity: identity.clone().into_bytes(),
                key: Psk::new(hex::decode(key.expose().trim()).ok().context(
                    "the pre-shared key (-p) is not written in hexadecimal digits, two for each byte",
                )?),
            },
            (_, _, Some(key)) => self.with_key_pair(key, host)?,
            _ => return Ok(None),
        };
        Ok(Some(ClientConfig::new(auth)))
    }

    fn with_key_pair(&self, key: &Path, host: &str) -> anyhow::Result<ClientAuth> {
        let chain = self.certificate.as_deref().map(read).transpose()?;
        let own = OwnKey::from_pem(&read(key)?, chain.as_deref())
            .with_context(|| format!("{}", key.display()))?;
        if let Some(path) = &self.server_public_key {
            let server = PKey::public_key_from_pem(&read(path)?)
                .and_then(|key| key.public_key_to_der())
                .with_context(|| format!("{} is no public key in PEM", path.display()))?;
            return Ok(ClientAuth::RawPublicKey { own, server });
        }
        let server = match (&self.server_certificate, &self.trust_store) {
            (Some(path), _) => {
                let der = X509::from_pem(&read(path)?).and_then(|certificate| certificate.to_der());
                ServerTrust::Pinned(
                    der.with_context(|| format!("{} is no certificate in PEM", path.display()))?,
                )
            }
            (None, Some(path)) => ServerTrust::Store {
                store: Arc::new(
                    TrustStore::from_pem(&read(path)?)
                        .with_context(|| format!("{}", path.display()))?,
                ),
                name: Some(self.server_name.clone().unwrap_or_else(|| host.to_owned())),
            },
            (None, None) => anyhow::bail!(
                "a private key needs to know the server: give --server-public-key, --server-certificate or --trust-store"
            ),
        };
        anyhow::ensure!(
            self.certificate.is_some(),
            "--certificate is missing: the device has to show one where the server does"
        );
        Ok(ClientAuth::Certificate { own, server })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
}
