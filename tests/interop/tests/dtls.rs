//! The same life over DTLS: with a shared key for each library, with certificates where it can.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use interop::{Certificates, Gateway, Library, Peer, live, story};
use serde_json::json;
use tokio::sync::OnceCell;

/// The server's name in its certificate.
const NAME: &str = "gw";
const KEY: &str = "000102030405060708090a0b0c0d0e0f";

struct Secured {
    gateway: Gateway,
    certificates: Certificates,
}

async fn secured() -> &'static Secured {
    static SHARED: OnceCell<Secured> = OnceCell::const_new();
    let start = async || {
        let certificates = Certificates::new(NAME)?;
        let files = ["gw.key", "gw.pem", "ca.pem"].map(|name| certificates.path(name));
        let names = [
            "--dtls-private-key",
            "--dtls-certificate",
            "--dtls-trust-store",
        ];
        let options: Vec<&str> = names
            .into_iter()
            .zip(&files)
            .flat_map(|(name, file)| [name, file])
            .collect();
        let gateway = Gateway::start(&options).await?;
        anyhow::Ok(Secured {
            gateway,
            certificates,
        })
    };
    SHARED.get_or_init(async || start().await.unwrap()).await
}

async fn allow_key(gateway: &Gateway, endpoint: &str) -> anyhow::Result<()> {
    let details = json!({"identity": format!("{endpoint}-id"), "key": KEY});
    let body = json!({"endpoint": endpoint, "tls": {"mode": "psk", "details": details}});
    gateway.rest.put("security/clients/", &body).await?;
    Ok(())
}

async fn with_a_key(library: Library, endpoint: &str) -> anyhow::Result<()> {
    let gateway = &secured().await.gateway;
    allow_key(gateway, endpoint).await?;
    let uri = format!("coaps://{}", gateway.coaps);
    let psk = format!("{endpoint}-id:{KEY}");
    live(gateway, library, &uri, endpoint, &[("psk", &psk)]).await
}

#[test]
fn libcoap_with_openssl_and_a_key() {
    story(with_a_key(Library::LibcoapOpenSsl, "openssl-psk"));
}

#[test]
fn libcoap_with_gnutls_and_a_key() {
    story(with_a_key(Library::LibcoapGnuTls, "gnutls-psk"));
}

/// With all its suites, those with certificates first, and the extensions of connection ids, tickets and others.
#[test]
fn libcoap_behind_mbed_tls_and_a_key() {
    story(with_a_key(Library::LibcoapMbedTls, "mbedtls-psk"));
}

#[test]
fn libcoap_behind_wolf_ssl_and_a_key() {
    story(with_a_key(Library::LibcoapWolfSsl, "wolfssl-psk"));
}

#[test]
fn aiocoap_with_tinydtls_and_a_key() {
    story(with_a_key(Library::Aiocoap, "aiocoap-psk"));
}

#[test]
fn go_coap_with_pion_and_a_key() {
    story(with_a_key(Library::GoCoap, "go-coap-psk"));
}

#[test]
fn go_coap_with_pion_and_a_key_over_ipv6() {
    story(async {
        let gateway = &secured().await.gateway;
        let endpoint = "go-coap-psk-6";
        allow_key(gateway, endpoint).await?;
        let uri = format!("coaps://{}", Gateway::over_ipv6(&gateway.coaps));
        let psk = format!("{endpoint}-id:{KEY}");
        live(gateway, Library::GoCoap, &uri, endpoint, &[("psk", &psk)]).await
    });
}

#[test]
fn leshan_with_scandium_and_a_key() {
    story(with_a_key(Library::Leshan, "leshan-psk"));
}

async fn allow_certificate(secured: &Secured, endpoint: &str) -> anyhow::Result<()> {
    secured.certificates.issue(endpoint)?;
    let body = json!({"endpoint": endpoint, "tls": {"mode": "x509"}});
    secured.gateway.rest.put("security/clients/", &body).await?;
    Ok(())
}

/// With the device's certificate, its key and the authority's certificate as PEM.
async fn with_a_certificate(library: Library, endpoint: &str) -> anyhow::Result<()> {
    let secured = secured().await;
    allow_certificate(secured, endpoint).await?;
    let uri = format!("coaps://{}", secured.gateway.coaps);
    let path = |name: &str| secured.certificates.path(name);
    let settings = [
        ("cert", &*path(&format!("{endpoint}.pem"))),
        ("key", &path(&format!("{endpoint}.key"))),
        ("ca", &path("ca.pem")),
        ("name", NAME),
    ];
    live(&secured.gateway, library, &uri, endpoint, &settings).await
}

#[test]
fn go_coap_with_pion_and_a_certificate() {
    story(with_a_certificate(Library::GoCoap, "go-coap-x509"));
}

#[test]
fn libcoap_behind_mbed_tls_and_a_certificate() {
    story(with_a_certificate(Library::LibcoapMbedTls, "mbedtls-x509"));
}

#[test]
fn leshan_with_scandium_and_a_certificate() {
    story(async {
        let secured = secured().await;
        let endpoint = "leshan-x509";
        allow_certificate(secured, endpoint).await?;
        let uri = format!("coaps://{}", secured.gateway.coaps);
        let path = |name: &str| secured.certificates.path(name);
        let settings = [
            ("cert", &*path("leshan-x509.der")),
            ("key", &path("leshan-x509.key.der")),
            ("server", &path("gw.der")),
        ];
        live(&secured.gateway, Library::Leshan, &uri, endpoint, &settings).await
    });
}

#[test]
fn a_key_that_is_not_the_endpoint_s_gets_nobody_in() {
    story(async {
        let gateway = &secured().await.gateway;
        allow_key(gateway, "honest").await?;
        allow_key(gateway, "victim").await?;
        let uri = format!("coaps://{}", gateway.coaps);
        // A valid key, and another's name.
        let honest = format!("honest-id:{KEY}");
        let settings = [("psk", &*honest)];
        let mut thief = Peer::spawn(Library::LibcoapOpenSsl, &uri, "victim", &settings).await?;
        thief.line("failed registration").await?;
        // The right name, and a wrong key.
        let wrong = format!("victim-id:{}", KEY.replace("0f", "0e"));
        let settings = [("psk", &*wrong)];
        let mut guesser = Peer::spawn(Library::LibcoapOpenSsl, &uri, "victim", &settings).await?;
        guesser.line("failed").await?;
        // No key at all, where there is one.
        let plain = format!("coap://{}", gateway.coap);
        let mut naked = Peer::spawn(Library::LibcoapOpenSsl, &plain, "victim", &[]).await?;
        naked.line("failed registration").await?;
        gateway.rest.gone("victim").await
    });
}
