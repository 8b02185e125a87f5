//! A listener and clients over TLS: who comes in, who is told what, and what a renewal changes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use certs::{Folder, Role};
use service::tls::{ClientAuth, HttpClient, Listener, Peer, ServerTls, Tls, TlsFiles};
use tokio::net::{TcpListener, TcpStream};

const DAY: Duration = Duration::from_secs(86_400);

fn folder(path: &Path) -> Folder {
    let now_s = UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
    Folder::open_or_create(path, now_s, DAY)
        .unwrap()
        .password("itsasecret")
}

fn server_role() -> Role {
    Role::new("server").unwrap().called("localhost")
}

/// By PKCS#12, as the other tests go by PEM.
fn files(certs: &Folder, role: &str) -> TlsFiles {
    TlsFiles {
        ca: Some(certs.truststore(role)),
        ca_password: Some(service::Secret::new("itsasecret")),
        keystore: Some(certs.keystore(role)),
        password: Some(service::Secret::new("itsasecret")),
        ..TlsFiles::default()
    }
}

/// Says who is asking, at `https://localhost:<port>/`.
async fn serve(certs: &Folder, auth: ClientAuth) -> String {
    let tls = ServerTls::open(files(certs, "server"), auth).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::new(tcp, Some(tls), 8).unwrap();
    assert_eq!(listener.scheme(), "https");
    let port = listener.address().port();
    let app = Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<Peer>| async move {
            let certificate = peer.certificate;
            let name = certificate.and_then(|certificate| certificate.common_name.clone());
            name.unwrap_or_else(|| "nobody".to_owned())
        }),
    );
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("https://localhost:{port}/")
}

fn client(files: TlsFiles) -> HttpClient {
    let settings = || {
        reqwest::Client::builder()
            .no_proxy()
            // Every call is a connection of its own: what it is let in with is the newest.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(10))
    };
    HttpClient::new(Tls::open(files).unwrap(), settings).unwrap()
}

async fn ask(client: &HttpClient, url: &str) -> Result<String, String> {
    match client.get().get(url).send().await {
        Ok(answer) => Ok(answer.text().await.unwrap()),
        Err(error) => Err(client.explain(error)),
    }
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let certs = folder(dir.path());
    certs.issue(&server_role(), DAY).unwrap();
    certs.issue(&Role::new("alice").unwrap(), DAY).unwrap();
    let alice = client(files(&certs, "alice"));
    let nobody = client(TlsFiles {
        keystore: None,
        ..files(&certs, "alice")
    });

    let required = serve(&certs, ClientAuth::Required).await;
    assert_eq!(ask(&alice, &required).await.unwrap(), "alice");
    let refused = ask(&nobody, &required).await.unwrap_err();
    assert!(
        refused.contains("asks for a client certificate"),
        "{refused}"
    );

    let requested = serve(&certs, ClientAuth::Requested).await;
    assert_eq!(ask(&alice, &requested).await.unwrap(), "alice");
    assert_eq!(ask(&nobody, &requested).await.unwrap(), "nobody");

    let none = serve(&certs, ClientAuth::None).await;
    assert_eq!(ask(&alice, &none).await.unwrap(), "nobody");
    let untrusting = client(TlsFiles::default());
    let refused = ask(&untrusting, &none).await.unwrap_err();
    assert!(
        refused.contains("is not signed by a CA that this system trusts"),
        "{refused}"
    );
    assert!(
        !refused.contains(&none),
        "no URL, which may hold secrets: {refused}"
    );
}

#[tokio::test]
async fn who_says_nothing_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let certs = folder(dir.path());
    certs.issue(&server_role(), DAY).unwrap();
    let url = serve(&certs, ClientAuth::None).await;
    let address = url
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .to_owned();
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let anybody = client(files(&certs, "server"));
    let asked = tokio::time::timeout(Duration::from_secs(5), ask(&anybody, &url));
    assert_eq!(asked.await.unwrap().unwrap(), "nobody");
}

#[tokio::test]
async fn renewed_certificates_are_used_for_new_connections_at_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let certs = folder(&dir.path().join("old"));
    certs.issue(&server_role(), DAY).unwrap();
    certs.issue(&Role::new("alice").unwrap(), DAY).unwrap();
    let url = serve(&certs, ClientAuth::Required).await;
    let alice = client(files(&certs, "alice"));
    assert_eq!(ask(&alice, &url).await.unwrap(), "alice");

    // Another CA takes the old one's place, in all files: an end that kept the old ones could not be understood.
    let new = folder(&dir.path().join("new"));
    new.issue(&server_role(), DAY).unwrap();
    new.issue(&Role::new("alice").unwrap(), DAY).unwrap();
    for role in ["server", "alice"] {
        std::fs::rename(new.keystore(role), certs.keystore(role)).unwrap();
        std::fs::rename(new.truststore(role), certs.truststore(role)).unwrap();
    }
    let late = client(files(&certs, "alice"));
    let mut last = String::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Asking is what makes both ends look.
        let answers = (ask(&alice, &url).await, ask(&late, &url).await);
        if let (Ok(_), Ok(_)) = &answers {
            return;
        }
        last = format!("{answers:?}");
    }
    panic!("not taken up within 10 s: {last}");
}

#[test]
fn what_a_listener_lacks_is_said_with_its_option() {
    let dir = tempfile::tempdir().unwrap();
    let certs = folder(dir.path());
    certs.issue(&server_role(), DAY).unwrap();
    let without_ca = TlsFiles {
        ca: None,
        ..files(&certs, "server")
    };
    let error = ServerTls::open(without_ca, ClientAuth::Required).unwrap_err();
    assert!(error.to_string().contains("--tls-ca-location"), "{error}");
    let without_own = TlsFiles {
        keystore: None,
        ..files(&certs, "server")
    };
    let error = ServerTls::open(without_own, ClientAuth::None).unwrap_err();
    assert!(
        error.to_string().contains("--tls-certificate-location"),
        "{error}"
    );
}
