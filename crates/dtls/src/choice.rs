//! Which of what a client offers is taken.

use crate::ServerConfig;
use crate::hello::{CertificateType, ClientExtensions, ClientHello};
use crate::suite::{Bulk, CipherSuite, KeyExchange};

/// A suite and what goes with it.
pub(crate) struct Choice {
    pub(crate) suite: CipherSuite,
    pub(crate) client_type: CertificateType,
    pub(crate) server_type: CertificateType,
}

/// The first suite of the client's that is possible: one with a pre-shared key if there is any, one with CBC only where
/// there is no other.
///
/// A pre-shared key comes first whatever the client's order, because libraries list suites with a key only where they
/// have been given one, and suites with a certificate always: who has a key mostly has nothing else.
pub(crate) fn choose(
    config: &ServerConfig,
    hello: &ClientHello<'_>,
    extensions: &ClientExtensions,
) -> Option<Choice> {
    let curve = extensions.p256 != Some(false);
    let own = config.own_key.as_ref();
    let has_certificate = own.is_some_and(|own| own.certificate().is_some());
    let both = [CertificateType::X509, CertificateType::RawPublicKey];
    let x509 = vec![CertificateType::X509];
    let wanted = extensions
        .server_certificate_types
        .as_ref()
        .unwrap_or(&x509);
    let server_type = wanted.iter().copied().find(|kind| match kind {
        CertificateType::X509 => has_certificate,
        CertificateType::RawPublicKey => own.is_some(),
    });
    let offered = extensions
        .client_certificate_types
        .as_ref()
        .unwrap_or(&x509);
    let client_type = offered.iter().copied().find(|kind| both.contains(kind));
    let ecdsa = curve && own.is_some() && extensions.ecdsa_sha256 != Some(false);
    let possible = |suite: &CipherSuite| {
        config.suites.contains(suite)
            && match suite.key_exchange() {
                KeyExchange::Psk => true,
                KeyExchange::EcdhePsk => curve,
                KeyExchange::EcdheEcdsa => ecdsa && server_type.is_some() && client_type.is_some(),
            }
    };
    let suites = || {
        hello
            .suites()
            .filter_map(CipherSuite::from_id)
            .filter(possible)
    };
    let suite = suites().min_by_key(|suite| {
        // Of those that are equal the first is taken.
        (!suite.key_exchange().has_psk(), suite.bulk() == Bulk::Cbc)
    })?;
    Some(Choice {
        suite,
        client_type: client_type.unwrap_or(CertificateType::X509),
        server_type: server_type.unwrap_or(CertificateType::X509),
    })
}
