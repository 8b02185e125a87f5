//! Who may use the interface, where it asks.

use std::fs;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use service::Secret;
use service::auth::{Role, token_entry, user_entry};
use testkit::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::device::Device;
use crate::gateway::{Gateway, PATIENCE, answer};

/// A server with a user for each role.
pub(crate) async fn closed() -> (Gateway, Secret, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let line = |name: &str, role| {
        user_entry(&name.parse().unwrap(), role, &Secret::new("correct horse")).unwrap()
    };
    let users = [
        line("reader", Role::Read),
        line("operator", Role::Operate),
        line("boss", Role::Admin),
    ];
    let (token, entry) = token_entry(&"ci".parse().unwrap(), Role::Operate);
    let (users_file, tokens_file) = (folder.path().join("users"), folder.path().join("tokens"));
    fs::write(&users_file, users.join("\n")).unwrap();
    fs::write(&tokens_file, entry).unwrap();
    let options = [
        format!("--users-file={}", users_file.display()),
        format!("--tokens-file={}", tokens_file.display()),
    ];
    (Gateway::start_with(&options).await, token, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_use_what_is_for_it() {
    let (gateway, token, _folder) = closed().await;
    let _device = Device::start(gateway.coap, "dev1");
    let as_user = |user: &str, method: Method, path: &str| {
        gateway
            .request(method, path)
            .basic_auth(user, Some("correct horse"))
    };
    // The page and the document are for everybody, and say nothing of devices.
    assert_eq!(gateway.get("/api/openapi.json").await.0, 200);
    let (status, reason) = gateway.get("/api/clients").await;
    assert_eq!(status, 401, "{reason}");
    assert!(reason.as_str().unwrap().starts_with("log in: "), "{reason}");
    testkit::wait_for(PATIENCE, "the device", || async {
        let seen = answer(as_user("reader", Method::GET, "/api/clients/dev1")).await;
        anyhow::ensure!(seen.0 == 200, "{seen:?}");
        Ok(())
    })
    .await
    .unwrap();

    let cases = [
        (Method::GET, "/api/clients", [200, 200, 200]),
        (Method::GET, "/api/clients/dev1/3/0/0", [200, 200, 200]),
        (Method::POST, "/api/clients/dev1/3/0/12", [403, 200, 200]),
        (
            Method::DELETE,
            "/api/clients/dev1/3303/0/5700/observe",
            [403, 200, 200],
        ),
        (Method::GET, "/api/security/clients", [403, 403, 200]),
        (Method::GET, "/api/security/server", [403, 403, 200]),
        (Method::DELETE, "/api/security/clients/x", [403, 403, 200]),
    ];
    for (method, path, expected) in cases {
        for (user, expected) in ["reader", "operator", "boss"].iter().zip(expected) {
            let (status, reason) = answer(as_user(user, method.clone(), path)).await;
            assert_eq!(status, expected, "{user} {method} {path}: {reason}");
        }
    }
    let put = |user: &str| {
        let body = json!({"endpoint": "a", "psk": {"identity": "i", "key": "0102"}});
        as_user(user, Method::PUT, "/api/security/clients").json(&body)
    };
    assert_eq!(answer(put("operator")).await.0, 403);
    assert_eq!(answer(put("boss")).await.0, 200);
    let by_token = gateway
        .request(Method::POST, "/api/clients/dev1/3/0/12")
        .bearer_auth(token.expose());
    assert_eq!(answer(by_token).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_watches_with_its_session_until_users_change() {
    let (gateway, _, folder) = closed().await;
    let said = json!({"user": "reader", "password": "correct horse"});
    let login = |request: RequestBuilder| request.json(&said).send();
    let response = login(gateway.request(Method::POST, "/api/session"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()[header::SET_COOKIE].clone();
    let cookie = cookie
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let with = |request: RequestBuilder| request.header(header::COOKIE, &cookie);
    let who = with(gateway.request(Method::GET, "/api/session"));
    assert_eq!(
        answer(who).await,
        (
            200,
            json!({"authentication": true, "user": "reader", "role": "read"})
        )
    );
    let watch = with(gateway.request(Method::GET, "/api/event"))
        .header(header::ACCEPT, "text/event-stream");
    let mut stream = watch.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(stream.chunk().await.unwrap().is_some());

    // Pages of other sites can neither log in nor act with it.
    let elsewhere = || {
        gateway
            .request(Method::POST, "/api/session")
            .header(header::ORIGIN, "http://elsewhere.example")
    };
    assert_eq!(login(elsewhere()).await.unwrap().status(), 403);

    // Who is a user no more is watching no more.
    fs::write(folder.path().join("users"), "").unwrap();
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("it ends");
    let again = with(gateway.request(Method::GET, "/api/clients"));
    assert_eq!(answer(again).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_out_watches_no_more_and_others_go_on() {
    let (gateway, token, _folder) = closed().await;
    let said = json!({"user": "reader", "password": "correct horse"});
    let login = gateway.request(Method::POST, "/api/session").json(&said);
    let response = login.send().await.unwrap();
    let cookie = response.headers()[header::SET_COOKIE].clone();
    let events = || {
        gateway
            .request(Method::GET, "/api/event")
            .header(header::ACCEPT, "text/event-stream")
    };
    let mut page = events().header(header::COOKIE, &cookie);
    page = page.timeout(10 * PATIENCE);
    let mut page = page.send().await.unwrap();
    let program = events().bearer_auth(token.expose()).timeout(10 * PATIENCE);
    let mut program = program.send().await.unwrap();
    for stream in [&mut page, &mut program] {
        assert_eq!(stream.status(), 200);
        assert!(stream.chunk().await.unwrap().is_some());
    }
    let logout = gateway
        .request(Method::DELETE, "/api/session")
        .header(header::COOKIE, &cookie);
    assert_eq!(answer(logout).await.0, 200);
    let ended = async { while page.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("it ends");
    let _device = Device::start(gateway.coap, "dev1");
    let told = tokio::time::timeout(PATIENCE, program.chunk()).await;
    let told = told.expect("it goes on").unwrap().unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("REGISTRATION"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_send_nothing_keep_nobody_from_writing() {
    let (gateway, _, _folder) = closed().await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut strangers = Vec::new();
    for number in 0..40 {
        let path = ["/api/session", "/", "/api/openapi.json"][number % 3];
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stranger.write_all(head.as_bytes()).await.unwrap();
        strangers.push(stranger);
    }
    // Once all of them are being waited for. A name with a dot is fine where one has to log in.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let write = gateway
        .request(Method::POST, "/api/clients/dev1/3/0/12")
        .basic_auth("operator", Some("correct horse"))
        .header(header::HOST, "gateway.example")
        .body("x".repeat(1024 * 1024));
    let (status, reason) = answer(write).await;
    assert_eq!(status, 400, "{reason}");

    // What is too long is refused before any of it is read.
    let mut stranger = TcpStream::connect(address).await.unwrap();
    let head =
        format!("POST /api/session HTTP/1.1\r\nHost: {address}\r\nContent-Length: 16385\r\n\r\n");
    stranger.write_all(head.as_bytes()).await.unwrap();
    let mut told = String::new();
    let read = stranger.read_to_string(&mut told);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    assert!(
        told.starts_with("HTTP/1.1 413 ") && told.ends_with("longer than 16 KiB"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_others_can_reach_does_not_start_open() {
    let web = format!("--web-listen=0.0.0.0:{}", free_port());
    let error = Gateway::refused(&[web]).await;
    assert!(
        error.contains("--users-file") && error.contains("--web-open"),
        "{error}"
    );
}
