//! The calls about devices, one by one, and their answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::{Method, header};
use serde_json::{Value as Json, json};
use testkit::{LeshanClient, wait_for};

use crate::gateway::{Gateway, PATIENCE, answer, answer_of};
use crate::{content, done, refused, single};

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
        (Method::DELETE, "/api/clients/dev1", 405),
        (Method::GET, "/api/nothing", 404),
    ] {
        let (status, reason) = answer_of(&gateway, method.clone(), path).await;
        assert_eq!(status, expected, "{method} {path}: {reason}");
        let said = reason.as_str().is_some_and(|said| !said.is_empty());
        assert!(said, "{method} {path}: {reason}");
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
