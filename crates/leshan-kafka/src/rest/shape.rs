//! The shapes of answers and events: Leshan 2's, as recorded from its demo server.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use coap::Code;
use lwm2m::{Body, DeviceResponse, Registration, RegistrationUpdate};
use lwm2m_codec::{Link, LinkError, parse_links};
use lwm2m_model::{
    InstanceNode, Node, ObjectPath, ResourceContent, ResourceNode, Value, ValueType,
};
use serde_json::{Map, Value as Json, json};

/// A registration; `sleeps` is told of devices in queue mode only.
pub(super) fn registration(registration: &Registration, sleeps: bool) -> Json {
    let mut json = json!({
        "endpoint": registration.endpoint,
        "registrationId": registration.registration_id,
        "registrationDate": registration.registered_at_unix_ms,
        "lastUpdate": registration.last_update_unix_ms,
        "address": address(registration.peer.addr),
        "lwM2mVersion": registration.version.as_str(),
        "lifetime": registration.lifetime.as_secs(),
        "bindingMode": registration.binding.raw,
        "rootPath": registration.root_path,
        "objectLinks": links(&registration.links),
        "secure": registration.peer.session != 0,
        "additionalRegistrationAttributes": registration.attributes,
        "queuemode": registration.binding.queue,
        "availableInstances": available_instances(registration),
    });
    if let Some(sms) = &registration.sms {
        json["smsNumber"] = json!(sms);
    }
    if registration.binding.queue {
        json["sleeping"] = json!(sleeps);
    }
    json
}

/// What an update said; only what it carried is there.
pub(super) fn update(update: &RegistrationUpdate) -> Json {
    let mut json = json!({
        "registrationId": update.registration_id,
        "address": address(update.peer.addr),
        "secure": update.peer.session != 0,
        "additionalAttributes": update.attributes,
    });
    if let Some(sms) = &update.sms {
        json["smsNumber"] = json!(sms);
    }
    if let Some(lifetime) = update.lifetime {
        json["lifetime"] = json!(lifetime.as_secs());
    }
    if let Some(given) = &update.links {
        json["objectLinks"] = links(given);
    }
    json
}

/// Where a device is: IPv4 in its own form, also when it came to a socket for both.
fn address(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

/// Objects without an instance are left out, as the recorded answers do.
fn available_instances(registration: &Registration) -> BTreeMap<u16, BTreeSet<u16>> {
    let mut instances = registration.available_instances();
    instances.retain(|_, of_object| !of_object.is_empty());
    instances
}

/// Links, each attribute as it stands in RFC 6690's format: strings keep their quotes.
pub(super) fn links(links: &[Link]) -> Json {
    let one = |link: &Link| {
        let attributes: Map<String, Json> = link
            .attributes
            .iter()
            .map(|(name, value)| {
                let value = value.as_deref().map(Link::written);
                (name.clone(), Json::from(value))
            })
            .collect();
        json!({ "url": link.url, "attributes": attributes })
    };
    links.iter().map(one).collect()
}

/// A device's answer, failures too.
///
/// # Errors
/// When the answer to a discover is no list of links.
pub(super) fn response(response: &DeviceResponse) -> Result<Json, LinkError> {
    let success = response.is_success();
    let mut json = json!({
        "status": status(response.code),
        "valid": status_name(response.code).is_some(),
        "success": success,
        "failure": !success,
    });
    match &response.body {
        Body::Node(content) => json["content"] = node(content),
        Body::Links(text) => json["objectLinks"] = links(&parse_links(text.as_bytes())?),
        // Leshan names the place without the leading slash.
        Body::Location(location) => json["location"] = json!(location.trim_start_matches('/')),
        Body::Message(message) if !message.is_empty() => json["errormessage"] = json!(message),
        Body::Nodes(content) => json["content"] = nodes(content),
        // Only notifications have times.
        Body::Message(_) | Body::None | Body::Cancelled(_) | Body::Timed(_) => {}
    }
    Ok(json)
}

/// A code in Leshan's form: `CONTENT(205)`.
fn status(code: Code) -> String {
    let number = u16::from(code.class()) * 100 + u16::from(code.detail());
    format!("{}({number})", status_name(code).unwrap_or("UNKNOWN"))
}

fn status_name(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::CREATED => "CREATED",
        Code::DELETED => "DELETED",
        Code::CHANGED => "CHANGED",
        Code::CONTENT => "CONTENT",
        Code::BAD_REQUEST => "BAD_REQUEST",
        Code::UNAUTHORIZED => "UNAUTHORIZED",
        Code::FORBIDDEN => "FORBIDDEN",
        Code::NOT_FOUND => "NOT_FOUND",
        Code::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
        Code::NOT_ACCEPTABLE => "NOT_ACCEPTABLE",
        Code::REQUEST_ENTITY_INCOMPLETE => "REQUEST_ENTITY_INCOMPLETE",
        Code::PRECONDITION_FAILED => "PRECONDITION_FAILED",
        Code::REQUEST_ENTITY_TOO_LARGE => "REQUEST_ENTITY_TOO_LARGE",
        Code::UNSUPPORTED_CONTENT_FORMAT => "UNSUPPORTED_CONTENT_FORMAT",
        Code::INTERNAL_SERVER_ERROR => "INTERNAL_SERVER_ERROR",
        _ => return None,
    })
}

