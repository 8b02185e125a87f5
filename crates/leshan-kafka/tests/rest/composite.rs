//! Composite operations, and what a device sends of its own accord.

use lwm2m_model::Value;
use reqwest::Method;
use serde_json::json;
use testkit::wait_for;

use crate::gateway::{Gateway, PATIENCE, answer, answer_of};
use crate::{content, done, refused, single};

#[tokio::test(flavor = "multi_thread")]
async fn several_paths_are_read_and_written_at_once() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let read = "/api/clients/dev1/composite?paths=/3/0/0,/3303/0/5700,/3/0/11";
    for formats in [
        "",
        "&pathformat=SENML_CBOR&nodeformat=SENML_CBOR",
        "&pathformat=SENML_JSON&nodeformat=SENML_CBOR&timeout=5",
        "&pathformat=senml_cbor&nodeformat=SENML_JSON",
    ] {
        assert_eq!(
            gateway.get(&format!("{read}{formats}")).await,
            content(json!({
                "/3/0/0": single(0, "STRING", "Leshan Demo Device"),
                "/3/0/11": {"kind": "multiResource", "values": {"0": "0"}, "id": 11, "type": "INTEGER"},
                "/3303/0/5700": single(5700, "FLOAT", "19.1"),
            })),
            "{formats}"
        );
    }
    // What the device does not have is not there.
    assert_eq!(
        gateway
            .get("/api/clients/dev1/composite?paths=/3/0/15,/99/0/0")
            .await,
        content(json!({"/3/0/15": single(15, "STRING", "Etc/UTC")}))
    );

    // Leshan's words: what stands below two of the paths would be the one's or the other's.
    for (paths, said) in [
        ("/3/0/0,/3/0", "/3/0 and /3/0/0"),
        ("/3/0,/1,/3/0/0", "/3/0 and /3/0/0"),
        ("/3/0/0,/3/0/0", "/3/0/0 and /3/0/0"),
        ("/,/3", "/ and /3"),
    ] {
        let reason = format!("Invalid request: Invalid path list : {said} are overlapped paths");
        for (method, call) in [
            (Method::GET, "composite"),
            (Method::POST, "composite/observe"),
        ] {
            let path = format!("/api/clients/dev1/{call}?paths={paths}");
            let asked = gateway.request(method, &path);
            assert_eq!(answer(asked).await, refused(400, &reason), "{paths}");
        }
    }
    // Neighbours whose names begin alike are not parts of each other.
    let (status, _) = gateway
        .get("/api/clients/dev1/composite?paths=/3/0/1,/3/0/11,/3/0/15")
        .await;
    assert_eq!(status, 200);

    let write = "/api/clients/dev1/composite?pathformat=SENML_CBOR&nodeformat=SENML_CBOR";
    let of_2018 = json!({"/3/0/15": {"id": 15, "value": "UTC"}, "/1/0/1": {"value": 86400}});
    assert_eq!(gateway.put(write, of_2018).await, done("CHANGED(204)"));
    assert_eq!(device.get("/3/0/15").await, "Some(String(\"UTC\"))");
    assert_eq!(device.get("/1/0/1").await, "Some(Integer(86400))");
    let instance = json!({"/3/0": {"kind": "instance", "id": 0, "resources": [{"id": 14, "value": "+02:00"}]}});
    assert_eq!(gateway.put(write, instance).await, done("CHANGED(204)"));
    assert_eq!(device.get("/3/0/14").await, "Some(String(\"+02:00\"))");

    for body in [
        json!({}),
        json!([]),
        json!({"3/x": {"value": 1}}),
        json!({"/3/0/15": "UTC"}),
        json!({"/3": {"id": 3, "instances": []}}),
        json!({"/3/0/15": {"id": 14, "value": "UTC"}}),
        json!({"/3/0/15": {"value": "a"}, "3/0/15": {"value": "b"}}),
    ] {
        let (status, reason) = gateway.put(write, body.clone()).await;
        assert_eq!(status, 400, "{body}: {reason}");
    }
    for query in [
        "",
        "?paths=",
        "?paths=/3,,/4",
        "?paths=/3&nodeformat=TLV",
        "?paths=/3&pathformat=CLAY",
    ] {
        let path = format!("/api/clients/dev1/composite{query}");
        let (status, reason) = gateway.get(&path).await;
        assert_eq!(status, 400, "{query}: {reason}");
        let reason = reason.as_str().unwrap();
        assert!(reason.starts_with("Invalid request: "), "{reason}");
    }
    let many = vec!["/3/0/0"; 257].join(",");
    let (status, _) = gateway
        .get(&format!("/api/clients/dev1/composite?paths={many}"))
        .await;
    assert_eq!(status, 400);
    assert_eq!(
        gateway.get("/api/clients/nope/composite?paths=/3").await,
        refused(400, "No registered client with id 'nope'")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_paths_are_observed_as_one() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let observe = "/api/clients/dev1/composite/observe?paths=/3/0/15,/3303/0/5700";
    let both = |zone: &str, value: &str| json!({"/3/0/15": single(15, "STRING", zone), "/3303/0/5700": single(5700, "FLOAT", value)});
    let mut events = gateway
        .events("/api/event?ep=dev1&events=NOTIFICATION")
        .await;
    assert_eq!(
        gateway.post(observe).await,
        content(both("Etc/UTC", "19.1"))
    );
    assert!(device.is_observed("[/3/0/15,/3303/0/5700]").await);
    let (_, known) = gateway.get("/api/clients/dev1/values").await;
    assert_eq!(
        (&known["observed"], &known["composites"]),
        (&json!([]), &json!([["/3/0/15", "/3303/0/5700"]]))
    );

    device.set("/3303/0/5700", Value::Float(20.5)).await;
    let told = json!({"ep": "dev1", "kind": "composite", "val": both("Etc/UTC", "20.5"), "paths": ["/3/0/15", "/3303/0/5700"]});
    assert_eq!(
        events.next().await.unwrap(),
        ("NOTIFICATION".to_owned(), told)
    );

    // Another list is another observation; the order makes none.
    let other = "/api/clients/dev1/composite/observe?paths=/3/0/15";
    assert_eq!(
        answer_of(&gateway, Method::DELETE, &format!("{other}&active")).await,
        refused(
            404,
            "no composite observation for paths [/3/0/15] for client 'dev1'"
        )
    );
    let turned = "/api/clients/dev1/composite/observe?paths=/3303/0/5700,/3/0/15&active=true";
    assert_eq!(
        gateway.delete(turned).await,
        content(both("Etc/UTC", "20.5"))
    );
    assert!(!device.is_observed("[/3/0/15,/3303/0/5700]").await);

    // Passive: empty, and the device learns it from a reset.
    gateway.post(observe).await;
    assert_eq!(gateway.delete(observe).await, refused(200, ""));
    device.set("/3303/0/5700", Value::Float(21.5)).await;
    wait_for(PATIENCE, "the reset", || async {
        anyhow::ensure!(!device.is_observed("[/3/0/15,/3303/0/5700]").await);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(gateway.delete(observe).await, refused(200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_sends_is_told_with_all_its_times() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let mut events = gateway.events("/event?ep=dev1&events=SEND").await;
    let value = |value: &str| json!({"/3303/0/5700": single(5700, "FLOAT", value)});
    device.send(vec![(None, "/3303/0/5700", 25.0)]).await;
    let (event, told) = events.next().await.unwrap();
    assert_eq!(
        (event.as_str(), told),
        ("SEND", json!({"ep": "dev1", "val": value("25.0")}))
    );

    // The newest is the value, whatever comes last.
    let history = vec![
        (Some(1_700_000_001.0), "/3303/0/5700", 22.0),
        (Some(1_700_000_000.0), "/3303/0/5700", 21.0),
    ];
    device.send(history).await;
    let (_, told) = events.next().await.unwrap();
    assert_eq!(told["val"], value("22.0"));
    assert_eq!(
        told["timestamped"],
        json!([
            {"timestamp": 1_700_000_001_000_i64, "val": value("22.0")},
            {"timestamp": 1_700_000_000_000_i64, "val": value("21.0")},
        ])
    );
}
