//! Avro's JSON encoding, as operators paste it in and read it.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use records::*;
use serde_json::{Value, json};

/// What the walkthrough tells operators to paste, to the letter.
const WALKTHROUGH: &str = r##"
{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observe", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}
{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observeCancel", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}
{"serverId": "rock64", "ep": "EP", "ticket": "ticket#2", "payload": {"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": null}}
{"serverId": "rock64", "ep": "EP", "ticket": "ticket#3", "payload": {"kind": "read", "path": "/1/0/6", "contentFormat": "TLV", "body": null}}
{"serverId": "rock64", "ep": "EP", "ticket": "ticket#4", "payload": {"kind": "write", "path": "/1/0/6", "contentFormat": "TLV", "body":{"io.zeelos.leshan.avro.request.AvroWriteRequest":{"mode":"REPLACE", "node":{"io.zeelos.leshan.avro.resource.AvroResource":{"id":6,"path":"/1/0/6","kind":"SINGLE_RESOURCE","type":"BOOLEAN","value":{"boolean":false}}}}}}}
{"serverId": "server1", "ep": "EP", "ticket": "ticket#5", "payload": {"kind": "execute", "path": "/3/0/4", "contentFormat": "TLV", "body":{"io.zeelos.leshan.avro.request.AvroExecuteRequest":{"parameters":"param1,param2"}}}}
"##;

#[test]
fn the_walkthroughs_lines_are_requests() {
    let schema = &Schemas::get().request;
    let requests: Vec<Request> = WALKTHROUGH
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let json: Value = serde_json::from_str(line).unwrap();
            let datum = from_avro_json(&json, schema).unwrap();
            assert_eq!(to_avro_json(&datum, schema).unwrap(), json);
            Request::from_datum(&datum).unwrap()
        })
        .collect();
    let kinds: Vec<_> = requests.iter().map(|r| r.payload.kind.name()).collect();
    assert_eq!(
        kinds,
        [
            "observe",
            "observeCancel",
            "read",
            "read",
            "write",
            "execute"
        ]
    );
    assert!(requests.iter().all(|r| {
        r.payload
            .body
            .as_ref()
            .is_none_or(|b| b.kind() == r.payload.kind)
    }));
    assert_eq!(
        requests[5].payload.body,
        Some(RequestBody::Execute("param1,param2".into()))
    );
    assert_eq!(requests[5].server_id, "server1");
}

#[test]
fn people_read_the_fields_in_the_schemas_order() {
    let gone = RegistrationResponse::Delete(RegistrationDelete {
        ep: "größe \"1\"".into(),
        server_id: "rock64".into(),
        expired: false,
        last_up: -1,
    });
    assert_eq!(
        to_avro_json_text(&gone.to_datum(), RegistrationResponse::schema()).unwrap(),
        r#"{"kind":"DELETE","body":{"io.zeelos.leshan.avro.registration.AvroRegistrationDelete":{"ep":"größe \"1\"","serverId":"rock64","expired":false,"lastUp":-1}}}"#
    );
}

