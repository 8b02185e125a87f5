//! What those are told who watch.

use std::time::Duration;

use lwm2m_model::Value;
use reqwest::{Method, header};
use serde_json::json;
use testkit::wait_for;

use crate::gateway::{Gateway, PATIENCE, answer};
use crate::{content, refused, single};

#[tokio::test(flavor = "multi_thread")]
async fn an_observed_value_is_told_until_it_is_cancelled() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let other = gateway.device("dev2").await;
    let temperature = "/3303/0/5700";
    let observe = "/api/clients/dev1/3303/0/5700/observe";
    let values = "/api/clients/dev1/values";
    assert_eq!(
        gateway.get(values).await,
        (200, json!({"observed": [], "composites": [], "values": []}))
    );

    // The device's registration may still be on its way to those who watch.
    let kinds = "ep=dev1&events=NOTIFICATION,DEREGISTRATION";
    let mut events = gateway.events(&format!("/api/event?{kinds}")).await;
    let mut of_2018 = gateway.events(&format!("/event?{kinds}")).await;
    let first = content(single(5700, "FLOAT", "19.1"));
    assert_eq!(gateway.post(&format!("{observe}?timeout=5")).await, first);
    gateway.post("/api/clients/dev2/3303/0/5700/observe").await;
    assert!(device.is_observed(temperature).await);

    // The other device's value is not for those who watch this one.
    other.set(temperature, Value::Float(3.0)).await;
    device.set(temperature, Value::Float(20.0)).await;
    let told = json!({"ep": "dev1", "kind": "single", "res": "/3303/0/5700",
        "val": single(5700, "FLOAT", "20.0")});
    for watched in [&mut events, &mut of_2018] {
        let event = watched.next().await.unwrap();
        assert_eq!(event, ("NOTIFICATION".to_owned(), told.clone()));
    }
    let (_, mut known) = gateway.get(values).await;
    assert!(known["values"][0]["timestamp"].take().as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        known,
        json!({
            "observed": ["/3303/0/5700"],
            "composites": [],
            "values": [{"path": "/3303/0/5700", "timestamp": null, "val": single(5700, "FLOAT", "20.0")}],
        })
    );

    // Passive: the device learns it from the reset that its next value gets.
    assert_eq!(gateway.delete(observe).await, refused(200, ""));
    assert!(device.is_observed(temperature).await);
    device.set(temperature, Value::Float(21.0)).await;
    wait_for(PATIENCE, "the reset", || async {
        anyhow::ensure!(!device.is_observed(temperature).await);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(gateway.get(values).await.1["observed"], json!([]));
    // What is not observed can be cancelled all the same.
    assert_eq!(gateway.delete(observe).await, refused(200, ""));

    // Active: it is told.
    let now = content(single(5700, "FLOAT", "21.0"));
    assert_eq!(gateway.post(observe).await, now);
    assert_eq!(gateway.delete(&format!("{observe}?active=true")).await, now);
    assert!(!device.is_observed(temperature).await);
    assert_eq!(
        gateway.delete(&format!("{observe}?active=true")).await,
        refused(
            404,
            "no observation for path /3303/0/5700 for client 'dev1'"
        )
    );

    // Nothing of all this was told as a notification.
    device.leave().await;
    let (event, _) = events.next().await.unwrap();
    assert_eq!(event, "DEREGISTRATION");
    let device = gateway.device("dev1").await;
    assert_eq!(
        gateway.get(values).await,
        (200, json!({"observed": [], "composites": [], "values": []}))
    );
    drop(device);
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_told_in_the_recorded_form() {
    let gateway = Gateway::start().await;
    for path in ["/api/event", "/event"] {
        let (status, reason) = gateway.get(path).await;
        assert_eq!(status, 405, "{reason}");
    }
    let mut events = gateway.events("/api/event").await;
    let mut updates = gateway.events("/api/event?events=UPDATED").await;
    let device = gateway.device("dev2").await;
    let (event, registered) = events.next().await.unwrap();
    assert_eq!(event, "REGISTRATION");
    assert_eq!(registered, gateway.get("/api/clients/dev2").await.1);

    device.update().await;
    let (event, updated) = events.next().await.unwrap();
    assert_eq!(event, "UPDATED");
    assert_eq!(
        updated["registration"],
        gateway.get("/api/clients/dev2").await.1
    );
    assert!(updated["registration"]["lastUpdate"].as_i64() >= registered["lastUpdate"].as_i64());
    let update = &updated["update"];
    assert_eq!(update["registrationId"], registered["registrationId"]);
    assert_eq!(update["address"], registered["address"]);
    assert_eq!(update["secure"], json!(false));
    assert_eq!(update["additionalAttributes"], json!({}));
    assert_eq!(updates.next().await.unwrap(), (event, updated));

    device.leave().await;
    let (event, gone) = events.next().await.unwrap();
    assert_eq!(event, "DEREGISTRATION");
    assert_eq!(gone["registrationId"], registered["registrationId"]);
    assert_eq!(gateway.get("/api/clients").await, (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_watch_and_no_more() {
    let gateway = Gateway::start().await;
    let mut watching = Vec::new();
    for _ in 0..256 {
        watching.push(gateway.events("/api/event").await);
    }
    let watch = || {
        let request = gateway.request(Method::GET, "/api/event");
        answer(request.header(header::ACCEPT, "text/event-stream"))
    };
    assert_eq!(watch().await.0, 503);
    // Everything else goes on, and who leaves makes room.
    assert_eq!(gateway.get("/api/clients").await.0, 200);
    watching.truncate(200);
    wait_for(PATIENCE, "room", || async {
        let request = gateway.http.get(format!("{}/api/event", gateway.url));
        let response = request
            .header(header::ACCEPT, "text/event-stream")
            .send()
            .await?;
        anyhow::ensure!(response.status() == 200);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stops_while_somebody_watches() {
    let mut gateway = Gateway::start().await;
    let mut events = gateway.events("/api/event").await;
    gateway.shutdown.cancel();
    assert_eq!(events.next().await, None);
    tokio::time::timeout(Duration::from_secs(10), &mut gateway.ended)
        .await
        .expect("it stops")
        .unwrap()
        .unwrap();
}
