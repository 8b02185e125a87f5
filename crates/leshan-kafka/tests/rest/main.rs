//! The REST interface as its users see it: the whole server, a device over UDP, and HTTP. Answers are held, field by
//! field, against those recorded from Leshan 2's demo server. Kafka is away all the time: this works without.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod access;
mod calls;
mod composite;
mod device;
mod document;
mod events;
mod gateway;
mod page;
mod queue;
mod recorded;
mod security;

use serde_json::{Value as Json, json};

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
