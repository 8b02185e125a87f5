//! Devices in queue mode.

use std::time::Duration;

use lwm2m_model::Value;
use serde_json::{Value as Json, json};
use testkit::wait_for;

use crate::device::Device;
use crate::gateway::{Events, Gateway, PATIENCE};
use crate::{content, done, refused, single};

const QUEUE: &str = "/api/clients/dozer/queue";

/// A device that listens for a second, and a server that knows it.
async fn with_sleeper() -> (Gateway, Device, Events) {
    let gateway = Gateway::start().await;
    assert_eq!(
        gateway.put(QUEUE, json!({"awakeWindow": 1})).await,
        refused(200, "")
    );
    let events = gateway.events("/api/event?ep=dozer").await;
    let device = Device::sleeper(gateway.coap, "dozer", Duration::from_millis(1_500));
    gateway.registered("dozer").await;
    (gateway, device, events)
}

async fn until(events: &mut Events, wanted: &str) -> Json {
    loop {
        let (event, data) = events.next().await.unwrap();
        if event == wanted {
            return data;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_a_sleeper_wait_until_it_wakes_and_are_answered_as_events() {
    let (gateway, device, mut events) = with_sleeper().await;
    let (_, registration) = gateway.get("/api/clients/dozer").await;
    assert_eq!(registration["queuemode"], true);
    assert_eq!(registration["sleeping"], false);
    assert_eq!(
        gateway.get("/api/clients/dozer/3/0/15").await,
        content(single(15, "STRING", "Etc/UTC"))
    );
    assert_eq!(until(&mut events, "SLEEPING").await, json!({"ep": "dozer"}));
    for path in ["/api/clients/dozer", "/api/clients"] {
        let (_, answer) = gateway.get(path).await;
        let one = answer.get(0).unwrap_or(&answer);
        assert_eq!(one["sleeping"], true, "{answer}");
    }

    let zone = "/api/clients/dozer/3/0/15";
    let (status, write) = gateway
        .put(&format!("{zone}?timeout=2"), json!({"value": "UTC"}))
        .await;
    assert_eq!(status, 200);
    let id = write["requestId"].as_str().unwrap().to_owned();
    assert_eq!(
        write,
        json!({"ep": "dozer", "path": "/3/0/15", "requestId": id, "delayed": true})
    );
    let (_, read) = gateway.get(zone).await;
    let (_, dropped) = gateway
        .get("/api/clients/dozer/composite?paths=/3/0/0,/3/0/15")
        .await;
    assert_eq!(dropped["paths"], json!(["/3/0/0", "/3/0/15"]));

    let (_, mut queue) = gateway.get(QUEUE).await;
    for request in queue["requests"].as_array_mut().unwrap() {
        let (since, expires) = (request["since"].take(), request["expires"].take());
        assert_eq!(
            expires.as_i64().unwrap() - since.as_i64().unwrap(),
            86_400_000
        );
    }
    let waits = |id: &Json, operation: &str| json!({"id": id, "origin": "rest", "operation": operation, "since": null, "expires": null, "sent": false});
    let with = |mut request: Json, name: &str, value: Json| {
        request[name] = value;
        request
    };
    assert_eq!(
        queue,
        json!({"presence": "asleep", "awakeWindow": 1, "usualAwakeWindow": 93, "requests": [
            with(waits(&write["requestId"], "write"), "path", json!("/3/0/15")),
            with(waits(&read["requestId"], "read"), "path", json!("/3/0/15")),
            with(waits(&dropped["requestId"], "readComposite"), "paths", json!(["/3/0/0", "/3/0/15"])),
        ]})
    );
    let taken_out = format!("{QUEUE}/{}", dropped["requestId"].as_str().unwrap());
    assert_eq!(gateway.delete(&taken_out).await, refused(200, ""));
    assert_eq!(gateway.delete(&taken_out).await.0, 404);
    let told = until(&mut events, "REQUEST_RESPONSE").await;
    assert_eq!(told["error"], "Request cancelled");
    // Nothing of it was sent.
    assert_eq!(device.get("/3/0/15").await, "Some(String(\"Etc/UTC\"))");

    device.update().await;
    assert_eq!(until(&mut events, "AWAKE").await, json!({"ep": "dozer"}));
    let answered = |request: &Json, response: Json| {
        let mut told = request.clone();
        told["response"] = response;
        told
    };
    assert_eq!(
        until(&mut events, "REQUEST_RESPONSE").await,
        answered(&write, done("CHANGED(204)").1)
    );
    assert_eq!(
        until(&mut events, "REQUEST_RESPONSE").await,
        answered(&read, content(single(15, "STRING", "UTC")).1)
    );
    assert_eq!(gateway.get(QUEUE).await.1["requests"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlasts_the_server() {
    let (mut gateway, device, mut events) = with_sleeper().await;
    until(&mut events, "SLEEPING").await;
    let zone = "/api/clients/dozer/3/0/15";
    let (_, write) = gateway.put(zone, json!({"value": "UTC"})).await;
    let (_, read) = gateway.get(zone).await;
    gateway.restart().await;

    let (_, queue) = gateway.get(QUEUE).await;
    let ids: Vec<&Json> = queue["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| &request["id"])
        .collect();
    assert_eq!(ids, [&write["requestId"], &read["requestId"]], "{queue}");
    // So does its awake window.
    assert_eq!(queue["awakeWindow"], 1);
    assert_eq!(device.get("/3/0/15").await, "Some(String(\"Etc/UTC\"))");

    let mut events = gateway.events("/api/event?ep=dozer").await;
    device.update().await;
    let told = until(&mut events, "REQUEST_RESPONSE").await;
    assert_eq!(told["requestId"], write["requestId"]);
    assert_eq!(told["response"], done("CHANGED(204)").1);
    let told = until(&mut events, "REQUEST_RESPONSE").await;
    assert_eq!(told["response"], content(single(15, "STRING", "UTC")).1);
    // What was answered does not come again.
    gateway.restart().await;
    assert_eq!(gateway.get(QUEUE).await.1["requests"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_bounded_in_time_and_number() {
    let (gateway, device, mut events) = with_sleeper().await;
    until(&mut events, "SLEEPING").await;
    let read = "/api/clients/dozer/3/0/15";
    let (_, short) = gateway.get(&format!("{read}?expires=1")).await;
    let told = until(&mut events, "REQUEST_RESPONSE").await;
    assert_eq!(told["requestId"], short["requestId"]);
    assert!(
        told["error"]
            .as_str()
            .unwrap()
            .starts_with("Request timeout"),
        "{told}"
    );
    for _ in 0..32 {
        assert_eq!(gateway.get(read).await.0, 200);
    }
    let (status, reason) = gateway.get(read).await;
    assert_eq!(status, 503, "{reason}");
    for expires in ["0", "604801", "soon"] {
        let (status, _) = gateway.get(&format!("{read}?expires={expires}")).await;
        assert_eq!(status, 400, "{expires}");
    }
    // A notification is a sign of life too, but here nothing is observed: an update it is.
    device.update().await;
    for _ in 0..32 {
        let told = until(&mut events, "REQUEST_RESPONSE").await;
        assert_eq!(told["response"]["status"], "CONTENT(205)", "{told}");
    }
    device.set("/3303/0/5700", Value::Float(1.0)).await;
    wait_for(PATIENCE, "the queue to be empty", || async {
        let (_, queue) = gateway.get(QUEUE).await;
        anyhow::ensure!(queue["requests"] == json!([]), "{queue}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_awake_window_is_set_and_unset() {
    let (gateway, _device) = Gateway::with_device("dev1").await;
    let queue = "/api/clients/dev1/queue";
    let window = async || gateway.get(queue).await.1["awakeWindow"].clone();
    assert_eq!(gateway.get(queue).await.1["presence"], "reachable");
    assert_eq!(window().await, 93);
    for (body, expected) in [
        (json!({"awakeWindow": 30}), 30),
        (json!({"awakeWindow": null}), 93),
    ] {
        assert_eq!(gateway.put(queue, body).await, refused(200, ""));
        assert_eq!(window().await, expected);
    }
    for body in [
        json!({"awakeWindow": 0}),
        json!({"awakeWindow": 86_401}),
        json!({"awakeWindow": "30"}),
        json!({"window": 30}),
        json!([]),
    ] {
        assert_eq!(gateway.put(queue, body.clone()).await.0, 400, "{body}");
    }
    assert_eq!(
        gateway.get("/api/clients/nope/queue").await,
        refused(400, "No registered client with id 'nope'")
    );
    assert_eq!(gateway.delete(&format!("{queue}/7")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_watcheddevice_are_told_in_leshans_form() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let mut of_all = gateway.events("/api/event?events=COAPLOG,UPDATED").await;
    let mut events = gateway.events("/api/event?ep=dev1&events=COAPLOG").await;
    gateway.get("/api/clients/dev1/3/0/15?format=TEXT").await;
    let (event, mut request) = events.next_of_any().await.unwrap();
    assert_eq!(event, "COAPLOG");
    let id = request["mId"].take();
    let token = request["token"].take();
    assert!(request["timestamp"].take().as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        request,
        json!({"timestamp": null, "incoming": false, "ep": "dev1", "type": "CON", "code": "GET", "mId": null,
            "token": null, "options": "Uri-Path: \"3\", \"0\", \"15\" - Accept: 0"})
    );
    let (_, answer) = events.next_of_any().await.unwrap();
    assert_eq!((&answer["mId"], &answer["token"]), (&id, &token));
    assert_eq!(
        (&answer["code"], &answer["payload"], &answer["incoming"]),
        (&json!("2.05"), &json!("Etc/UTC"), &json!(true))
    );
    // Who watches all devices is not told of messages: there would be too many.
    drop(events);
    device.update().await;
    assert_eq!(of_all.next_of_any().await.unwrap().0, "UPDATED");
}