#[test]
fn a_mistake_is_named_with_its_place() {
    let error = |change: &dyn Fn(&mut Value)| {
        let line = WALKTHROUGH
            .lines()
            .find(|l| l.contains("ticket#4"))
            .unwrap();
        let mut json = serde_json::from_str(line).unwrap();
        change(&mut json);
        from_avro_json(&json, &Schemas::get().request)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(&|json| json["payload"]["kind"] = json!("reed")),
        "payload.kind: one of read, write, writeAttributes, execute, observe, observeCancel, delete, discover, create \
         was expected, not \"reed\""
    );
    assert_eq!(
        error(&|json| json["payload"]["body"] = json!({"AvroExecuteRequest": {"parameters": ""}})),
        "payload.body: null or {\"io.zeelos.leshan.avro.request.AvroCreateRequest\": …} or \
         {\"io.zeelos.leshan.avro.request.AvroExecuteRequest\": …} or \
         {\"io.zeelos.leshan.avro.request.AvroWriteAttributesRequest\": …} or \
         {\"io.zeelos.leshan.avro.request.AvroWriteRequest\": …} was expected, not an object with AvroExecuteRequest"
    );
    assert_eq!(
        error(&|json| drop(json.as_object_mut().unwrap().remove("ep"))),
        "ep: the field is missing"
    );
    assert_eq!(
        error(&|json| json["tiket"] = json!("x")),
        "the record: there is no field `tiket`, only serverId, ep, ticket, payload"
    );
    assert_eq!(
        error(&|json| json["ep"] = json!(1)),
        "ep: text was expected, not 1"
    );
    assert_eq!(
        error(&|json| *json = json!([])),
        "the record: an object with serverId, ep, ticket, payload was expected, not an array"
    );
    let resource = "/payload/body/io.zeelos.leshan.avro.request.AvroWriteRequest/node/io.zeelos.leshan.avro.resource.AvroResource";
    assert_eq!(
        error(&|json| json.pointer_mut(resource).unwrap()["id"] = json!(2_147_483_648_i64)),
        "payload.body.io.zeelos.leshan.avro.request.AvroWriteRequest.node.io.zeelos.leshan.avro.resource.AvroResource.id: \
         an integer of 32 bits was expected, not 2147483648"
    );
}

#[test]
fn a_field_with_a_default_may_be_left_out() {
    let json = json!({"serverId": "s", "ep": "e", "ticket": "t", "payload": {"kind": "read", "path": "/3", "contentFormat": "TLV"}});
    let datum = from_avro_json(&json, &Schemas::get().request).unwrap();
    assert_eq!(Request::from_datum(&datum).unwrap().payload.body, None);
}

/// `produce` and `consume` take any schema, not just ours.
#[test]
fn every_type_goes_both_ways() {
    let schema = Schema::parse(
        r#"{"type": "record", "name": "All", "namespace": "a.b", "fields": [
            {"name": "nothing", "type": "null"},
            {"name": "int", "type": "int"},
            {"name": "date", "type": {"type": "int", "logicalType": "date"}},
            {"name": "float", "type": "float"},
            {"name": "doubles", "type": {"type": "array", "items": "double"}},
            {"name": "bytes", "type": "bytes"},
            {"name": "fixed", "type": {"type": "fixed", "name": "Two", "size": 2}},
            {"name": "choice", "type": {"type": "enum", "name": "Choice", "symbols": ["A", "B"]}},
            {"name": "map", "type": {"type": "map", "values": ["null", "a.b.Two", "Choice", {"type": "array", "items": "long"}]}},
            {"name": "next", "type": ["null", "All"]}
        ]}"#,
    )
    .unwrap();
    let inner = json!({
        "nothing": null, "int": i32::MIN, "date": 17680, "float": 0.1, "doubles": [0.1, -1e300, "NaN", "Infinity", "-Infinity"],
        "bytes": "\u{0}a\u{ff}", "fixed": "\u{80}\u{1}", "choice": "B",
        "map": {"a": null, "b": {"a.b.Two": "\u{ff}\u{fe}"}, "c": {"a.b.Choice": "A"}, "d": {"array": [-1, i64::MAX]}}, "next": null,
    });
    let mut outer = inner.clone();
    outer["next"] = json!({"a.b.All": inner});
    let datum = from_avro_json(&outer, &schema).unwrap();
    assert_eq!(to_avro_json(&datum, &schema).unwrap(), outer);
    assert_eq!(schema.full_name(), Some("a.b.All"));

    for (field, wrong) in [
        ("bytes", json!("\u{100}")),
        ("fixed", json!("abc")),
        ("int", json!(1.0)),
        ("doubles", json!(["nan"])),
        ("choice", json!("C")),
        ("map", json!({"a": {"Two": "ab"}})),
        ("nothing", json!(0)),
    ] {
        let mut outer = outer.clone();
        outer[field] = wrong;
        assert!(from_avro_json(&outer, &schema).is_err(), "{field}");
    }
}
