//! Nodes as TLV.

use std::collections::BTreeMap;

use lwm2m_model::{InstanceNode, Node, ObjectPath, ResourceContent, ResourceNode, Value};

use super::{Kind, value};
use crate::EncodeError;

/// The longest value a 24-bit length can tell.
const MAX_LENGTH: usize = 0x00ff_ffff;

pub(crate) fn encode(node: &Node, path: &ObjectPath) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    match (node, *path) {
        (Node::Object(node), ObjectPath::Object(object)) => {
            for instance in node.instances.values() {
                write_instance(&mut out, instance, object)?;
            }
        }
        (Node::Instance(instance), ObjectPath::Object(object)) => {
            write_instance(&mut out, instance, object)?
        }
        (Node::Instance(instance), ObjectPath::Instance(..)) => {
            write_resources(&mut out, &instance.resources, path)?
        }
        (Node::Resource(resource), ObjectPath::Resource(..)) => {
            write_resource(&mut out, resource, path)?
        }
        (Node::ResourceInstance { id, value }, ObjectPath::ResourceInstance(..)) => {
            write_entry(
                &mut out,
                Kind::ResourceInstance,
                *id,
                &value::encode(value),
                path,
            )?;
        }
        // `crate::encode` has checked that the node is for the path.
        _ => {
            return Err(EncodeError::NodeDoesNotFitPath {
                node: "the node",
                path: *path,
            });
        }
    }
    Ok(out)
}

fn write_instance(
    out: &mut Vec<u8>,
    instance: &InstanceNode,
    object: u16,
) -> Result<(), EncodeError> {
    let path = ObjectPath::Instance(object, instance.id);
    let mut inner = Vec::new();
    write_resources(&mut inner, &instance.resources, &path)?;
    write_entry(out, Kind::Instance, instance.id, &inner, &path)
}

fn write_resources(
    out: &mut Vec<u8>,
    resources: &BTreeMap<u16, ResourceNode>,
    path: &ObjectPath,
) -> Result<(), EncodeError> {
    for resource in resources.values() {
        write_resource(out, resource, &path.child(resource.id).unwrap_or(*path))?;
    }
    Ok(())
}

fn write_resource(
    out: &mut Vec<u8>,
    resource: &ResourceNode,
    path: &ObjectPath,
) -> Result<(), EncodeError> {
    match &resource.content {
        ResourceContent::Single(value) => write_entry(
            out,
            Kind::Resource,
            resource.id,
            &value::encode(value),
            path,
        ),
        ResourceContent::Multiple { instances, .. } => {
            let mut inner = Vec::new();
            for (id, value) in instances {
                write_value_instance(&mut inner, *id, value, path)?;
            }
            write_entry(out, Kind::Multiple, resource.id, &inner, path)
        }
    }
}

fn write_value_instance(
    out: &mut Vec<u8>,
    id: u16,
    value: &Value,
    path: &ObjectPath,
) -> Result<(), EncodeError> {
    let path = path.child(id).unwrap_or(*path);
    write_entry(
        out,
        Kind::ResourceInstance,
        id,
        &value::encode(value),
        &path,
    )
}

fn write_entry(
    out: &mut Vec<u8>,
    kind: Kind,
    id: u16,
    value: &[u8],
    path: &ObjectPath,
) -> Result<(), EncodeError> {
    let length = value.len();
    if length > MAX_LENGTH {
        return Err(EncodeError::TooLong {
            path: *path,
            bytes: length,
        });
    }
    let length_bytes = match length {
        0..=7 => 0,
        8..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 3,
    };
    let wide_id = id > 0xff;
    let inline_length = if length_bytes == 0 { length as u8 } else { 0 };
    out.push(((kind as u8) << 6) | (u8::from(wide_id) << 5) | (length_bytes << 3) | inline_length);
    out.extend(&id.to_be_bytes()[usize::from(!wide_id)..]);
    out.extend(&(length as u32).to_be_bytes()[4 - usize::from(length_bytes)..]);
    out.extend(value);
    Ok(())
}
