//! The REST interface as its users see it: the whole server, a device over UDP, and HTTP. Answers are held, field by
//! field, against those recorded from Leshan 2's demo server. Kafka is away all the time: this works without.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod access;
mod composite;
mod device;
mod document;
mod gateway;
mod queue;
mod recorded;
mod security;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_model::Value;
use reqwest::{Method, header};
use serde_json::{Value as Json, json};
use testkit::{LeshanClient, wait_for};

use gateway::{Gateway, PATIENCE, answer, answer_of};

pub(crate) fn content(node: Json) -> (u16, Json) {
    let answer = json!({
        "status": "CONTENT(205)", "valid": true, "success": true, "failure": false, "content": node,
    });
    (200, answer)
}

pub(crate) fn done(status: &str) -> (u16, Json) {
    let answer = json!({ "status": status, "valid": true, "success": true, "failure": false });
    (200, answer)
}

pub(crate) fn refused(status: u16, reason: &str) -> (u16, Json) {
    (status, json!(reason))
}

pub(crate) fn single(id: u16, kind: &str, value: impl Into<Json>) -> Json {
    json!({ "kind": "singleResource", "id": id, "type": kind, "value": value.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_have_the_recorded_form() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.get("/api/clients").await, (200, json!([])));
    assert_eq!(
        gateway.get("/api/clients/nope").await,
        refused(400, "No registered client with id 'nope'")
    );

    let _device = gateway.device("dev1").await;
    let (_, mut one) = gateway.get("/api/clients/dev1").await;
    assert_eq!(
        gateway.get("/api/clients").await,
        (200, json!([one.clone()]))
    );
    let since = one["registrationDate"].take();
    assert!(since.as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(one["lastUpdate"].take(), since);
    let port = |address: Json| {
        address
            .as_str()
            .unwrap()
            .parse::<SocketAddr>()
            .unwrap()
            .port()
    };
    assert_ne!(port(one["address"].take()), 0);
    assert!(!one["registrationId"].take().as_str().unwrap().is_empty());
    assert_eq!(
        one,
        json!({
            "endpoint": "dev1",
            "registrationId": null,
            "registrationDate": null,
            "lastUpdate": null,
            "address": null,
            "lwM2mVersion": "1.1",
            "lifetime": 30,
            "bindingMode": "U",
            "rootPath": "/",
            "objectLinks": [
                {"url": "/", "attributes": {"rt": "\"oma.lwm2m\"", "ct": "\"60 110 112 11542 11543\""}},
                {"url": "/1", "attributes": {"ver": "1.1"}},
                {"url": "/1/0", "attributes": {}},
                {"url": "/3", "attributes": {"ver": "1.2"}},
                {"url": "/3/0", "attributes": {}},
                {"url": "/3303", "attributes": {"ver": "1.1"}},
                {"url": "/3303/0", "attributes": {}},
            ],
            "secure": false,
            "additionalRegistrationAttributes": {},
            "queuemode": false,
            "availableInstances": {"1": [0], "3": [0], "3303": [0]},
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_have_the_recorded_form() {
    let (gateway, _device) = Gateway::with_device("dev1").await;
    assert_eq!(
        gateway
            .get("/api/clients/dev1/3/0/0?timeout=5&format=TLV")
            .await,
        content(single(0, "STRING", "Leshan Demo Device"))
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/3/0/13").await,
        content(single(13, "TIME", 1_795_391_443_000_i64))
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/3/0/11?format=TLV").await,
        content(
            json!({"kind": "multiResource", "values": {"0": "0"}, "id": 11, "type": "INTEGER"})
        )
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/3/0/9?format=text").await,
        content(single(9, "INTEGER", "5"))
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/3/0?format=TLV").await,
        content(json!({"kind": "instance", "id": 0, "resources": [
            single(0, "STRING", "Leshan Demo Device"),
            single(1, "STRING", "Model 500"),
            single(9, "INTEGER", "5"),
            {"kind": "multiResource", "values": {"0": "0"}, "id": 11, "type": "INTEGER"},
            single(13, "TIME", 1_795_391_443_000_i64),
            single(14, "STRING", "Z"),
            single(15, "STRING", "Etc/UTC"),
            single(16, "STRING", "U"),
        ]}))
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/3303").await,
        content(
            json!({"kind": "obj", "id": 3303, "instances": [{"kind": "instance", "id": 0, "resources": [
                single(5601, "FLOAT", "19.0"),
                single(5602, "FLOAT", "20.0"),
                single(5700, "FLOAT", "19.1"),
                single(5701, "STRING", "cel"),
            ]}]})
        )
    );
    assert_eq!(
        gateway.get("/api/clients/dev1/99/0/0").await,
        (
            200,
            json!({"status": "NOT_FOUND(404)", "valid": true, "success": false, "failure": true})
        )
    );
    assert_eq!(
        gateway.get("/api/clients/nope/3/0/0").await,
        refused(400, "No registered client with id 'nope'")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_has_the_recorded_form() {
    let (gateway, _device) = Gateway::with_device("dev1").await;
    let (status, mut answer) = gateway.get("/api/clients/dev1/3/discover").await;
    let links = answer["objectLinks"].take();
    assert_eq!(
        (status, answer),
        (
            200,
            json!({"status": "CONTENT(205)", "valid": true, "success": true, "failure": false, "objectLinks": null})
        )
    );
    let links = links.as_array().unwrap();
    assert_eq!(links[0], json!({"url": "/3", "attributes": {"ver": "1.2"}}));
    for link in [
        json!({"url": "/3/0", "attributes": {}}),
        json!({"url": "/3/0/0", "attributes": {}}),
        json!({"url": "/3/0/11", "attributes": {"dim": "1"}}),
        json!({"url": "/3/0/12", "attributes": {}}),
    ] {
        assert!(links.contains(&link), "{link} in {links:?}");
    }

    assert_eq!(
        answer_of(
            &gateway,
            Method::PUT,
            "/api/clients/dev1/3303/0/5700/attributes?pmin=1&pmax=5&timeout=5"
        )
        .await,
        done("CHANGED(204)")
    );
    let (_, discovered) = gateway.get("/api/clients/dev1/3303/0/5700/discover").await;
    assert_eq!(
        discovered["objectLinks"],
        json!([{"url": "/3303/0/5700", "attributes": {"pmin": "1", "pmax": "5"}}])
    );
    // Without its value an attribute is unset.
    assert_eq!(
        answer_of(
            &gateway,
            Method::PUT,
            "/api/clients/dev1/3303/0/5700/attributes?pmax"
        )
        .await,
        done("CHANGED(204)")
    );
    let (_, discovered) = gateway.get("/api/clients/dev1/3303/0/5700/discover").await;
    assert_eq!(
        discovered["objectLinks"],
        json!([{"url": "/3303/0/5700", "attributes": {"pmin": "1"}}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_taken_in_both_dialects_and_as_text() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let changed = done("CHANGED(204)");
    let zone = "/api/clients/dev1/3/0/15?format=TLV";
    let has = async |zone: &str| {
        let has = device.get("/3/0/15").await;
        assert_eq!(has, format!("Some(String({zone:?}))"));
    };

    let today =
        json!({"id": 15, "kind": "singleResource", "value": "Europe/Berlin", "type": "string"});
    assert_eq!(gateway.put(zone, today).await, changed);
    has("Europe/Berlin").await;

    let of_2018 = json!({"id": 15, "value": "CET"});
    assert_eq!(gateway.put(zone, of_2018).await, changed);
    has("CET").await;

    let text = |path: &str, text: &'static str| {
        gateway
            .request(Method::PUT, path)
            .header(header::CONTENT_TYPE, "text/plain")
            .body(text)
    };
    assert_eq!(answer(text(zone, "Etc/UTC")).await, changed);
    has("Etc/UTC").await;
    let as_text = gateway
        .request(Method::PUT, "/api/clients/dev1/3/0/15?format=TEXT")
        .body("WET");
    assert_eq!(answer(as_text).await, changed);
    has("WET").await;
    // Text is what the model says.
    assert_eq!(
        answer(text("/api/clients/dev1/1/0/1", "86400")).await,
        changed
    );
    assert_eq!(device.get("/1/0/1").await, "Some(Integer(86400))");

    let update = json!({"kind": "instance", "id": 0, "resources":
        [{"id": 15, "kind": "singleResource", "value": "UTC", "type": "string"}]});
    assert_eq!(
        gateway
            .put("/api/clients/dev1/3/0?format=TLV&replace=false", update)
            .await,
        changed
    );
    has("UTC").await;
    assert_eq!(device.get("/3/0/14").await, "Some(String(\"Z\"))");

    // The device's own refusal is an answer.
    assert_eq!(
        gateway
            .put("/api/clients/dev1/3/0/0", json!({"id": 0, "value": "x"}))
            .await,
        (
            200,
            json!({"status": "METHOD_NOT_ALLOWED(405)", "valid": true, "success": false, "failure": true})
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn execute_create_and_delete() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let changed = done("CHANGED(204)");
    assert_eq!(gateway.post("/api/clients/dev1/3/0/12").await, changed);
    assert_eq!(device.executed().await, "/3/0/12 ");
    let with_arguments = gateway
        .request(Method::POST, "/api/clients/dev1/3/0/12")
        .body("0='now'");
    assert_eq!(answer(with_arguments).await, changed);
    assert_eq!(device.executed().await, "/3/0/12 0='now'");

    let create = |path: &str, body: Json| answer(gateway.request(Method::POST, path).json(&body));
    let value = json!([{"id": 5700, "kind": "singleResource", "value": "1.5", "type": "float"}]);
    let (status, mut answer) = create(
        "/api/clients/dev1/3303?format=TLV",
        json!({"kind": "instance", "id": 7, "resources": value}),
    )
    .await;
    // A device may say where it put it; the one on record did not.
    let location = answer.as_object_mut().unwrap().remove("location");
    assert!(matches!(location, None | Some(Json::String(_))));
    assert_eq!((status, answer), done("CREATED(201)"));
    assert_eq!(device.get("/3303/7/5700").await, "Some(Float(1.5))");

    let (_, answer) = create(
        "/api/clients/dev1/3303",
        json!({"resources": [{"id": 5700, "value": 2}]}),
    )
    .await;
    assert_eq!(answer["status"], "CREATED(201)");
    let location = answer["location"].as_str().unwrap().to_owned();
    assert_eq!(
        device.get(&format!("/{location}/5700")).await,
        "Some(Float(2.0))"
    );

    let deleted = done("DELETED(202)");
    assert_eq!(gateway.delete("/api/clients/dev1/3303/7").await, deleted);
    assert_eq!(device.get("/3303/7/5700").await, "None");
    let (_, gone) = gateway.delete("/api/clients/dev1/3303/7").await;
    assert_eq!(gone["status"], "NOT_FOUND(404)");
}

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
async fn models_are_those_of_the_device() {
    let (gateway, _device) = Gateway::with_device("dev1").await;
    let (status, specs) = gateway.get("/api/objectspecs/dev1").await;
    assert_eq!(status, 200);
    let specs = specs.as_array().unwrap();
    let ids: Vec<_> = specs
        .iter()
        .map(|spec| spec["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [1, 3, 3303]);
    let mut temperature = specs[2].clone();
    let resources = temperature["resourcedefs"].take();
    assert_eq!(
        temperature,
        json!({"id": 3303, "name": "Temperature", "instancetype": "multiple", "mandatory": false,
            "urn": "urn:oma:lwm2m:ext:3303:1.1", "version": "1.1", "lwm2mversion": "1.0",
            "description": "", "description2": "", "resourcedefs": null})
    );
    let resources = resources.as_array().unwrap();
    assert!(
        resources.contains(
            &json!({"id": 5700, "name": "Sensor Value", "operations": "R",
        "instancetype": "single", "mandatory": true, "type": "float", "range": "", "units": "",
        "description": ""})
        ),
        "{resources:?}"
    );
    let reset = resources.iter().find(|one| one["id"] == 5605).unwrap();
    assert_eq!(
        (&reset["operations"], &reset["type"]),
        (&json!("E"), &json!("none"))
    );

    let (_, all) = gateway.get("/api/objectspecs").await;
    assert!(all.as_array().unwrap().len() > 100);
    assert_eq!(
        gateway.get("/api/objectspecs/nope").await,
        refused(400, "No registered client with id 'nope'")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    for path in [
        "/3/0/0/0/0",
        "/three",
        "/-1",
        "/65535",
        "/3//0",
        "/3/0/observe/observe",
        "/3/0/0?format=FASTEST",
        "/3/0/0?format=LWM2M_CBOR",
        "/..%2f..%2fetc%2fpasswd",
        "/%00",
        "/3/0/0%3fx",
    ] {
        let (status, reason) = gateway.get(&format!("/api/clients/dev1{path}")).await;
        assert_eq!(status, 400, "{path}: {reason}");
        assert!(
            reason.as_str().unwrap().starts_with("Invalid request: "),
            "{path}: {reason}"
        );
    }
    let zone = "/api/clients/dev1/3/0/15";
    for (path, body) in [
        (zone, json!({"id": 14, "value": "UTC"})),
        (zone, json!({"id": 15})),
        (zone, json!(["UTC"])),
        ("/api/clients/dev1/3/0", json!({"id": 0, "resources": [{}]})),
        ("/api/clients/dev1/3", json!({"id": 3, "instances": []})),
        ("/api/clients/dev1/1/0/1", json!({"id": 1, "value": "soon"})),
        ("/api/clients/dev1/3/attributes?often=1", json!({})),
        ("/api/clients/dev1/3/attributes", json!({})),
    ] {
        let (status, reason) = gateway.put(path, body.clone()).await;
        assert_eq!(status, 400, "{path} {body}: {reason}");
        assert!(reason.as_str().unwrap().starts_with("Invalid request: "));
    }
    for (method, path, expected) in [
        (Method::PUT, "/api/clients/dev1/3/0/15/discover", 405),
        (Method::GET, "/api/clients/dev1/3/0/15/observe", 405),
        (Method::POST, "/api/clients/dev1/3/0/15/attributes", 405),
        (Method::DELETE, "/api/clients/dev1/3/0/15/discover", 405),
        (Method::PATCH, "/api/clients/dev1/3/0/15", 405),
        (Method::DELETE, "/api/clients/dev1/3/0/15", 400),
        (Method::POST, "/api/clients/dev1/3303", 400),
        (Method::GET, "/api/clients/dev1/composite", 400),
        (Method::GET, "/api/clients/dev1/composite?paths=/x", 400),
        (Method::POST, "/api/clients/dev1/composite", 405),
        (Method::GET, "/api/clients/%ff/3", 400),
        (Method::GET, "/api/nothing", 404),
    ] {
        let (status, reason) = answer_of(&gateway, method.clone(), path).await;
        assert_eq!(status, expected, "{method} {path}: {reason}");
    }
    let bodies: [(&str, Vec<u8>, u16); 5] = [
        ("application/json", b"{\"id\":15,".to_vec(), 400),
        ("application/json", b"[".repeat(100_000), 400),
        ("text/plain", vec![0xff], 400),
        ("application/xml", b"<value/>".to_vec(), 400),
        ("text/plain", vec![b' '; 1024 * 1024 + 1], 413),
    ];
    for (kind, body, expected) in bodies {
        let request = gateway
            .request(Method::PUT, zone)
            .header(header::CONTENT_TYPE, kind)
            // A body that is too long is not read, which ends its connection: the next one must not be sent there.
            .header(header::CONNECTION, "close")
            .body(body);
        assert_eq!(answer(request).await.0, expected, "{kind}");
    }
    // And the next good one goes through.
    assert_eq!(
        gateway.put(zone, json!({"value": "UTC"})).await,
        done("CHANGED(204)")
    );
    assert_eq!(device.get("/3/0/15").await, "Some(String(\"UTC\"))");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_device_costs_no_more_than_the_time_that_was_given() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    device.fall_silent().await;
    let begun = Instant::now();
    assert_eq!(
        gateway.get("/api/clients/dev1/3/0/0?timeout=1").await,
        refused(504, "Request timeout")
    );
    assert!(begun.elapsed() < Duration::from_secs(4));
    // Its queue has an end, and who does not fit in waits for nothing.
    let asked = (0..70).map(|_| gateway.get("/api/clients/dev1/3/0/0?timeout=2"));
    let answers = futures::future::join_all(asked).await;
    let with = |wanted: u16| {
        answers
            .iter()
            .filter(|(status, _)| *status == wanted)
            .count()
    };
    assert_eq!((with(504), with(503)), (65, 5), "{answers:?}");
    // Nobody knows whether it was executed; the answer is the same, as with Leshan.
    assert_eq!(
        gateway.post("/api/clients/dev1/3/0/12?timeout=1").await,
        refused(504, "Request timeout")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_only_what_is_its_own() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let response = gateway.request(Method::GET, "/").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"));
    assert!(!policy.contains("unsafe"));
    assert!(response.text().await.unwrap().contains("<script>"));

    // A page of another site that somebody looks at can't reach the devices through the browser.
    let from = |origin: &str| {
        gateway
            .request(Method::POST, "/api/clients/dev1/3/0/12")
            .header(header::ORIGIN, origin)
    };
    for origin in ["http://elsewhere.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(answer(from(origin)).await.0, 403, "{origin}");
    }
    assert_eq!(device.executed().await, "");
    assert_eq!(answer(from(&gateway.url)).await, done("CHANGED(204)"));
    assert_eq!(device.executed().await, "/3/0/12 ");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_logins_no_site_reads_through_the_browser_of_a_user() {
    let gateway = Gateway::start().await;
    let at = |method: Method, path: &str, host: &str| {
        answer(
            gateway
                .request(method, path)
                .header(header::HOST, host.to_owned()),
        )
    };
    for host in ["localhost", "gateway:8080", "192.0.2.7:8080", "[::1]:8080"] {
        assert_eq!(at(Method::GET, "/api/clients", host).await.0, 200, "{host}");
    }
    // Its own name led to its own page a moment ago, and leads here now.
    let rebound = "attacker.example:8080";
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/api/clients"),
        (Method::GET, "/event"),
        (Method::POST, "/api/clients/dev1/3/0/12"),
        (Method::PUT, "/api/security/clients"),
    ] {
        let (status, reason) = at(method.clone(), path, rebound).await;
        assert_eq!(status, 403, "{method} {path}");
        assert!(reason.to_string().contains("--users-file"), "{reason}");
    }

    let from = |site: &'static str, path: &str| {
        answer(
            gateway
                .request(Method::GET, path)
                .header("sec-fetch-site", site),
        )
    };
    // A link to the page may stand anywhere.
    let link = gateway
        .request(Method::GET, "/")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(link.send().await.unwrap().status(), 200);
    for path in ["/api/clients", "/api/clients/dev1/3/0/0", "/api/event"] {
        assert_eq!(from("cross-site", path).await.0, 403, "{path}");
    }
    for site in ["same-origin", "same-site", "none"] {
        assert_eq!(from(site, "/api/clients").await.0, 200, "{site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_others_is_served_alike() {
    let gateway = Gateway::start().await;
    let mut leshan = LeshanClient::start(&format!("coap://{}", gateway.coap), "leshan")
        .await
        .unwrap();
    leshan.registered(Duration::from_secs(60)).await.unwrap();
    let (_, registration) = gateway.get("/api/clients/leshan").await;
    assert_eq!(
        registration["availableInstances"],
        json!({"1": [0], "3": [0], "3303": [0, 1]})
    );
    let (_, device) = gateway.get("/api/clients/leshan/3/0").await;
    let resources = device["content"]["resources"].as_array().unwrap();
    let of = |id: u16| resources.iter().find(|one| one["id"] == id).unwrap();
    assert_eq!(of(0)["kind"], "singleResource");
    assert_eq!(of(6)["kind"], "multiResource");

    leshan.set("/3303/0/5700", 42.5).unwrap();
    let mut events = gateway
        .events("/api/event?ep=leshan&events=NOTIFICATION")
        .await;
    let value = |value| single(5700, "FLOAT", value);
    wait_for(PATIENCE, "the value", || async {
        let read = gateway.get("/api/clients/leshan/3303/0/5700").await;
        anyhow::ensure!(read == content(value("42.5")), "{read:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(
        gateway
            .post("/api/clients/leshan/3303/0/5700/observe")
            .await,
        content(value("42.5"))
    );
    leshan.set("/3303/0/5700", 10_000_000.0).unwrap();
    // It also tells what has not changed, once in a while.
    let told = |value| {
        let told = json!({"ep": "leshan", "kind": "single", "res": "/3303/0/5700", "val": value});
        ("NOTIFICATION".to_owned(), told)
    };
    let mut event = events.next().await.unwrap();
    while event == told(value("42.5")) {
        event = events.next().await.unwrap();
    }
    assert_eq!(event, told(value("1.0E7")));
    assert_eq!(
        gateway
            .delete("/api/clients/leshan/3303/0/5700/observe?active=true")
            .await,
        content(value("1.0E7"))
    );
    assert_eq!(
        gateway.post("/api/clients/leshan/3/0/4").await,
        done("CHANGED(204)")
    );
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
