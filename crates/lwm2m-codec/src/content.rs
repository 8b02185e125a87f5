use std::collections::BTreeMap;

use lwm2m_model::{
    InstanceNode, Node, ObjectPath, Registry, ResourceContent, ResourceNode, Value, ValueType,
};

use crate::record::{Builder, newest, records};
use crate::{
    ContentFormat, DecodeError, EncodeError, cbor_value, composite, decode_text, encode_text,
    oma_json, senml, tlv,
};

/// Writes a node as the payload of a message about `path`, the request's path.
///
/// An instance at its own path (`/3303/0`: read, write) is written as its resources; at its object's path
/// (`/3303`: create with an id) as one instance. A create without an id takes the first form, with any
/// instance id in node and path.
///
/// Values are written in the types they have: [`Registry::conform`] gives them their models' first.
///
/// SenML and OMA JSON list values by their paths, so what has none (an instance without resources, a multiple
/// resource without instances inside an instance) is not in them; and a create has an id ([`encode_create`]).
pub fn encode(
    node: &Node,
    path: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    write("/", node, path, format)
}

pub(crate) fn write(
    root: &str,
    node: &Node,
    path: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    check_fit(node, path)?;
    match format {
        ContentFormat::Tlv | ContentFormat::OldTlv => tlv::encode(node, path),
        ContentFormat::Text => match only_value(node, path, format)? {
            Value::Float(v) if !v.is_finite() => Err(EncodeError::NotFinite { path: *path }),
            value => Ok(encode_text(value).into_bytes()),
        },
        ContentFormat::Opaque => match only_value(node, path, format)? {
            Value::Opaque(bytes) => Ok(bytes.clone()),
            value => Err(EncodeError::NotOpaque {
                format,
                path: *path,
                found: value.value_type(),
            }),
        },
        ContentFormat::Cbor => cbor_value::encode(only_value(node, path, format)?, path),
        ContentFormat::SenmlJson | ContentFormat::SenmlCbor => {
            Ok(senml::write(&records(root, node, path, None)?, format))
        }
        ContentFormat::Json | ContentFormat::OldJson => {
            Ok(oma_json::write(&records("/", node, path, None)?, path))
        }
        _ => Err(EncodeError::Unsupported { format }),
    }
}

/// Writes the payload of a create on the object with this id.
///
/// Only TLV can leave the choice of an instance id to the device: in the other formats the id is part of every
/// value's name.
pub fn encode_create(
    new: &NewInstance,
    object: u16,
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    write_new("/", new, object, format)
}

pub(crate) fn write_new(
    root: &str,
    new: &NewInstance,
    object: u16,
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    let is_tlv = matches!(format, ContentFormat::Tlv | ContentFormat::OldTlv);
    let path = match new.id {
        Some(_) => ObjectPath::Object(object),
        None if is_tlv || !format.carries_nodes() => ObjectPath::Instance(object, 0),
        None => return Err(EncodeError::NeedsInstanceId { format }),
    };
    let instance = InstanceNode {
        id: new.id.unwrap_or_default(),
        resources: new.resources.clone(),
    };
    write(root, &Node::Instance(instance), &path, format)
}

/// Reads the payload of a message about `path`, the request's path, into the node that the path names.
///
/// Types come from the registry: the highest version of the object that has the resource
/// ([`Registry::for_device`] narrows it to a device's versions). Where it knows none, TLV and text give a
/// string when the bytes are UTF-8 text without control characters, opaque otherwise. In the other formats values
/// have types: a number written whole is an integer (unsigned beyond 2^63 - 1), one with a fraction or an exponent,
/// or a CBOR float, is a float. Whether a resource has one value or several is what the payload says.
/// Bounds: [`MAX_ENTRIES`](crate::MAX_ENTRIES).
///
/// Where a payload has several values of one path at different times, the newest is taken:
/// [`decode_timestamped`](crate::decode_timestamped) gives all of them.
pub fn decode(
    payload: &[u8],
    path: &ObjectPath,
    format: ContentFormat,
    registry: &Registry,
) -> Result<Node, DecodeError> {
    read("/", payload, path, format, registry)
}