/// Nodes by their paths.
pub(super) fn nodes<'a>(
    nodes: impl IntoIterator<Item = (&'a ObjectPath, impl Borrow<Node>)>,
) -> Json {
    let one = |(path, of): (&ObjectPath, _)| (path.to_string(), node(Borrow::borrow(&of)));
    nodes
        .into_iter()
        .map(one)
        .collect::<Map<String, Json>>()
        .into()
}

/// A node with its values.
pub(super) fn node(node: &Node) -> Json {
    match node {
        Node::Object(object) => json!({
            "kind": "obj",
            "id": object.id,
            "instances": object.instances.values().map(instance).collect::<Json>(),
        }),
        Node::Instance(node) => instance(node),
        Node::Resource(node) => resource(node),
        Node::ResourceInstance { id, value: of } => json!({
            "kind": "resourceInstance",
            "id": id,
            "type": type_name(of.value_type()),
            "value": value(of),
        }),
    }
}

fn instance(instance: &InstanceNode) -> Json {
    json!({
        "kind": "instance",
        "id": instance.id,
        "resources": instance.resources.values().map(resource).collect::<Json>(),
    })
}

fn resource(resource: &ResourceNode) -> Json {
    let kind = type_name(resource.value_type());
    match &resource.content {
        ResourceContent::Single(of) => json!({
            "kind": "singleResource",
            "id": resource.id,
            "type": kind,
            "value": value(of),
        }),
        ResourceContent::Multiple { instances, .. } => {
            let values: Map<String, Json> = instances
                .iter()
                .map(|(id, of)| (id.to_string(), value(of)))
                .collect();
            json!({ "kind": "multiResource", "id": resource.id, "type": kind, "values": values })
        }
    }
}

/// The name of a type in a node.
fn type_name(kind: ValueType) -> &'static str {
    match kind {
        ValueType::String => "STRING",
        ValueType::Integer => "INTEGER",
        ValueType::Unsigned => "UNSIGNED_INTEGER",
        ValueType::Float => "FLOAT",
        ValueType::Boolean => "BOOLEAN",
        ValueType::Opaque => "OPAQUE",
        ValueType::Time => "TIME",
        ValueType::ObjectLink => "OBJLNK",
        ValueType::CoreLink => "CORELINK",
    }
}

