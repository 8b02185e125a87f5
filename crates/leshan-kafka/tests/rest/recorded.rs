//! Leshan's recorded answers, held call by call: the same calls, to a device with the same objects, have the same answers
//! but for what chance and time make (ids, dates, addresses, measurements). What differs on purpose is named here, and
//! with its reason in docs/rest.md.

use lwm2m_model::Value;
use reqwest::Method;
use serde_json::{Value as Json, json};

use crate::device::Device;
use crate::document::{document, fits_call, fits_event};
use crate::gateway::{Events, Gateway, answer};

/// Members that chance and time make.
const VOLATILE: [&str; 5] = [
    "registrationId",
    "registrationDate",
    "lastUpdate",
    "address",
    "port",
];

fn recorded() -> Json {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

/// Why ours is not as recorded.
fn unlike(recorded: &Json, ours: &Json, at: &str) -> Option<String> {
    let name = at.rsplit('/').next().unwrap_or_default();
    let no = |why: &str| Some(format!("{at}: {why}: {recorded} and {ours}"));
    match (recorded, ours) {
        (Json::Object(theirs), Json::Object(mine)) => {
            for (name, value) in theirs {
                let at = format!("{at}/{name}");
                let Some(mine) = mine.get(name) else {
                    return no(&format!("{name} is missing"));
                };
                if let Some(why) = unlike(value, mine, &at) {
                    return Some(why);
                }
            }
            let more = mine.keys().find(|name| !theirs.contains_key(*name));
            more.and_then(|name| no(&format!("{name} is too much")))
        }
        (Json::Array(theirs), Json::Array(mine)) => {
            // In any order: what is recorded is there.
            let id = |one: &Json| {
                one.get("id")
                    .or(one.get("url"))
                    .or(one.get("endpoint"))
                    .cloned()
            };
            for (index, value) in theirs.iter().enumerate() {
                let same = match id(value) {
                    Some(of) => mine.iter().find(|one| id(one) == Some(of.clone())),
                    None => mine.get(index),
                };
                let Some(same) = same else {
                    return no(&format!("{value} is missing"));
                };
                if let Some(why) = unlike(value, same, at) {
                    return Some(why);
                }
            }
            // A discover of ours also has what can only be executed; all else has the recorded length.
            let same = theirs.len() == mine.len() || name == "objectLinks";
            (!same).then(|| no("another length")).flatten()
        }
        (Json::String(theirs), Json::String(mine)) if VOLATILE.contains(&name) => {
            (theirs.is_empty() != mine.is_empty())
                .then(|| no("empty"))
                .flatten()
        }
        (Json::Number(_), Json::Number(_)) if VOLATILE.contains(&name) || name == "value" => None,
        // A measurement: a number with a point, as text.
        (Json::String(theirs), Json::String(mine))
            if name == "value" && theirs.contains('.') && theirs.parse::<f64>().is_ok() =>
        {
            let alike = mine.contains('.') && mine.parse::<f64>().is_ok();
            (!alike).then(|| no("no number")).flatten()
        }
        _ => (recorded != ours).then(|| no("another value")).flatten(),
    }
}

/// What differs on purpose.
fn as_wanted(call: &Json, recorded: Json) -> Option<Json> {
    let path = call["path"].as_str().unwrap();
    match (call["method"].as_str().unwrap(), path) {
        // A key is never shown.
        ("GET", "/api/security/clients") => {
            let mut masked = recorded;
            masked[0]["tls"]["details"]["key"] = json!("********");
            Some(masked)
        }
        // Its own key and addresses are the server's.
        ("GET", "/api/security/server" | "/api/server/endpoint") => None,
        _ => Some(recorded),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_call_has_its_recorded_answer() {
    let gateway = Gateway::start().await;
    let document = document(&gateway).await;
    let _device = Device::recorded(gateway.coap, "dev1");
    gateway.registered("dev1").await;
    let calls = recorded();
    let calls = calls["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 27);
    for call in calls {
        let (method, path) = (
            call["method"].as_str().unwrap(),
            call["path"].as_str().unwrap(),
        );
        let request = gateway.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        let request = match call.get("body") {
            Some(body) => request.json(body),
            None => request,
        };
        let (status, mut ours) = answer(request).await;
        assert_eq!(json!(status), call["status"], "{method} {path}: {ours}");
        let theirs = call.get("json").or(call.get("text")).unwrap().clone();
        fits_call(&document, method, path, status, &theirs);
        fits_call(&document, method, path, status, &ours);
        // Ours says where the new instance is.
        if path == "/api/clients/dev1/3303?format=TLV" {
            ours.as_object_mut().unwrap().remove("location");
        }
        if let Some(theirs) = as_wanted(call, theirs) {
            assert_eq!(unlike(&theirs, &ours, ""), None, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_event_is_told_in_its_recorded_form() {
    let gateway = Gateway::start().await;
    let document = document(&gateway).await;
    let recorded = recorded();
    let recorded = recorded["events"].as_array().unwrap();
    let mut events = gateway.events("/api/event?ep=dev2").await;
    let device = Device::recorded(gateway.coap, "dev2");
    gateway.registered("dev2").await;
    check(&document, &recorded[0], &mut events).await;
    device.update().await;
    check(&document, &recorded[1], &mut events).await;
    for observe in [
        "composite/observe?paths=/3/0/13,/3303/0/5700",
        "3303/0/5700/observe",
    ] {
        gateway.post(&format!("/api/clients/dev2/{observe}")).await;
    }
    device.set("/3303/0/5700", Value::Float(19.6)).await;
    // Which of the two comes first is the device's affair.
    let mut told = [events.next().await.unwrap(), events.next().await.unwrap()];
    told.sort_by_key(|(_, data)| data["kind"].to_string());
    for ((event, data), recorded) in told.iter().zip(&recorded[2..4]) {
        compare(&document, recorded, event, data);
    }
    device.leave().await;
    check(&document, &recorded[4], &mut events).await;
}

async fn check(document: &Json, recorded: &Json, events: &mut Events) {
    let (event, data) = events.next().await.unwrap();
    compare(document, recorded, &event, &data);
}

fn compare(document: &Json, recorded: &Json, event: &str, data: &Json) {
    assert_eq!(event, recorded["event"]);
    let theirs = &recorded["data"];
    fits_event(document, event, theirs);
    fits_event(document, event, data);
    let mut theirs = theirs.clone();
    // The recorded device had a shorter lifetime.
    lifetime(&mut theirs);
    assert_eq!(unlike(&theirs, data, ""), None, "{event}");
}

fn lifetime(json: &mut Json) {
    if let Some(members) = json.as_object_mut() {
        if let Some(lifetime) = members.get_mut("lifetime") {
            *lifetime = json!(30);
        }
        members.values_mut().for_each(lifetime);
    }
}