pub(crate) fn read(
    root: &str,
    payload: &[u8],
    path: &ObjectPath,
    format: ContentFormat,
    registry: &Registry,
) -> Result<Node, DecodeError> {
    match format {
        ContentFormat::Tlv | ContentFormat::OldTlv => tlv::decode(payload, path, registry),
        ContentFormat::Text => {
            let kind = model_type(path, registry).unwrap_or(ValueType::String);
            value_node(path, format, |path| decode_text(payload, kind, path))
        }
        ContentFormat::Opaque => {
            value_node(path, format, |path| match model_type(path, registry) {
                None | Some(ValueType::Opaque) => Ok(Value::Opaque(payload.to_vec())),
                Some(expected) => {
                    let reason =
                        format!("the payload is {format}, which carries opaque values only");
                    Err(DecodeError::BadValue {
                        path: *path,
                        expected,
                        reason,
                    })
                }
            })
        }
        ContentFormat::Cbor => value_node(path, format, |path| {
            cbor_value::decode(payload, model_type(path, registry), path)
        }),
        _ => {
            let entries = composite::entries(root, payload, path, format)?;
            Builder { registry, format }.node(path, newest(entries)?)
        }
    }
}

/// What a create asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    /// `None` when the device is to choose.
    pub id: Option<u16>,
    pub resources: BTreeMap<u16, ResourceNode>,
}

/// Reads the payload of a create on the object with this id: its resources, or one instance with them.
pub fn decode_create(
    payload: &[u8],
    object: u16,
    format: ContentFormat,
    registry: &Registry,
) -> Result<NewInstance, DecodeError> {
    match format {
        ContentFormat::Tlv | ContentFormat::OldTlv => tlv::decode_create(payload, object, registry),
        ContentFormat::Text | ContentFormat::Opaque | ContentFormat::Cbor => {
            Err(DecodeError::NotASingleValue {
                format,
                path: ObjectPath::Object(object),
            })
        }
        _ => {
            let entries = composite::entries("/", payload, &ObjectPath::Object(object), format)?;
            Builder { registry, format }.new_instance(newest(entries)?)
        }
    }
}

pub(crate) fn check_fit(node: &Node, path: &ObjectPath) -> Result<(), EncodeError> {
    let (name, fits) = match (node, *path) {
        (Node::Object(node), ObjectPath::Object(id)) => ("the object", node.id == id),
        (Node::Object(_), _) => ("an object", false),
        (Node::Instance(_), ObjectPath::Object(_)) => ("the instance", true),
        (Node::Instance(node), ObjectPath::Instance(_, id)) => ("the instance", node.id == id),
        (Node::Instance(_), _) => ("an instance", false),
        (Node::Resource(node), ObjectPath::Resource(_, _, id)) => ("the resource", node.id == id),
        (Node::Resource(_), _) => ("a resource", false),
        (Node::ResourceInstance { id, .. }, ObjectPath::ResourceInstance(.., of)) => {
            ("the resource instance", *id == of)
        }
        (Node::ResourceInstance { .. }, _) => ("a resource instance", false),
    };
    if fits {
        Ok(())
    } else {
        Err(EncodeError::NodeDoesNotFitPath {
            node: name,
            path: *path,
        })
    }
}

fn only_value<'n>(
    node: &'n Node,
    path: &ObjectPath,
    format: ContentFormat,
) -> Result<&'n Value, EncodeError> {
    match node {
        Node::Resource(ResourceNode {
            content: ResourceContent::Single(value),
            ..
        }) => Ok(value),
        Node::ResourceInstance { value, .. } => Ok(value),
        _ => Err(EncodeError::NotASingleValue {
            format,
            path: *path,
        }),
    }
}

fn value_node(
    path: &ObjectPath,
    format: ContentFormat,
    value: impl FnOnce(&ObjectPath) -> Result<Value, DecodeError>,
) -> Result<Node, DecodeError> {
    match *path {
        ObjectPath::Resource(_, _, id) => Ok(Node::single(id, value(path)?)),
        ObjectPath::ResourceInstance(.., id) => Ok(Node::ResourceInstance {
            id,
            value: value(path)?,
        }),
        _ => Err(DecodeError::NotASingleValue {
            format,
            path: *path,
        }),
    }
}

fn model_type(path: &ObjectPath, registry: &Registry) -> Option<ValueType> {
    registry.resource(path).and_then(|model| model.value_type)
}
