//! Request bodies as nodes: Leshan 2's JSON, that of 2018 (which names neither kind nor type), and text.

use std::collections::BTreeMap;

use lwm2m::DEVICE_CHOOSES;
use lwm2m_codec::DecodeError;
use lwm2m_model::{
    InstanceNode, MAX_ID, Node, ObjectPath, Registry, ResourceContent, ResourceNode, TypeMismatch,
    Value, ValueType,
};
use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::value::{parse, value_of};

/// Why a body is no node for its path.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the body is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the body is not UTF-8 text")]
    NotText,
    #[error(
        "content type {0:?} is not supported: send application/json, or text/plain for one value"
    )]
    ContentType(String),
    #[error("{path}: {reason}")]
    Node { path: ObjectPath, reason: String },
    #[error(transparent)]
    Value(#[from] DecodeError),
    #[error(transparent)]
    Type(#[from] TypeMismatch),
}

pub(super) fn wrong<T>(path: ObjectPath, reason: impl Into<String>) -> Result<T, BodyError> {
    Err(BodyError::Node {
        path,
        reason: reason.into(),
    })
}

/// The node that a write to `path` carries. `text`: the caller asked for the format TEXT, so that a body without a
/// telling content type is text.
pub(super) fn to_write(
    body: &[u8],
    content_type: Option<&str>,
    text: bool,
    path: ObjectPath,
    models: &Registry,
) -> Result<Node, BodyError> {
    let node = match form(body, content_type, text)? {
        Form::Text => from_text(body, path, models)?,
        Form::Json => from_json(&serde_json::from_slice(body)?, path, models)?,
    };
    Ok(models.conform(node, &path)?)
}

/// The node that one of a composite write's members carries.
pub(super) fn json_to_write(
    json: &Json,
    path: ObjectPath,
    models: &Registry,
) -> Result<Node, BodyError> {
    Ok(models.conform(from_json(json, path, models)?, &path)?)
}

/// The instance that a create below `path` carries, an object's or the new instance's. Without an id the device
/// chooses one.
pub(super) fn to_create(
    body: &[u8],
    content_type: Option<&str>,
    path: ObjectPath,
    models: &Registry,
) -> Result<Node, BodyError> {
    let Form::Json = form(body, content_type, false)? else {
        return wrong(
            path,
            "a create needs an instance in JSON, such as {\"resources\":[]}",
        );
    };
    let json: Json = serde_json::from_slice(body)?;
    let members = object(&json, path)?;
    let (ObjectPath::Object(of) | ObjectPath::Instance(of, _)) = path else {
        return wrong(
            path,
            "a create needs an object's path, or the new instance's",
        );
    };
    let id = match (id_of(members, path)?, path.instance_id()) {
        (Some(said), Some(named)) if said != named => {
            return wrong(path, format!("the body is for instance {said}"));
        }
        (said, named) => said.or(named),
    };
    let id = id.unwrap_or(DEVICE_CHOOSES);
    let kind = kind_of(members);
    if !matches!(kind, None | Some("instance")) || !members.contains_key("resources") {
        return wrong(
            path,
            "a create needs an instance: a JSON object with \"resources\"",
        );
    }
    // Types are looked up by resource: which instance stands in the path makes no difference.
    let at = ObjectPath::Instance(of, id);
    let node = Node::Instance(instance(members, id, at, models)?);
    Ok(models.conform(node, &path)?)
}

enum Form {
    Json,
    Text,
}

/// What a body is. The content type tells, as with Leshan; where it says nothing of use (curl's default for `-d`, or
/// none) the body does.
fn form(body: &[u8], content_type: Option<&str>, text: bool) -> Result<Form, BodyError> {
    let media_type = content_type
        .and_then(|of| of.split(';').next())
        .map(|of| of.trim().to_ascii_lowercase())
        .unwrap_or_default();
    match media_type.as_str() {
        "application/json" => Ok(Form::Json),
        "text/plain" => Ok(Form::Text),
        "" | "application/x-www-form-urlencoded" if text => Ok(Form::Text),
        "" | "application/x-www-form-urlencoded" if body.trim_ascii_start().starts_with(b"{") => {
            Ok(Form::Json)
        }
        _ => Err(BodyError::ContentType(
            media_type.chars().take(64).collect(),
        )),
    }
}

fn from_text(body: &[u8], path: ObjectPath, models: &Registry) -> Result<Node, BodyError> {
    let text = std::str::from_utf8(body).map_err(|_| BodyError::NotText)?;
    let kind = model_type(path, models).unwrap_or(ValueType::String);
    let value = parse(text, kind, path)?;
    match path {
        ObjectPath::Resource(_, _, id) => Ok(Node::single(id, value)),
        ObjectPath::ResourceInstance(_, _, _, id) => Ok(Node::ResourceInstance { id, value }),
        _ => wrong(path, "text is for one value: name a resource"),
    }
}

fn from_json(json: &Json, path: ObjectPath, models: &Registry) -> Result<Node, BodyError> {
    let members = object(json, path)?;
    let (kind, id) = (kind_of(members), id_of(members, path)?);
    let (expected, named) = match path {
        ObjectPath::Root => return wrong(path, "the whole device can't be written at once"),
        ObjectPath::Object(id) => (["obj", "obj"], id),
        ObjectPath::Instance(_, id) => (["instance", "instance"], id),
        ObjectPath::Resource(_, _, id) => (["singleResource", "multiResource"], id),
        ObjectPath::ResourceInstance(_, _, _, id) => (["resourceInstance", "resourceInstance"], id),
    };
    if let Some(kind) = kind
        && !expected.contains(&kind)
    {
        let [one, other] = expected;
        let expected = if one == other {
            one.to_owned()
        } else {
            format!("{one} or {other}")
        };
        return wrong(
            path,
            format!("the body is of kind {kind:?}, and the path needs {expected}"),
        );
    }
    if let Some(said) = id
        && said != named
    {
        return wrong(path, format!("the body has the id {said}"));
    }
    Ok(match path {
        ObjectPath::Instance(..) => Node::Instance(instance(members, named, path, models)?),
        ObjectPath::Resource(..) => Node::Resource(resource(members, named, path, models)?),
        ObjectPath::ResourceInstance(..) => {
            let Some(value) = members.get("value") else {
                return wrong(path, "\"value\" is missing");
            };
            let kind = declared_type(members, path)?;
            let value = value_of(value, kind.or(model_type(path, models)), path)?;
            Node::ResourceInstance { id: named, value }
        }
        ObjectPath::Root | ObjectPath::Object(_) => {
            return wrong(
                path,
                "a write needs an instance, a resource or a resource instance",
            );
        }
    })
}

fn instance(
    members: &Map<String, Json>,
    id: u16,
    path: ObjectPath,
    models: &Registry,
) -> Result<InstanceNode, BodyError> {
    let Some(Json::Array(list)) = members.get("resources") else {
        return wrong(path, "\"resources\" is missing, or not a list");
    };
    let mut resources = BTreeMap::new();
    for json in list {
        let members = object(json, path)?;
        let Some(id) = id_of(members, path)? else {
            return wrong(path, "a resource has no \"id\"");
        };
        let path = path.child(id).unwrap_or(path);
        if let Some(kind) = kind_of(members)
            && !matches!(kind, "singleResource" | "multiResource")
        {
            return wrong(
                path,
                format!("{kind:?} stands where a resource is expected"),
            );
        }
        let node = resource(members, id, path, models)?;
        if resources.insert(id, node).is_some() {
            return wrong(path, "it stands in the body twice");
        }
    }
    Ok(InstanceNode { id, resources })
}

fn resource(
    members: &Map<String, Json>,
    id: u16,
    path: ObjectPath,
    models: &Registry,
) -> Result<ResourceNode, BodyError> {
    let declared = declared_type(members, path)?;
    let modelled = model_type(path, models);
    let kind = declared.or(modelled);
    let content = match (members.get("value"), members.get("values")) {
        (Some(_), Some(_)) => {
            return wrong(path, "write \"value\" or \"values\", not both");
        }
        (Some(value), None) => ResourceContent::Single(value_of(value, kind, path)?),
        (None, Some(Json::Object(values))) => {
            let mut instances = BTreeMap::new();
            for (id, value) in values {
                let Some(id) = id.parse().ok().filter(|id| *id <= MAX_ID) else {
                    return wrong(path, "a name in \"values\" is not a resource instance's id");
                };
                let path = path.child(id).unwrap_or(path);
                instances.insert(id, value_of(value, kind, path)?);
            }
            let mut types = instances.values().map(Value::value_type);
            let first = types.next();
            if types.any(|other| Some(other) != first) {
                return wrong(path, "the \"values\" are of several types");
            }
            ResourceContent::Multiple {
                kind: first.or(kind).unwrap_or(ValueType::String),
                instances,
            }
        }
        (None, Some(_)) => {
            return wrong(path, "\"values\" is not an object such as {\"0\":\"1\"}");
        }
        (None, None) => {
            return wrong(
                path,
                "\"value\" is missing, or \"values\" where there are several",
            );
        }
    };
    Ok(ResourceNode { id, content })
}

fn object(json: &Json, path: ObjectPath) -> Result<&Map<String, Json>, BodyError> {
    match json.as_object() {
        Some(members) => Ok(members),
        None => wrong(path, "a JSON object is expected"),
    }
}

fn kind_of(members: &Map<String, Json>) -> Option<&str> {
    members.get("kind").and_then(Json::as_str)
}

fn id_of(members: &Map<String, Json>, path: ObjectPath) -> Result<Option<u16>, BodyError> {
    let Some(json) = members.get("id") else {
        return Ok(None);
    };
    let id = json.as_u64().and_then(|id| u16::try_from(id).ok());
    match id.filter(|id| *id <= MAX_ID) {
        Some(id) => Ok(Some(id)),
        None => wrong(
            path,
            format!("\"id\" is not a whole number from 0 to {MAX_ID}"),
        ),
    }
}

fn model_type(path: ObjectPath, models: &Registry) -> Option<ValueType> {
    models.resource(&path).and_then(|model| model.value_type)
}

/// The body's own `type`, in any case.
fn declared_type(
    members: &Map<String, Json>,
    path: ObjectPath,
) -> Result<Option<ValueType>, BodyError> {
    let Some(json) = members.get("type") else {
        return Ok(None);
    };
    let name = json.as_str().unwrap_or_default().to_ascii_lowercase();
    Ok(Some(match name.as_str() {
        "string" => ValueType::String,
        "integer" => ValueType::Integer,
        "unsigned" | "unsigned_integer" => ValueType::Unsigned,
        "float" => ValueType::Float,
        "boolean" => ValueType::Boolean,
        "opaque" => ValueType::Opaque,
        "time" => ValueType::Time,
        "objlnk" => ValueType::ObjectLink,
        "corelnk" | "corelink" => ValueType::CoreLink,
        _ => {
            return wrong(
                path,
                "\"type\" is none of string, integer, unsigned_integer, float, boolean, opaque, time, objlnk, corelink",
            );
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(path: &str, body: &str) -> Result<Node, BodyError> {
        let json = Some("application/json; charset=utf-8");
        to_write(
            body.as_bytes(),
            json,
            false,
            path.parse().unwrap(),
            &Registry::oma(),
        )
    }

    fn text(path: &str, body: &str) -> Result<Node, BodyError> {
        to_write(
            body.as_bytes(),
            Some("text/plain"),
            false,
            path.parse().unwrap(),
            &Registry::oma(),
        )
    }

    #[test]
    fn both_dialects_say_the_same() {
        let utc = Node::single(15, Value::String("UTC".to_owned()));
        let new = r#"{"id":15,"kind":"singleResource","value":"UTC","type":"string"}"#;
        assert_eq!(written("/3/0/15", new).unwrap(), utc);
        assert_eq!(
            written("/3/0/15", r#"{"id":15,"value":"UTC"}"#).unwrap(),
            utc
        );
        assert_eq!(text("/3/0/15", "UTC").unwrap(), utc);

        let instance = |body| written("/3303/0", body).unwrap();
        assert_eq!(
            instance(
                r#"{"kind":"instance","id":0,"resources":[{"id":5700,"kind":"singleResource","value":"1.5","type":"float"}]}"#
            ),
            instance(r#"{"resources":[{"id":5700,"value":1.5}]}"#),
        );
    }

    #[test]
    fn the_model_tells_what_2018_bodies_leave_out() {
        let cases = [
            ("/1/0/1", r#"{"id":1,"value":300}"#, Value::Integer(300)),
            ("/1/0/1", r#"{"id":1,"value":"300"}"#, Value::Integer(300)),
            (
                "/3303/0/5700",
                r#"{"id":5700,"value":20}"#,
                Value::Float(20.0),
            ),
            (
                "/3/0/13",
                r#"{"value":1795391443999}"#,
                Value::Time(1_795_391_443),
            ),
            (
                "/3/0/13",
                r#"{"value":"2018-07-25T10:30:00+02:00"}"#,
                Value::Time(1_532_507_400),
            ),
            ("/1/0/6", r#"{"value":"TRUE"}"#, Value::Boolean(true)),
            (
                "/5/0/0",
                r#"{"value":"0aFF"}"#,
                Value::Opaque(vec![10, 255]),
            ),
        ];
        for (path, body, expected) in cases {
            let path_of: ObjectPath = path.parse().unwrap();
            let node = written(path, body).unwrap();
            assert_eq!(
                node.values(&path_of),
                [(path_of, &expected)],
                "{path} {body}"
            );
        }
        // Without a model the JSON tells.
        for (body, expected) in [
            (r#"{"value":7}"#, Value::Integer(7)),
            (r#"{"value":7.5}"#, Value::Float(7.5)),
            (r#"{"value":true}"#, Value::Boolean(true)),
            (
                r#"{"value":{"objectId":3,"objectInstanceId":0}}"#,
                Value::ObjectLink(3, 0),
            ),
        ] {
            assert_eq!(
                written("/32000/0/1", body).unwrap(),
                Node::single(1, expected)
            );
        }
    }

    #[test]
    fn resources_of_several_values() {
        let node = written("/3/0/6", r#"{"id":6,"values":{"0":1,"1":"5"}}"#).unwrap();
        let expected = ResourceNode::multiple(
            6,
            ValueType::Integer,
            [(0, Value::Integer(1)), (1, Value::Integer(5))],
        );
        assert_eq!(node, Node::Resource(expected));
        let one = written(
            "/3/0/6/1",
            r#"{"id":1,"kind":"resourceInstance","value":"5","type":"integer"}"#,
        );
        let expected = Node::ResourceInstance {
            id: 1,
            value: Value::Integer(5),
        };
        assert_eq!(one.unwrap(), expected);
    }

    #[test]
    fn a_new_instance_may_leave_its_id_to_the_device() {
        let create = |path: &str, body: &str| {
            to_create(
                body.as_bytes(),
                None,
                path.parse().unwrap(),
                &Registry::oma(),
            )
            .map(|node| node.id())
        };
        assert_eq!(create("/3303", r#"{"id":7,"resources":[]}"#).unwrap(), 7);
        assert_eq!(create("/3303/7", r#"{"resources":[]}"#).unwrap(), 7);
        assert_eq!(
            create("/3303", r#"{"resources":[]}"#).unwrap(),
            DEVICE_CHOOSES
        );
        for (path, body) in [
            ("/3303/7", r#"{"id":8,"resources":[]}"#),
            ("/3303", r#"{"id":65535,"resources":[]}"#),
            ("/3303", r#"{"id":7,"value":1}"#),
            ("/3303", r#"{"kind":"obj","id":7,"resources":[]}"#),
            ("/3303/0/5700", r#"{"resources":[]}"#),
            ("/3303", "[]"),
            ("/3303", ""),
        ] {
            assert!(create(path, body).is_err(), "{path} {body}");
        }
    }

    #[test]
    fn bodies_that_fit_no_path_are_refused() {
        for (path, body) in [
            ("/3/0/15", "[]"),
            ("/3/0/15", "{"),
            ("/3/0/15", "{}"),
            ("/3/0/15", r#"{"id":14,"value":"UTC"}"#),
            ("/3/0/15", r#"{"id":-1,"value":"UTC"}"#),
            ("/3/0/15", r#"{"value":"UTC","values":{}}"#),
            ("/3/0/15", r#"{"value":"UTC","type":"date"}"#),
            ("/3/0/15", r#"{"value":["UTC"]}"#),
            ("/3/0/15", r#"{"kind":"instance","resources":[]}"#),
            ("/3/0", r#"{"id":15,"value":"UTC"}"#),
            ("/3/0", r#"{"resources":[{"id":15}]}"#),
            ("/3/0", r#"{"resources":[{"value":"UTC"}]}"#),
            (
                "/3/0",
                r#"{"resources":[{"id":15,"value":"a"},{"id":15,"value":"b"}]}"#,
            ),
            ("/3/0", r#"{"resources":[{"id":15,"resources":[]}]}"#),
            ("/3", r#"{"id":3,"instances":[]}"#),
            ("/", r#"{"id":3,"instances":[]}"#),
            ("/3/0/6", r#"{"values":{"x":1}}"#),
            ("/3/0/6", r#"{"values":[1]}"#),
            ("/32000/0/1", r#"{"values":{"0":1,"1":"x"}}"#),
            ("/1/0/1", r#"{"value":"soon"}"#),
            ("/1/0/1", r#"{"value":1.5}"#),
            ("/1/0/1", r#"{"value":"300","type":"string"}"#),
            ("/5/0/0", r#"{"value":"abc"}"#),
            ("/5/0/0", r#"{"value":"é€"}"#),
            ("/3/0/13", r#"{"value":"yesterday"}"#),
            ("/3/0/13", r#"{"value":"2026-02-29T00:00:00Z"}"#),
        ] {
            assert!(written(path, body).is_err(), "{path} {body}");
        }
        assert!(text("/3/0", "UTC").is_err());
        assert!(text("/1/0/1", "soon").is_err());
        let unknown = to_write(
            b"<x/>",
            Some("application/xml"),
            false,
            ObjectPath::Resource(3, 0, 15),
            &Registry::oma(),
        );
        assert!(matches!(unknown, Err(BodyError::ContentType(_))));
    }

    proptest! {
        #[test]
        fn no_body_does_harm(
            body in prop_oneof![
                any::<Vec<u8>>(),
                // What comes close: members of nodes in any nesting.
                r#"(\{("(id|kind|type|value|values|resources|instances)":((0|65535|-1|1e400|true|null|"(0|é|obj|time|float)")|\{"0":1\}|\[\]),?){0,4}\}?){1,3}"#
                    .prop_map(String::into_bytes),
            ],
            path in "(/(0|3|6|13|3303|5700|65534)){0,4}",
            text in any::<bool>(),
        ) {
            let path = path.parse().unwrap_or(ObjectPath::Root);
            let models = Registry::oma();
            for kind in [None, Some("application/json"), Some("text/plain"), Some("")] {
                let _ = to_write(&body, kind, text, path, &models);
                let _ = to_create(&body, kind, path, &models);
            }
        }
    }
}
