//! Whom the server believes, in a handshake and when a device registers.

use dtls::{
    Authority, CertificateRefusal, Identity, Psk, TrustStore, certificate_names, check_dates,
};

use super::{Credential, Credentials};

/// Which endpoints a certificate of the trust store may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TrustedEndpoints {
    /// Those for which a credential says so.
    #[default]
    Known,
    /// All that it names and that have no credential of another kind.
    Any,
}

/// What the handshake asks.
pub(crate) struct Believed {
    credentials: Credentials,
    trust: Option<TrustStore>,
    endpoints: TrustedEndpoints,
}

impl Believed {
    pub(crate) fn new(
        credentials: Credentials,
        trust: Option<TrustStore>,
        endpoints: TrustedEndpoints,
    ) -> Self {
        Self {
            credentials,
            trust,
            endpoints,
        }
    }

    fn knows_names(&self, der: &[u8]) -> bool {
        certificate_names(der)
            .iter()
            .any(|name| is_trusted_endpoint(&self.credentials, self.endpoints, name))
    }
}

impl Authority for Believed {
    fn psk(&self, identity: &[u8]) -> Option<Psk> {
        let identity = std::str::from_utf8(identity).ok()?;
        let (_, key) = self.credentials.by_identity(identity)?;
        Some(Psk::new(key.expose()))
    }

    fn knows_public_key(&self, spki: &[u8]) -> bool {
        self.credentials.by_der(spki).is_some()
    }

    fn check_chain(&self, chain: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
        let first = chain.first().ok_or(CertificateRefusal::Unusable)?;
        if self.credentials.by_der(first).is_some() {
            return check_dates(first);
        }
        let trust = self.trust.as_ref().ok_or(CertificateRefusal::Unknown)?;
        trust.check(chain)?;
        if self.knows_names(first) {
            Ok(())
        } else {
            Err(CertificateRefusal::Unknown)
        }
    }

    fn still_knows(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Psk(identity) => self.psk(identity).is_some(),
            Identity::RawPublicKey(spki) => self.knows_public_key(spki),
            Identity::Certificate(der) => {
                let named = self.credentials.by_der(der).is_some() || self.knows_names(der);
                named && check_dates(der).is_ok()
            }
        }
    }
}

fn is_trusted_endpoint(credentials: &Credentials, endpoints: TrustedEndpoints, name: &str) -> bool {
    match credentials.get(name).as_deref() {
        Some(Credential::TrustedCertificate) => true,
        Some(_) => false,
        None => endpoints == TrustedEndpoints::Any,
    }
}

/// Who may register as what.
pub(crate) struct Admission {
    credentials: Credentials,
    endpoints: TrustedEndpoints,
    /// An endpoint that has a credential may come without security too.
    plain_with_credential: bool,
}

impl Admission {
    pub(crate) fn new(
        credentials: Credentials,
        endpoints: TrustedEndpoints,
        plain_with_credential: bool,
    ) -> Self {
        Self {
            credentials,
            endpoints,
            plain_with_credential,
        }
    }

    /// May somebody who has shown to be this (`None`: nothing, since it came without security) be this endpoint?
    pub(crate) fn admits(&self, identity: Option<&Identity>, endpoint: &str) -> bool {
        let belongs_to = |holder: Option<String>| holder.as_deref() == Some(endpoint);
        match identity {
            None => self.plain_with_credential || self.credentials.get(endpoint).is_none(),
            Some(Identity::Psk(identity)) => {
                let identity = std::str::from_utf8(identity).ok();
                let holder = identity.and_then(|identity| self.credentials.by_identity(identity));
                belongs_to(holder.map(|(endpoint, _)| endpoint))
            }
            Some(Identity::RawPublicKey(spki)) => belongs_to(self.credentials.by_der(spki)),
            Some(Identity::Certificate(der)) => match self.credentials.by_der(der) {
                Some(holder) => holder == endpoint,
                None => {
                    is_trusted_endpoint(&self.credentials, self.endpoints, endpoint)
                        && certificate_names(der).iter().any(|name| name == endpoint)
                }
            },
        }
    }
}
