//! Credentials of devices over REST.

use reqwest::header;
use serde_json::json;

use crate::gateway::{Gateway, answer};
use crate::refused;

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_kept_in_one_form_and_keys_are_not_shown() {
    let gateway = Gateway::start().await;
    let clients = "/api/security/clients";
    assert_eq!(gateway.get(clients).await, (200, json!([])));

    let today = json!({"endpoint": "pskdev", "tls": {"mode": "psk", "details": {"identity": "pskid", "key": "0102030405060708"}}});
    assert_eq!(
        gateway.put("/api/security/clients/", today).await,
        refused(200, "")
    );
    let of_2018 = json!({"endpoint": "older", "psk": {"identity": "olderid", "key": "0A0b"}});
    assert_eq!(gateway.put(clients, of_2018).await, refused(200, ""));
    assert_eq!(
        gateway
            .put(clients, json!({"endpoint": "certified", "x509": true}))
            .await,
        refused(200, "")
    );
    let psk = |endpoint: &str, identity: &str| json!({"endpoint": endpoint, "tls": {"mode": "psk", "details": {"identity": identity, "key": "********"}}});
    assert_eq!(
        gateway.get(clients).await,
        (
            200,
            json!([
                {"endpoint": "certified", "tls": {"mode": "x509"}},
                psk("older", "olderid"),
                psk("pskdev", "pskid"),
            ])
        )
    );

    // An identity belongs to one endpoint.
    let taken = json!({"endpoint": "thief", "psk": {"identity": "pskid", "key": "ffff"}});
    let (status, reason) = gateway.put(clients, taken).await;
    assert_eq!(status, 400);
    assert!(reason.as_str().unwrap().contains("pskdev"), "{reason}");
    // What was read can't be written back by mistake.
    let (status, reason) = gateway.put(clients, psk("pskdev", "pskid")).await;
    assert_eq!(status, 400, "{reason}");

    for body in [
        "",
        "{",
        "[]",
        "{\"endpoint\":\"a\",\"psk\":{\"identity\":\"i\",\"key\":\"secret\"}}",
    ] {
        let request = gateway
            .request(reqwest::Method::PUT, clients)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        let (status, reason) = answer(request).await;
        assert_eq!(status, 400, "{body}");
        let reason = reason.as_str().unwrap();
        assert!(reason.starts_with("Invalid request body"), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
    }

    let delete = async |endpoint: &str| gateway.delete(&format!("{clients}/{endpoint}")).await;
    assert_eq!(delete("pskdev").await, refused(200, ""));
    assert_eq!(
        delete("pskdev").await,
        (200, json!({"message": "not_found"}))
    );
    assert_eq!(gateway.get(clients).await.1.as_array().unwrap().len(), 2);
}