/// Numbers are strings, for JavaScript's numbers lose digits beyond 2^53; times are Unix milliseconds; opaque values
/// are lower-case hex.
fn value(value: &Value) -> Json {
    match value {
        Value::String(text) | Value::CoreLink(text) => json!(text),
        Value::Integer(number) => json!(number.to_string()),
        Value::Unsigned(number) => json!(number.to_string()),
        Value::Float(number) => json!(java_double(*number)),
        Value::Boolean(yes) => json!(yes),
        Value::Opaque(bytes) => json!(hex(bytes)),
        Value::Time(seconds) => json!(seconds.saturating_mul(1_000)),
        Value::ObjectLink(object, instance) => json!({
            "objectId": object,
            "objectInstanceId": instance,
            "nullLink": (*object, *instance) == (u16::MAX, u16::MAX),
        }),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// A double as Java writes it: `19.0`, `1.0E10`, `2.5E-4`; the shortest digits that read back the same.
fn java_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    if number == 0.0 || (1e-3..1e7).contains(&number.abs()) {
        return format!("{number:?}");
    }
    let written = format!("{number:E}");
    match written.split_once('E') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
        _ => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_java_writes_them() {
        let cases = [
            (19.0, "19.0"),
            (19.1, "19.1"),
            (-0.5, "-0.5"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.001, "0.001"),
            (0.00025, "2.5E-4"),
            (9_999_999.0, "9999999.0"),
            (10_000_000.0, "1.0E7"),
            (1e10, "1.0E10"),
            (-1.25e100, "-1.25E100"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (number, text) in cases {
            assert_eq!(java_double(number), text);
        }
    }

    #[test]
    fn each_type_has_its_form() {
        let cases = [
            (
                Value::Integer(-5),
                json!({"kind": "singleResource", "id": 1, "type": "INTEGER", "value": "-5"}),
            ),
            (
                Value::Unsigned(u64::MAX),
                json!({"kind": "singleResource", "id": 1, "type": "UNSIGNED_INTEGER", "value": "18446744073709551615"}),
            ),
            (
                Value::Boolean(true),
                json!({"kind": "singleResource", "id": 1, "type": "BOOLEAN", "value": true}),
            ),
            (
                Value::Time(1_795_391_443),
                json!({"kind": "singleResource", "id": 1, "type": "TIME", "value": 1_795_391_443_000_i64}),
            ),
            (
                Value::Time(i64::MAX),
                json!({"kind": "singleResource", "id": 1, "type": "TIME", "value": i64::MAX}),
            ),
            (
                Value::Opaque(vec![0, 0x1f, 0xff]),
                json!({"kind": "singleResource", "id": 1, "type": "OPAQUE", "value": "001fff"}),
            ),
            (
                Value::ObjectLink(3, 0),
                json!({"kind": "singleResource", "id": 1, "type": "OBJLNK",
                    "value": {"objectId": 3, "objectInstanceId": 0, "nullLink": false}}),
            ),
            (
                Value::CoreLink("</3>".to_owned()),
                json!({"kind": "singleResource", "id": 1, "type": "CORELINK", "value": "</3>"}),
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(node(&Node::single(1, value)), expected);
        }
    }

    #[test]
    fn answers_are_valid_where_leshan_knows_their_code() {
        let answer = |code, body| response(&DeviceResponse { code, body }).unwrap();
        assert_eq!(
            answer(
                Code::METHOD_NOT_ALLOWED,
                Body::Message("not that".to_owned())
            ),
            json!({"status": "METHOD_NOT_ALLOWED(405)", "valid": true, "success": false, "failure": true,
                "errormessage": "not that"})
        );
        assert_eq!(
            answer(Code::SERVICE_UNAVAILABLE, Body::None),
            json!({"status": "UNKNOWN(503)", "valid": false, "success": false, "failure": true})
        );
        assert_eq!(
            answer(Code::CREATED, Body::Location("/3303/7".to_owned())),
            json!({"status": "CREATED(201)", "valid": true, "success": true, "failure": false, "location": "3303/7"})
        );
    }

    #[test]
    fn what_a_device_calls_links_may_be_none() {
        let no_links = DeviceResponse {
            code: Code::CONTENT,
            body: Body::Links("</3".to_owned()),
        };
        assert!(response(&no_links).is_err());
    }
}
